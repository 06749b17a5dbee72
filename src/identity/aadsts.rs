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
const CONDITIONAL_ACCESS: &str = "Conditional Access or security defaults block the login: exclude the app, or the \
                                  user, from the policy, or allow this machine's address";
const MFA: &str = "multi-factor authentication is required, which a program cannot perform: with grant = \
                   \"refresh_token\", run m365-relay tenant login; better, let the app send by itself \
                   (client_secret or certificate)";
const SIGN_IN_AGAIN: &str = "the refresh token is no longer valid (revoked, expired, or the password was changed): run \
                             m365-relay tenant login";
const SCOPE: &str = "the scope is not accepted: check graph and exchange of the cloud";
const MALFORMED: &str = "the login service does not understand the request: this is a defect of the relay";
const BUSY: &str = "the login service cannot answer now";
const FAILED: &str = "the login service has failed";
const NO_USER: &str = "the user is not in this directory: check username and directory";
const NO_DIRECTORY: &str = "the directory is not known: check directory, and that cloud is the right one";
const FEDERATION: &str = "the user's own identity provider refuses or fails: ask its administrator, or let the app send by \
                          itself, which needs no user";
const NOT_FROM_HERE: &str = "tenant restrictions or a cross-tenant access policy forbid the login: allow the app there, or reach \
                             the login service without the proxy that adds Restrict-Access-To-Tenants";
const NEW_PASSWORD: &str =
    "the user's password must be changed first, which a program cannot do: sign in as the user once";
const NOT_FOR_PROGRAMS: &str = "the login service wants to show the user a page, which a program cannot answer: run m365-relay \
                                tenant login, or let the app send by itself";
const SET_UP: &str =
    "the app registration is not set up for this kind of login: compare it with docs/tenants.md";
const FEDERATED: &str = "no federated credential of the app fits the token in federated_token_file: compare its issuer, subject \
                         and audience (api://AzureADTokenExchange) with the app registration";

