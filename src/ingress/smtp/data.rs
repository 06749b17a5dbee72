//! The content after DATA: finds its end and removes the dot stuffing, in the buffer that it was read into.
//!
//! A parser library's receiver wants the whole message in one vector; this one never holds more than a state.
//! It takes any number of octets at a time and hands back slices of them.
//!
//! Only CR LF `.` CR LF ends the content (RFC 5321 section 4.1.1.4), where the CR LF before the dot may be
//! the one that ended the DATA command itself. Anything looser lets one message hide a second one from the
//! server before this one ("SMTP smuggling"). A CR or LF outside of CR LF is passed on as it is: the reader
//! decides what happens to such a message, after its real end.

use memchr::memchr2;

/// Where in the content the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// After CR LF, or at the very start.
    LineStart,
    Middle,
    /// After a CR, which was passed on already.
    Cr,
    /// After a dot at the start of a line, which is held back: stuffing, or the end.
    Dot,
    /// After such a dot and a CR: both are held back.
    DotCr,
    Ended,
}

/// Reads one message's content.
#[derive(Debug)]
pub(crate) struct DataReader {
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Content without stuffing. Never empty.
    Content(&'a [u8]),
    /// The content has ended; what is left of the input is the next command.
    End,
}

impl DataReader {
    pub(crate) fn new() -> Self {
        Self { state: State::LineStart }
    }

