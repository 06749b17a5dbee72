//! What Entra ID's error codes mean, and what to do about them.
//!
//! Microsoft, "Microsoft Entra authentication and authorization error codes". The numbers may change, so they
//! only choose the advice and the pause; a code that is not here blocks the tenant with Entra ID's own words.

use super::{Pause, TokenError, TokenErrorKind};
use relay_mail::outside::one_line;

/// What a code comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The service is at fault or overloaded: no administrator can fix it.
    Transient,
    /// The service says that it is asked far too often.
    Later,
    /// The service failed, and says that it will again. The first few times, that is taken as an outage.
    Failing,
    /// An administrator must fix something.
    Blocked,
    /// The same, and each further try may lock the user out.
    User,
    /// The request was wrong: a defect of the relay.
    Fault,
}

use Class::{Blocked, Failing, Fault, Later, Transient, User};

const CONSENT: &str =
    "no administrator has consented to the app: grant consent in the app registration, API permissions";
const OTHER_CLOUD: &str = "the directory belongs to another cloud: set cloud";
const CONDITIONAL_ACCESS: &str = "Conditional Access or security defaults block the login: exclude the app, \
or the user, from the \
                                  policy, or allow this machine's address";
const MFA: &str = "multi-factor authentication is required, which a program cannot perform: with grant = \
\"refresh_token\", run \
                   m365-relay tenant login; better, let the app send by itself (client_secret or certificate)";
const SIGN_IN_AGAIN: &str = "the refresh token is no longer valid (revoked, expired, or the password was changed): run \
                             m365-relay tenant login";
const SCOPE: &str = "the scope is not accepted: check graph and exchange of the cloud";
const MALFORMED: &str = "the login service does not understand the request: this is a defect of the relay";
const BUSY: &str = "the login service cannot answer now";
const FAILED: &str = "the login service has failed";
const NO_USER: &str = "the user is not in this directory: check username and directory";
const FEDERATED: &str = "no federated credential of the app fits the token in federated_token_file: compare its issuer, subject \
                         and audience (api://AzureADTokenExchange) with the app registration";

#[rustfmt::skip] // One line for each meaning.
const CODES: [(&[u32], Class, &str); 44] = [
    (&[7000215], Blocked, "the client secret is wrong: put the secret's value, not its ID, into client_secret"),
    (&[7000222], Blocked, "the client secret has expired: make a new one in the app registration"),
    (&[70002, 50012], Blocked, "the app's credential is not accepted: check the client secret or certificate"),
    (&[700016], Blocked, "the app is not known in this directory: check client_id and directory, and that an administrator consented"),
    (&[700011, 70001], Blocked, "the app is not known or disabled: check client_id"),
    (&[7000112], Blocked, "the app is disabled: enable it in Entra ID"),
    (&[7000218], Blocked, "the app must authenticate: add client_secret or certificate, or allow public \
        client flows in the app registration"),
    (&[700025], Blocked, "the app is a public client and must not authenticate: remove client_secret or \
        certificate"),
    (&[700027], Blocked, "the certificate is not registered for the app, or the key does not match it: \
        upload the certificate to the app registration"),
    (&[700024], Blocked, "the assertion is not valid now: check this machine's clock"),
    (&[70021, 700211, 700212, 700213], Blocked, FEDERATED),
    (&[700030], Blocked, "the certificate's subject is not allowed for this app: register it, or use one \
        that is registered"),
    (&[90002], Blocked, "the directory is not known: check directory, and that cloud is the right one"),
    (&[90038, 900382, 900432], Blocked, OTHER_CLOUD),
    (&[500011, 50001, 650052, 650057], Blocked, "Graph or Exchange is not known in this directory: check cloud, and that the directory has a subscription"),
    (&[65001, 90094, 90095], Blocked, CONSENT),
    (&[65005, 650056], Blocked, "the app registration lacks permissions: add Mail.Send for Microsoft Graph, and grant consent"),
    (&[1002012], Blocked, SCOPE),
    (&[70011, 28002, 700022], Blocked, SCOPE),
    // Microsoft's list gives it for a scope without a resource; the service gives it for an assertion for
    // another address.
    (&[700023], Blocked, "the scope, or the address in the assertion, is not the login service's: check login, graph and exchange of the cloud"),
    (&[70003, 900144, 9002313, 90014], Fault, MALFORMED),
    (&[9001023, 50194], Blocked, "this login needs the tenant's own directory: check directory"),
    (&[53003, 530032, 530035, 53000, 53001, 53002, 53004, 50131], Blocked, CONDITIONAL_ACCESS),
    (&[50034, 50020, 51004], User, NO_USER),
    (&[50053], User, "the user or this machine's address is locked out: wait, and read the sign-in log"),
    (&[50055, 50144, 50056], User, "the user's password has expired or is not set: set a new one"),
    (&[50057], User, "the user is disabled: enable the user"),
    (&[50126, 50064], User, "the username or the password is wrong"),
    (&[50072, 50074, 50076, 50078, 50079, 50158], Blocked, MFA),
    (&[50173, 50133, 50132, 70000, 70008, 700082, 70043, 50089], Blocked, SIGN_IN_AGAIN),
    (&[700020], Blocked, "somebody has to sign in: run m365-relay tenant login"),
    (&[70016], Blocked, "nobody has signed in with the code yet"),
    (&[70018], Blocked, "the code for the sign-in is wrong"),
    (&[70019], Blocked, "the code for the sign-in has expired: begin again"),
    (&[50196], Later, "the login service reports too many identical requests"),
    (&[90055], Later, "the login service throttles this tenant after too many requests"),
    (&[90033, 90006, 90024, 90012, 90090, 90091], Transient, BUSY),
    (&[50033, 50087, 40010], Transient, BUSY),
    (&[80002], Transient, "the organisation's own directory does not answer the login service"),
    (&[51005], Transient, "the login service redirects the request"),
    (&[90036, 90092], Failing, FAILED),
    (&[50000], Failing, FAILED),
    (&[50086], Failing, FAILED),
    (&[50085], Blocked, SIGN_IN_AGAIN),
];

