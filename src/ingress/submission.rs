//! One message on its way from a client into the spool.
//!
//! The content streams through: the header block is held until it is whole (256 KiB at most), then checked
//! and edited; from there on, octets go to the spool's body as they come. Room on the disk is asked for on
//! the way too, since a client need not announce a size. Dropping a submission leaves nothing behind.
//!
//! The edits: a `Received` field is put on top, Message-ID, Date and From are added where they are missing,
//! Bcc and Return-Path are taken out (RFC 6409 section 8). A tenant may want its mail to go out from another
//! address: then From is written again, Sender is taken out, and the envelope has that sender. Nothing else
//! is touched.

use std::net::IpAddr;

use super::{Door, Grant, Refusal};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    clock,
    config::EnvelopeMismatch,
    telemetry::{Refused, seconds},
};
use relay_mail as message;
use relay_mail::{
    Encryption, Envelope, HeaderBlock, HeaderScanner, InvalidAuthor, InvalidHeader, MAX_HOPS, MailboxAddress,
    Mending, MessageId, NewFrom, Received, RepairedFrom, SplitMessage, Visible,
};
use relay_spool::{Accepted, ArrivingBytes, BodyWriter, Message, NewMessage};

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
    /// `None`: unencrypted.
    pub encryption: Option<Encryption>,
    /// It had logged in.
    pub authenticated: bool,
}

pub struct Submission {
    door: Door,
    grant: Grant,
    envelope: Envelope,
    origin: Origin,
    id: MessageId,
    /// Octets of content so far.
    size: u64,
    /// The size at which the door is asked for room again.
    ask_at: u64,
    part: Part,
    body: BodyWriter,
    /// The same as `size`, counted towards the tenant's share.
    arriving: ArrivingBytes,
}

/// The From field that is written instead of the one that came, or was missing.
struct WrittenFrom {
    name: Option<String>,
    address: MailboxAddress,
    /// The tenant wants it so, whatever the header says. A Sender field goes.
    is_forced: bool,
}

/// Octets that come in between two questions for room.
const ASK_EVERY: u64 = 1 << 20;

/// Which part of the content comes next.
enum Part {
    Header(HeaderScanner),
    Body { author: MailboxAddress },
}

impl Submission {
    pub fn begin(door: &Door, grant: Grant, envelope: Envelope, origin: Origin) -> Self {
        let begun = door.spool().begin_for(&grant.tenant.name);
        Self::begin_with(door, begun, grant, envelope, origin)
    }

    /// Begins a message that already has its id from the spool.
    pub fn begin_with(
        door: &Door,
        (id, body): (MessageId, BodyWriter),
        grant: Grant,
        envelope: Envelope,
        origin: Origin,
    ) -> Self {
        let part = Part::Header(HeaderScanner::default());
        let arriving = door.begin_to_count(&grant);
        let instead =
            envelope.sender().and_then(|sender| grant.tenant.from_rules.instead_of(sender)).cloned();
        let envelope = match instead {
            Some(instead) => envelope.from_sender(instead),
            None => envelope,
        };
        Self {
            door: door.clone(),
            grant,
            envelope,
            origin,
            id,
            size: 0,
            ask_at: ASK_EVERY,
            part,
            body,
            arriving,
        }
    }

