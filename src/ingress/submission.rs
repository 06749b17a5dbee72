//! One message on its way from a client into the spool.
//!
//! The content streams through: the header block is held until it is whole (256 KiB at most), then checked and edited;
//! from there on bytes go to the spool's body as they come. Dropping a submission leaves nothing behind.

use std::net::IpAddr;

use super::{Door, Grant, Refusal};
use crate::message::{Envelope, MessageId};

/// Where a message came from, for its `Received` field.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The SMTP client; `None` for a file.
    pub client: Option<Client>,
    /// This relay's name.
    pub by: String,
}

#[derive(Debug, Clone)]
pub struct Client {
    /// What it said in EHLO or HELO: anything at all.
    pub helo: String,
    pub address: IpAddr,
    /// `ESMTP` or `SMTP` (RFC 3848).
    pub protocol: &'static str,
}

pub struct Submission {
    id: MessageId,
}

impl Submission {
    pub fn begin(_door: &Door, _grant: Grant, _envelope: Envelope, _origin: Origin) -> Self {
        unimplemented!()
    }

    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Takes the next part of the content: CRLF line ends, dots unstuffed. After a refusal the rest of the content
    /// need not be given, and the message is gone.
    pub async fn write(&mut self, _content: &[u8]) -> Result<(), Refusal> {
        unimplemented!()
    }

    /// The content is complete. When this returns `Ok`, the message is durable and may be acknowledged.
    pub async fn finish(self) -> Result<MessageId, Refusal> {
        unimplemented!()
    }
}
