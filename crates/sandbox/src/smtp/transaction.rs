//! MAIL and RCPT, and what becomes of a message that has arrived whole.

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    MAX_SIZE,
    command::Path,
    envelope::{SmtpEnvelope, SmtpRecipient},
    parameters::{self, MailParameters},
    replies::{self, Reply},
    rules::{ConnectionsCountAt, SenderRefusal},
    session::Session,
};
use crate::{
    clock,
    delivered::{Delivered, Via},
    ids::random_uuid,
    mime::{self, Head, Submission},
    rendering,
    resource::MessageResource,
    store::lock,
};
use relay_mail::MailboxAddress;

/// Octets of a header. Exchange Online limits: 256 KB.
const MAX_HEADER: usize = 256 << 10;

/// From MAIL to the end of the content.
pub(super) struct Transaction {
    pub(super) from: String,
    words: Vec<String>,
    pub(super) parameters: MailParameters,
    pub(super) recipients: Vec<SmtpRecipient>,
    /// A chunk has come.
    pub(super) chunking: bool,
    pub(super) content: Vec<u8>,
    /// Octets of content, with those that were too many to be kept.
    pub(super) size: u64,
}

impl Session {
    pub(super) fn mail(&mut self, argument: &str) -> Reply {
        self.begin(argument).unwrap_or_else(|refusal| refusal)
    }

    fn begin(&mut self, argument: &str) -> Result<Reply, Reply> {
        if self.greeted.is_none() {
            return Err(replies::SEND_HELLO.into());
        }
        let world = self.world.clone();
        let (options, rules) = (&world.options, &world.options.submission);
        let unknown = self.not_authenticated();
        let login = self.login.as_mut().ok_or(unknown)?;
        if self.transaction.is_some() {
            return Err(replies::HAS_MAIL.into());
        }
        let path = Path::parse(argument, "FROM").ok_or(replies::ARGUMENTS)?;
        let sender = match path.address {
            "" => None,
            text => Some(text.parse::<MailboxAddress>().map_err(|_| "501 5.1.7 Invalid address")?),
        };
        let parameters = MailParameters::parse(&path.parameters)?;
        if parameters.smtputf8 && rules.refuses_smtputf8 {
            return Err("502 5.3.3 Command not implemented".into());
        }
        if !path.address.is_ascii() && !parameters.smtputf8 {
            return Err("553 5.6.7 SMTPUTF8 is required for this address".into());
        }
        if parameters.size.is_some_and(|size| size > MAX_SIZE) {
            return Err(replies::TOO_LARGE.into());
        }
        let count_now = rules.connections_count_at == ConnectionsCountAt::Mail;
        if count_now && !login.take_place(options.limits.smtp_connections) {
            return Err(replies::thread_limit());
        }
        if rules.sender_refusal != SenderRefusal::StoreDriver {
            self.check_sender(sender.as_ref())?;
        }
        self.transaction = Some(Transaction {
            from: path.address.to_owned(),
            words: path.parameters.iter().map(|&word| word.to_owned()).collect(),
            parameters,
            recipients: Vec::new(),
            chunking: false,
            content: Vec::new(),
            size: 0,
        });
        Ok("250 2.1.0 Sender OK".into())
    }

    pub(super) fn rcpt(&mut self, argument: &str) -> Reply {
        self.add_recipient(argument).unwrap_or_else(|refusal| refusal)
    }

    fn add_recipient(&mut self, argument: &str) -> Result<Reply, Reply> {
        if self.greeted.is_none() {
            return Err(replies::SEND_HELLO.into());
        }
        if self.login.is_none() {
            return Err(self.not_authenticated());
        }
        let options = &self.world.options;
        let transaction = self.transaction.as_mut().ok_or(replies::NEED_MAIL)?;
        if transaction.chunking {
            return Err(replies::BAD_SEQUENCE.into());
        }
        let path = Path::parse(argument, "TO").ok_or(replies::ARGUMENTS)?;
        path.address.parse::<MailboxAddress>().map_err(|_| "501 5.1.3 Invalid address")?;
        parameters::check_rcpt(&path.parameters)?;
        if !path.address.is_ascii() && !transaction.parameters.smtputf8 {
            return Err("550 5.6.7 SMTPUTF8 is required for this address".into());
        }
        if options.limits.recipients.is_some_and(|most| transaction.recipients.len() >= most) {
            return Err("452 4.5.3 Too many recipients".into());
        }
        let refused = &options.submission.refused_recipients;
        if let Some((_, reply)) = refused.iter().find(|(address, _)| same(address, path.address)) {
            return Err(Reply::new(reply));
        }
        transaction.recipients.push(SmtpRecipient {
            address: path.address.to_owned(),
            parameters: path.parameters.iter().map(|&word| word.to_owned()).collect(),
        });
        Ok("250 2.1.5 Recipient OK".into())
    }

    /// Judges a message that has arrived whole, and delivers it.
    pub(super) async fn submit(&mut self, transaction: Transaction) -> Reply {
        self.deliver(transaction).await.unwrap_or_else(|refusal| refusal)
    }