    /// Octets of memory that the header takes up, until it is whole.
    pub fn held(&self) -> usize {
        match &self.part {
            Part::Header(scanner) => scanner.held(),
            Part::Body { .. } => 0,
        }
    }

    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Takes the next part of the content: CRLF line ends, dots unstuffed. After a refusal the rest of the
    /// content need not be given, and the message is gone.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), Refusal> {
        self.size += content.len() as u64;
        self.door.check_size(self.size)?;
        self.door.take(&self.grant, &mut self.arriving, content.len() as u64)?;
        if self.size >= self.ask_at {
            self.door.is_open()?;
            self.ask_at = self.size + ASK_EVERY;
        }
        match &mut self.part {
            Part::Body { .. } => Ok(self.body.write(content).await?),
            Part::Header(scanner) => match scanner.push(content).map_err(refuse_header)? {
                None => Ok(()),
                Some(split) => self.take_header(split).await,
            },
        }
    }

    /// The content is complete. When this returns `Ok`, the message is durable and may be acknowledged; it is
    /// delivered once the returned value is announced or dropped.
    pub async fn finish(mut self) -> Result<Accepted, Refusal> {
        self.door.is_open()?;
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
        Ok(self.door.spool().accept(NewMessage { id: self.id, message, body }).await?)
    }

    /// As [`finish`](Self::finish), for a client that waits for the answer until `deadline`. If the spool
    /// takes longer than that, the message is unwound: the client will have given up when the answer comes,
    /// and it sends the message again.
    ///
    /// The refusal comes when the spool has answered, however late that is: until then the message takes up
    /// room, and the client had better not send the next one. If the process dies between the two commits, or
    /// the disk fails in between and then the process dies, the message is delivered although its client was
    /// not told that it was accepted.
    pub async fn finish_by(self, deadline: Instant) -> Result<MessageId, Refusal> {
        let id = self.id;
        let accepted = self.finish().await?;
        let late = Instant::now().saturating_duration_since(deadline);
        if late.is_zero() {
            accepted.announce();
            return Ok(id);
        }
        let late = seconds(late);
        match accepted.unwind().await {
            Ok(()) => warn!(%id, late, "message stored too late for its client: withdrawn and refused"),
            Err(error) => {
                warn!(%id, late, %error, "message stored too late for its client and not withdrawn: it may arrive twice");
            }
        }
        let text = "Storing the message took too long, try again later";
        Err(Refusal::new(451, "4.3.0", text, Refused::Late))
    }

    async fn take_header(&mut self, split: SplitMessage) -> Result<(), Refusal> {
        let SplitMessage { header, body } = split;
        if message::hops(&header) > MAX_HOPS {
            let text = "Too many hops: mail loop";
            return Err(Refusal::new(554, "5.4.6", text, Refused::Loop));
        }
        let (author, from) = self.author(&header)?;
        self.check_recipients(&header)?;
        let now = clock::wall();
        let by = &self.origin.by;
        let origin = match &self.origin.client {
            Some(Client { helo, address, extended, encryption, authenticated }) => message::Origin::Smtp {
                helo,
                address: *address,
                extended: *extended,
                encryption: *encryption,
                authenticated: *authenticated,
            },
            None => message::Origin::Pickup,
        };
        let mut top = Received { origin, by, id: self.id, at: now }.to_bytes();
        top.reserve(header.as_bytes().len() + 256);
        let keeps_sender = !from.as_ref().is_some_and(|from| from.is_forced);
        let from =
            from.as_ref().map(|WrittenFrom { name, address, .. }| NewFrom { name: name.as_deref(), address });
        let mending = Mending { id: self.id, hostname: by, at: now, from, keeps_sender };
        message::mend(&header, &mending, &mut top);
        top.extend_from_slice(b"\r\n");
        drop(header);
        self.part = Part::Body { author };
        self.body.write(&top).await?;
        Ok(self.body.write(&body).await?)
    }

    /// Graph delivers to the addresses that the header names. A tenant may want no message whose header names
    /// others than its envelope.
    fn check_recipients(&self, header: &HeaderBlock) -> Result<(), Refusal> {
        let refuses = self.grant.tenant.envelope_mismatch == EnvelopeMismatch::Refuse;
        if refuses && message::address_to(header, &self.envelope).visible == Visible::Reduced {
            let text = "To or Cc names an address that is not a recipient (envelope_mismatch = \"refuse\")";
            return Err(Refusal::new(550, "5.7.1", text, Refused::Mismatch));
        }
        Ok(())
    }

    /// The mailbox that the message goes out of, and the From field if it needs one. The tenant must be
    /// allowed every address that From and Sender name.
    fn author(&self, header: &HeaderBlock) -> Result<(MailboxAddress, Option<WrittenFrom>), Refusal> {
        if let Some(from) = self.other_author(header) {
            return Ok((from.address.clone(), Some(from)));
        }
        // Also where From is added.
        if let Some(sender) = message::sender(header).map_err(|error| refuse_author(&error))? {
            self.door.check_author(&self.grant, &sender, "Sender")?;
        }
        let error = match message::author(header) {
            Ok(author) => {
                for mailbox in author.from() {
                    self.door.check_author(&self.grant, mailbox, "From")?;
                }
                return Ok((author.mailbox().clone(), None));
            }
            Err(error) => error,
        };
        // RFC 6409 section 8.1, as simple devices need it.
        let RepairedFrom { name, address } = match (&error, message::repaired_from(header)) {
            (_, Some(repaired)) => repaired,
            (InvalidAuthor::Missing | InvalidAuthor::Empty, None) => {
                RepairedFrom { name: None, address: None }
            }
            (_, None) => return Err(refuse_author(&error)),
        };
        let default = || self.envelope.sender().or(self.grant.tenant.default_sender.as_ref()).cloned();
        let address = address.or_else(default).ok_or_else(|| refuse_author(&error))?;
        self.door.check_author(&self.grant, &address, "From")?;
        Ok((address.clone(), Some(WrittenFrom { name, address, is_forced: false })))
    }

    /// The author that the tenant wants instead of the one that the header has, if it wants one. The name
    /// stays, so that people see which device it was.
    fn other_author(&self, header: &HeaderBlock) -> Option<WrittenFrom> {
        let rules = &self.grant.tenant.from_rules;
        let repaired = message::repaired_from(header);
        let (name, repaired) = repaired.map_or((None, None), |from| (from.name, from.address));
        let came = message::author(header).ok().map(|author| author.mailbox().clone()).or(repaired);
        let instead = match &came {
            Some(came) => rules.instead_of(came),
            None => rules.forced(),
        };
        Some(WrittenFrom { name, address: instead?.clone(), is_forced: true })
    }
}

