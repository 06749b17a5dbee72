//! One message on its way from a client into the spool.
//!
//! The content streams through: the header block is held until it is whole (256 KiB at most), then checked and edited;
//! from there on bytes go to the spool's body as they come. Dropping a submission leaves nothing behind.
//!
//! The edits: a `Received` field is put on top, and Message-ID and Date are added where they are missing (RFC 6409
//! section 8). Nothing else is touched.

use std::net::IpAddr;

use super::{Door, Grant, Refusal};
use crate::{
    clock,
    message::{
        self, Envelope, HeaderScanner, InvalidHeader, MailboxAddress, MessageId, Received, SplitMessage,
    },
    spool::{BodyWriter, Message, NewMessage},
    telemetry::Refused,
};

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
    /// It said EHLO.
    pub extended: bool,
}

pub struct Submission {
    door: Door,
    grant: Grant,
    envelope: Envelope,
    origin: Origin,
    id: MessageId,
    /// Octets of content so far.
    size: u64,
    part: Part,
    body: BodyWriter,
}

/// Which part of the content comes next.
enum Part {
    Header(HeaderScanner),
    Body { author: MailboxAddress },
}

impl Submission {
    pub fn begin(door: &Door, grant: Grant, envelope: Envelope, origin: Origin) -> Self {
        let (id, body) = door.spool().begin();
        let part = Part::Header(HeaderScanner::default());
        Self { door: door.clone(), grant, envelope, origin, id, size: 0, part, body }
    }

    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Takes the next part of the content: CRLF line ends, dots unstuffed. After a refusal the rest of the content
    /// need not be given, and the message is gone.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), Refusal> {
        self.size += content.len() as u64;
        self.door.check_size(self.size)?;
        match &mut self.part {
            Part::Body { .. } => Ok(self.body.write(content).await?),
            Part::Header(scanner) => match scanner.push(content).map_err(refuse_header)? {
                None => Ok(()),
                Some(split) => self.take_header(split).await,
            },
        }
    }

    /// The content is complete. When this returns `Ok`, the message is durable and may be acknowledged.
    pub async fn finish(mut self) -> Result<MessageId, Refusal> {
        if let Part::Header(scanner) = &mut self.part {
            let split = std::mem::take(scanner).finish().map_err(refuse_header)?;
            self.take_header(split).await?;
        }
        // The header was taken just now, if not before.
        let Part::Body { author } = self.part else { return Err(refuse_header(InvalidHeader::TooLarge)) };
        let message = Message {
            tenant: self.grant.tenant.name.clone(),
            ingress: self.grant.ingress,
            envelope: self.envelope,
            author,
            bounce_of: None,
        };
        let body = self.body.finish().await?;
        self.door.spool().accept(NewMessage { id: self.id, message, body }).await?;
        Ok(self.id)
    }

    async fn take_header(&mut self, split: SplitMessage) -> Result<(), Refusal> {
        let SplitMessage { header, body } = split;
        let author = message::author(&header).map_err(|error| {
            Refusal::new(
                550,
                "5.6.0",
                format!("Cannot tell who wrote the message: {error}"),
                Refused::Malformed,
            )
        })?;
        for mailbox in author.from() {
            self.door.check_author(&self.grant, mailbox)?;
        }
        self.door.check_author(&self.grant, author.mailbox())?;

        let (now, by) = (clock::now(), &self.origin.by);
        let origin = match &self.origin.client {
            Some(Client { helo, address, extended }) => {
                message::Origin::Smtp { helo, address: *address, extended: *extended }
            }
            None => message::Origin::Pickup,
        };
        let mut top = Received { origin, by, id: self.id, at: now }.to_bytes();
        top.extend_from_slice(header.as_bytes());
        top.extend(message::complete(&header, self.id, by, now));
        top.extend_from_slice(b"\r\n");
        self.part = Part::Body { author: author.mailbox().clone() };
        self.body.write(&top).await?;
        Ok(self.body.write(&body).await?)
    }
}

fn refuse_header(error: InvalidHeader) -> Refusal {
    match error {
        InvalidHeader::TooLarge => {
            Refusal::new(552, "5.3.4", format!("Message refused: {error}"), Refused::TooLarge)
        }
        InvalidHeader::BareCarriageReturn => {
            Refusal::new(550, "5.6.0", format!("Message refused: {error}"), Refused::Malformed)
        }
    }
}