#[rustfmt::skip] // One line for each meaning.
const CODES: &[(&[u32], Class, &str)] = &[
    (&[7000215], Blocked, "the client secret is wrong: put the secret's value, not its ID, into client_secret"),
    (&[7000222], Blocked, "the client secret has expired: make a new one in the app registration"),
    (&[70002, 50012], Blocked, "the app's credential is not accepted: check the client secret or certificate"),
    (&[700016], Blocked, "the app is not known in this directory: check client_id and directory, and that an administrator consented"),
    (&[700011, 70001], Blocked, "the app is not known or disabled: check client_id"),
    (&[7000112], Blocked, "the app is disabled: enable it in Entra ID"),
    (&[7000218], Blocked, "the app must authenticate: add client_secret or certificate, or allow public client flows in the app registration"),
    (&[700025], Blocked, "the app is a public client and must not authenticate: remove client_secret or certificate"),
    (&[700027], Blocked, "the certificate is not registered for the app, or the key does not match it: upload the certificate to the app registration"),
    (&[700024], Blocked, "the assertion is not valid now: check this machine's clock"),
    (&[70021, 700211, 700212, 700213], Blocked, FEDERATED),
    (&[700030], Blocked, "the certificate's subject is not allowed for this app: register it, or use one that is registered"),
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
    // The rest of Microsoft's public list. Few of them can be met by a program that asks for tokens only.
    (&[7000229], Blocked, "the app has no service principal in this directory: an administrator has to consent, see m365-relay tenant consent-url"),
    (&[500014], Blocked, "Graph or Exchange is disabled in this directory: enable its enterprise application, and check that the subscription is paid"),
    (&[5000224], Blocked, "Microsoft does not let this directory log in (blocked or being deleted): its administrator has to ask Microsoft's support"),
    (&[90099, 90008, 65002, 65004, 90093, 52004], Blocked, CONSENT),
    (&[1000031, 7000114, 51000, 100007, 230109], Blocked, "the app may not log in at present: ask the directory's administrator, or Microsoft's support"),
    (&[650054], Blocked, "a resource that the app asks for is gone: check the app's API permissions"),
    (&[50059, 50128, 90019, 50049, 90051, 90043, 90027, 90124, 90125, 90126, 90130, 9002332, 50029], Blocked, NO_DIRECTORY),
    (&[50002, 500021, 500022, 500208, 500212, 500213, 1000104], Blocked, NOT_FROM_HERE),
    (&[500133, 76026], Blocked, "the assertion is not valid now: check this machine's clock"),
    (&[50003, 50006, 50013, 50017, 50027, 50032, 50048, 50099, 900384, 90114, 240002, 220501, 50007], Blocked, "the certificate or the assertion is not accepted: register the certificate again, or use another"),
    (&[700229], Blocked, "federated_token_file holds a user's token: a token of an app or a workload is needed"),
    (&[50105], Blocked, "the user is not assigned to the app: assign the user, or switch off 'Assignment required' of the enterprise application"),
    (&[50005, 50097, 50127, 50129, 50155, 50161, 50170, 50187, 53010, 53011, 530034, 54000, 50015, 130007, 130008, 135011], Blocked, CONDITIONAL_ACCESS),
    (&[16000, 16003, 50014, 90072, 50197, 90101, 90022, 120016], User, NO_USER),
    (&[120014, 120015], User, "the user is locked out or disabled: wait, or enable the user"),
    (&[50135, 50125, 120000, 120002, 120003, 120004, 120005, 120008, 120011, 120012, 120013, 120018, 120020], User, NEW_PASSWORD),
    (&[16001, 16002, 160021, 50058, 50134, 50136, 50139, 50140, 50143, 50168, 50177, 50178, 50199, 51006, 54005, 700005, 700084, 90120, 140000, 140001, 1000000, 1000002, 220450], Blocked, NOT_FOR_PROGRAMS),
    (&[20001, 20012, 20033, 40008, 40009, 40015, 50008, 5000819, 50107, 50169, 50180, 50192, 51001, 67003, 80007, 80010, 80012, 80013, 81004, 81005, 81006, 81007, 81009, 81010, 81011, 81012, 90020, 90081, 90082, 90084, 90085, 90086, 90087, 90123, 17003, 130004, 130005, 130006, 135010], Blocked, FEDERATION),
    (&[50010, 50011, 50042, 50043, 50120, 50124, 501241, 50146, 501461, 700054, 70004, 90009, 90016, 900971, 221000, 240001, 75001, 75003, 75005, 7500514, 7500529, 750054, 75008, 75011, 75016, 76021, 900236, 165004], Blocked, SET_UP),
    (&[28003], Blocked, SCOPE),
    (&[80001, 80005, 80014, 50166], Transient, "the organisation's own directory does not answer the login service"),
    (&[50088, 70012, 501621, 120021], Transient, BUSY),
    (&[50050, 50061, 50068, 50070, 50071, 50147, 501481, 501491, 70005, 70007, 90004, 90005, 90007, 90010, 90013, 90015, 90023, 90056, 900561, 90100, 901002, 90102, 90107, 90117, 90119, 90121, 165900], Fault, MALFORMED),
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

    /// Microsoft, "Microsoft Entra authentication and authorization error codes", and three that its service
    /// gives besides.
    #[rustfmt::skip]
    const PUBLIC: &[u32] = &[
        16000, 16001, 16002, 160021, 16003, 17003, 20001, 20012, 20033, 230109, 28002, 28003, 40008,
        40009, 40010, 40015, 50000, 50001, 50002, 500011, 500021, 500022, 50003, 50005, 50006, 50007,
        50008, 5000819, 50010, 50011, 50012, 50013, 500133, 50014, 50015, 50017, 50020, 500208, 500212,
        500213, 50027, 50029, 50032, 50033, 50034, 50042, 50043, 50048, 50049, 50050, 50053, 50055,
        50056, 50057, 50058, 50059, 50061, 50064, 50068, 50070, 50071, 50072, 50074, 50076, 50078,
        50079, 50085, 50086, 50087, 50088, 50089, 50097, 50099, 50105, 50107, 50120, 50124, 501241,
        50125, 50126, 50127, 50128, 50129, 50131, 50132, 50133, 50134, 50135, 50136, 50139, 50140,
        50143, 50144, 50146, 501461, 50147, 501481, 501491, 50155, 50158, 50161, 50166, 50168, 50169,
        50170, 50173, 50177, 50178, 50180, 50187, 50192, 50194, 50196, 50197, 50199, 51000, 51001,
        1000104, 51004, 51005, 51006, 52004, 53000, 53001, 53002, 53003, 530035, 53004, 53010, 53011,
        530034, 54000, 54005, 65001, 65002, 65004, 65005, 650052, 650054, 650056, 650057, 67003, 70000,
        70001, 700011, 70002, 700025, 700027, 70003, 700030, 70004, 70005, 700054, 70007, 70008, 700082,
        700084, 70011, 70012, 70016, 70018, 70019, 70043, 75001, 75003, 75005, 7500514, 750054, 75008,
        75011, 75016, 76021, 76026, 80001, 80002, 80005, 80007, 80010, 80012, 80013, 80014, 81004,
        81005, 81006, 81007, 81009, 81010, 81011, 81012, 90002, 90004, 90005, 90006, 90007, 90008,
        90009, 90010, 9001023, 90012, 90013, 90014, 900144, 90015, 90016, 90019, 90020, 90022, 90023,
        900236, 9002313, 9002332, 90024, 90027, 90033, 90036, 90038, 900384, 90043, 900432, 90051,
        90055, 90056, 900561, 90072, 90081, 90082, 90084, 90085, 90086, 90087, 90090, 90091, 90092,
        90093, 90094, 900382, 90095, 90099, 900971, 90100, 901002, 90101, 90102, 90107, 90114, 90117,
        90119, 90120, 90121, 90123, 90124, 90125, 90126, 90130, 120000, 120002, 120003, 120004, 120005,
        120008, 120011, 120012, 120013, 120014, 120015, 120016, 120018, 120020, 120021, 130004, 130005,
        130006, 130007, 130008, 135010, 135011, 140000, 140001, 165004, 165900, 220450, 220501, 221000,
        240001, 240002, 501621, 530032, 700016, 700020, 700022, 700023, 7000215, 7000218, 7000222,
        700229, 700005, 1000000, 1000002, 100007, 1000031, 7000112, 7000114, 7500529, 7000229, 500014,
        5000224,
    ];

    #[test]
    fn every_public_code_has_a_sentence_and_one() {
        let known: Vec<u32> = CODES.iter().flat_map(|(codes, ..)| codes.iter().copied()).collect();
        for code in PUBLIC {
            assert_eq!(known.iter().filter(|known| *known == code).count(), 1, "{code}");
        }
        let unique: std::collections::HashSet<&u32> = known.iter().collect();
        assert_eq!(unique.len(), known.len());
    }
}
