//! An answer from Graph, and what it means for the message.

use std::{io, time::Duration};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::errors::{Class, Fault, GraphError};
use crate::{
    bounce::EnhancedStatus,
    clock,
    delivery::{Disposition, NO_CREDENTIAL, Reason, Receipt, Trouble},
    network,
    schedule::Blocked,
    telemetry::{ErrorClass, LimitKind},
};
use relay_mail::MailboxAddress;

/// Most answers have some 500 octets; a draft comes back with all its properties.
const LARGEST_ANSWER: usize = 8 << 20;
/// An error answer has some 500 octets.
const LARGEST_ERROR: usize = 64 * 1024;

/// How long to wait when the service throttles and names no time.
const THROTTLED: Duration = Duration::from_secs(30);
/// How often to check whether a mailbox has been fixed.
const MAILBOX_PROBE: Duration = Duration::from_secs(300);
/// A recipient limit covers a day: after some hours there is room again.
const QUOTA_PROBE: Duration = Duration::from_secs(3600);
const TENANT_PROBE: Duration = Duration::from_secs(300);

/// An answer to a call.
#[derive(Debug)]
pub(super) struct GraphResponse {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) request_id: String,
    pub(super) client_request_id: String,
    /// The app in this tenant is throttled, not this mailbox.
    is_of_app: bool,
    pub(super) body: Vec<u8>,
}

/// Whether a call sends the message: only then does an interrupted one leave open whether it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Sends,
    /// It only reads, or makes something that nobody receives.
    Harmless,
}

/// A call that did not do what was asked.
#[derive(Debug)]
pub(super) enum CallError {
    /// The service refused it.
    Refused(GraphError, Box<GraphResponse>),
    /// No answer came. `is_unsent`: there was not even a connection.
    Broken { why: String, is_unsent: bool },
    /// It was not made.
    Stopped(Disposition),
}

impl GraphResponse {
    pub(super) async fn read(mut answer: reqwest::Response, client_request_id: &str) -> Self {
        let header =
            |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let request_id = header("request-id").unwrap_or_default();
        let is_of_app = header("x-ms-throttle-scope").is_some_and(|scope| scope.starts_with("Tenant"));
        let status = answer.status().as_u16();
        let retry_after = network::retry_after(answer.headers(), clock::wall());
        let most = if status < 300 { LARGEST_ANSWER } else { LARGEST_ERROR };
        let mut body = Vec::new();
        if status != 202 {
            // An answer that is interrupted is judged by its status.
            while let Ok(Some(chunk)) = answer.chunk().await
                && body.len() < most
            {
                body.extend_from_slice(&chunk);
            }
        }
        let client_request_id = client_request_id.to_owned();
        Self { status, retry_after, request_id, client_request_id, is_of_app, body }
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    pub(super) fn receipt(&self, is_earlier: bool) -> Receipt {
        let status = self.status;
        let request_id = self.request_id.clone();
        let client_request_id = self.client_request_id.clone();
        Receipt { status, request_id, client_request_id, is_earlier, reports_success: false }
    }

    /// The error, if it is one. `Ok` for 2xx.
    pub(super) fn check(self) -> Result<Self, CallError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let error = GraphError::read(self.status, &self.body, self.retry_after.is_some());
        Err(CallError::Refused(error, Box::new(self)))
    }
}

impl CallError {
    /// The call was not made, and may be made later.
    pub(super) fn stopped(why: impl Into<String>) -> Self {
        Self::Stopped(Disposition::Retry { after: None, why: Trouble::new(ErrorClass::Service, why) })
    }

    /// The same, because of something on this machine.
    pub(super) fn stopped_here(why: impl Into<String>) -> Self {
        Self::Stopped(Disposition::Retry { after: None, why: Trouble::new(ErrorClass::Relay, why) })
    }

    pub(super) fn cannot_read(error: &io::Error) -> Self {
        Self::stopped_here(format!("cannot read the message: {error}"))
    }