    /// Takes the next piece off `input`. `None`: all of `input` is used up, and more is needed.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        while let Some(&octet) = input.first() {
            match (self.state, octet) {
                (State::LineStart, b'.') => self.state = State::Dot,
                (State::Dot, b'\r') => self.state = State::DotCr,
                (State::DotCr, b'\n') => {
                    *input = &input[1..];
                    self.state = State::Ended;
                    return Some(Piece::End);
                }
                // The dot was stuffing, and the CR after it is content.
                (State::DotCr, _) => {
                    self.state = State::Cr;
                    return Some(Piece::Content(b"\r"));
                }
                (State::Ended, _) => return None,
                // The dot was stuffing.
                (State::Dot, _) => return Some(self.run(State::Middle, input)),
                (state, _) => return Some(self.run(state, input)),
            }
            *input = &input[1..];
        }
        None
    }

    /// Takes content up to the next dot at the start of a line. `input` is not empty and does not begin with
    /// such a dot.
    fn run<'a>(&mut self, state: State, input: &mut &'a [u8]) -> Piece<'a> {
        let all = *input;
        let mut at = 0;
        if state == State::Cr {
            at = usize::from(all[0] == b'\n');
        }
        let mut line_start = at == 1;
        let end = loop {
            if line_start && all.get(at) == Some(&b'.') {
                break at;
            }
            let Some(newline) = memchr2(b'\r', b'\n', &all[at..]).map(|found| at + found) else {
                line_start &= at == all.len();
                break all.len();
            };
            line_start = false;
            at = newline + 1;
            match (all[newline], all.get(at)) {
                (b'\r', Some(b'\n')) => {
                    line_start = true;
                    at += 1;
                }
                (b'\r', None) => {
                    self.state = State::Cr;
                    *input = &[];
                    return Piece::Content(all);
                }
                // A CR without its LF, or an LF without its CR.
                _ => {}
            }
        };
        self.state = if line_start { State::LineStart } else { State::Middle };
        let (content, rest) = all.split_at(end);
        *input = rest;
        Piece::Content(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What came out, and how much of the input was after the end, if the end came.
    struct Read {
        content: Vec<u8>,
        rest: Option<usize>,
    }

    /// Feeds `wire` in chunks of the given sizes, over and over.
    fn read(wire: &[u8], chunks: &[usize]) -> Read {
        let mut reader = DataReader::new();
        let mut content = Vec::new();
        let mut at = 0;
        for size in chunks.iter().cycle() {
            let end = (at + size).min(wire.len());
            let mut input = &wire[at..end];
            while let Some(piece) = reader.next(&mut input) {
                match piece {
                    Piece::Content(piece) => {
                        assert!(!piece.is_empty());
                        content.extend_from_slice(piece);
                    }
                    Piece::End => {
                        let rest = Some(wire.len() - end + input.len());
                        return Read { content, rest };
                    }
                }
            }
            assert!(input.is_empty());
            at = end;
            if at == wire.len() {
                break;
            }
        }
        Read { content, rest: None }
    }

    /// RFC 5321 section 4.5.2, done the obvious way. The content ends with CR LF or is empty.
    fn stuffed(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, &octet) in content.iter().enumerate() {
            let line_start = at == 0 || content[..at].ends_with(b"\r\n");
            if line_start && octet == b'.' {
                out.push(b'.');
            }
            out.push(octet);
        }
        out.extend_from_slice(b".\r\n");
        out
    }

    /// Mostly the octets that matter.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(&b"\r\n"[..]), 2 => Just(&b"."[..]), 1 => Just(&b"\r"[..]), 1 => Just(&b"\n"[..]),
            1 => Just(&b"\0"[..]), 2 => Just(&b"text"[..]), 1 => Just(&b"\xff"[..]),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| {
            let mut content = pieces.concat();
            if !content.is_empty() {
                content.extend_from_slice(b"\r\n");
            }
            content
        })
    }

    proptest! {
        #[test]
        fn any_content_comes_through_in_any_chunks(
            content in content(),
            chunks in prop::collection::vec(1usize..9, 1..6),
        ) {
            let mut wire = stuffed(&content);
            wire.extend_from_slice(b"QUIT\r\n");
            let read = read(&wire, &chunks);
            prop_assert_eq!(&read.content, &content);
            prop_assert_eq!(read.rest, Some(6));
        }

        #[test]
        fn chunks_make_no_difference(wire: Vec<u8>, chunks in prop::collection::vec(1usize..9, 1..6)) {
            let whole = read(&wire, &[wire.len().max(1)]);
            let parts = read(&wire, &chunks);
            prop_assert_eq!(whole.content, parts.content);
            prop_assert_eq!(whole.rest, parts.rest);
        }
    }

    #[test]
    fn a_dot_at_once_is_an_empty_message() {
        let read = read(b".\r\nQUIT\r\n", &[1]);
        assert_eq!((read.content, read.rest), (vec![], Some(6)));
    }

    #[test]
    fn nothing_but_the_real_thing_ends_content() {
        let smuggled: [&[u8]; 16] = [
            b"\n.\n",
            b"\n.\r\n",
            b"\r.\r\n",
            b"\r.\r",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r\n.\r\r\n",
            b"\r\n\0.\r\n",
            b"\r\n.\0\r\n",
            b"\r\n.\r\0\n",
            b"\r\0\n.\r\n",
            b"\r\n. \r\n",
            b"\r\n..\r\n",
            b"\n\r.\r\n",
            b"\r\r.\r\n",
            b"\r\n.\x85\r\n",
        ];
        for end in smuggled {
            let mut wire = b"Subject: x\r\n\r\nhello".to_vec();
            wire.extend_from_slice(end);
            wire.extend_from_slice(b"MAIL FROM:<evil@example.com>\r\n");
            for chunk in 1..wire.len() {
                let read = read(&wire, &[chunk]);
                assert_eq!(read.rest, None, "{} ended content", end.escape_ascii());
            }
        }
    }

    #[test]
    fn content_is_handed_on_where_it_lies() {
        let wire = b"one\r\ntwo\r\n\r\nthree\r\n..four\r\n.\r\n";
        let mut input = &wire[..];
        let mut reader = DataReader::new();
        assert_eq!(reader.next(&mut input), Some(Piece::Content(b"one\r\ntwo\r\n\r\nthree\r\n")));
        assert_eq!(reader.next(&mut input), Some(Piece::Content(b".four\r\n")));
        assert_eq!(reader.next(&mut input), Some(Piece::End));
        assert_eq!(reader.next(&mut input), None);
    }
}
