//! Microsoft's wording. Replies that are not in its documents or in other people's logs are Exchange
//! Server's.

use std::{fmt, net::IpAddr};

use crate::clock;

/// The `SIZE` offered, whatever the mailbox may really send: 150 MiB.
pub(super) const MAX_SIZE: u64 = 157_286_400;

/// The machine that clients talk to.
pub(super) const FRONT: &str = "SBX0P00CA0001.outlook.office365.com";
/// The machine that has the mailboxes.
const BACK: &str = "SBX0P00MB0001.sbxp000.prod.outlook.com";

pub(super) const SEND_HELLO: &str = "503 5.5.2 Send hello first";
pub(super) const NEED_MAIL: &str = "503 5.5.2 Need mail command";
pub(super) const NEED_RCPT: &str = "503 5.5.2 Need rcpt command";
pub(super) const HAS_MAIL: &str = "503 5.5.2 Sender already specified";
pub(super) const BAD_SEQUENCE: &str = "503 5.5.1 Bad sequence of commands";
pub(super) const ARGUMENTS: &str = "501 5.5.4 Invalid arguments";
pub(super) const NO_SUCH_MECHANISM: &str = "504 5.7.4 Unrecognized authentication type";
pub(super) const BAD_XOAUTH2: &str = "501 5.5.124 Invalid XOAUTH2 auth data";
pub(super) const TIMED_OUT: &str = "421 4.4.1 Connection timed out";
pub(super) const TOO_LARGE: &str = "552 5.3.4 Message size exceeds fixed maximum message size";
pub(super) const HEADER_TOO_LARGE: &str = "552 5.3.4 Header size exceeds fixed maximum size";
pub(super) const CONNECTIONS: &str = "432 4.3.2 Concurrent connections limit exceeded";
pub(super) const QUOTA: &str = "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process \
                                message due to a permanent exception with message The message can't be submitted because \
                                the sender's submission quota was exceeded.";

/// One reply, of one line or several. Not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply(String);

impl Reply {
    /// Its lines end in LF or CRLF; the last one need not.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// 0 if it begins with no code.
    pub(super) fn code(&self) -> u16 {
        self.0.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.lines()
    }
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// The reply as it is sent.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().try_for_each(|line| write!(f, "{line}\r\n"))
    }
}

pub(super) fn greeting(session_id: u64) -> Reply {
    // RFC 5322 writes the zone in digits.
    let date = httpdate::fmt_http_date(clock::now().as_system_time()).replace("GMT", "+0000");
    Reply::new(format!("220 {FRONT} Microsoft ESMTP MAIL Service ready at {date} [{session_id:016X}]"))
}

pub(super) fn hello(client: IpAddr, is_encrypted: bool, extended: bool) -> Reply {
    let hello = format!("{FRONT} Hello [{client}]");
    if !extended {
        return Reply::new(format!("250 {hello}"));
    }
    let change = if is_encrypted { "AUTH LOGIN XOAUTH2" } else { "STARTTLS" };
    let size = format!("SIZE {MAX_SIZE}");
    let offers = [
        hello.as_str(),
        &size,
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        change,
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
    ];
    let lines: String = offers.iter().map(|offer| format!("250-{offer}\n")).collect();
    Reply::new(format!("{lines}250 SMTPUTF8"))
}

pub(super) fn wrong_credentials(session_id: u64) -> Reply {
    traced("535 5.7.3 Authentication unsuccessful", session_id)
}

pub(super) fn basic_is_disabled(session_id: u64) -> Reply {
    traced("535 5.7.139 Authentication unsuccessful, basic authentication is disabled.", session_id)
}

pub(super) fn smtp_auth_is_disabled(session_id: u64) -> Reply {
    traced(
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit \
         https://aka.ms/smtp_auth_disabled for more information.",
        session_id,
    )
}

pub(super) fn not_authenticated(session_id: u64) -> Reply {
    traced("530 5.7.57 Client not authenticated to send mail.", session_id)
}

/// A reply of the machine that clients talk to, with time and session.
fn traced(text: &str, session_id: u64) -> Reply {
    Reply::new(format!("{text} [{FRONT} {:?} {session_id:016X}]", clock::now()))
}

pub(super) fn thread_limit() -> Reply {
    from_the_store("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded")
}

pub(super) fn accepted(id: &str) -> Reply {
    from_the_store(&format!("250 2.0.0 OK <{id}@{BACK}>"))
}

/// A reply of the machine that has the mailbox.
pub(super) fn from_the_store(text: &str) -> Reply {
    Reply::new(format!("{text} [Hostname={BACK}]"))
}
