//! PROXY protocol, version 1 and 2: who the client behind a proxy is.
//!
//! Read before anything else, from peers that the listener's `proxies` name and from nobody else. What the
//! header says is believed, so it is read strictly: one that does not follow the specification ends the
//! connection. Exactly the header is read, and no octet after it: a client may have spoken already, and with
//! implicit TLS it always has.
//!
//! The specification is "The PROXY protocol" by Willy Tarreau, in HAProxy's documentation.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first octets of version 2 (section 2.2). Version 1 has no shorter header, so this many can be read of
/// any.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Section 2.1: the longest line of version 1, with its end.
const MAX_LINE: usize = 107;
/// Octets of a version 2 header after its first 16: addresses, and what a proxy tells about its client's TLS.
const MAX_REST: usize = 2048;

/// The source that a header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The client's address, canonical.
    Client(IpAddr),
    /// The proxy speaks for itself, as when it checks whether the server is there, or does not know its
    /// client.
    Peer,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("not a PROXY header: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Read(#[from] io::Error),
}

use HeaderError::Malformed;

/// Reads one header. Takes as long as the peer likes.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Source, HeaderError> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == *SIGNATURE { read_binary(stream).await } else { read_line(stream, &start).await }
}

/// Version 1. The line's end is looked for octet by octet: whatever follows it is not part of the header.
async fn read_line(
    stream: &mut (impl AsyncRead + Unpin),
    start: &[u8; SIGNATURE.len()],
) -> Result<Source, HeaderError> {
    if !start.starts_with(b"PROXY ") {
        return Err(Malformed("it does not begin as one"));
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE {
            return Err(Malformed("it is longer than 107 octets"));
        }
        line.push(stream.read_u8().await?);
    }
    parse_line(&line[..line.len() - 2])
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 25`, without its end.
fn parse_line(line: &[u8]) -> Result<Source, HeaderError> {
    let line = std::str::from_utf8(line).map_err(|_| Malformed("it is not ASCII"))?;
    let mut words = line.split(' ');
    if words.next() != Some("PROXY") {
        return Err(Malformed("it does not begin as one"));
    }
    let parse: fn(&str) -> Option<IpAddr> = match words.next() {
        // What follows must be ignored.
        Some("UNKNOWN") => return Ok(Source::Peer),
        Some("TCP4") => |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        Some("TCP6") => |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => return Err(Malformed("its protocol must be TCP4, TCP6 or UNKNOWN")),
    };
    let mut address = || words.next().and_then(parse).ok_or(Malformed("an address is not valid"));
    let source = address()?;
    let _destination = address()?;
    let mut port = || words.next().filter(|word| is_port(word)).ok_or(Malformed("a port is not valid"));
    port()?;
    port()?;
    match words.next() {
        None => Ok(Source::Client(source.to_canonical())),
        Some(_) => Err(Malformed("something follows the ports")),
    }
}

/// Section 2.1: decimal, without leading zeros.
fn is_port(word: &str) -> bool {
    let digits = !word.is_empty() && word.bytes().all(|octet| octet.is_ascii_digit());
    digits && (word == "0" || !word.starts_with('0')) && word.parse::<u16>().is_ok()
}

/// Version 2, after its signature.
async fn read_binary(stream: &mut (impl AsyncRead + Unpin)) -> Result<Source, HeaderError> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [version_and_command, family, high, low] = fixed;
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_REST {
        return Err(Malformed("it is longer than 2048 octets"));
    }
    let mut rest = vec![0; len];
    stream.read_exact(&mut rest).await?;
    parse_binary(version_and_command, family, &rest)
}

/// What follows the addresses (TLVs) is not needed.
fn parse_binary(version_and_command: u8, family: u8, rest: &[u8]) -> Result<Source, HeaderError> {
    match version_and_command {
        // LOCAL: the family must be ignored.
        0x20 => return Ok(Source::Peer),
        0x21 => {}
        _ => return Err(Malformed("its version or command is unknown")),
    }
    let too_short = Malformed("it is too short for its addresses");
    match family {
        // AF_UNSPEC.
        0x00 => Ok(Source::Peer),
        // Source, destination, two ports.
        0x11 if rest.len() >= 12 => {
            let source: Option<[u8; 4]> = rest.first_chunk().copied();
            source.map(|octets| Source::Client(octets.into())).ok_or(too_short)
        }
        0x21 if rest.len() >= 36 => {
            let source: Option<[u8; 16]> = rest.first_chunk().copied();
            source.map(|octets| Source::Client(IpAddr::from(octets).to_canonical())).ok_or(too_short)
        }
        0x11 | 0x21 => Err(too_short),
        _ => Err(Malformed("its client has no TCP connection over IP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What was read, and what was left.
    fn read_all(mut octets: &[u8]) -> (Result<Source, HeaderError>, &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let source = runtime.block_on(read(&mut octets));
        (source, octets)
    }

    fn client(address: &str) -> Source {
        Source::Client(address.parse().unwrap())
    }

    fn binary(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family], &len, rest].concat()
    }

    #[test]
    fn version_1() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 25", client("192.0.2.1")),
            ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535", client("0.0.0.0")),
            ("PROXY TCP6 2001:db8::1 ::1 56324 25", client("2001:db8::1")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:10.0.0.1 1 25", client("192.0.2.1")),
            ("PROXY UNKNOWN", Source::Peer),
            ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535", Source::Peer),
        ] {
            for behind in ["", "EHLO x\r\n", "\x16\x03\x01"] {
                let wire = format!("{line}\r\n{behind}");
                let (source, left) = read_all(wire.as_bytes());
                assert_eq!(source.unwrap(), expected, "{line}");
                assert_eq!(left, behind.as_bytes());
            }
        }
    }

    #[test]
    fn version_1_is_read_strictly() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 25 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 25 x\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 25\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 56324 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +56324 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 056324 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 25\r\n",
            "PROXY TCP4 2001:db8::1 ::1 56324 25\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 25\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 56324 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 25\n\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 1 25\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY\tUNKNOWN\r\n",
            "proxy UNKNOWN\r\n",
            "PROXY  UNKNOWN\r\n",
            "EHLO client.example\r\n",
            "PROXY UNKNOWN \u{e9}\r\n\u{ff}",
        ] {
            let strict = read_all(line.as_bytes()).0;
            // UNKNOWN may be followed by anything.
            let allowed = line.starts_with("PROXY UNKNOWN ");
            assert_eq!(matches!(strict, Err(Malformed(_))), !allowed, "{line:?}: {strict:?}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE - 16));
        assert_eq!(long.len(), MAX_LINE);
        assert!(read_all(long.as_bytes()).0.is_ok());
        let longer = long.replace("x\r", "xx\r");
        assert!(matches!(read_all(longer.as_bytes()).0, Err(Malformed(_))));
    }

    #[test]
    fn version_2() {
        let v4 = [[192, 0, 2, 1], [198, 51, 100, 1], [220, 4, 0, 25]].concat();
        let ends = |source: &str| {
            let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
            [&octets(source)[..], &octets("::1"), &[220, 4, 0, 25]].concat()
        };
        let with_tlv = [&v4[..], &[0x04, 0, 1, 0]].concat();
        for (header, expected) in [
            (binary(0x21, 0x11, &v4), client("192.0.2.1")),
            (binary(0x21, 0x11, &with_tlv), client("192.0.2.1")),
            (binary(0x21, 0x21, &ends("2001:db8::1")), client("2001:db8::1")),
            (binary(0x21, 0x21, &ends("::ffff:192.0.2.1")), client("192.0.2.1")),
            (binary(0x20, 0x00, &[]), Source::Peer),
            (binary(0x20, 0x11, &v4), Source::Peer),
            (binary(0x21, 0x00, &[1, 2, 3]), Source::Peer),
            (binary(0x20, 0x00, &[0; MAX_REST]), Source::Peer),
        ] {
            for behind in [&b""[..], b"EHLO x\r\n", b"\x16\x03\x01"] {
                let wire = [&header[..], behind].concat();
                let (source, left) = read_all(&wire);
                assert_eq!((source.unwrap(), left), (expected, behind), "{header:?}");
            }
        }
        for header in [
            binary(0x21, 0x11, &v4[..11]),
            binary(0x21, 0x21, &ends("::1")[..35]),
            binary(0x21, 0x12, &v4),
            binary(0x21, 0x31, &[0; 216]),
            binary(0x11, 0x11, &v4),
            binary(0x22, 0x11, &v4),
            binary(0x20, 0x00, &[0; MAX_REST + 1]),
        ] {
            assert!(matches!(read_all(&header).0, Err(Malformed(_))), "{header:?}");
        }
    }

    #[test]
    fn a_header_that_breaks_off_is_none() {
        let v2 = binary(0x21, 0x11, &[1; 12]);
        for whole in [&b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\r\n"[..], &v2] {
            for end in 0..whole.len() {
                assert!(matches!(read_all(&whole[..end]).0, Err(HeaderError::Read(_))), "{end}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_client_comes_through(source: IpAddr, port: u16, behind: Vec<u8>, v2: bool) {
            let header = match (v2, source) {
                (false, IpAddr::V4(_)) => format!("PROXY TCP4 {source} 10.0.0.1 {port} 25\r\n").into_bytes(),
                (false, IpAddr::V6(_)) => format!("PROXY TCP6 {source} ::1 {port} 25\r\n").into_bytes(),
                (true, IpAddr::V4(v4)) => binary(0x21, 0x11, &[&v4.octets()[..], &[0; 8]].concat()),
                (true, IpAddr::V6(v6)) => binary(0x21, 0x21, &[&v6.octets()[..], &[0; 20]].concat()),
            };
            let wire = [&header[..], &behind].concat();
            let (read, left) = read_all(&wire);
            prop_assert_eq!(read.unwrap(), Source::Client(source.to_canonical()));
            prop_assert_eq!(left, &behind[..]);
        }

        #[test]
        fn nothing_panics_and_little_is_read(wire: Vec<u8>, v2: bool, text in "PROXY (TCP4|TCP6|UNKNOWN) [0-9a-f:. \r\n]{0,200}") {
            let wire = if v2 { [&SIGNATURE[..], &wire].concat() } else { wire };
            let _ = read_all(&wire);
            let (read, left) = read_all(text.as_bytes());
            prop_assert!(text.len() - left.len() <= MAX_LINE);
            prop_assert!(read.is_err() || text.as_bytes()[..text.len() - left.len()].ends_with(b"\r\n"));
        }
    }
}
