//! A message that has arrived whole: it is judged, and delivered.

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    envelope::SmtpEnvelope,
    replies::{self, MAX_SIZE, Reply},
    rules::ConnectionsCountAt,
    session::Session,
    transaction::Transaction,
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

impl Session {
    /// Judges a message that has arrived whole, and delivers it.
    pub(super) async fn submit(&mut self, transaction: Transaction) -> Reply {
        self.deliver(transaction).await.unwrap_or_else(|refusal| refusal)
    }

    async fn deliver(&mut self, transaction: Transaction) -> Result<Reply, Reply> {
        let world = self.world.clone();
        let options = &world.options;
        let rules = &world.options.submission;
        let limits = &options.limits;
        let content = transaction.content.as_slice();
        if transaction.size > MAX_SIZE || limits.message_bytes.is_some_and(|most| content.len() > most) {
            return Err(replies::TOO_LARGE.into());
        }
        let header = memchr::memmem::find(content, b"\r\n\r\n").map_or(content, |end| &content[..end + 2]);
        if header.len() > MAX_HEADER {
            return Err(replies::HEADER_TOO_LARGE.into());
        }
        let login = self.login.as_mut().ok_or(replies::BAD_SEQUENCE)?;
        let tenant = login.tenant.clone();
        let mailbox = login.mailbox.clone();
        let count_now = rules.connections_count_at == ConnectionsCountAt::Content;
        if count_now && !login.take_place(limits.smtp_connections) {
            return Err(replies::thread_limit());
        }
        if !header.is_ascii() && !transaction.parameters.smtputf8 {
            // RFC 6531 section 3.5; RFC 5248 gives X.6.9 for it.
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
}

/// For Sent Items. Recipients in the header that Graph would not accept are left out: the envelope has them.
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
