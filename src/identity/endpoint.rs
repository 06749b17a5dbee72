//! One request to a login service, and what its answer says.
//!
//! Written out here instead of taken from a library, so that what was sent and what came is wiped, and status, Retry-After and
//! Date are there when an error is explained.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_TYPE, DATE, LOCATION},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use serde::{Deserialize, de::DeserializeOwned};
use tracing::debug;
use zeroize::Zeroizing;

use super::{AccessToken, TokenError, TokenErrorKind, aadsts};
use crate::{
    clock::{self, Timestamp},
    config::{Secret, Tenant},
    network,
};

/// For the whole request. Entra ID answers within a second or two.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// A token answer has some 2 KB.
const LARGEST_ANSWER: usize = 256 * 1024;
/// The wait after a 429 or 5xx that names none, as in Microsoft's own client library.
const BUSY: Duration = Duration::from_secs(5);
/// What Entra ID's tokens live at least if the answer does not say.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// A token that ends sooner is none: it would be asked for again and again, without a pause.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(2);
/// Clocks that differ by more are worth a word.
const SKEW: Duration = Duration::from_secs(120);

/// All but what RFC 3986 section 2.3 calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `application/x-www-form-urlencoded`. Wiped when it was sent.
pub(super) struct Form(Zeroizing<String>);

impl Form {
    /// For a token.
    pub(super) fn of_grant(grant: &str) -> Self {
        Self::empty().field("grant_type", grant)
    }

    pub(super) fn empty() -> Self {
        Self(Zeroizing::default())
    }

    pub(super) fn field(self, name: &str, value: &str) -> Self {
        // A string that grows would leave its old self behind.
        let most = self.0.len() + 2 + name.len() + 3 * value.len();
        let mut text = Zeroizing::new(String::with_capacity(most));
        let separator = if self.0.is_empty() { "" } else { "&" };
        let value = utf8_percent_encode(value, ESCAPED);
        // Writing to a string does not fail.
        let _ = write!(text, "{}{separator}{name}={value}", *self.0);
        Self(text)
    }

    fn into_body(mut self) -> Bytes {
        Bytes::from_owner(Zeroizing::new(std::mem::take(&mut *self.0).into_bytes()))
    }
}

/// Wiped when it is dropped.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// An error of RFC 6749 section 5.2, with what Entra ID adds.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorAnswer {
    #[serde(default)]
    pub(super) error: String,
    #[serde(default)]
    error_description: String,
    #[serde(default)]
    error_codes: Vec<u32>,
}

/// RFC 6749 section 5.1.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    access_token: Zeroizing<String>,
    expires_in: Option<Seconds>,
    /// Instead of the above, from managed identities.
    expires_on: Option<Seconds>,
    refresh_token: Option<Zeroizing<String>>,
}

/// Managed identities write numbers as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

/// What a login gives.
pub(super) struct Granted {
    pub(super) token: AccessToken,
    pub(super) refresh_token: Option<Secret>,
}

/// Posts a form to the tenant's login service, at `/{directory}/oauth2/v2.0/{path}`.
pub(super) async fn post(
    http: &reqwest::Client,
    tenant: &Tenant,
    path: &str,
    form: Form,
) -> Result<Answer, TokenError> {
    let url = url(tenant, path);
    let url = Url::parse(&url).map_err(|e| TokenError::blocked(format!("the login URL is none: {e}")))?;
    let body = form.into_body();
    let request = |url: Url| {
        http.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body.clone())
    };
    let answer = send(request(url.clone()), &tenant.cloud.login).await?;
    match answer.redirect(&url) {
        None => Ok(answer),
        // AADSTS51005 "is like HTTP 307": the request is repeated there. Its secrets do not go to another host.
        Some(elsewhere) if elsewhere.origin() == url.origin() => {
            send(request(elsewhere), &tenant.cloud.login).await
        }
        Some(elsewhere) => Err(TokenError::transient(format!(
            "the login service {} sends the request to another host, {}: check the cloud's login",
            tenant.cloud.login,
            elsewhere.host_str().unwrap_or("none")
        ))),
    }
}

