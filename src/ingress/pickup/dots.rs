//! Dots that a program has doubled at the beginning of lines, as SMTP wants it (RFC 5321 section 4.5.2), in
//! a file, where nobody takes them off again.
//!
//! .NET Framework, and .NET Core up to 3.1, write files for pickup folders that way; .NET 5 and newer do not.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::config::Dots;

/// Octets read at a time.
const CHUNK: usize = 64 * 1024;

/// Whether the second dot is to be taken off in this file. `is_injected`: it begins with X-Sender and
/// X-Receiver lines, as .NET writes them. Reads the file for `auto`. Blocks.
pub(super) fn are_doubled(dots: Dots, is_injected: bool, file: &File) -> io::Result<bool> {
    Ok(match dots {
        Dots::Keep => false,
        Dots::Unstuff => true,
        Dots::Auto => is_injected && only_doubled(file)?,
    })
}

/// Whether there are lines that begin with a dot, and each begins with two.
fn only_doubled(file: &File) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    let mut line = Line::Begin;
    let mut found = false;
    loop {
        let len = file.read_at(&mut chunk, at)?;
        if len == 0 {
            // A lone dot at the very end.
            return Ok(found && line != Line::Dot);
        }
        at += len as u64;
        for &octet in &chunk[..len] {
            line = match (line, octet) {
                (_, b'\n') if line == Line::Dot => return Ok(false),
                (_, b'\n') => Line::Begin,
                (Line::Begin, b'.') => Line::Dot,
                (Line::Dot, b'.') => {
                    found = true;
                    Line::Inside
                }
                (Line::Dot, _) => return Ok(false),
                _ => Line::Inside,
            };
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Line {
    #[default]
    Begin,
    /// Behind a dot at its beginning.
    Dot,
    Inside,
}

/// Takes one of two dots off the beginning of each line. A single dot stays.
#[derive(Debug, Default)]
pub(super) struct Unstuffer(Line);

impl Unstuffer {
    /// The next part of the body.
    pub(super) fn unstuff(&mut self, mut chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(chunk.len() + 1);
        while let Some((&octet, rest)) = chunk.split_first() {
            match (self.0, octet) {
                (Line::Begin, b'.') => {
                    self.0 = Line::Dot;
                    chunk = rest;
                    continue;
                }
                (Line::Dot, b'.') => {}
                (Line::Dot, _) => out.push(b'.'),
                _ => {}
            }
            let len = memchr::memchr(b'\n', chunk).map_or(chunk.len(), |at| at + 1);
            let (line, rest) = chunk.split_at(len);
            out.extend_from_slice(line);
            self.0 = if line.ends_with(b"\n") { Line::Begin } else { Line::Inside };
            chunk = rest;
        }
        out
    }

    /// What is left at the end.
    pub(super) fn finish(self) -> &'static [u8] {
        if self.0 == Line::Dot { b"." } else { b"" }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use proptest::prelude::*;

    fn unstuffed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut unstuffer = Unstuffer::default();
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| unstuffer.unstuff(piece)).collect();
        out.extend_from_slice(unstuffer.finish());
        out
    }

    #[test]
    fn one_of_two_dots_goes() {
        for (stuffed, plain) in [
            ("a\r\n..png\r\n", "a\r\n.png\r\n"),
            ("..\r\n...\r\n", ".\r\n..\r\n"),
            (".single\r\n.\r\nx..\r\n", ".single\r\n.\r\nx..\r\n"),
            ("a\r\n.", "a\r\n."),
            ("", ""),
        ] {
            assert_eq!(unstuffed(&[stuffed.as_bytes()]), plain.as_bytes(), "{stuffed:?}");
        }
    }

    #[test]
    fn auto_looks_at_every_line() {
        let doubled = |dots, is_injected, text: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            are_doubled(dots, is_injected, &file).unwrap()
        };
        assert!(doubled(Dots::Auto, true, "a\r\n..png\r\n..\r\n"));
        assert!(!doubled(Dots::Auto, false, "a\r\n..png\r\n"));
        for text in ["a\r\n..png\r\n.x\r\n", "a\r\n..\r\n.\r\n", "no dots\r\n", "..\r\n."] {
            assert!(!doubled(Dots::Auto, true, text), "{text:?}");
        }
        assert!(doubled(Dots::Unstuff, false, "") && !doubled(Dots::Keep, true, "..\r\n"));
    }

    proptest! {
        #[test]
        fn what_was_stuffed_comes_back(lines in prop::collection::vec("[.a\r]{0,4}", 0..8), cut: usize) {
            let text = lines.join("\n");
            let stuffed = lines.iter().map(|line| if line.starts_with('.') { format!(".{line}") } else { line.clone() });
            let stuffed = stuffed.collect::<Vec<_>>().join("\n");
            let (a, b) = stuffed.as_bytes().split_at(cut % (stuffed.len() + 1));
            prop_assert_eq!(unstuffed(&[a, b]), text.as_bytes());
        }
    }
}
