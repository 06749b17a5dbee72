//! What Microsoft does not say, or says in more than one way.

use std::time::Duration;

/// How SMTP submission behaves where Microsoft leaves it open. The default is what was seen most recently, or
/// else what is harder on a client.
#[derive(Debug, Clone)]
pub struct SubmissionRules {
    /// The step at which a connection over the limit is refused.
    pub connections_count_at: ConnectionsCountAt,
    /// How a sender that does not belong to the mailbox is refused.
    pub sender_refusal: SenderRefusal,
    /// Pairs (address, reply): recipients that are refused at RCPT, such as
    /// `("gone@example.net", "550 5.1.1 User unknown")`. Case does not matter.
    pub refused_recipients: Vec<(String, String)>,
    /// The 31st message of a minute is accepted late instead of being refused, as Microsoft has written
    /// lately. Refusing is what it wrote before, and what is observed.
    pub surplus_waits: bool,
    /// The parameter SMTPUTF8 is answered with 502 5.3.3, although it is offered; seen in 2026.
    pub refuses_smtputf8: bool,
    /// How long a client may be silent before it gets its 421.
    pub idle_timeout: Duration,
}

/// The step at which a mailbox's fourth connection gets `432 4.3.2`, if the others are still logged in then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionsCountAt {
    /// The login is refused.
    Auth,
    /// MAIL is refused.
    Mail,
    /// The message is refused, once it has arrived whole.
    Content,
}

/// The reply to a sender that is neither the mailbox nor one of
/// [`Directory::send_as`](crate::Directory::send_as). A sender in the header is found when the content has
/// arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderRefusal {
    /// `554 5.2.252 SendAsDenied`; at MAIL for the envelope's sender.
    SendAsDenied,
    /// The older `554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException`, which comes after the
    /// content in any case.
    StoreDriver,
    /// `550 5.7.60 Client does not have permissions to send as this sender`; at MAIL for the envelope's
    /// sender.
    NoPermission,
}

impl Default for SubmissionRules {
    fn default() -> Self {
        Self {
            connections_count_at: ConnectionsCountAt::Mail,
            sender_refusal: SenderRefusal::SendAsDenied,
            refused_recipients: Vec::new(),
            surplus_waits: false,
            refuses_smtputf8: false,
            idle_timeout: Duration::from_secs(300),
        }
    }
}
