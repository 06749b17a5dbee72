//! Line ends of messages.
//!
//! Mail has CR LF (RFC 5322 section 2.1), and in SMTP a CR or LF that is not part of one is an error (RFC
//! 5321 section 2.3.8). Files have LF where programs on Unix write them. What a server before or behind this
//! one takes for a line end is not known, so no bare CR or LF may get through: it is refused, or it becomes
//! CR LF, and nothing else changes.

use std::borrow::Cow;

use memchr::{memchr2, memchr2_iter};

/// What happens to a bare CR or LF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lenience {
    /// Both are refused.
    None,
    /// LF becomes CR LF, and CR is refused: it has no such reading in a file.
    LineFeed,
    /// LF, CR, and any number of CR before one LF become one CR LF.
    Both,
}

/// Repairs the line ends in a stream of chunks.
#[derive(Debug)]
pub(crate) struct Newlines {
    lenience: Lenience,
    /// A CR has been taken and not yet passed on: what follows decides.
    pending: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message has a {0} (RFC 5322 section 2.3)")]
pub(crate) struct BareNewline(&'static str);

const BARE_CR: BareNewline = BareNewline("carriage return without a line feed");
const BARE_LF: BareNewline = BareNewline("line feed without a carriage return");

impl Newlines {
    pub(crate) fn new(lenience: Lenience) -> Self {
        Self { lenience, pending: false }
    }

    /// Returns the next chunk as mail: unchanged, if there is nothing to repair.
    pub(crate) fn mend<'a>(&mut self, chunk: &'a [u8]) -> Result<Cow<'a, [u8]>, BareNewline> {
        let clean = if self.pending { 0 } else { clean_len(chunk) };
        if clean == chunk.len() {
            return Ok(Cow::Borrowed(chunk));
        }
        let mut out = Vec::with_capacity(chunk.len() + chunk.len() / 32 + 2);
        out.extend_from_slice(&chunk[..clean]);
        let mut rest = &chunk[clean..];
        while let Some(&next) = rest.first() {
            if self.pending {
                match next {
                    b'\n' => {}
                    _ if self.lenience != Lenience::Both => return Err(BARE_CR),
                    // One CR more before the LF, or another line end: the next octet tells.
                    b'\r' => {
                        rest = &rest[1..];
                        continue;
                    }
                    _ => {}
                }
                out.extend_from_slice(b"\r\n");
                self.pending = false;
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
                continue;
            }
            let Some(at) = memchr2(b'\r', b'\n', rest) else {
                out.extend_from_slice(rest);
                break;
            };
            out.extend_from_slice(&rest[..at]);
            match rest[at] {
                b'\r' => self.pending = true,
                _ if self.lenience == Lenience::None => return Err(BARE_LF),
                _ => out.extend_from_slice(b"\r\n"),
            }
            rest = &rest[at + 1..];
        }
        Ok(Cow::Owned(out))
    }

    /// There are no more chunks. Returns what is left to pass on.
    pub(crate) fn finish(self) -> Result<&'static [u8], BareNewline> {
        match (self.pending, self.lenience) {
            (false, _) => Ok(b""),
            (true, Lenience::Both) => Ok(b"\r\n"),
            (true, _) => Err(BARE_CR),
        }
    }
}

/// The length up to which all line ends are whole.
fn clean_len(chunk: &[u8]) -> usize {
    let mut whole = 0;
    for at in memchr2_iter(b'\r', b'\n', chunk) {
        if chunk[at] == b'\r' && chunk.get(at + 1) == Some(&b'\n') {
            whole = at + 2;
        } else if at >= whole {
            return at;
        }
    }
    chunk.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Lenience; 3] = [Lenience::None, Lenience::LineFeed, Lenience::Both];

    fn mended(lenience: Lenience, text: &[u8], size: usize) -> Result<Vec<u8>, BareNewline> {
        let mut newlines = Newlines::new(lenience);
        let mut all = Vec::new();
        for chunk in text.chunks(size) {
            all.extend_from_slice(&newlines.mend(chunk)?);
        }
        all.extend_from_slice(newlines.finish()?);
        Ok(all)
    }

    #[test]
    fn what_becomes_of_a_bare_one() {
        for size in 1..10 {
            let mended = |lenience, text: &[u8]| mended(lenience, text, size);
            for lenience in ALL {
                assert_eq!(mended(lenience, b"\r\na\r\n\r\n"), Ok(b"\r\na\r\n\r\n".to_vec()));
            }
            let strict = Lenience::None;
            let file = Lenience::LineFeed;
            let both = Lenience::Both;
            let text = b"\na\n\nb\r\nc\r\n\nd";
            assert_eq!(mended(strict, text), Err(BARE_LF));
            for lenience in [file, both] {
                assert_eq!(mended(lenience, text), Ok(b"\r\na\r\n\r\nb\r\nc\r\n\r\nd".to_vec()));
            }
            for (text, fixed) in [
                (&b"a\rb\n"[..], &b"a\r\nb\r\n"[..]),
                (b"a\r\r\nb", b"a\r\nb"),
                (b"a\r", b"a\r\n"),
                (b"a\r\n.\r\r\nb", b"a\r\n.\r\nb"),
            ] {
                assert_eq!(mended(strict, text), Err(BARE_CR));
                assert_eq!(mended(file, text), Err(BARE_CR));
                assert_eq!(mended(both, text), Ok(fixed.to_vec()));
            }
        }
    }

    #[test]
    fn a_whole_chunk_is_not_copied() {
        for lenience in ALL {
            assert!(matches!(Newlines::new(lenience).mend(b"a\r\nb\r\n\r\nc"), Ok(Cow::Borrowed(_))));
        }
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(text in "(a|\r\n|\n|b\n|\r){0,20}", size in 1usize..9, which in 0usize..3) {
            let lenience = ALL[which];
            let text = text.as_bytes();
            let whole = mended(lenience, text, text.len().max(1));
            prop_assert_eq!(&mended(lenience, text, size), &whole);
            prop_assert!(lenience != Lenience::Both || whole.is_ok());
            if let Ok(whole) = whole {
                let plain = |text: &[u8]| text.iter().copied().filter(|&o| o != b'\r' && o != b'\n').collect::<Vec<_>>();
                prop_assert_eq!(plain(&whole), plain(text));
                prop_assert_eq!(mended(Lenience::None, &whole, size), Ok(whole));
            }
        }
    }
}
