//! What a response of the login service says: tokens, or why there are none.

use std::{fmt, time::Duration};

use http::{
    HeaderMap, StatusCode,
    header::{DATE, LOCATION},
};
use oauth2::{
    AccessToken as BearerToken, DeviceCodeErrorResponse, ErrorResponse, RefreshToken, TokenResponse,
    TokenType,
};
use reqwest::Url;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::debug;
use zeroize::Zeroizing;

use super::super::{AccessToken, TokenError, TokenErrorKind, aadsts};
use crate::{clock, config::Secret, network};
use relay_mail::{Timestamp, outside::Outside};

/// The wait after a 429 or 5xx that gives none, as in Microsoft's own client library.
const BUSY: Duration = Duration::from_secs(5);
/// The shortest life of Entra ID's tokens, for a response that does not state one.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// A token that ends sooner is refused: it would be asked for again and again, without a pause.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(2);
/// Clocks that differ by more than this are worth mentioning.
const SKEW: Duration = Duration::from_secs(120);

/// Its body is wiped when it is dropped.
pub(in crate::identity) struct Response {
    pub(in crate::identity) head: Head,
    pub(in crate::identity) body: Zeroizing<Vec<u8>>,
}

pub(in crate::identity) struct Head {
    pub(in crate::identity) status: StatusCode,
    pub(in crate::identity) headers: HeaderMap,
}

/// An error of RFC 6749 section 5.2, with what Entra ID adds.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct EntraError {
    error: String,
    error_description: String,
    error_codes: Vec<u32>,
    /// Microsoft's support finds the request by these two.
    trace_id: Option<String>,
    correlation_id: Option<String>,
}

/// RFC 6749 section 5.1. Nothing shows or writes the tokens in it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct EntraTokens {
    #[serde(skip_serializing)]
    access_token: BearerToken,
    #[serde(skip_serializing)]
    refresh_token: Option<RefreshToken>,
    expires_in: Option<Seconds>,
    /// Instead of the above, from managed identities.
    expires_on: Option<Seconds>,
    #[serde(skip)]
    token_type: Bearer,
}

/// The only kind of token that Entra ID gives out, whatever it calls it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Bearer;

/// Managed identities write numbers as text.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

/// What a login gives.
pub(in crate::identity) struct Granted {
    pub(in crate::identity) token: AccessToken,
    pub(in crate::identity) refresh_token: Option<Secret>,
}

impl Response {
    /// The tokens in it; `service` is what an error calls it. For responses that do not come through
    /// `oauth2`.
    pub(in crate::identity) fn tokens(&self, service: &str) -> Result<Granted, TokenError> {
        match self.json() {
            Some(tokens) => self.head.granted(tokens, service),
            None => Err(self.head.nonsense(service, "token")),
        }
    }

    /// What a response that is not a success means.
    pub(in crate::identity) fn refused(&self, service: &str) -> TokenError {
        match self.json() {
            Some(error) => self.head.refused(error, service),
            None => self.head.nonsense(service, "token"),
        }
    }

    pub(in crate::identity) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

impl Head {
    /// What these tokens grant.
    pub(super) fn granted(&self, tokens: EntraTokens, service: &str) -> Result<Granted, TokenError> {
        let lifetime = tokens.lifetime();
        // Into memory that is wiped, whatever happens to the tokens.
        let access_token = Zeroizing::new(tokens.access_token.into_secret());
        let refresh_token = tokens.refresh_token.map(|token| Secret::new(token.into_secret()));
        let Some(lifetime) = lifetime else { return Err(self.nonsense(service, "token")) };
        if lifetime < SHORTEST_LIFETIME {
            return Err(self.with_retry_after(TokenError::transient(format!(
                "the login service {service} gave a token that expires at once (expires_in {})",
                lifetime.as_secs()
            ))));
        }
        // It goes into a header.
        if access_token.is_empty() || !access_token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(self.nonsense(service, "token"));
        }
        Ok(Granted { token: AccessToken::new(access_token, lifetime), refresh_token })
    }

