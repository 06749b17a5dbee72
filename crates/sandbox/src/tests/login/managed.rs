//! Identities of the machine.

use super::*;

const RESOURCE: &str = "resource=https://graph.microsoft.com";
const IMDS: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01";
const APP_SERVICE: &str = "/msi/token?api-version=2019-08-01";
const ARC: &str = "/metadata/identity/oauth2/token?api-version=2020-06-01";

async fn lab(identities: Vec<ManagedIdentity>, logins: LoginRules) -> Lab {
    let directory =
        Directory { managed_identities: identities, ..Directory::new(DOMAIN, "app-1", "s3cret+&") };
    Lab::start(Options { directories: vec![directory], logins, ..options() }).await
}

fn get(lab: &Lab, path: &str) -> reqwest::RequestBuilder {
    lab.http.get(format!("{}{path}", lab.service.url()))
}

async fn imds(lab: &Lab, query: &str) -> Answer {
    Answer::of(get(lab, &format!("{IMDS}&{query}")).header("metadata", "true")).await
}

fn appid(answer: &Answer) -> Value {
    let body = answer.json();
    claims(body["access_token"].as_str().unwrap_or_else(|| panic!("{body}")))["appid"].clone()
}

#[tokio::test]
async fn a_virtual_machine_has_numbers_in_quotes() {
    let mut lab = lab(vec![ManagedIdentity::system("machine")], LoginRules::default()).await;
    let answer = imds(&lab, RESOURCE).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = answer.json();
    assert_eq!(body["expires_in"], "3599");
    assert_eq!((&body["token_type"], &body["client_id"]), (&"Bearer".into(), &"machine".into()));
    let expires: u64 =
        body["expires_on"].as_str().and_then(|time| time.parse().ok()).expect("a time in quotes");
    assert!(expires > crate::clock::now().as_millis() / 1000 + 3000, "{body}");
    lab.token = body["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(lab.send(MAIL).await.status, 202);
    assert_eq!(lab.service.counts().tokens_by_grant.managed_identity, 1);
}

#[tokio::test]
async fn an_identity_goes_by_three_ids() {
    let one = ManagedIdentity::user_assigned("one");
    let two = ManagedIdentity::user_assigned("two");
    let lab = lab(vec![one, two.clone()], LoginRules::default()).await;
    for query in [
        format!("client_id={}", two.client_id),
        format!("object_id={}", two.object_id),
        format!("msi_res_id={}", two.resource_id),
    ] {
        assert_eq!(appid(&imds(&lab, &format!("{RESOURCE}&{query}")).await), "two");
    }
    for (query, error) in [
        ("client_id=three", "invalid_request"),
        ("client_id=one&object_id=two", "invalid_request"),
        // Two identities, and neither is the machine's own.
        ("x=y", "invalid_request"),
    ] {
        let answer = imds(&lab, &format!("{RESOURCE}&{query}")).await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &error.into()), "{}", answer.body);
    }
}

#[tokio::test]
async fn the_only_identity_need_not_be_named() {
    let lab = lab(vec![ManagedIdentity::user_assigned("one")], LoginRules::default()).await;
    assert_eq!(appid(&imds(&lab, RESOURCE).await), "one");
}

#[tokio::test]
async fn a_machine_is_strict_about_how_it_is_asked() {
    let lab = lab(vec![ManagedIdentity::system("machine")], LoginRules::default()).await;
    let path = format!("{IMDS}&{RESOURCE}");
    let good = |path: &str| get(&lab, path).header("metadata", "true");
    let cases = [
        ("no header", get(&lab, &path)),
        ("another header", get(&lab, &path).header("metadata", "1")),
        ("no resource", good(IMDS)),
        ("a scope", good(&format!("{IMDS}&scope=https://graph.microsoft.com/.default"))),
        ("a scope as resource", good(&format!("{IMDS}&{RESOURCE}/.default"))),
        ("no version", good(&format!("/metadata/identity/oauth2/token?{RESOURCE}"))),
        (
            "another version",
            good(&format!("/metadata/identity/oauth2/token?api-version=2017-01-01&{RESOURCE}")),
        ),
        ("forwarded", good(&path).header("x-forwarded-for", "192.0.2.1")),
        ("by a proxy", good(&path).header("via", "1.1 proxy")),
    ];
    for (what, request) in cases {
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.body);
    }
    let proxy = reqwest::Proxy::http(lab.service.url()).expect("a proxy");
    let by_proxy = reqwest::Client::builder().proxy(proxy).build().expect("a client");
    let request = by_proxy.get(format!("http://169.254.169.254{path}")).header("metadata", "true");
    assert_eq!(Answer::of(request).await.status, 400, "in absolute form");
    assert_eq!(Answer::of(good(&path)).await.status, 200);
}