/// An answer with an OAuth error: `error`, `error_description` and `error_codes`.
pub(super) fn explain(error: &str, description: &str, codes: &[u32]) -> TokenError {
    let code = codes.first().copied().or_else(|| code(description));
    let known = code.and_then(find);
    let class = match known {
        // Whatever the number.
        _ if error == "temporarily_unavailable" => Transient,
        // It is the refresh token that is invalid, not the form of the request.
        Some((Fault, _)) if error == "invalid_grant" => Blocked,
        Some((class, _)) => class,
        None => Blocked,
    };
    let (kind, pause) = match class {
        Transient => (TokenErrorKind::Transient, Pause::Short),
        Later => (TokenErrorKind::Transient, Pause::Long),
        Failing => (TokenErrorKind::Transient, Pause::ShortAtFirst),
        Blocked => (TokenErrorKind::Blocked, Pause::Minute),
        User => (TokenErrorKind::Blocked, Pause::Hour),
        Fault => (TokenErrorKind::Fault, Pause::Minute),
    };
    let why = match (code, known) {
        (Some(code), Some((Fault, _))) if error == "invalid_grant" => {
            format!("{SIGN_IN_AGAIN} (AADSTS{code})")
        }
        (Some(code), Some((Fault, advice))) => {
            format!("{advice} (AADSTS{code}: {})", first_line(description))
        }
        (Some(code), Some((_, advice))) => format!("{advice} (AADSTS{code})"),
        _ => format!("the login service refuses: {error}: {}", first_line(description)),
    };
    TokenError { kind, why, pause, ..TokenError::transient("") }
}

pub(super) const CLOCK: u32 = 700024;

fn find(code: u32) -> Option<(Class, &'static str)> {
    CODES.iter().find(|(codes, ..)| codes.contains(&code)).map(|(_, class, advice)| (*class, *advice))
}

