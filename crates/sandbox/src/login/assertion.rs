//! Client assertions: a JSON Web Token in place of a secret, signed with a registered certificate or by an
//! outside issuer.
//!
//! Microsoft, "Microsoft identity platform application authentication certificate credentials" and "Workload
//! identity federation". Where these documents and Microsoft's own MSAL for Python differ, MSAL is right: it
//! sends no `nbf`, times with fractions, and the same assertion for nine minutes.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use ring::digest;
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    super::{
        errors::{LoginError, iso},
        identities::LoginRules,
        options::Directory,
        store::lock,
    },
    jwt::Jwt,
};
use crate::clock;
use relay_mail::Timestamp;

/// RFC 7523 section 2.2.
pub(super) const KIND: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How far the clocks may differ.
const SKEW_MS: i64 = 5 * 60 * 1000;
const KEEP: usize = 1000;

/// An assertion that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assertion {
    /// The organisation, by the first of its names.
    pub directory: String,
    /// `PS256` or `RS256`.
    pub alg: String,
    /// The names of its header parameters, sorted.
    pub header: Vec<String>,
    /// From its beginning to its expiry, in seconds.
    pub lifetime_seconds: u64,
    /// An outside issuer signed it, not a registered certificate.
    pub federated: bool,
    /// It had been used before.
    pub reused: bool,
}

/// Accepted assertions, and the ids they used.
#[derive(Default)]
pub(crate) struct Assertions {
    accepted: Mutex<VecDeque<Assertion>>,
    /// By application and `jti`.
    used: Mutex<HashMap<(String, String), Used>>,
}

struct Used {
    /// SHA-256 of the whole assertion.
    hash: Vec<u8>,
    expires: i64,
}

/// The endpoint that the assertion was sent to, which it must be meant for.
pub(super) struct Addressee<'a> {
    pub(super) directory: &'a Directory,
    /// The directory as the URL names it.
    pub(super) name: &'a str,
    /// `https://HOST`, for each name that this service has.
    pub(super) bases: Vec<String>,
}

impl Assertions {
    /// The last accepted ones, oldest first.
    pub(crate) fn accepted(&self) -> Vec<Assertion> {
        lock(&self.accepted).iter().cloned().collect()
    }

    /// Whether `text` speaks for the application `client_id`, now.
    pub(super) fn check(
        &self,
        text: &str,
        client_id: &str,
        to: &Addressee<'_>,
        rules: &LoginRules,
    ) -> Result<Assertion, LoginError> {
        let jwt = Jwt::parse(text)
            .ok_or_else(|| refused(50027, "JWT token is invalid or malformed. Token format is not valid."))?;
        if jwt.header("typ").is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(refused(50027, "JWT token is invalid or malformed. Its type is not JWT."));
        }
        let issuer = claim(&jwt, "iss")?;
        let subject = claim(&jwt, "sub")?;
        let alg = jwt.header("alg").unwrap_or_default();
        // Outside issuers name themselves by a URL, and never have themselves as the subject.
        let federated = issuer != subject;
        let (begins, expires) = if federated {
            is_federated(&jwt, alg, issuer, subject, to.directory)?;
            valid_now(&jwt)?
        } else {
            if issuer != client_id {
                let text = "Client assertion application identifier doesn't match 'client_id' parameter.";
                return Err(refused(700021, text));
            }
            let times = valid_now(&jwt)?;
            is_signed_by_certificate(&jwt, alg, to.directory)?;
            if !jwt.is_for(|audience| is_token_url(audience, to)) {
                let text = "Client assertion audience claim does not match Realm issuer.";
                return Err(refused(700023, text));
            }
            times
        };
        let lifetime = Duration::from_millis(u64::try_from(expires - begins).unwrap_or(0));
        let most = rules.assertion_lifetime.filter(|_| !federated);
        if most.is_some_and(|most| lifetime > most) {
            return Err(out_of_time(begins, expires));
        }
        let reused = self.note(&jwt, text, client_id, expires, federated)?;
        if reused && rules.assertions_once {
            return Err(refused(50027, "JWT token is invalid or malformed. It has been used before."));
        }
        let mut header: Vec<String> = jwt.header.keys().cloned().collect();
        header.sort();
        let accepted = Assertion {
            directory: to.directory.name().to_owned(),
            alg: alg.to_owned(),
            header,
            lifetime_seconds: lifetime.as_secs(),
            federated,
            reused,
        };
        let mut all = lock(&self.accepted);
        if all.len() >= KEEP {
            all.pop_front();
        }
        all.push_back(accepted.clone());
        Ok(accepted)
    }

    /// Whether it was used before. A `jti` may belong to one assertion only; outside issuers need none.
    fn note(
        &self,
        jwt: &Jwt<'_>,
        text: &str,
        client_id: &str,
        expires: i64,
        federated: bool,
    ) -> Result<bool, LoginError> {
        let hash = digest::digest(&digest::SHA256, text.as_bytes()).as_ref().to_vec();
        let id = match jwt.claim("jti") {
            Some(id) if !federated && !id.is_empty() => id.to_owned(),
            _ if federated => BASE64_URL_SAFE_NO_PAD.encode(&hash),
            _ => return Err(missing("jti")),
        };
        let now = now_ms();
        let mut used = lock(&self.used);
        used.retain(|_, one| one.expires + SKEW_MS > now);
        match used.insert((client_id.to_lowercase(), id), Used { hash: hash.clone(), expires }) {
            Some(before) if before.hash != hash => {
                Err(refused(50027, "JWT token is invalid or malformed. Another token had this 'jti'."))
            }
            before => Ok(before.is_some()),
        }
    }
}

