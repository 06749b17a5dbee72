//! Standard input as the octets of one message: without the line that some mailbox files put on top, and up
//! to the dot that may end it.
//!
//! A line `From …` at the very top is not a field but the separator of a mailbox file; programs that resend
//! mail from one leave it there. Without `-i`, a line that holds a single dot ends the message and is not
//! part of it; dots at the beginnings of other lines are content, and nothing is unstuffed.

use std::io::{self, Read};

const CHUNK: usize = 64 * 1024;

pub(super) struct Input<R> {
    source: R,
    buffer: Vec<u8>,
    ends_at_dot: bool,
    place: Position,
    /// `From `, as far as it was seen at the top.
    top: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    LineStart,
    Middle,
    /// After a dot at the start of a line, which is held back.
    Dot,
    /// After such a dot and a CR: both are held back.
    DotCr,
    /// Inside the line that is left out.
    Separator,
    Ended,
}

const SEPARATOR: &[u8] = b"From ";

impl<R: Read> Input<R> {
    pub(super) fn new(source: R, ignore_dots: bool) -> Self {
        Self {
            source,
            buffer: vec![0; CHUNK],
            ends_at_dot: !ignore_dots,
            place: Position::LineStart,
            top: Some(0),
        }
    }

    /// Puts the next part into `out`, which is emptied first. `false`: there is no more. A part before that
    /// may be empty.
    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        out.clear();
        if self.place == Position::Ended {
            return Ok(false);
        }
        let read = loop {
            match self.source.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        let buffer = std::mem::take(&mut self.buffer);
        if read == 0 {
            self.finish(out)
        } else {
            self.take(&buffer[..read], out)
        }
        self.buffer = buffer;
        Ok(true)
    }

    fn take(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) {
        while let (Some(seen), [octet, rest @ ..]) = (self.top, chunk) {
            if *octet != SEPARATOR[seen] {
                self.release_top(out);
                break;
            }
            chunk = rest;
            self.top = Some(seen + 1);
            if seen + 1 == SEPARATOR.len() {
                self.top = None;
                self.place = Position::Separator;
            }
        }
        while let [octet, rest @ ..] = chunk {
            match (self.place, octet) {
                (Position::Ended, _) => return,
                (Position::Separator, _) => {
                    let Some(end) = memchr::memchr(b'\n', chunk) else { return };
                    self.place = Position::LineStart;
                    chunk = &chunk[end + 1..];
                    continue;
                }
                (Position::LineStart, b'.') if self.ends_at_dot => self.place = Position::Dot,
                (Position::Dot, b'\r') => self.place = Position::DotCr,
                (Position::Dot | Position::DotCr, b'\n') => {
                    self.place = Position::Ended;
                    return;
                }
                (Position::Dot | Position::DotCr, _) => {
                    self.release_dot(out);
                    continue;
                }
                (Position::LineStart | Position::Middle, _) => {
                    let end = memchr::memchr(b'\n', chunk).map_or(chunk.len(), |at| at + 1);
                    let (line, after) = chunk.split_at(end);
                    out.extend_from_slice(line);
                    self.place = if line.ends_with(b"\n") { Position::LineStart } else { Position::Middle };
                    chunk = after;
                    continue;
                }
            }
            chunk = rest;
        }
    }

    /// The source has ended. A dot without line end at the very end ends the message as well.
    fn finish(&mut self, out: &mut Vec<u8>) {
        self.release_top(out);
        self.place = Position::Ended;
    }

    fn release_top(&mut self, out: &mut Vec<u8>) {
        if let Some(seen) = self.top.take().filter(|&seen| seen > 0) {
            out.extend_from_slice(&SEPARATOR[..seen]);
            self.place = Position::Middle;
        }
    }

    fn release_dot(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.place == Position::DotCr { b".\r" } else { b"." });
        self.place = Position::Middle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives this many octets at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.1.min(self.0.len());
            buffer[..size].copy_from_slice(&self.0[..size]);
            self.0 = &self.0[size..];
            Ok(size)
        }
    }

    fn read(text: &str, size: usize, ignore_dots: bool) -> String {
        let mut input = Input::new(Slowly(text.as_bytes(), size), ignore_dots);
        let mut all = Vec::new();
        let mut out = Vec::new();
        while input.next(&mut out).unwrap() {
            all.extend_from_slice(&out);
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn a_dot_ends_the_message_unless_it_is_ignored() {
        let rows = [
            // text, up to the dot
            ("a\n.\nb\n", "a\n"),
            ("a\r\n.\r\nb\r\n", "a\r\n"),
            (".\na", ""),
            ("a\n.", "a\n"),
            ("a\n..\n.b\n.\rc\n. \n", "a\n..\n.b\n.\rc\n. \n"),
            ("a.\n", "a.\n"),
            ("a\n.\r", "a\n"),
            ("", ""),
        ];
        for (text, expected) in rows {
            for size in 1..=text.len().max(1) {
                assert_eq!(read(text, size, false), expected, "{text:?} by {size}");
                assert_eq!(read(text, size, true), text, "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn the_separator_of_a_mailbox_is_left_out() {
        let rows = [
            ("From a@x.se Mon Jan  1\nFrom: a\n", "From: a\n"),
            ("From: a\nFrom b\n", "From: a\nFrom b\n"),
            ("From", "From"),
            ("From a", ""),
            ("Fro\n.\n", "Fro\n"),
            ("From \n.\nx", ""),
        ];
        for (text, expected) in rows {
            for size in 1..=text.len() {
                assert_eq!(read(text, size, false), expected, "{text:?} by {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(text in "(From |From|\\.|\r|\n|a){0,12}", size in 1usize..6) {
            for ignore_dots in [false, true] {
                prop_assert_eq!(read(&text, size, ignore_dots), read(&text, 1000, ignore_dots));
            }
        }
    }
}
