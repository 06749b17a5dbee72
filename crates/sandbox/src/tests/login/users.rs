//! Passwords, refresh tokens, and what users' tokens open.

use super::*;

const USER: &str = "scanner@contoso.example";
const MAIL_SEND: &str = "https://graph.microsoft.com/Mail.Send";
const SMTP_SEND: &str = "https://outlook.office.com/SMTP.Send";

fn directory() -> Directory {
    let user = |name: &str, state| User { state, ..User::new(format!("{name}@{DOMAIN}"), "pass word") };
    Directory {
        public_client_id: Some("public-1".into()),
        users: vec![
            user("Scanner", UserState::Fine),
            user("mfa", UserState::MfaRequired),
            user("blocked", UserState::Blocked),
            user("disabled", UserState::Disabled),
            user("old", UserState::PasswordExpired),
            user("locked", UserState::Locked),
            User::new(format!("blank@{DOMAIN}"), " blank"),
        ],
        ..Directory::new(DOMAIN, "app-1", "s3cret+&")
    }
}

fn with_users() -> Options {
    Options { directories: vec![directory()], ..options() }
}

async fn lab() -> Lab {
    Lab::start(with_users()).await
}

fn form(user: &str, password: &str, scope: &str) -> String {
    format!("grant_type=password&client_id=public-1&username={user}&password={password}&scope={scope}")
}

