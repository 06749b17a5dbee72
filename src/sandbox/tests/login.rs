use super::*;

const GOOD: &str = "grant_type=client_credentials&client_id=app-1&client_secret=s3cret%2B%26\
                    &scope=https%3A%2F%2Fgraph.microsoft.com%2F.default";

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
        let answer = lab.ask_token(directory, &form).await;
        let body = answer.json();
        assert_eq!((answer.status, body["error"].as_str()), (status, Some(error)), "{body}");
        assert_eq!(body["error_codes"][0], number);
        let text = body["error_description"].as_str().expect("text");
        assert!(text.starts_with(&format!("AADSTS{number}: ")), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
        let trace = body["trace_id"].as_str().expect("text");
        assert!(
            text.contains(trace) && body["timestamp"].as_str().is_some_and(|t| t.contains(' ')),
            "{text}"
        );
    }
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