    /// The pause after which the same harmless call may work, within this attempt.
    pub(super) fn worth_waiting(&self, tries: u32) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_secs(60);
        let pause = Duration::from_millis(250) * 2u32.pow(tries.min(8));
        match self {
            Self::Broken { .. } => Some(pause),
            Self::Refused(error, answer) if error.is_passing() => {
                Some(answer.retry_after.unwrap_or(pause)).filter(|pause| *pause <= LONGEST)
            }
            Self::Refused(..) | Self::Stopped(_) => None,
        }
    }

    pub(super) fn is_status(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused(_, answer) if answer.status == wanted)
    }

    /// Whether the app is not allowed to do this.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Refused(error, answer) if answer.status == 403 && error.code == "ErrorAccessDenied")
    }

    /// Whether the service refused what the token should permit.
    pub(super) fn is_forbidden(&self) -> bool {
        match self {
            Self::Refused(error, answer) => {
                answer.status == 403 && matches!(error.class, Class::Mailbox | Class::Tenant)
            }
            Self::Stopped(_) | Self::Broken { .. } => false,
        }
    }

    /// Whether nothing can be asked of this mailbox until somebody fixes something.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Refused(error, _) => matches!(error.class, Class::Mailbox | Class::Tenant | Class::Token),
            Self::Stopped(Disposition::TenantBlocked { reason, .. }) => *reason == NO_CREDENTIAL,
            Self::Stopped(_) | Self::Broken { .. } => false,
        }
    }

    /// Whether the request was too large for Graph.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, Self::Refused(error, _) if error.class == Class::Message(Fault::TooLarge))
    }

    /// What the service said, if that was about the recipients.
    pub(super) fn about_recipients(&self) -> Option<&str> {
        match self {
            Self::Refused(error, _) if error.class == Class::Message(Fault::Recipients) => {
                Some(&error.message)
            }
            Self::Refused(..) | Self::Broken { .. } | Self::Stopped(_) => None,
        }
    }

    /// What it means for the message. `look_after`: when the service can be asked about the outcome of an
    /// interrupted call.
    pub(super) fn dispose(
        self,
        effect: Effect,
        mailbox: &MailboxAddress,
        look_after: Option<Duration>,
    ) -> Disposition {
        let disposition = match self {
            Self::Stopped(disposition) => disposition,
            Self::Broken { why, is_unsent: true } => {
                Disposition::Retry { after: None, why: Trouble::new(ErrorClass::Connection, why) }
            }
            Self::Broken { why, .. } => Disposition::Unknown {
                look_after,
                after: None,
                why: Trouble::new(ErrorClass::Interrupted, why),
            },
            Self::Refused(error, answer) => dispose(&error, &answer, mailbox, look_after),
        };
        match disposition {
            Disposition::Unknown { after, why, .. } if effect == Effect::Harmless => {
                Disposition::Retry { after, why }
            }
            disposition => disposition,
        }
    }
}

fn dispose(
    error: &GraphError,
    answer: &GraphResponse,
    mailbox: &MailboxAddress,
    look_after: Option<Duration>,
) -> Disposition {
    let said = Trouble {
        class: error_class(error.class),
        code: if error.code.is_empty() { answer.status.to_string() } else { error.code.clone() },
        request_id: answer.request_id.clone(),
        text: format!(
            "{} {}: {} (request-id {}, client-request-id {})",
            answer.status, error.code, error.message, answer.request_id, answer.client_request_id
        ),
    };
    let asleep = |long: Duration, limit, why: Trouble| Disposition::MailboxBlocked {
        until: Instant::now() + long,
        limit,
        why,
    };
    match error.class {
        Class::Throttled if answer.is_of_app => Disposition::TenantBlocked {
            reason: Blocked::THROTTLED,
            why: said.explained(|said| format!("Graph throttles the app in this tenant: {said}")),
            retry_after: answer.retry_after.unwrap_or(THROTTLED),
        },
        Class::Transient => Disposition::Retry { after: answer.retry_after, why: said },
        Class::Throttled => asleep(answer.retry_after.unwrap_or(THROTTLED), LimitKind::Service, said),
        Class::Unknown => Disposition::Unknown { look_after, after: answer.retry_after, why: said },
        Class::Mailbox => {
            let long = answer.retry_after.unwrap_or(MAILBOX_PROBE);
            let why = said.explained(|said| format!("mailbox {mailbox} cannot send: {said}"));
            asleep(long, LimitKind::Mailbox, why)
        }
        Class::MailboxQuota => {
            let long = answer.retry_after.unwrap_or(QUOTA_PROBE);
            let why = said.explained(|said| format!("mailbox {mailbox} has used up its quota: {said}"));
            asleep(long, LimitKind::Service, why)
        }
        Class::Token | Class::Tenant => Disposition::TenantBlocked {
            reason: Blocked::PERMISSION,
            why: said.explained(|said| format!("Graph refuses the app: {said}")),
            retry_after: answer.retry_after.unwrap_or(TENANT_PROBE),
        },
        Class::Message(fault) => {
            let (status, why) = match fault {
                Fault::Content => (status(5, 6, 0), said),
                Fault::Recipients => (status(5, 1, 3), said),
                Fault::TooLarge => (status(5, 3, 4), said),
                Fault::SendAs => (
                    status(5, 7, 60),
                    said.explained(|said| {
                        format!(
                            "mailbox {mailbox} needs the Send As permission for this From address; {said}"
                        )
                    }),
                ),
                Fault::Virus => (status(5, 7, 0), said),
            };
            Disposition::Failed(Reason { status, why })
        }
    }
}

fn error_class(class: Class) -> ErrorClass {
    match class {
        Class::Transient | Class::Unknown => ErrorClass::Service,
        Class::Throttled => ErrorClass::Throttled,
        Class::Mailbox => ErrorClass::Mailbox,
        Class::MailboxQuota => ErrorClass::Quota,
        Class::Tenant => ErrorClass::Permission,
        Class::Token => ErrorClass::Token,
        Class::Message(Fault::Content) => ErrorClass::Content,
        Class::Message(Fault::Recipients) => ErrorClass::Recipients,
        Class::Message(Fault::TooLarge) => ErrorClass::TooLarge,
        Class::Message(Fault::SendAs) => ErrorClass::SendAs,
        Class::Message(Fault::Virus) => ErrorClass::Malware,
    }
}

pub(super) fn status(class: u8, subject: u16, detail: u16) -> EnhancedStatus {
    EnhancedStatus::new(class, subject, detail).unwrap_or(EnhancedStatus::UNDEFINED)
}
