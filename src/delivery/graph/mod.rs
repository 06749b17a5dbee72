//! The Graph route: `POST /users/{mailbox}/sendMail` with the message as MIME.
//!
//! Graph has no envelope, so the header is made to name exactly the envelope's recipients first. The call is made once, but
//! for a token that is refused, which is renewed once: such a call was not executed. What the answer means is decided
//! here, by [`errors`], and never by what the message says.

mod content;
mod errors;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::Url;
use tokio::time::Instant;
use tracing::debug;

use super::{Disposition, Reason, Receipt};
use crate::{
    bounce::EnhancedStatus,
    clock,
    config::{ByteSize, Tenant},
    identity::{AccessToken, Identity, TokenError, TokenErrorKind},
    message::{HeaderScanner, MAX_STORED_HEADER, MailboxAddress, SplitMessage, address_to},
    network::{self, Clients},
    spool::{BodyReader, Claim, DamagedBody, OpenBody, SMALL_BODY},
    telemetry::LimitKind,
};
use content::Content;
use errors::{Class, Fault, GraphError};

/// Graph takes 4 MB a request, and applies that to the message in base64 twice over. A larger one was seen to be answered
/// with 200, and not sent.
pub const MAX_MIME: ByteSize = ByteSize((2 << 20) + (1 << 20) / 5);

/// For the answer, once the message has gone out.
const TIMEOUT: Duration = Duration::from_secs(100);
/// What a slow line sends at least: the time limit grows with the message.
const SLOWEST: u64 = 64 * 1024;
/// An error answer has some 500 octets.
const LARGEST_ANSWER: usize = 64 * 1024;

/// How long to wait when the service throttles and does not say.
const THROTTLED: Duration = Duration::from_secs(30);
/// How often to look whether a mailbox was mended.
const MAILBOX_PROBE: Duration = Duration::from_secs(300);
/// A recipient limit counts over a day: some hours make room again.
const QUOTA_PROBE: Duration = Duration::from_secs(3600);
const TENANT_PROBE: Duration = Duration::from_secs(300);

pub struct Graph {
    identity: Arc<Identity>,
    clients: Clients,
}

/// A message ready to be sent, once or twice.
struct Prepared {
    header: Bytes,
    /// Octets of body that came with the header.
    begun: Bytes,
    rest: OpenBody,
}

impl Prepared {
    fn len(&self) -> u64 {
        self.header.len() as u64 + self.begun.len() as u64 + self.rest.remaining()
    }
}

/// An answer to the call.
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    request_id: String,
    body: Vec<u8>,
}

impl Graph {
    pub fn new(identity: Arc<Identity>, clients: Clients) -> Self {
        Self { identity, clients }
    }

    /// Sends the message from `mailbox`. `Err`: its body is damaged or cannot be read now, and nothing was sent.
    pub async fn deliver(
        &self,
        tenant: &Tenant,
        mailbox: &MailboxAddress,
        claim: &Claim,
    ) -> Result<Disposition, DamagedBody> {
        let mut token = match self.identity.token(&tenant.name).await {
            Ok(token) => token,
            Err(error) => return Ok(no_token(error)),
        };
        for is_retry in [false, true] {
            let prepared = prepare(claim).await?;
            if prepared.len() > MAX_MIME.0 {
                return Ok(too_large(prepared.len()));
            }
            let answer = match self.call(tenant, mailbox, &token, prepared).await {
                Ok(answer) => answer,
                Err(disposition) => return Ok(disposition),
            };
            let error = match answer.outcome() {
                Ok(disposition) => return Ok(disposition),
                Err(error) => error,
            };
            if error.class != Class::Token || is_retry {
                return Ok(dispose(&error, &answer, mailbox));
            }
            debug!(tenant = %tenant.name, code = error.code, "the token was refused, a new one is asked for");
            self.identity.reject(&tenant.name, &token);
            token = match self.identity.token(&tenant.name).await {
                Ok(token) => token,
                Err(error) => return Ok(no_token(error)),
            };
        }
        // The second turn always answers.
        Ok(Disposition::Retry { after: None, why: "the token was refused".into() })
    }