    /// What an error of the service means.
    pub(super) fn refused(&self, refusal: EntraError, service: &str) -> TokenError {
        let EntraError { error, error_description, error_codes, trace_id, correlation_id } = refusal;
        debug!(
            service,
            error = %Outside::new(&error),
            ?error_codes,
            trace_id = %Outside::new(trace_id.as_deref().unwrap_or("none")),
            correlation_id = %Outside::new(correlation_id.as_deref().unwrap_or("none")),
            "token request refused"
        );
        let mut explained = aadsts::explain(&error, &error_description, &error_codes);
        let is_about_time =
            error_codes.contains(&aadsts::CLOCK) || aadsts::code(&error_description) == Some(aadsts::CLOCK);
        if let Some(skew) = self.skew().filter(|_| is_about_time) {
            explained.why.push_str(&skew);
        }
        // An overloaded service may answer in the form of a refusal; the status knows better.
        if self.is_busy() {
            explained.kind = TokenErrorKind::Transient;
        }
        self.with_retry_after(explained)
    }

    /// The body may hold a truncated token: it is not quoted.
    pub(super) fn nonsense(&self, service: &str, wanted: &str) -> TokenError {
        self.with_retry_after(TokenError::transient(format!(
            "the login service {service} answered {} with something that is no {wanted}",
            self.status.as_u16()
        )))
    }

    fn is_busy(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS || self.status.as_u16() >= 500
    }

    fn with_retry_after(&self, error: TokenError) -> TokenError {
        let asked = network::retry_after(&self.headers, clock::wall());
        let retry_after = asked.unwrap_or(if self.is_busy() { BUSY } else { Duration::ZERO });
        TokenError { retry_after, ..error }
    }

    /// A remark in words, if this machine's clock and the service's differ by much.
    fn skew(&self) -> Option<String> {
        let date = httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()?;
        let here = Timestamp::wall().as_system_time();
        let (difference, word) = match here.duration_since(date) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let seconds = Duration::from_secs(difference.as_secs());
        (difference > SKEW)
            .then(|| format!("; it is {} {word} the login service's", humantime::format_duration(seconds)))
    }

    /// Where the request must be repeated.
    pub(super) fn redirect(&self, from: &Url) -> Option<Url> {
        if !matches!(self.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
            return None;
        }
        from.join(self.headers.get(LOCATION)?.to_str().ok()?).ok()
    }
}

impl ErrorResponse for EntraError {}

impl fmt::Display for EntraError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Outside::new(&self.error), Outside::new(&self.error_description))
    }
}

/// `oauth2` reads the errors of a sign-in into a type of its own, without `error_codes`. The description
/// names the code, too.
impl From<DeviceCodeErrorResponse> for EntraError {
    fn from(error: DeviceCodeErrorResponse) -> Self {
        Self {
            error: error.error().as_ref().to_owned(),
            error_description: error.error_description().cloned().unwrap_or_default(),
            ..Self::default()
        }
    }
}

impl TokenType for Bearer {}

impl TokenResponse for EntraTokens {
    type TokenType = Bearer;

    fn access_token(&self) -> &BearerToken {
        &self.access_token
    }

    fn token_type(&self) -> &Bearer {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.lifetime()
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    /// Which permissions a token has is up to the service that takes it.
    fn scopes(&self) -> Option<&Vec<oauth2::Scope>> {
        None
    }
}

impl EntraTokens {
    /// `None`: it is not a number.
    fn lifetime(&self) -> Option<Duration> {
        match (&self.expires_in, &self.expires_on) {
            (Some(seconds), _) => seconds.number().map(Duration::from_secs),
            (None, Some(at)) => {
                let at = Timestamp::from_millis(at.number()?.saturating_mul(1000));
                Some(at.since(Timestamp::wall()))
            }
            (None, None) => Some(DEFAULT_LIFETIME),
        }
    }
}

impl Seconds {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }
}