/// The token endpoint of the tenant is `url(tenant, "token")`.
pub(super) fn url(tenant: &Tenant, path: &str) -> String {
    format!("{}/{}/oauth2/v2.0/{path}", tenant.cloud.login, tenant.directory)
}

/// Sends a request; `service` is what an error calls it.
pub(super) async fn send(request: reqwest::RequestBuilder, service: &str) -> Result<Answer, TokenError> {
    let failed = |e: reqwest::Error| {
        let is_unreached = e.is_connect();
        let why = format!("cannot reach the login service {service}: {}", network::describe(e));
        if is_unreached { TokenError::unreached(why) } else { TokenError::transient(why) }
    };
    let mut answer = request.timeout(TIMEOUT).send().await.map_err(failed)?;
    let (status, headers) = (answer.status().as_u16(), std::mem::take(answer.headers_mut()));
    // Room for all of it, since a buffer that grows leaves copies behind.
    let length = answer.content_length().and_then(|length| usize::try_from(length).ok());
    let mut body = Zeroizing::new(Vec::with_capacity(length.unwrap_or(LARGEST_ANSWER).min(LARGEST_ANSWER)));
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(TokenError::transient(format!(
                "the login service {service} answered with more than {LARGEST_ANSWER} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    debug!(service, status, "the login service answered");
    Ok(Answer { status, headers, body })
}

impl Answer {
    /// The tokens in it, or why there are none.
    pub(super) fn granted(self, tenant: &Tenant) -> Result<Granted, TokenError> {
        match self.status {
            200..300 => self.tokens(&tenant.cloud.login),
            _ => Err(self.refused(&tenant.cloud.login)),
        }
    }

    /// `service` is what an error calls it.
    pub(super) fn tokens(self, service: &str) -> Result<Granted, TokenError> {
        let Some(answer) = self.json::<TokenAnswer>() else { return Err(self.nonsense(service)) };
        let Some(lifetime) = answer.lifetime() else { return Err(self.nonsense(service)) };
        let refresh_token = answer.refresh_token.map(|mut token| Secret::new(std::mem::take(&mut *token)));
        let token = AccessToken::new(answer.access_token, lifetime);
        if lifetime < SHORTEST_LIFETIME {
            return Err(self.with_retry_after(TokenError::transient(format!(
                "the login service {service} gave a token that ends at once (expires_in {})",
                lifetime.as_secs()
            ))));
        }
        // It goes into a header.
        match token.expose().bytes().all(|b| b.is_ascii_graphic()) && !token.expose().is_empty() {
            true => Ok(Granted { token, refresh_token }),
            false => Err(self.nonsense(service)),
        }
    }

    /// What an answer that is no success means.
    pub(super) fn refused(self, service: &str) -> TokenError {
        let Some(ErrorAnswer { error, error_description, error_codes }) = self.json() else {
            return self.nonsense(service);
        };
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

    pub(super) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The body may hold a token that was cut short: it is not quoted.
    fn nonsense(&self, service: &str) -> TokenError {
        self.with_retry_after(TokenError::transient(format!(
            "the login service {service} answered {} with something that is no token",
            self.status
        )))
    }

    fn is_busy(&self) -> bool {
        self.status == 429 || self.status >= 500
    }

    fn with_retry_after(&self, error: TokenError) -> TokenError {
        let asked = network::retry_after(&self.headers, clock::now());
        let retry_after = asked.unwrap_or(if self.is_busy() { BUSY } else { Duration::ZERO });
        TokenError { retry_after, ..error }
    }

    /// In words, if this machine's clock and the service's differ by much.
    fn skew(&self) -> Option<String> {
        let date = httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()?;
        let here = clock::wall().as_system_time();
        let (difference, word) = match here.duration_since(date) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let seconds = Duration::from_secs(difference.as_secs());
        (difference > SKEW)
            .then(|| format!("; it is {} {word} the login service's", humantime::format_duration(seconds)))
    }

    /// Where the request is to be repeated.
    fn redirect(&self, from: &Url) -> Option<Url> {
        if !matches!(self.status, 307 | 308) {
            return None;
        }
        from.join(self.headers.get(LOCATION)?.to_str().ok()?).ok()
    }
}

impl TokenAnswer {
    /// `None`: it is no number.
    fn lifetime(&self) -> Option<Duration> {
        match (&self.expires_in, &self.expires_on) {
            (Some(seconds), _) => seconds.number().map(Duration::from_secs),
            (None, Some(at)) => {
                let at = Timestamp::from_millis(at.number()?.saturating_mul(1000));
                Some(at.since(clock::wall()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, String)], body: &str) -> Answer {
        let headers =
            headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        Answer { status, headers: headers.collect(), body: Zeroizing::new(body.as_bytes().to_owned()) }
    }

    fn lifetime(body: &str) -> Result<u64, String> {
        let granted = answer(200, &[], body).tokens("login").map_err(|error| error.why)?;
        let left = granted.token.ends - tokio::time::Instant::now();
        Ok(left.as_secs_f64().round() as u64)
    }

    #[test]
    fn lifetimes_in_all_forms() {
        assert_eq!(lifetime(r#"{"access_token":"t","expires_in":3599}"#), Ok(3599));
        assert_eq!(lifetime(r#"{"access_token":"t","expires_in":"3599","expires_on":"1"}"#), Ok(3599));
        assert_eq!(lifetime(r#"{"access_token":"t"}"#), Ok(600));
        let at = clock::wall().as_millis() / 1000 + 1000;
        let left = lifetime(&format!(r#"{{"access_token":"t","expires_on":"{at}"}}"#)).unwrap();
        assert!((998..=1000).contains(&left), "{left}");
        assert!(lifetime(&format!(r#"{{"access_token":"t","expires_on":{at}}}"#)).is_ok());
        assert!(lifetime(r#"{"access_token":"t","expires_on":"1"}"#).unwrap_err().contains("ends at once"));
    }

    #[test]
    fn what_is_no_token_is_not_quoted() {
        for body in [
            "",
            "t0ken",
            r#"{"access_token":"t0ken"#,
            r#"{"access_token":7}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":"t0ken","expires_in":"soon"}"#,
            r#"{"access_token":"t0ken","expires_in":-1}"#,
            r#"{"access_token":"t0ken\r\nX: y"}"#,
        ] {
            let why = lifetime(body).unwrap_err();
            assert_eq!(why, "the login service login answered 200 with something that is no token", "{body}");
        }
    }

    #[test]
    fn a_busy_service_is_given_time() {
        for (status, headers, seconds) in [
            (429, vec![], 5),
            (503, vec![], 5),
            (503, vec![("retry-after", "17".to_owned())], 17),
            (400, vec![("retry-after", "17".to_owned())], 17),
            (400, vec![], 0),
        ] {
            for body in ["<html>", r#"{"error":"invalid_client","error_description":"AADSTS7000215: x"}"#] {
                let error = answer(status, &headers, body).refused("login");
                assert_eq!(error.retry_after.as_secs(), seconds, "{status} {body}");
                let refused = status == 400 && body.starts_with('{');
                assert_eq!(error.kind == TokenErrorKind::Blocked, refused, "{status} {body}");
            }
        }
    }

    #[test]
    fn clocks_that_differ_are_compared() {
        let body =
            r#"{"error":"invalid_client","error_description":"AADSTS700024: x","error_codes":[700024]}"#;
        let why = |seconds: u64, is_ahead: bool| {
            let (now, by) = (clock::wall().as_system_time(), Duration::from_secs(seconds));
            let date = if is_ahead { now - by } else { now + by };
            answer(401, &[("date", httpdate::fmt_http_date(date))], body).refused("login").why
        };
        assert!(why(3600, true).ends_with("; it is 1h ahead of the login service's"), "{}", why(3600, true));
        assert!(why(3600, false).ends_with(" behind the login service's"), "{}", why(3600, false));
        assert!(why(60, true).ends_with("clock (AADSTS700024)"), "{}", why(60, true));
    }

    #[test]
    fn forms_are_escaped() {
        let form =
            Form::of_grant("password").field("password", "a b&c=ü+").field("scope", "https://x/.default");
        let body = form.into_body();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "grant_type=password&password=a%20b%26c%3D%C3%BC%2B&scope=https%3A%2F%2Fx%2F.default"
        );
    }
}
