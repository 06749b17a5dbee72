mod assertion;
mod device;
mod discovery;
mod managed;
mod users;

use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::*;

const GOOD: &str = "grant_type=client_credentials&client_id=app-1&client_secret=s3cret%2B%26\
                    &scope=https%3A%2F%2Fgraph.microsoft.com%2F.default";

/// The shape of every refusal, and no secret in it.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, error: &str, number: u32) {
    let body = answer.json();
    assert_eq!((answer.status, body["error"].as_str()), (status, Some(error)), "{body}");
    assert_eq!(body["error_codes"][0], number, "{body}");
    let text = body["error_description"].as_str().expect("text");
    assert!(text.starts_with(&format!("AADSTS{number}: ")), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    let trace = body["trace_id"].as_str().expect("text");
    assert!(text.contains(trace) && body["timestamp"].as_str().is_some_and(|t| t.contains(' ')), "{text}");
}

/// The claims of an access token.
fn claims(token: &str) -> Value {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    let json = BASE64_URL_SAFE_NO_PAD.decode(parts[1]).expect("base64");
    serde_json::from_slice(&json).expect("JSON")
}

#[tokio::test]
async fn a_token_comes_with_its_lifetime_as_a_number() {
    let lab = Lab::default().await;
    for name in [DOMAIN, "C0-FF-EE"] {
        let answer = lab.ask_token(name, GOOD).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.json()["expires_in"].as_u64(), Some(3599));
        assert_eq!(answer.json()["token_type"], "Bearer");
        assert_eq!(answer.header("cache-control"), "no-store, no-cache");
    }
}

#[tokio::test]
async fn the_secret_may_come_as_basic_authorization() {
    let lab = Lab::default().await;
    let form = "grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default";
    let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
    let with = |pair: &str| lab.token_request(DOMAIN, form).header("authorization", basic(pair));
    assert_eq!(Answer::of(with("app-1:s3cret%2B%26")).await.status, 200);
    let refused = Answer::of(with("app-1:s3cret")).await;
    assert_eq!((refused.status, &refused.json()["error"]), (401, &"invalid_client".into()));
}

#[tokio::test]
async fn refusals_have_entras_shape_and_numbers() {
    let lab = Lab::default().await;
    let cases = [
        (DOMAIN, GOOD.replace("s3cret", "wrong"), 401, "invalid_client", 7000215),
        (DOMAIN, GOOD.replace("&client_secret=s3cret%2B%26", ""), 401, "invalid_client", 7000218),
        (DOMAIN, GOOD.replace("app-1", "app-9"), 400, "unauthorized_client", 700016),
        ("fabrikam.example", GOOD.into(), 400, "unauthorized_client", 700016),
        ("nobody.example", GOOD.into(), 400, "invalid_request", 90002),
        (DOMAIN, GOOD.replace("%2F.default", "%2FMail.Send"), 400, "invalid_scope", 1002012),
        (DOMAIN, GOOD.replace("graph.microsoft.com", "files.example"), 400, "invalid_resource", 500011),
        (DOMAIN, GOOD.replace("&client_id=app-1", ""), 400, "invalid_request", 900144),
        (DOMAIN, GOOD.replace("&scope=", "&x="), 400, "invalid_request", 900144),
        (DOMAIN, String::new(), 400, "invalid_request", 900144),
        (DOMAIN, GOOD.replace("client_credentials", "magic"), 400, "unsupported_grant_type", 70003),
    ];
    for (directory, form, status, error, number) in cases {
        assert_refused(&lab.ask_token(directory, &form).await, status, error, number);
    }
}

#[tokio::test]
async fn several_secrets_work_and_an_old_one_is_known() {
    let directory = Directory {
        more_secrets: vec!["new".into()],
        expired_secrets: vec!["old".into()],
        ..Directory::new(DOMAIN, "app-1", "s3cret+&")
    };
    let lab = Lab::start(Options { directories: vec![directory], ..options() }).await;
    let with = |secret: &str| lab.token_request(DOMAIN, &GOOD.replace("s3cret%2B%26", secret));
    assert_eq!(Answer::of(with("new")).await.status, 200);
    assert_refused(&Answer::of(with("old")).await, 401, "invalid_client", 7000222);
    assert_refused(&Answer::of(with("other")).await, 401, "invalid_client", 7000215);
}