/// `AADSTS7000215: Invalid client secret…` → 7000215.
pub(super) fn code(description: &str) -> Option<u32> {
    let digits = description.split_once("AADSTS")?.1;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// What follows in Entra ID's descriptions are trace ids and times.
fn first_line(text: &str) -> String {
    one_line(text.lines().next().unwrap_or(""), 300)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_code(code: u32) -> TokenError {
        explain("invalid_request", &format!("AADSTS{code}: Something. Trace ID: x"), &[code])
    }

    #[test]
    fn a_known_code_comes_with_advice() {
        let error =
            explain("invalid_client", "AADSTS7000215: Invalid client secret provided. Trace ID: x", &[]);
        assert_eq!(error.kind, TokenErrorKind::Blocked);
        assert!(error.why.contains("not its ID") && error.why.contains("AADSTS7000215"), "{}", error.why);
    }

    #[test]
    fn an_unknown_code_comes_with_the_services_words() {
        let error = explain("invalid_request", "AADSTS123: Something new.\r\nTrace ID: x", &[123]);
        assert_eq!(error.kind, TokenErrorKind::Blocked);
        assert_eq!(error.why, "the login service refuses: invalid_request: AADSTS123: Something new.");
    }

    #[test]
    fn a_refresh_token_that_is_none_is_no_defect() {
        let error =
            explain("invalid_grant", "AADSTS9002313: Invalid request. Request is malformed or invalid.", &[]);
        assert_eq!(error.kind, TokenErrorKind::Blocked);
        assert!(error.why.contains("tenant login"), "{}", error.why);
    }

    #[test]
    fn an_outage_blocks_nobody() {
        assert_eq!(explain("temporarily_unavailable", "", &[]).kind, TokenErrorKind::Transient);
        assert_eq!(
            explain("server_error", "AADSTS90033: A transient error", &[]).kind,
            TokenErrorKind::Transient
        );
    }

    #[test]
    fn every_code_has_one_meaning() {
        let all: Vec<u32> = CODES.iter().flat_map(|(codes, ..)| *codes).copied().collect();
        for (n, code) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(code), "{code} twice");
        }
    }

    #[test]
    fn every_code_leads_to_what_can_be_done_about_it() {
        use TokenErrorKind as Kind;
        for (codes, kind, pause, part) in [
            (&[7000215, 7000222][..], Kind::Blocked, Pause::Minute, "secret"),
            (&[70002, 50012], Kind::Blocked, Pause::Minute, "credential"),
            (&[700016, 700011, 70001], Kind::Blocked, Pause::Minute, "client_id"),
            (&[7000218, 700025], Kind::Blocked, Pause::Minute, "client_secret or certificate"),
            (&[700027, 700030], Kind::Blocked, Pause::Minute, "certificate"),
            (&[700024], Kind::Blocked, Pause::Minute, "clock"),
            (&[70021, 700211, 700212, 700213], Kind::Blocked, Pause::Minute, "federated_token_file"),
            (&[90002], Kind::Blocked, Pause::Minute, "directory"),
            (&[90038, 900382, 900432], Kind::Blocked, Pause::Minute, "set cloud"),
            (&[500011, 50001, 650052, 650057], Kind::Blocked, Pause::Minute, "subscription"),
            (&[65001, 90094, 90095], Kind::Blocked, Pause::Minute, "grant consent"),
            (&[65005, 650056], Kind::Blocked, Pause::Minute, "Mail.Send"),
            (&[1002012, 70011, 28002, 700022, 700023], Kind::Blocked, Pause::Minute, "scope"),
            (&[70003, 900144, 9002313, 90014], Kind::Fault, Pause::Minute, "defect of the relay"),
            (&[9001023, 50194], Kind::Blocked, Pause::Minute, "check directory"),
            (
                &[53003, 530032, 530035, 53000, 53001, 53002, 53004, 50131],
                Kind::Blocked,
                Pause::Minute,
                "Conditional",
            ),
            (&[50034, 50020, 51004], Kind::Blocked, Pause::Hour, "check username"),
            (&[50053], Kind::Blocked, Pause::Hour, "locked out"),
            (&[50055, 50144, 50056], Kind::Blocked, Pause::Hour, "password"),
            (&[50057], Kind::Blocked, Pause::Hour, "disabled"),
            (&[50126, 50064], Kind::Blocked, Pause::Hour, "password is wrong"),
            (&[50072, 50074, 50076, 50078, 50079, 50158], Kind::Blocked, Pause::Minute, "multi-factor"),
            (
                &[50173, 50133, 50132, 70000, 70008, 700082, 70043, 50089],
                Kind::Blocked,
                Pause::Minute,
                "tenant login",
            ),
            (&[700020], Kind::Blocked, Pause::Minute, "tenant login"),
            (&[50196, 90055], Kind::Transient, Pause::Long, "too"),
            (
                &[90033, 90006, 90024, 90012, 90090, 90091, 50033, 50087, 40010],
                Kind::Transient,
                Pause::Short,
                "now",
            ),
            (&[80002, 51005], Kind::Transient, Pause::Short, "the"),
            (&[90036, 90092, 50000, 50086], Kind::Transient, Pause::ShortAtFirst, "failed"),
        ] {
            for code in codes {
                let error = of_code(*code);
                assert_eq!((error.kind, error.pause), (kind, pause), "{code}");
                assert!(error.why.contains(part), "{code}: {}", error.why);
                assert!(error.why.contains(&format!("AADSTS{code}")), "{code}: {}", error.why);
            }
        }
    }
}