async fn log_in(lab: &Lab, scope: &str) -> Value {
    let answer = lab.ask_token(DOMAIN, &form(USER, "pass+word", scope)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().unwrap_or_else(|| panic!("no {name}: {body}"))
}

async fn refresh(lab: &Lab, token: &str, more: &str) -> Answer {
    let form = format!("grant_type=refresh_token&client_id=public-1&refresh_token={token}{more}");
    lab.ask_token(DOMAIN, &form).await
}

#[tokio::test]
async fn a_password_gives_what_was_asked_for() {
    let lab = lab().await;
    let plain = log_in(&lab, MAIL_SEND).await;
    assert_eq!((plain["scope"].as_str(), plain["expires_in"].as_u64()), (Some(MAIL_SEND), Some(3599)));
    assert!(plain["refresh_token"].is_null() && plain["id_token"].is_null(), "{plain}");

    let all = log_in(&lab, &format!("{MAIL_SEND}+openid+profile+offline_access&client_info=1")).await;
    assert_eq!(text(&all, "scope"), format!("{MAIL_SEND} openid profile"));
    assert!(!text(&all, "refresh_token").is_empty());
    let claims = claims(text(&all, "id_token"));
    assert_eq!(
        (&claims["preferred_username"], &claims["aud"]),
        (&"Scanner@contoso.example".into(), &"public-1".into())
    );
    let info = BASE64_URL_SAFE_NO_PAD.decode(text(&all, "client_info")).expect("base64");
    let info: Value = serde_json::from_slice(&info).expect("JSON");
    assert_eq!((&info["utid"], &info["uid"]), (&claims["tid"], &claims["oid"]));

    let form = form(USER, "pass+word", MAIL_SEND);
    let anywhere = lab.ask_token("organizations", &form).await;
    assert_eq!(anywhere.status, 200, "{}", anywhere.body);
    assert_refused(&lab.ask_token("common", &form).await, 400, "invalid_request", 9001023);
    assert_eq!(lab.service.counts().tokens_by_grant.password, 3);
}

#[tokio::test]
async fn a_users_token_says_so_and_opens_the_users_mailbox_only() {
    let mut lab = lab().await;
    lab.token = text(&log_in(&lab, MAIL_SEND).await, "access_token").to_owned();
    let claims = claims(&lab.token);
    assert_eq!((&claims["scp"], &claims["upn"]), (&"Mail.Send".into(), &"Scanner@contoso.example".into()));
    assert!(claims["roles"].is_null(), "{claims}");

    assert_eq!(lab.send(MAIL).await.status, 202);
    let other = Answer::of(lab.mail("other@contoso.example", MAIL.as_bytes())).await;
    assert_eq!((other.status, other.code().as_str()), (403, "ErrorAccessDenied"));
    // Mail.Send does not permit reading.
    let read = Answer::of(lab.graph("GET", &format!("{USER}/messages"))).await;
    assert_eq!((read.status, read.code().as_str()), (403, "ErrorAccessDenied"));

    lab.token = text(&log_in(&lab, "Mail.ReadWrite").await, "access_token").to_owned();
    assert_eq!(Answer::of(lab.graph("GET", &format!("{USER}/messages"))).await.status, 200);
    assert_eq!(lab.send(MAIL).await.status, 403);
}

#[tokio::test]
async fn smtp_takes_a_users_token_for_the_user() {
    let lab = lab().await;
    let token = log_in(&lab, SMTP_SEND).await;
    let token = text(&token, "access_token");
    assert!(lab.service.opens_smtp(token, USER));
    assert!(!lab.service.opens_smtp(token, "other@contoso.example"));
    let graph = log_in(&lab, MAIL_SEND).await;
    assert!(!lab.service.opens_smtp(text(&graph, "access_token"), USER));
}

#[tokio::test]
async fn users_are_refused_by_what_stands_against_them() {
    let lab = lab().await;
    for (user, password, number) in [
        ("nobody", "pass+word", 50034),
        ("scanner", "wrong", 50126),
        ("scanner", "+pass+word", 50126),
        ("scanner", "pass+word+", 50126),
        ("blank", "+blank", 50126),
        ("mfa", "pass+word", 50076),
        ("mfa", "wrong", 50126),
        ("blocked", "pass+word", 53003),
        ("disabled", "pass+word", 50057),
        ("old", "pass+word", 50055),
        ("locked", "pass+word", 50053),
        ("+scanner", "pass+word", 50034),
    ] {
        let answer = lab.ask_token(DOMAIN, &form(&format!("{user}@{DOMAIN}"), password, MAIL_SEND)).await;
        println!("{user}: {}", answer.body);
        assert_refused(&answer, 400, "invalid_grant", number);
        assert!(!answer.body.contains("pass word"), "{}", answer.body);
    }
    assert_refused(
        &lab.ask_token("organizations", &form("a@nowhere.example", "x", MAIL_SEND)).await,
        400,
        "invalid_grant",
        50034,
    );
}

#[tokio::test]
async fn scopes_are_of_one_resource_and_agreed_to() {
    let lab = lab().await;
    for (scope, error, number) in [
        (format!("{MAIL_SEND}+{SMTP_SEND}"), "invalid_scope", 700022),
        ("https://files.example/Mail.Send".into(), "invalid_resource", 500011),
        ("https://graph.microsoft.com/".into(), "invalid_scope", 70011),
        ("https://graph.microsoft.com/Calendars.Read".into(), "invalid_grant", 65001),
        // A permission of Exchange, not of Graph.
        ("https://graph.microsoft.com/SMTP.Send".into(), "invalid_grant", 65001),
    ] {
        let answer = lab.ask_token(DOMAIN, &form(USER, "pass+word", &scope)).await;
        println!("{scope}: {}", answer.body);
        assert_refused(&answer, 400, error, number);
    }
    let all = log_in(&lab, "https://graph.microsoft.com/.default").await;
    assert_eq!(claims(text(&all, "access_token"))["scp"], "Mail.Send Mail.ReadWrite");
}

#[tokio::test]
async fn a_public_client_has_no_secret_and_a_confidential_one_does() {
    let lab = lab().await;
    let good = form(USER, "pass+word", MAIL_SEND);
    let secret = "&client_secret=s3cret%2B%26";
    let presented = lab.ask_token(DOMAIN, &format!("{good}{secret}")).await;
    assert_refused(&presented, 401, "invalid_client", 700025);
    let confidential = good.replace("public-1", "app-1");
    assert_refused(&lab.ask_token(DOMAIN, &confidential).await, 401, "invalid_client", 7000218);
    assert_eq!(lab.ask_token(DOMAIN, &format!("{confidential}{secret}")).await.status, 200);
    let wrong = lab.ask_token(DOMAIN, &format!("{confidential}&client_secret=x")).await;
    assert_refused(&wrong, 401, "invalid_client", 7000215);
    let app = "grant_type=client_credentials&client_id=public-1&scope=https://graph.microsoft.com/.default";
    assert_refused(&lab.ask_token(DOMAIN, app).await, 401, "invalid_client", 7000218);
    assert_refused(&lab.ask_token(DOMAIN, &format!("{app}{secret}")).await, 401, "invalid_client", 700025);
    let stranger = good.replace("public-1", "public-2");
    assert_refused(&lab.ask_token(DOMAIN, &stranger).await, 400, "unauthorized_client", 700016);
    for field in ["username", "password", "scope", "client_id"] {
        let incomplete = good.replace(&format!("{field}="), "x=");
        assert_refused(&lab.ask_token(DOMAIN, &incomplete).await, 400, "invalid_request", 900144);
    }
}

#[tokio::test]
async fn wrong_passwords_lock_out() {
    let logins = LoginRules { lockout_threshold: 3, ..LoginRules::default() };
    let lab = Lab::start(Options { logins, ..with_users() }).await;
    let right = form(USER, "pass+word", MAIL_SEND);
    for number in [50126, 50126, 50126, 50053] {
        assert_refused(
            &lab.ask_token(DOMAIN, &form(USER, "x", MAIL_SEND)).await,
            400,
            "invalid_grant",
            number,
        );
    }
    assert_refused(&lab.ask_token(DOMAIN, &right).await, 400, "invalid_grant", 50053);
}

#[tokio::test]
async fn a_refresh_token_works_once() {
    let lab = lab().await;
    let first = log_in(&lab, &format!("{MAIL_SEND}+offline_access")).await;
    let first = text(&first, "refresh_token");
    let answer = refresh(&lab, first, "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let second = answer.json();
    assert_eq!(text(&second, "scope"), MAIL_SEND);
    let second = text(&second, "refresh_token");
    assert_ne!(first, second);
    assert_refused(&refresh(&lab, first, "").await, 400, "invalid_grant", 70008);
    // One login serves all resources.
    let answer = refresh(&lab, second, &format!("&scope={SMTP_SEND}")).await;
    assert!(lab.service.opens_smtp(text(&answer.json(), "access_token"), USER));
    assert_eq!(lab.service.counts().tokens_by_grant.refresh_token, 2);
}

#[tokio::test]
async fn a_used_refresh_token_may_have_a_grace() {
    let logins = LoginRules { refresh_grace: Duration::from_secs(3600), ..LoginRules::default() };
    let lab = Lab::start(Options { logins, ..with_users() }).await;
    let token = log_in(&lab, &format!("{MAIL_SEND}+offline_access")).await;
    for _ in 0..2 {
        assert_eq!(refresh(&lab, text(&token, "refresh_token"), "").await.status, 200);
    }
}

#[tokio::test]
async fn refresh_tokens_end() {
    let lab = lab().await;
    let offline = format!("{MAIL_SEND}+offline_access");
    let token = log_in(&lab, &offline).await;
    let token = text(&token, "refresh_token");
    for (state, number) in [
        (UserState::MfaRequired, 50076),
        (UserState::Disabled, 50057),
        (UserState::PasswordExpired, 50173),
        (UserState::Blocked, 53003),
    ] {
        assert!(lab.service.set_user_state(USER, state));
        assert_refused(&refresh(&lab, token, "").await, 400, "invalid_grant", number);
    }
    // None of that used it up.
    assert!(lab.service.set_user_state(USER, UserState::Fine));
    let kept = refresh(&lab, token, "").await.json();
    assert!(lab.service.revoke_logins(USER) && !lab.service.revoke_logins("nobody@contoso.example"));
    let kept = text(&kept, "refresh_token");
    assert_refused(&refresh(&lab, kept, "").await, 400, "invalid_grant", 50173);
    assert_refused(&refresh(&lab, "made-up", "").await, 400, "invalid_grant", 9002313);

    let token = log_in(&lab, &offline).await;
    let token = text(&token, "refresh_token");
    let form =
        format!("grant_type=refresh_token&client_id=app-1&client_secret=s3cret%2B%26&refresh_token={token}");
    assert_refused(&lab.ask_token(DOMAIN, &form).await, 400, "invalid_grant", 70000);

    let logins = LoginRules { refresh_lifetime: Duration::ZERO, ..LoginRules::default() };
    let lab = Lab::start(Options { logins, ..with_users() }).await;
    let token = log_in(&lab, &offline).await;
    assert_refused(&refresh(&lab, text(&token, "refresh_token"), "").await, 400, "invalid_grant", 700082);
}

#[tokio::test]
async fn nobody_consented() {
    let nobody = Directory { consented: false, ..directory() };
    let service =
        Service::start(Options { directories: vec![nobody], ..options() }).await.expect("a free port");
    let lab = Lab { service, http: client(), token: String::new() };
    let answer = lab.ask_token(DOMAIN, &form(USER, "pass+word", MAIL_SEND)).await;
    assert_refused(&answer, 400, "invalid_grant", 65001);
    assert_refused(&lab.ask_token(DOMAIN, GOOD).await, 400, "unauthorized_client", 700016);
}
