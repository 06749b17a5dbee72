//! The envelope: who sends, who receives, whatever the headers say.

use serde::{Deserialize, Serialize};

use super::{EnvelopeId, MailboxAddress, Recipient, RecipientWish, Return};

/// `MAIL FROM` and `RCPT TO` of one message. Has at least one recipient, none of them twice.
///
/// ```
/// # use m365_relay_mail as relay_mail;
/// use relay_mail::{BodyKind, EmptyEnvelope, Envelope, MailboxAddress};
///
/// let sender: MailboxAddress = "ann@contoso.com".parse()?;
/// let recipients = ["bob@example.net".parse()?, "BOB@example.net".parse()?];
/// let envelope = Envelope::new(Some(sender), recipients, BodyKind::SevenBit)?;
/// assert_eq!(envelope.recipients().len(), 1);
///
/// // A bounce has the null sender.
/// assert_eq!(Envelope::new(None, [], BodyKind::SevenBit), Err(EmptyEnvelope));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    sender: Option<MailboxAddress>,
    recipients: Vec<MailboxAddress>,
    body: BodyKind,
    /// RFC 6531: the client said SMTPUTF8.
    utf8: bool,
    ret: Option<Return>,
    envid: Option<EnvelopeId>,
    /// One for each recipient, or none at all if no wish was made, as is most common.
    wishes: Vec<RecipientWish>,
}

/// RFC 6152 `BODY=`: what the client promised about the octets of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BodyKind {
    #[default]
    SevenBit,
    EightBitMime,
}

/// What `MAIL` gives besides the sender.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailParameters {
    pub body: BodyKind,
    pub utf8: bool,
    pub ret: Option<Return>,
    pub envid: Option<EnvelopeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an envelope needs at least one recipient")]
pub struct EmptyEnvelope;

impl Envelope {
    /// `sender` is `None` for the null sender `<>` of bounces. A recipient given twice is kept once, at its
    /// first place.
    pub fn new(
        sender: Option<MailboxAddress>,
        recipients: impl IntoIterator<Item = MailboxAddress>,
        body: BodyKind,
    ) -> Result<Self, EmptyEnvelope> {
        let parameters = MailParameters { body, ..MailParameters::default() };
        Self::with_parameters(sender, parameters, recipients.into_iter().map(Recipient::from))
    }

    /// As [`new`](Self::new), with all that a client can ask for.
    pub fn with_parameters(
        sender: Option<MailboxAddress>,
        parameters: MailParameters,
        recipients: impl IntoIterator<Item = Recipient>,
    ) -> Result<Self, EmptyEnvelope> {
        let mut seen = std::collections::HashSet::new();
        let (recipients, mut wishes): (Vec<_>, Vec<_>) = recipients
            .into_iter()
            .filter(|recipient| seen.insert(recipient.address.clone()))
            .map(|Recipient { address, wish }| (address, wish))
            .unzip();
        if wishes.iter().all(RecipientWish::is_none) {
            wishes = Vec::new();
        }
        let MailParameters { body, utf8, ret, envid } = parameters;
        if recipients.is_empty() {
            return Err(EmptyEnvelope);
        }
        Ok(Self { sender, recipients, body, utf8, ret, envid, wishes })
    }

    /// The same from another sender.
    #[must_use]
    pub fn from_sender(self, sender: MailboxAddress) -> Self {
        let utf8 = self.utf8 || !sender.is_ascii();
        Self { sender: Some(sender), utf8, ..self }
    }

    pub fn sender(&self) -> Option<&MailboxAddress> {
        self.sender.as_ref()
    }

    /// Never empty, no address twice.
    pub fn recipients(&self) -> &[MailboxAddress] {
        &self.recipients
    }

    /// The recipients, each with what the sender wants to be told of it.
    pub fn wishes(&self) -> impl Iterator<Item = (&MailboxAddress, RecipientWish)> {
        let wish = |n: usize| self.wishes.get(n).cloned().unwrap_or_default();
        self.recipients.iter().enumerate().map(move |(n, address)| (address, wish(n)))
    }

    pub fn body(&self) -> BodyKind {
        self.body
    }

    pub fn utf8(&self) -> bool {
        self.utf8
    }

    /// How much of the message a report on its failure returns.
    pub fn ret(&self) -> Option<Return> {
        self.ret
    }

    pub fn envid(&self) -> Option<&EnvelopeId> {
        self.envid.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_is_kept_once_with_its_first_wish() {
        let recipient = |address: &str, notify: Option<&str>| Recipient {
            address: address.parse().unwrap(),
            wish: RecipientWish { notify: notify.map(|text| text.parse().unwrap()), original: None },
        };
        let recipients =
            [recipient("a@x.se", None), recipient("b@x.se", Some("NEVER")), recipient("B@X.se", None)];
        let envelope = Envelope::with_parameters(None, MailParameters::default(), recipients).unwrap();
        let failures: Vec<_> = envelope.wishes().map(|(to, wish)| (to.as_str(), wish.on_failure())).collect();
        assert_eq!(failures, [("a@x.se", true), ("b@x.se", false)]);
        assert_eq!(Envelope::new(None, [], BodyKind::SevenBit), Err(EmptyEnvelope));
    }
}
