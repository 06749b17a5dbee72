//! Content that is encoded by `uuencode` (POSIX), as Content-Transfer-Encoding `x-uuencode` says: no
//! standard of mail, and in use since before there was one.

/// Octets of a line that are looked at. One of 45 octets of content has 61.
const MAX_LINE: usize = 200;

/// Takes encoded octets in any portions. Lines in front of `begin` stay as they are, what follows `end` is
/// left out.
#[derive(Debug, Default)]
pub(super) struct Uudecoder {
    phase: Phase,
    /// The line that is being read.
    line: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Before,
    /// In a line that is too long to be any other than text.
    Text,
    Inside,
    Behind,
}

impl Uudecoder {
    pub(super) fn push(&mut self, mut octets: &[u8], out: &mut Vec<u8>) {
        while !octets.is_empty() && self.phase != Phase::Behind {
            let line_feed = memchr::memchr(b'\n', octets);
            let (piece, rest) = octets.split_at(line_feed.map_or(octets.len(), |at| at + 1));
            octets = rest;
            match self.phase {
                Phase::Text => out.extend_from_slice(piece),
                // Of a line of content no more has a meaning.
                Phase::Inside => {
                    self.line.extend(piece.iter().take(MAX_LINE.saturating_sub(self.line.len())))
                }
                Phase::Before | Phase::Behind => self.line.extend_from_slice(piece),
            }
            if self.phase == Phase::Before && self.line.len() > MAX_LINE {
                out.append(&mut self.line);
                self.phase = Phase::Text;
            }
            if line_feed.is_some() {
                self.end_line(out);
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.line.is_empty() {
            self.end_line(out);
        }
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii_end();
        self.phase = match self.phase {
            Phase::Before if text.starts_with(b"begin ") => Phase::Inside,
            Phase::Before => {
                if !text.is_empty() {
                    out.extend_from_slice(&line);
                }
                Phase::Before
            }
            Phase::Text => Phase::Before,
            Phase::Inside if text == b"end" => Phase::Behind,
            Phase::Inside => {
                // Blanks at its end may have been lost on the way: they are zeros.
                decode_line(line.trim_ascii_end(), out);
                Phase::Inside
            }
            Phase::Behind => Phase::Behind,
        };
    }
}

/// The first character is the number of octets, and each four that follow are three of them.
fn decode_line(line: &[u8], out: &mut Vec<u8>) {
    let value = |at: usize| line.get(at).map_or(0, |octet| octet.wrapping_sub(b' ') & 0x3F);
    let mut left = usize::from(value(0));
    let mut at = 1;
    while left > 0 {
        let bits = (0..4).fold(0_u32, |bits, n| bits << 6 | u32::from(value(at + n)));
        out.extend_from_slice(&bits.to_be_bytes()[1..1 + left.min(3)]);
        left = left.saturating_sub(3);
        at += 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(encoded: &str, piece: usize) -> Vec<u8> {
        let mut decoder = Uudecoder::default();
        let mut out = Vec::new();
        for piece in encoded.as_bytes().chunks(piece) {
            decoder.push(piece, &mut out);
        }
        decoder.finish(&mut out);
        out
    }

    #[test]
    fn what_was_encoded_comes_back() {
        for (encoded, decoded) in [
            ("begin 644 cat.txt\r\n#0V%T\r\n`\r\nend\r\n", &b"Cat"[..]),
            ("\r\nbegin 644 cat.txt\n#0V%T\n`\nend\nafter", b"Cat"),
            ("begin 644 zeros\r\n$    !0  \r\n`\r\nend", b"\0\0\0\x05"),
            // Blanks at the end of the line were lost.
            ("begin 644 zeros\r\n&86  \r\n", b"\x61\x60\0\0\0\0"),
            ("no beginning\r\nat all", b"no beginning\r\nat all"),
            ("", b""),
        ] {
            for piece in [1, 7, 1000] {
                let found = decode(encoded, piece);
                assert_eq!(found, decoded, "{encoded:?}");
            }
        }
        let long = format!("{}\r\nbegin 644 x\r\n#0V%T\r\n`\r\nend\r\n", "x".repeat(1000));
        assert_eq!(decode(&long, 3), format!("{}\r\nCat", "x".repeat(1000)).as_bytes());
    }
}
