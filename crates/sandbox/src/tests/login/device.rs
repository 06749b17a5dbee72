//! The device code flow.

use serde_json::json;

use super::*;

const USER: &str = "scanner@contoso.example";

fn directory() -> Directory {
    let user = |name: &str, state| User { state, ..User::new(format!("{name}@{DOMAIN}"), "x") };
    Directory {
        public_client_id: Some("public-1".into()),
        users: vec![user("scanner", UserState::MfaRequired), user("disabled", UserState::Disabled)],
        ..Directory::new(DOMAIN, "app-1", "s3cret+&")
    }
}

async fn lab(logins: LoginRules) -> Lab {
    Lab::start(Options { directories: vec![directory()], logins, ..options() }).await
}

async fn begin(lab: &Lab, directory: &str) -> Answer {
    let form = "client_id=public-1&scope=https://graph.microsoft.com/Mail.Send+offline_access";
    let url = format!("{}/{directory}/oauth2/v2.0/devicecode", lab.service.url());
    let request = lab.http.post(url).header("content-type", "application/x-www-form-urlencoded");
    Answer::of(request.body(form)).await
}

async fn begun(lab: &Lab, directory: &str) -> (String, String) {
    let body = begin(lab, directory).await.json();
    let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
    (text("user_code"), text("device_code"))
}

async fn poll(lab: &Lab, directory: &str, device_code: &str) -> Answer {
    let form = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:device_code&client_id=public-1&device_code={device_code}"
    );
    lab.ask_token(directory, &form).await
}

#[tokio::test]
async fn a_user_types_a_code_in_elsewhere() {
    let lab = lab(LoginRules::default()).await;
    let answer = begin(&lab, DOMAIN).await;
    let body = answer.json();
    assert_eq!((&body["expires_in"], &body["interval"]), (&900.into(), &5.into()));
    let user_code = body["user_code"].as_str();
    let device_code = body["device_code"].as_str();
    let user_code = user_code.expect("text");
    let device_code = device_code.expect("text");
    assert!(body["message"].as_str().is_some_and(|text| text.contains(user_code)), "{body}");
    assert!(lab.service.approve_device(&user_code.to_lowercase(), USER));
    let answer = poll(&lab, DOMAIN, device_code).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.json();
    assert_eq!(claims(token["access_token"].as_str().expect("a token"))["upn"], USER);
    assert!(token["refresh_token"].is_string(), "{token}");
    assert_eq!(lab.service.counts().tokens_by_grant.device_code, 1);
    assert!(!lab.service.approve_device(user_code, USER), "it is used up");
}

#[tokio::test]
async fn a_client_waits_and_is_told_to_slow_down() {
    let lab = lab(LoginRules::default()).await;
    let (_, device_code) = begun(&lab, DOMAIN).await;
    assert_refused(&poll(&lab, DOMAIN, &device_code).await, 400, "authorization_pending", 70016);
    let hasty = poll(&lab, DOMAIN, &device_code).await;
    assert_eq!((hasty.status, &hasty.json()["error"]), (400, &"slow_down".into()));
}

#[tokio::test]
async fn a_code_can_be_declined_unknown_used_or_expired() {
    let mut lab = lab(LoginRules::default()).await;
    let (user_code, device_code) = begun(&lab, DOMAIN).await;
    assert!(lab.service.decline_device(&user_code));
    let declined = poll(&lab, DOMAIN, &device_code).await;
    assert_eq!((declined.status, &declined.json()["error"]), (400, &"authorization_declined".into()));
    assert!(!lab.service.approve_device(&user_code, USER));

    assert_refused(&poll(&lab, DOMAIN, "made-up").await, 400, "bad_verification_code", 70018);
    let form = "grant_type=urn:ietf:params:oauth:grant-type:device_code&client_id=public-1";
    assert_refused(&lab.ask_token(DOMAIN, form).await, 400, "invalid_request", 900144);

    lab = self::lab(LoginRules { device_code_lifetime: Duration::ZERO, ..LoginRules::default() }).await;
    let (user_code, device_code) = begun(&lab, DOMAIN).await;
    assert!(!lab.service.approve_device(&user_code, USER));
    let answer = poll(&lab, DOMAIN, &device_code).await;
    assert_refused(&answer, 400, "expired_token", 70019);
}

#[tokio::test]
async fn a_user_of_any_directory_may_type_it_in() {
    let lab = lab(LoginRules::default()).await;
    let (user_code, device_code) = begun(&lab, "common").await;
    assert!(!lab.service.approve_device(&user_code, "nobody@contoso.example"));
    assert!(!lab.service.approve_device(&user_code, "disabled@contoso.example"));
    assert!(lab.service.approve_device(&user_code, USER));
    let answer = poll(&lab, "common", &device_code).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let unknown = begin(&lab, "nobody.example").await;
    assert_refused(&unknown, 400, "invalid_request", 90002);
}

#[tokio::test]
async fn a_person_answers_over_http() {
    let lab = lab(LoginRules::default()).await;
    let url = format!("{}/_sandbox/device", lab.service.url());
    let say = |answer: Value| Answer::of(lab.http.post(&url).body(answer.to_string()));
    let (user_code, device_code) = begun(&lab, DOMAIN).await;
    assert_eq!(say(json!({ "user_code": "ABC", "user": USER, "approve": true })).await.status, 404);
    assert_eq!(say(json!({ "user_code": user_code, "approve": "yes" })).await.status, 400);
    assert_eq!(say(json!({ "user_code": user_code, "user": USER, "approve": true })).await.status, 204);
    assert_eq!(poll(&lab, DOMAIN, &device_code).await.status, 200);
    let (user_code, _) = begun(&lab, DOMAIN).await;
    assert_eq!(say(json!({ "user_code": user_code, "approve": false })).await.status, 204);
}