    async fn deliver(&mut self, transaction: Transaction) -> Result<Reply, Reply> {
        let world = self.world.clone();
        let (options, rules) = (&world.options, &world.options.submission);
        let (limits, content) = (&options.limits, transaction.content.as_slice());
        if transaction.size > MAX_SIZE || limits.message_bytes.is_some_and(|most| content.len() > most) {
            return Err(replies::TOO_LARGE.into());
        }
        let header = memchr::memmem::find(content, b"\r\n\r\n").map_or(content, |end| &content[..end + 2]);
        if header.len() > MAX_HEADER {
            return Err(replies::HEADER_TOO_LARGE.into());
        }
        let login = self.login.as_mut().ok_or(replies::BAD_SEQUENCE)?;
        let (tenant, mailbox) = (login.tenant.clone(), login.mailbox.clone());
        let count_now = rules.connections_count_at == ConnectionsCountAt::Content;
        if count_now && !login.take_place(limits.smtp_connections) {
            return Err(replies::thread_limit());
        }
        if !header.is_ascii() && !transaction.parameters.smtputf8 {
            // RFC 6531 section 3.5; RFC 5248 has X.6.9 for it.
            return Err("554 5.6.9 SMTPUTF8 is required for this header".into());
        }
        let head = mime::head(content)
            .ok_or_else(|| replies::from_the_store("554 5.6.0 Invalid message content"))?;
        let sender = transaction.from.parse::<MailboxAddress>().ok();
        self.check_sender(sender.as_ref())?;
        self.check_sender(Some(&head.from))?;
        while let Err(throttled) = mailbox.gate.message(limits, Instant::now()) {
            if !rules.surplus_waits {
                return Err(replies::thread_limit());
            }
            tokio::time::sleep(throttled.wait).await;
        }
        if !mailbox.gate.recipients(transaction.recipients.len(), limits, Instant::now()) {
            return Err(replies::from_the_store(replies::QUOTA));
        }
        let raw = Bytes::from(transaction.content);
        let envelope = SmtpEnvelope {
            mail_from: transaction.from,
            parameters: transaction.words,
            chunking: transaction.chunking,
            size: transaction.size,
            eight_bit: !raw.is_ascii(),
            connection: self.connection,
            recipients: transaction.recipients,
        };
        world.store.deliver(Delivered {
            number: 0,
            directory: tenant.directory.name().to_owned(),
            mailbox: mailbox.address.clone(),
            from: head.from.as_str().to_owned(),
            recipients: envelope.recipients.iter().map(|recipient| recipient.address.clone()).collect(),
            bare_lf: mime::has_bare_lf(&raw),
            raw: raw.clone(),
            attachments: Vec::new(),
            subject: head.subject.clone(),
            message_id: head.message_id.clone(),
            via: Via::Smtp,
            accepted_at_ms: clock::now().as_millis(),
            envelope: Some(envelope),
        });
        world.smtp.record.message();
        let mut copy = MessageResource::of(&sent(raw, head));
        copy.internet_message_id.get_or_insert_with(rendering::new_message_id);
        lock(&mailbox.items).keep_sent(copy, Vec::new(), options.sent_items_after);
        Ok(replies::accepted(&random_uuid().simple().to_string()))
    }

    /// Whether the mailbox may send as `sender`; `None` is the empty path, which nobody may send as.
    fn check_sender(&self, sender: Option<&MailboxAddress>) -> Result<(), Reply> {
        let Some(login) = &self.login else { return Err(self.not_authenticated()) };
        let mailbox = &login.mailbox.address;
        let sender = sender.map_or("<>", MailboxAddress::as_str);
        let pairs = &login.tenant.directory.send_as;
        if same(sender, mailbox) || pairs.iter().any(|(own, other)| same(own, mailbox) && same(other, sender))
        {
            return Ok(());
        }
        const EXCEPTION: &str = "STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed \
                                 to process message due to a permanent exception with message Cannot submit message.";
        Err(match self.world.options.submission.sender_refusal {
            SenderRefusal::SendAsDenied => replies::from_the_store(&format!(
                "554 5.2.252 SendAsDenied; {mailbox} not allowed to send as {sender}; {EXCEPTION}"
            )),
            SenderRefusal::StoreDriver => replies::from_the_store(&format!("554 5.2.0 {EXCEPTION}")),
            SenderRefusal::NoPermission => {
                "550 5.7.60 SMTP; Client does not have permissions to send as this sender".into()
            }
        })
    }
}

fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// For Sent Items. Recipients in the header that Graph would not take are left out: the envelope has them.
fn sent(raw: Bytes, head: Head) -> Submission {
    mime::read(raw.clone()).unwrap_or_else(|_| Submission {
        from: head.from,
        sender: None,
        to: Vec::new(),
        cc: Vec::new(),
        bcc: Vec::new(),
        subject: head.subject,
        message_id: head.message_id,
        size: raw.len(),
        raw,
        attachments: Vec::new(),
    })
}