fn refuse_author(error: &InvalidAuthor) -> Refusal {
    Refusal::new(
        550,
        "5.6.0",
        format!("Cannot determine the author of the message: {error}"),
        Refused::Malformed,
    )
}

fn refuse_header(error: InvalidHeader) -> Refusal {
    match error {
        InvalidHeader::TooLarge => {
            Refusal::new(552, "5.3.4", format!("Message refused: {error}"), Refused::TooLarge)
        }
        InvalidHeader::BareCarriageReturn | InvalidHeader::Utf16 => {
            Refusal::new(550, "5.6.0", format!("Message refused: {error}"), Refused::Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr, os::unix::fs::symlink, path::Path};

    use super::*;
    use crate::ingress::testing::House;
    use relay_spool::{Floor, FreeSpace};

    const HEADER: &[u8] = b"From: a@contoso.example\r\n\r\n";

    /// A submission without an announced size, and a disk that can be filled up.
    struct Filling {
        house: House,
        free_space: FreeSpace,
        folder: tempfile::TempDir,
    }

    impl Filling {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let disk = folder.path().join("disk");
            symlink(folder.path(), &disk).unwrap();
            let free_space = FreeSpace::of(&disk, Floor { octets: 1, inodes: 0 }).unwrap();
            Self { house: House::on(free_space.clone(), 100 << 20), free_space, folder }
        }

        fn submission(&self) -> Submission {
            let sender: MailboxAddress = "a@contoso.example".parse().unwrap();
            let recipient = "b@example.net".parse().unwrap();
            let door = &self.house.door;
            let grant = door.admit_client(Ipv4Addr::LOCALHOST.into(), Some(&sender), None).unwrap();
            let envelope = Envelope::new(Some(sender), [recipient], message::BodyKind::default()).unwrap();
            Submission::begin(door, grant, envelope, Origin { client: None, by: "relay.example".into() })
        }

        /// The path leads to a file system that has no room, ever.
        fn fill(&self) {
            let disk = self.folder.path().join("disk");
            fs::remove_file(&disk).unwrap();
            symlink(Path::new("/proc"), &disk).unwrap();
            self.free_space.measure().unwrap();
        }
    }

    fn is_full(refusal: &Refusal) -> bool {
        (refusal.code, refusal.enhanced, refusal.reason) == (452, "4.3.1", Refused::DiskFull)
    }

    #[tokio::test]
    async fn a_message_that_would_fill_the_disk_is_refused_on_the_way() {
        let disk = Filling::new();
        let mut submission = disk.submission();
        submission.write(HEADER).await.unwrap();
        let line = [&[b'x'; 998][..], b"\r\n"].concat();
        for _ in 0..2000 {
            submission.write(&line).await.unwrap();
        }
        disk.fill();
        let mut more = 0;
        let refusal = loop {
            match submission.write(&line).await {
                Ok(()) => more += line.len(),
                Err(refusal) => break refusal,
            }
        };
        assert!(is_full(&refusal), "{refusal}");
        assert!(more <= 1 << 20, "{more} octets were written to a full disk");
        drop(submission);
        assert!(disk.house.is_empty());
    }

    #[tokio::test]
    async fn a_message_is_not_accepted_once_the_disk_is_full() {
        let disk = Filling::new();
        let mut submission = disk.submission();
        submission.write(HEADER).await.unwrap();
        disk.fill();
        let refusal = submission.finish().await.unwrap_err();
        assert!(is_full(&refusal), "{refusal}");
        assert!(disk.house.is_empty());
    }
}
