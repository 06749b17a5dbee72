//! Messages to send, and inspection of those that arrived.

use base64::{Engine, prelude::BASE64_STANDARD};
use relay_sandbox::Delivered;

/// A short message with everything that the relay would otherwise add, so that it has nothing to add.
pub fn message(from: &str, to: &str, subject: &str) -> Vec<u8> {
    let name = subject.replace(' ', ".");
    format!(
        "From: {from}\r\nTo: {to}\r\nSubject: {subject}\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n\
         Message-ID: <{name}@client.example>\r\n\r\nHello.\r\n"
    )
    .into_bytes()
}

/// A message with an attachment of that many octets, which compression does not make smaller.
pub fn base64_mail(from: &str, to: &str, subject: &str, octets: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let attachment: Vec<u8> = (0..octets).map(|_| random()).collect();
    let mut mail = message(from, to, subject);
    mail.truncate(mail.len() - "\r\nHello.\r\n".len());
    mail.extend_from_slice(
        b"MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n\
          Content-Transfer-Encoding: base64\r\n\r\n",
    );
    for line in BASE64_STANDARD.encode(attachment).as_bytes().chunks(76) {
        mail.extend_from_slice(line);
        mail.extend_from_slice(b"\r\n");
    }
    mail
}

/// The values of all fields of this name in a header, unfolded.
pub fn fields(raw: &[u8], name: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(raw);
    let header = text.split("\r\n\r\n").next().unwrap().replace("\r\n\t", " ").replace("\r\n ", " ");
    let named = |line: &str| {
        let (this, value) = line.split_once(':')?;
        this.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    header.split("\r\n").filter_map(named).collect()
}

/// A delivered message.
pub trait Mail {
    /// The message without the relay's Received field, which must be there and must be right.
    fn as_sent(&self) -> &[u8];

    fn fields(&self, name: &str) -> Vec<String>;

    fn text(&self) -> String;
}

impl Mail for Delivered {
    fn as_sent(&self) -> &[u8] {
        let mut lines = self.raw.split_inclusive(|&octet| octet == b'\n').peekable();
        let mut field = vec![String::from_utf8(lines.next().unwrap().to_vec()).unwrap()];
        while let Some(more) = lines.next_if(|line| line.starts_with(b"\t")) {
            field.push(String::from_utf8(more.to_vec()).unwrap());
        }
        let length = field.iter().map(String::len).sum();
        let date = field.pop().unwrap();
        assert!(date.starts_with('\t') && date.ends_with(" +0000\r\n"), "{date}");
        if field[0].ends_with(" ([127.0.0.1])\r\n") {
            assert!(field[0].starts_with("Received: from "), "{field:?}");
            let by = field.pop().unwrap();
            let with = by.strip_prefix("\tby relay.example with ").unwrap_or_else(|| panic!("{by}"));
            let (protocol, id) = with.split_once(" id ").unwrap();
            // RFC 3848: S for TLS, A for a login.
            assert!(
                ["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"].contains(&protocol) && id.ends_with(";\r\n"),
                "{by}"
            );
            let is_encrypted = field.get(1).is_some_and(|line| line.starts_with("\t(using TLS"));
            assert_eq!(is_encrypted, protocol.contains("MTPS"), "{field:?} {by}");
            assert_eq!(field.len(), 1 + usize::from(is_encrypted), "{field:?}");
        } else {
            assert!(field[0].starts_with("Received: by relay.example with pickup id "), "{field:?}");
            assert_eq!(field.len(), 1, "{field:?}");
        }
        &self.raw[length..]
    }

    fn fields(&self, name: &str) -> Vec<String> {
        fields(&self.raw, name)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}

/// A part of a message, and the hash of its content.
pub struct Attached {
    pub name: String,
    pub content: Vec<u8>,
}

impl Attached {
    /// Makes content that compression does not make smaller.
    pub fn random(name: &str, octets: usize) -> Self {
        let mut state = 0x2545_F491_4F6C_DD1D_u64 ^ (octets as u64) << 1 ^ name.len() as u64;
        let mut content = Vec::with_capacity(octets + 8);
        while content.len() < octets {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend_from_slice(&state.to_le_bytes());
        }
        content.truncate(octets);
        Self { name: name.to_owned(), content }
    }

    /// SHA-256 of the content, in hex.
    pub fn sha256(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.content);
        digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
    }
}

/// A message as mail programs write it: text and HTML, an inline image, attachments.
pub fn mixed_mail(from: &str, to: &str, subject: &str, more_header: &str, attached: &[Attached]) -> Vec<u8> {
    let name = subject.replace(' ', ".");
    let mut mail = format!(
        "From: {from}\r\nTo: {to}\r\nSubject: {subject}\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n\
         Message-ID: <{name}@client.example>\r\n{more_header}MIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"mixed\"\r\n\r\nThis is MIME.\r\n\
         --mixed\r\nContent-Type: multipart/related; boundary=related\r\n\r\n\
         --related\r\nContent-Type: multipart/alternative; boundary=alternative\r\n\r\n\
         --alternative\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
         Gr=FC=DFe\r\n\
         --alternative\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
         <p>Gr=C3=BC=C3=9Fe <img src=3D\"cid:logo\"></p>\r\n\
         --alternative--\r\n\
         --related\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\nContent-Disposition: inline; filename=\"logo.png\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n\
         iVBORw0KGgo=\r\n\
         --related--\r\n"
    )
    .into_bytes();
    for Attached { name, content } in attached {
        mail.extend_from_slice(
            format!(
                "--mixed\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\
                 Content-Disposition: attachment; filename=\"{name}\"\r\n\r\n"
            )
            .as_bytes(),
        );
        for line in BASE64_STANDARD.encode(content).as_bytes().chunks(76) {
            mail.extend_from_slice(line);
            mail.extend_from_slice(b"\r\n");
        }
    }
    mail.extend_from_slice(b"--mixed--\r\n");
    mail
}