    async fn call(
        &self,
        tenant: &Tenant,
        mailbox: &MailboxAddress,
        token: &AccessToken,
        prepared: Prepared,
    ) -> Result<Answer, Disposition> {
        let retry = |why: String| Disposition::Retry { after: None, why };
        let client = self.clients.of(&tenant.cloud).ok_or_else(|| retry("the cloud has no client".into()))?;
        let url = send_mail_url(&tenant.cloud.graph, mailbox)
            .ok_or_else(|| retry("the Graph URL is none".into()))?;
        let len = prepared.len();
        let content = Content::new([prepared.header, prepared.begun], prepared.rest);
        let request_id = uuid::Uuid::new_v4().to_string();
        let request = client
            .post(url)
            .header(AUTHORIZATION, format!("Bearer {}", token.expose()))
            .header(CONTENT_TYPE, "text/plain")
            .header("client-request-id", &request_id)
            .timeout(TIMEOUT + Duration::from_secs(len / SLOWEST));
        let request = if len <= SMALL_BODY as u64 {
            request.body(content.whole(len).await.map_err(|e| retry(format!("cannot read the body: {e}")))?)
        } else {
            let pieces = futures_util::stream::try_unfold(content, |mut content| async {
                Ok::<_, io::Error>(content.next().await?.map(|piece| (piece, content)))
            });
            request.header(CONTENT_LENGTH, content::encoded_len(len)).body(reqwest::Body::wrap_stream(pieces))
        };
        let answer = request.send().await.map_err(|e| broken_off(e, &request_id))?;
        Answer::read(answer, &request_id).await
    }
}

/// Opens the body, takes the header off and makes it name the envelope's recipients.
async fn prepare(claim: &Claim) -> Result<Prepared, DamagedBody> {
    let (SplitMessage { header, body }, rest) = read_header(&claim.body).await?;
    let addressed = address_to(&header, &claim.message.envelope);
    let mut header = addressed.header.into_bytes();
    header.extend_from_slice(b"\r\n");
    Ok(Prepared { header: header.into(), begun: body.into(), rest })
}

/// The header of a stored message, the octets of body that came with it, and the rest.
pub(super) async fn read_header(body: &BodyReader) -> Result<(SplitMessage, OpenBody), DamagedBody> {
    let mut open = body.open().await?;
    let mut scanner = HeaderScanner::with_limit(MAX_STORED_HEADER);
    let unreadable = |e: String| body.damaged(io::Error::new(io::ErrorKind::InvalidData, e));
    while let Some(part) = open.next().await.map_err(|e| body.damaged(e))? {
        if let Some(split) = scanner.push(&part).map_err(|e| unreadable(e.to_string()))? {
            return Ok((split, open));
        }
    }
    let split = scanner.finish().map_err(|e| unreadable(e.to_string()))?;
    Ok((split, open))
}

fn send_mail_url(graph: &str, mailbox: &MailboxAddress) -> Option<Url> {
    let mut url = Url::parse(graph).ok()?;
    // A segment is escaped where it needs to be; an address may hold a slash or a question mark.
    url.path_segments_mut().ok()?.extend(["v1.0", "users", mailbox.as_str(), "sendMail"]);
    Some(url)
}

impl Answer {
    async fn read(mut answer: reqwest::Response, sent_request_id: &str) -> Result<Self, Disposition> {
        let header =
            |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let request_id = header("request-id").unwrap_or_else(|| sent_request_id.to_owned());
        let (status, retry_after) =
            (answer.status().as_u16(), network::retry_after(answer.headers(), clock::now()));
        let mut body = Vec::new();
        if status != 202 {
            // An answer that breaks off is judged by its status.
            while let Ok(Some(chunk)) = answer.chunk().await
                && body.len() < LARGEST_ANSWER
            {
                body.extend_from_slice(&chunk);
            }
        }
        Ok(Self { status, retry_after, request_id, body })
    }

