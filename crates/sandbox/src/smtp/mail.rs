//! MAIL and RCPT: the sender and the recipients of a message.

use super::{
    command::Path,
    envelope::SmtpRecipient,
    parameters::{self, MailParameters},
    replies::{self, MAX_SIZE, Reply},
    rules::{ConnectionsCountAt, SenderRefusal},
    session::Session,
    transaction::Transaction,
};
use relay_mail::MailboxAddress;

impl Session {
    pub(super) fn mail(&mut self, argument: &str) -> Reply {
        self.begin(argument).unwrap_or_else(|refusal| refusal)
    }

    fn begin(&mut self, argument: &str) -> Result<Reply, Reply> {
        if self.greeted.is_none() {
            return Err(replies::SEND_HELLO.into());
        }
        let world = self.world.clone();
        let options = &world.options;
        let rules = &world.options.submission;
        let unknown = replies::not_authenticated(self.session_id);
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
            return Err(replies::not_authenticated(self.session_id));
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

    /// Whether the mailbox may send as `sender`; `None` is the empty path, which nobody may send as.
    pub(super) fn check_sender(&self, sender: Option<&MailboxAddress>) -> Result<(), Reply> {
        let Some(login) = &self.login else { return Err(replies::not_authenticated(self.session_id)) };
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
