//! What Entra ID's error codes mean, and what to do about them.
//!
//! Microsoft, "Microsoft Entra authentication and authorization error codes". The numbers may change, so they only choose
//! the advice; a code that is not here blocks the tenant with Entra ID's own words.

use std::time::Duration;

use super::{TokenError, TokenErrorKind};

/// The service is at fault or overloaded: no administrator can mend it.
const TRANSIENT: [u32; 13] =
    [50033, 50087, 50196, 80002, 40010, 90006, 90012, 90024, 90033, 90055, 90090, 90091, 51005];

const ADVICE: [(u32, &str); 22] = [
    (7000215, "the client secret is wrong: put the secret's value, not its ID, into client_secret"),
    (7000222, "the client secret has expired: make a new one in the app registration"),
    (70002, "the client secret is not accepted"),
    (50012, "the client secret is not accepted"),
    (
        700016,
        "the app is not known in this directory: check client_id and directory, and that an administrator consented",
    ),
    (700011, "the app is not known: check client_id"),
    (70001, "the app is not known or disabled: check client_id"),
    (7000112, "the app is disabled: enable it in Entra ID"),
    (7000218, "a client secret is needed: the app must be a confidential client"),
    (90002, "the directory is not known: check directory, and that cloud is the right one"),
    (90038, "the directory belongs to another cloud: set cloud"),
    (900382, "the directory belongs to another cloud: set cloud"),
    (900432, "the directory belongs to another cloud: set cloud"),
    (500011, "Graph is not known in this directory: check cloud"),
    (65001, "nobody consented to the app: an administrator must grant consent"),
    (90094, "an administrator must grant consent to the app"),
    (90095, "an administrator must grant consent to the app"),
    (650056, "the app registration has no permissions: add Mail.Send for Microsoft Graph"),
    (1002012, "the scope is not accepted: check the cloud's graph URL"),
    (53003, "Conditional Access blocks the app: exclude it from the policy, or allow this machine's address"),
    (50053, "the account is locked"),
    (700024, "the assertion is not valid now: check this machine's clock"),
];

/// An answer with an OAuth error: `error` and `error_description`.
pub(super) fn explain(error: &str, description: &str) -> TokenError {
    let code = code(description);
    let transient = error == "temporarily_unavailable" || code.is_some_and(|code| TRANSIENT.contains(&code));
    let kind = if transient { TokenErrorKind::Transient } else { TokenErrorKind::Blocked };
    let advice = ADVICE.iter().find(|(known, _)| code == Some(*known)).map(|(_, advice)| *advice);
    let why = match (code, advice) {
        (Some(code), Some(advice)) => format!("{advice} (AADSTS{code})"),
        _ => format!("the login service refuses: {error}: {}", first_line(description)),
    };
    TokenError { kind, why, retry_after: Duration::ZERO }
}

/// `AADSTS7000215: Invalid client secret…` → 7000215.
fn code(description: &str) -> Option<u32> {
    let digits = description.split_once("AADSTS")?.1;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// What follows in Entra ID's descriptions are trace ids and times.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("").chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_code_comes_with_advice() {
        let error = explain("invalid_client", "AADSTS7000215: Invalid client secret provided. Trace ID: x");
        assert_eq!(error.kind, TokenErrorKind::Blocked);
        assert!(error.why.contains("not its ID") && error.why.contains("AADSTS7000215"), "{}", error.why);
    }

    #[test]
    fn an_unknown_code_comes_with_the_services_words() {
        let error = explain("invalid_request", "AADSTS123: Something new.\r\nTrace ID: x");
        assert_eq!(error.kind, TokenErrorKind::Blocked);
        assert_eq!(error.why, "the login service refuses: invalid_request: AADSTS123: Something new.");
    }

    #[test]
    fn an_outage_blocks_nobody() {
        assert_eq!(explain("temporarily_unavailable", "").kind, TokenErrorKind::Transient);
        assert_eq!(explain("server_error", "AADSTS90033: A transient error").kind, TokenErrorKind::Transient);
    }

    #[test]
    fn every_code_has_one_meaning() {
        for (n, (code, _)) in ADVICE.iter().enumerate() {
            assert!(ADVICE[n + 1..].iter().all(|(other, _)| other != code), "{code} twice");
            assert!(!TRANSIENT.contains(code), "{code}");
        }
    }
}