    fn outcome(&self) -> Result<Disposition, GraphError> {
        match self.status {
            202 => Ok(Disposition::Delivered(Receipt { status: 202, request_id: self.request_id.clone() })),
            // Seen for messages above the size limit, which were not sent. Any other 2xx is as far from documented.
            200..300 => Ok(Disposition::Failed(Reason {
                status: status(5, 3, 4),
                diagnostic: format!(
                    "Graph answered {} and did not send the message: it is too large",
                    self.status
                ),
            })),
            _ => Err(GraphError::read(self.status, &self.body, self.retry_after.is_some())),
        }
    }
}

fn dispose(error: &GraphError, answer: &Answer, mailbox: &MailboxAddress) -> Disposition {
    let said =
        format!("{} {}: {} (request-id {})", answer.status, error.code, error.message, answer.request_id);
    let asleep = |long: Duration, limit, why: String| Disposition::MailboxBlocked {
        until: Instant::now() + long,
        limit,
        why,
    };
    match error.class {
        Class::Transient => Disposition::Retry { after: answer.retry_after, why: said },
        Class::Throttled => asleep(answer.retry_after.unwrap_or(THROTTLED), LimitKind::Service, said),
        Class::Unknown => Disposition::Unknown { after: answer.retry_after, why: said },
        Class::Mailbox => {
            let long = answer.retry_after.unwrap_or(MAILBOX_PROBE);
            asleep(long, LimitKind::Mailbox, format!("mailbox {mailbox} cannot send: {said}"))
        }
        Class::MailboxQuota => {
            let long = answer.retry_after.unwrap_or(QUOTA_PROBE);
            asleep(long, LimitKind::Service, format!("mailbox {mailbox} has sent its quota: {said}"))
        }
        Class::Token | Class::Tenant => Disposition::TenantBlocked {
            reason: "permission",
            why: format!("Graph refuses the app: {said}"),
            retry_after: answer.retry_after.unwrap_or(TENANT_PROBE),
        },
        Class::Message(fault) => Disposition::Failed(Reason {
            status: match fault {
                Fault::Content => status(5, 6, 0),
                Fault::Recipients => status(5, 1, 3),
                Fault::TooLarge => status(5, 3, 4),
                Fault::SendAs => status(5, 7, 60),
                Fault::Virus => status(5, 7, 0),
            },
            diagnostic: match fault {
                Fault::SendAs => {
                    format!("mailbox {mailbox} needs the Send As permission for this From address; {said}")
                }
                _ => said,
            },
        }),
    }
}

fn no_token(error: TokenError) -> Disposition {
    let reason = match error.kind {
        TokenErrorKind::Transient => "login",
        TokenErrorKind::Blocked => "credential",
    };
    Disposition::TenantBlocked { reason, why: error.why, retry_after: error.retry_after }
}

fn too_large(len: u64) -> Disposition {
    let diagnostic = format!("the message has {len} bytes; Graph takes {} in one request", MAX_MIME.0);
    Disposition::Failed(Reason { status: status(5, 3, 4), diagnostic })
}

/// No answer came. Without a connection nothing was sent; afterwards nobody knows.
fn broken_off(error: reqwest::Error, request_id: &str) -> Disposition {
    let unsent = error.is_connect() || error.is_builder();
    let why = format!("{} (client-request-id {request_id})", network::describe(error));
    if unsent { Disposition::Retry { after: None, why } } else { Disposition::Unknown { after: None, why } }
}

fn status(class: u8, subject: u16, detail: u16) -> EnhancedStatus {
    EnhancedStatus::new(class, subject, detail).unwrap_or(EnhancedStatus::UNDEFINED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_in_the_url_is_escaped() {
        let url = |mailbox: &str| {
            send_mail_url("https://graph.example", &mailbox.parse().unwrap()).unwrap().to_string()
        };
        assert_eq!(url("a@contoso.example"), "https://graph.example/v1.0/users/a@contoso.example/sendMail");
        assert_eq!(
            url("a/b?c@contoso.example"),
            "https://graph.example/v1.0/users/a%2Fb%3Fc@contoso.example/sendMail"
        );
    }
}