#[tokio::test]
async fn a_machine_may_not_be_ready() {
    let lab = lab(vec![ManagedIdentity::system("machine")], LoginRules::default()).await;
    for code in [404, 410, 429] {
        lab.service.inject(Fault::status(On::ManagedIdentity, code, "not_ready").times(1));
        let answer = imds(&lab, RESOURCE).await;
        assert_eq!((answer.status, &answer.json()["error"]), (code, &"not_ready".into()));
    }
    assert_eq!(imds(&lab, RESOURCE).await.status, 200);
    // Faults of Graph or of the login service do not apply here.
    lab.service.inject(Fault::status(On::AnyGraph, 503, "x"));
    lab.service.inject(Fault::status(On::Token, 503, "x"));
    assert_eq!(imds(&lab, RESOURCE).await.status, 200);
}

#[tokio::test]
async fn app_service_wants_its_header() {
    let two = ManagedIdentity::user_assigned("two");
    let identities = vec![ManagedIdentity::system("machine"), two.clone()];
    let lab = lab(identities, LoginRules::default()).await;
    let secret = LoginRules::default().identity_header;
    let ask = |query: String| {
        Answer::of(get(&lab, &format!("{APP_SERVICE}&{query}")).header("x-identity-header", &secret))
    };
    let answer = ask(RESOURCE.into()).await;
    assert_eq!(appid(&answer), "machine");
    assert!(answer.json()["expires_on"].is_string(), "{}", answer.body);
    assert_eq!(appid(&ask(format!("{RESOURCE}&mi_res_id={}", two.resource_id)).await), "two");
    let without = Answer::of(get(&lab, &format!("{APP_SERVICE}&{RESOURCE}"))).await;
    assert_eq!((without.status, without.json()["statusCode"].as_u64()), (401, Some(401)));
    assert_eq!(ask("resource=https://files.example".into()).await.status, 400);
}

#[tokio::test]
async fn an_arc_machine_shows_who_can_read_its_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let logins = LoginRules { arc_secrets: Some(folder.path().into()), ..LoginRules::default() };
    let lab = lab(vec![ManagedIdentity::system("machine")], logins).await;
    let path = format!("{ARC}&{RESOURCE}");
    let ask = |secret: Option<String>| {
        let request = get(&lab, &path).header("metadata", "true");
        Answer::of(match secret {
            Some(secret) => request.header("authorization", format!("Basic {secret}")),
            None => request,
        })
    };
    let challenged = ask(None).await;
    assert_eq!(challenged.status, 401, "{}", challenged.body);
    let file = challenged.header("www-authenticate").strip_prefix("Basic realm=").expect("a file").to_owned();
    assert!(file.starts_with(folder.path().to_str().expect("text")) && file.ends_with(".key"), "{file}");
    let secret = std::fs::read_to_string(&file).expect("a secret");
    assert_eq!(ask(Some("made-up".into())).await.status, 401);
    assert_eq!(appid(&ask(Some(secret.clone())).await), "machine");
    assert_eq!(ask(Some(secret)).await.status, 401, "once");
    assert_eq!(Answer::of(get(&lab, &path)).await.status, 400);
    // The other endpoints of the machine require no secret.
    assert_eq!(imds(&lab, RESOURCE).await.status, 200);
}
