//! The content of one part of a message, for an upload or a draft.

use std::{collections::VecDeque, io};

use bytes::Bytes;
use relay_mail::{Decoder, TransferEncoding};
use relay_spool::OpenBody;

/// The content of a part of the body, decoded as it is read.
pub(super) struct ContentReader {
    begun: VecDeque<Bytes>,
    rest: Option<OpenBody>,
    decoder: Decoder,
    ended: bool,
}

impl ContentReader {
    /// Reads octets that are in memory, then the rest of the body behind them, both still encoded.
    pub(super) fn new(begun: VecDeque<Bytes>, rest: Option<OpenBody>, encoding: TransferEncoding) -> Self {
        Self { begun, rest, decoder: Decoder::new(encoding), ended: false }
    }

    /// Appends more of the content. `false`: there is no more.
    pub(super) async fn more(&mut self, content: &mut Vec<u8>) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let piece = match (self.begun.pop_front(), &mut self.rest) {
            (Some(piece), _) => Some(piece),
            (None, Some(rest)) => rest.next().await?,
            (None, None) => None,
        };
        match piece {
            Some(piece) => self.decoder.push(&piece, content),
            None => {
                self.ended = true;
                self.decoder.finish(content);
            }
        }
        Ok(true)
    }
}
