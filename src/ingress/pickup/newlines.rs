//! LF becomes CR LF.
//!
//! Programs on Unix write files with LF; mail has CR LF (RFC 5322 section 2.1). Each LF without CR gets one, and nothing
//! else changes. A CR without LF has no such reading and is refused, as it is from SMTP clients.

use memchr::memchr2_iter;

/// Mends a stream of chunks.
#[derive(Debug, Default)]
pub(crate) struct Newlines {
    /// The last chunk ended with CR.
    after_cr: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body has a carriage return without a line feed (RFC 5322 section 2.3)")]
pub(crate) struct BareCarriageReturn;

impl Newlines {
    /// The next chunk as mail. `out` is emptied first.
    pub(crate) fn mend(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), BareCarriageReturn> {
        out.clear();
        out.reserve(chunk.len() + chunk.len() / 32);
        let mut copied = 0;
        for at in memchr2_iter(b'\r', b'\n', chunk) {
            let after_cr = if at == 0 { self.after_cr } else { chunk[at - 1] == b'\r' };
            match chunk[at] {
                b'\n' if !after_cr => {
                    out.extend_from_slice(&chunk[copied..at]);
                    out.push(b'\r');
                    copied = at;
                }
                b'\r' if chunk.get(at + 1).is_some_and(|&next| next != b'\n') => {
                    return Err(BareCarriageReturn);
                }
                _ => {}
            }
        }
        if self.after_cr && chunk.first().is_some_and(|&first| first != b'\n') {
            return Err(BareCarriageReturn);
        }
        out.extend_from_slice(&chunk[copied..]);
        self.after_cr = chunk.last().map_or(self.after_cr, |&last| last == b'\r');
        Ok(())
    }

    /// There are no more chunks.
    pub(crate) fn finish(self) -> Result<(), BareCarriageReturn> {
        if self.after_cr { Err(BareCarriageReturn) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mended(text: &[u8], size: usize) -> Result<Vec<u8>, BareCarriageReturn> {
        let mut newlines = Newlines::default();
        let (mut all, mut out) = (Vec::new(), Vec::new());
        for chunk in text.chunks(size) {
            newlines.mend(chunk, &mut out)?;
            all.extend_from_slice(&out);
        }
        newlines.finish().map(|()| all)
    }

    #[test]
    fn lone_line_feeds_are_mended() {
        for size in 1..10 {
            assert_eq!(mended(b"\na\n\nb\r\nc\r\n\nd", size), Ok(b"\r\na\r\n\r\nb\r\nc\r\n\r\nd".to_vec()));
            assert_eq!(mended(b"a\rb\n", size), Err(BareCarriageReturn));
            assert_eq!(mended(b"a\r\r\n", size), Err(BareCarriageReturn));
            assert_eq!(mended(b"a\r", size), Err(BareCarriageReturn));
        }
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(text in "(a|\r\n|\n|b\n|\r){0,20}", size in 1usize..9) {
            let text = text.as_bytes();
            let whole = mended(text, text.len().max(1));
            prop_assert_eq!(&mended(text, size), &whole);
            if let Ok(whole) = whole {
                let plain = |text: &[u8]| text.iter().copied().filter(|&o| o != b'\r').collect::<Vec<_>>();
                prop_assert_eq!(plain(&whole), plain(text));
                prop_assert_eq!(mended(&whole, size), Ok(whole));
            }
        }
    }
}