#[tokio::test]
async fn a_token_shows_the_roles_of_its_audience() {
    let directory = Directory {
        roles: ["Mail.Send", "SMTP.SendAsApp"].map(Into::into).to_vec(),
        ..Directory::new(DOMAIN, "app-1", "s3cret+&")
    };
    let id = directory.id().to_string();
    let lab = Lab::start(Options { directories: vec![directory], ..options() }).await;
    let graph = lab.log_in("https://graph.microsoft.com").await;
    let shown = claims(&graph);
    assert_eq!(shown["roles"], serde_json::json!(["Mail.Send"]));
    assert_eq!((&shown["aud"], &shown["tid"]), (&"https://graph.microsoft.com".into(), &id.into()));
    assert_eq!((&shown["appid"], shown["scp"].is_null()), (&"app-1".into(), true));
    let now = crate::clock::now().as_millis() / 1000;
    let begins = shown["nbf"].as_u64().expect("a time");
    let ends = shown["exp"].as_u64().expect("a time");
    assert!(begins <= now && ends == begins + 3599, "{shown}");
    for exchange in [
        "https://outlook.office365.com",
        "https://outlook.office.com",
        "https://outlook.office365.us",
        "https://outlook-dod.office365.us",
        "https://partner.outlook.cn",
    ] {
        let token = lab.log_in(exchange).await;
        assert_eq!(claims(&token)["roles"], serde_json::json!(["SMTP.SendAsApp"]));
        assert!(lab.service.opens_smtp(&token, MAILBOX));
        assert!(!lab.service.opens_smtp(&token, "a@elsewhere.example"));
        assert_ne!(claims(&token)["jti"], shown["jti"]);
    }
    assert!(!lab.service.opens_smtp(&graph, MAILBOX));

    let lab = Lab::default().await;
    let powerless = lab.log_in("https://outlook.office365.com").await;
    assert!(claims(&powerless)["roles"].is_null() && !lab.service.opens_smtp(&powerless, MAILBOX));
}

#[tokio::test]
async fn a_changed_token_is_a_forged_one() {
    let mut lab = Lab::default().await;
    let (head, signature) = lab.token.rsplit_once('.').expect("a signature");
    let (header, _) = head.split_once('.').expect("claims");
    let mut shown = claims(&lab.token);
    shown["exp"] = u32::MAX.into();
    let changed = BASE64_URL_SAFE_NO_PAD.encode(shown.to_string());
    lab.token = format!("{header}.{changed}.{signature}");
    assert_eq!(lab.send(MAIL).await.status, 401);
}

#[tokio::test]
async fn an_application_needs_a_directory() {
    let lab = Lab::default().await;
    for name in ["common", "organizations"] {
        assert_refused(&lab.ask_token(name, GOOD).await, 400, "invalid_request", 50059);
    }
}

#[tokio::test]
async fn logins_in_progress_are_counted() {
    let login_latency = Duration::from_millis(200);
    let lab = Lab::start(Options { login_latency, ..options() }).await;
    assert_eq!(lab.service.peak_logins(), 1);
    let begun = tokio::time::Instant::now();
    let (a, b, c) = tokio::join!(
        lab.ask_token(DOMAIN, GOOD),
        lab.ask_token(DOMAIN, GOOD),
        lab.ask_token(DOMAIN, "grant_type=magic")
    );
    assert_eq!([a.status, b.status, c.status], [200, 200, 400]);
    assert!(begun.elapsed() >= login_latency);
    assert_eq!(lab.service.peak_logins(), 3);
    let counts = lab.service.counts();
    assert_eq!((counts.tokens, counts.tokens_by_grant.client_secret), (3, 3));
}

#[tokio::test]
async fn graph_refuses_tokens_that_are_not_for_it() {
    let mut lab = Lab::start(Options { token_lifetime: Duration::ZERO, ..options() }).await;
    let expired = lab.send(MAIL).await;
    assert_eq!((expired.status, expired.code().as_str()), (401, "InvalidAuthenticationToken"));
    assert!(expired.body.contains("the token is expired"), "{}", expired.body);

    lab = Lab::default().await;
    lab.token = lab.log_in("https://outlook.office365.com").await;
    let audience = lab.send(MAIL).await;
    assert_eq!((audience.status, audience.code().as_str()), (401, "InvalidAuthenticationToken"));
    assert!(audience.body.contains("audience"), "{}", audience.body);

    lab.token = "forged".into();
    assert_eq!(lab.send(MAIL).await.status, 401);
    let url = format!("{}/v1.0/users/{MAILBOX}/sendMail", lab.service.url());
    assert_eq!(Answer::of(lab.http.post(url).body("x")).await.status, 401);
    assert_eq!(lab.delivered(), 0);
}

#[tokio::test]
async fn a_token_opens_its_own_organisation_only() {
    let lab = Lab::default().await;
    for mailbox in ["a@fabrikam.example", "a@elsewhere.example"] {
        let answer = Answer::of(lab.mail(mailbox, MAIL.as_bytes())).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "ErrorInvalidUser"));
    }
    assert_eq!(lab.delivered(), 0);
}