fn is_signed_by_certificate(jwt: &Jwt<'_>, alg: &str, directory: &Directory) -> Result<(), LoginError> {
    // PS256 came with SHA-256 thumbprints; which of the other combinations work is not documented.
    let (parameter, algorithm) = match alg {
        "PS256" => ("x5t#S256", &digest::SHA256),
        "RS256" => ("x5t", &digest::SHA1_FOR_LEGACY_USE_ONLY),
        _ => {
            let text = "Invalid JWT token. Unsupported key for the signing algorithm.";
            return Err(refused(5002730, text));
        }
    };
    let thumbprint = jwt.header(parameter).ok_or_else(|| {
        refused(50027, "Invalid JWT token. No certificate thumbprint specified in token header.")
    })?;
    let named = directory.certificates.iter().find(|certificate| {
        BASE64_URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &certificate.der))
            == thumbprint.trim_end_matches('=')
    });
    let parsed = named.and_then(|named| X509Certificate::from_der(&named.der).ok());
    let Some((_, certificate)) = parsed else {
        return Err(bad_key(&format!(
            "The key was not found., Thumbprint of key used by client: '{thumbprint}'"
        )));
    };
    let now = now_ms() / 1000;
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
        return Err(bad_key("The key used is expired."));
    }
    if !jwt.is_signed_by(alg, certificate.public_key().raw) {
        return Err(bad_key("The key was found, but use of the key to verify the signature failed."));
    }
    Ok(())
}

fn is_federated(
    jwt: &Jwt<'_>,
    alg: &str,
    issuer: &str,
    subject: &str,
    directory: &Directory,
) -> Result<(), LoginError> {
    let none = |number, what: &str, value: &str| {
        let text =
            format!("No matching federated identity record found for presented assertion{what} '{value}'.");
        Err(refused(number, text))
    };
    if directory.federated.is_empty() {
        return none(70021, ". Assertion Issuer:", issuer);
    }
    let mut of_issuer = directory.federated.iter().filter(|known| known.issuer == issuer).peekable();
    if of_issuer.peek().is_none() {
        return none(700211, " issuer", issuer);
    }
    let Some(known) = of_issuer.find(|known| known.subject == subject) else {
        return none(700213, " subject", subject);
    };
    if !jwt.is_for(|audience| audience == known.audience) {
        let audience = jwt.claims.get("aud").map(ToString::to_string).unwrap_or_default();
        return none(700212, " audience", audience.trim_matches('"'));
    }
    // "Exchanging tokens signed with other algorithms may work, but haven't been tested."
    if alg != "RS256" || !jwt.is_signed_by(alg, &known.public_key) {
        return Err(bad_key("The key was not found."));
    }
    Ok(())
}

/// Its start and end in milliseconds, if now is about between them.
fn valid_now(jwt: &Jwt<'_>) -> Result<(i64, i64), LoginError> {
    let expires = jwt.time("exp").ok_or_else(|| missing("exp"))?;
    let now = now_ms();
    let begins = jwt.time("nbf").or(jwt.time("iat")).unwrap_or(now);
    let early = [jwt.time("nbf"), jwt.time("iat")].into_iter().flatten().any(|time| time > now + SKEW_MS);
    if early || expires + SKEW_MS < now || expires < begins {
        return Err(out_of_time(begins, expires));
    }
    Ok((begins, expires))
}

fn out_of_time(begins: i64, expires: i64) -> LoginError {
    let shown = |ms: i64| iso(Timestamp::from_millis(u64::try_from(ms).unwrap_or(0)));
    refused(
        700024,
        format!(
            "Client assertion is not within its valid time range. Current time: {}, assertion valid from {}, expiry \
             time of assertion {}.",
            iso(clock::now()),
            shown(begins),
            shown(expires)
        ),
    )
}

/// `https://HOST/{directory}/oauth2/v2.0/token`, with any name of that directory.
fn is_token_url(audience: &str, to: &Addressee<'_>) -> bool {
    to.bases.iter().any(|base| {
        let path = audience.strip_prefix(base.as_str()).and_then(|rest| rest.strip_prefix('/'));
        path.and_then(|path| path.strip_suffix("/oauth2/v2.0/token"))
            .is_some_and(|name| name.eq_ignore_ascii_case(to.name) || to.directory.is_named(name))
    })
}

fn now_ms() -> i64 {
    i64::try_from(clock::now().as_millis()).unwrap_or(i64::MAX)
}

fn claim<'a>(jwt: &'a Jwt<'_>, name: &str) -> Result<&'a str, LoginError> {
    jwt.claim(name).filter(|value| !value.is_empty()).ok_or_else(|| missing(name))
}

fn missing(claim: &str) -> LoginError {
    refused(50027, format!("JWT token is invalid or malformed. It has no claim '{claim}'."))
}

fn bad_key(reason: &str) -> LoginError {
    let text = format!(
        "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - \
         {reason}]"
    );
    refused(700027, text)
}

fn refused(number: u32, message: impl Into<std::borrow::Cow<'static, str>>) -> LoginError {
    LoginError::new(StatusCode::UNAUTHORIZED, "invalid_client", number, message)
}
