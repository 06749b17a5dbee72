use super::*;

const WRONG: &str = "535 5.7.3 Authentication unsuccessful [";

#[tokio::test]
async fn both_forms_of_xoauth2() {
    let lab = Lab::smtp().await;
    let mut client = lab.encrypted().await;
    assert_eq!(client.say("auth xoauth2").await, "334 ");
    let reply = client.say(&xoauth2("Scanner@Contoso.example", &lab.token)).await;
    assert_eq!(reply, "235 2.7.0 Authentication successful");
    client.dialogue(&[("AUTH XOAUTH2", "503 5.5.1"), (FROM, "250")]).await;
    lab.submitter("other@contoso.example").await;
    let sessions = lab.service.smtp_sessions();
    assert_eq!((sessions.connections, sessions.auths, sessions.refused_auths), (2, 2, 1));
    assert_eq!(sessions.peaks[MAILBOX], 1);
    let log = lab.service.smtp_log();
    assert!(log.iter().all(|line| line.encrypted || !line.text.starts_with("AUTH")), "{log:?}");
    let heard = log.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for shown in ["1 S: 334 \n1 C: (…)\n1 S: 235 2.7.0", "2 C: AUTH XOAUTH2 (…)\n2 S: 235"] {
        assert!(heard.contains(shown), "{heard}");
    }
    for part in [&lab.token, &xoauth2("other@contoso.example", &lab.token)[60..80]] {
        assert!(!heard.contains(part));
    }
}

#[tokio::test]
async fn data_that_is_no_xoauth2() {
    let lab = Lab::smtp().await;
    let mut client = lab.encrypted().await;
    let token = &lab.token;
    let encoded = |text: String| BASE64_STANDARD.encode(text);
    for wrong in [
        "=".into(),
        "!!!!".into(),
        encoded(format!("user={MAILBOX}\u{1}auth=Bearer {token}\u{1}")),
        encoded(format!("user={MAILBOX}\u{1}auth=Bearer {token}")),
        encoded(format!("user={MAILBOX} auth=Bearer {token}\u{1}\u{1}")),
        encoded(format!("user={MAILBOX}\u{1}auth=Basic {token}\u{1}\u{1}")),
        encoded(format!("user={MAILBOX}\u{1}auth=Bearer \u{1}\u{1}")),
        encoded(format!("user=\u{1}auth=Bearer {token}\u{1}\u{1}")),
        xoauth2(MAILBOX, token).trim_end_matches('=').to_owned() + "=====",
    ] {
        let reply = client.say(&format!("AUTH XOAUTH2 {wrong}")).await;
        assert_eq!(reply, "501 5.5.124 Invalid XOAUTH2 auth data", "{wrong}");
    }
    client
        .dialogue(&[
            ("AUTH XOAUTH2", "334 "),
            ("*", "501 5.7.0"),
            ("AUTH XOAUTH2", "334 "),
            (&"A".repeat(13_000), "500 5.5.6"),
            ("AUTH", "501 5.5.4"),
            ("AUTH XOAUTH2 a b", "501 5.5.4"),
            ("AUTH PLAIN", "504 5.7.4"),
            ("AUTH CRAM-MD5", "504 5.7.4"),
            (&format!("AUTH XOAUTH2 {}", "A".repeat(12_000)), "501 5.5.124"),
            (&format!("AUTH XOAUTH2 {}", "A".repeat(12_300)), "500 5.5.2"),
        ])
        .await;
    // A client that has lost its place may send this: the log shows none of it.
    client.dialogue(&[(&xoauth2(MAILBOX, token), "500")]).await;
    let heard = lab.heard(1).join("\n");
    assert!(!heard.contains(&xoauth2(MAILBOX, token)[..20]), "{heard}");
    assert_eq!(lab.service.smtp_sessions().auths, 0);
}

#[tokio::test]
async fn tokens_are_checked() {
    let lab = Lab::smtp().await;
    let other = "grant_type=client_credentials&client_id=app-2&client_secret=other&scope=https://outlook.office365.com/.default";
    let other = lab.ask_token("fabrikam.example", other).await.json();
    let other = other["access_token"].as_str().expect("a token");
    let for_graph = lab.log_in(&lab.service.url()).await;
    let mut client = lab.encrypted().await;
    for (mailbox, token) in [
        (MAILBOX, "forged"),
        (MAILBOX, for_graph.as_str()),
        (MAILBOX, other),
        ("a@fabrikam.example", lab.token.as_str()),
        ("a@nowhere.example", lab.token.as_str()),
        ("scanner", lab.token.as_str()),
    ] {
        let reply = client.log_in(mailbox, token).await;
        assert!(reply.starts_with(WRONG), "{mailbox} {reply}");
    }
    assert_eq!(lab.service.smtp_sessions().refused_auths, 6);
    assert!(client.log_in("a@fabrikam.example", other).await.starts_with("235"));
}

#[tokio::test]
async fn an_expired_token_opens_nothing() {
    let lab = Lab::start_smtp(Options { token_lifetime: Duration::ZERO, ..smtp_options() }).await;
    assert!(lab.encrypted().await.log_in(MAILBOX, &lab.token).await.starts_with(WRONG));
}

#[tokio::test]
async fn the_application_needs_its_permission() {
    // Permissions of Graph only.
    let lab = Lab::start_smtp(options()).await;
    assert!(lab.encrypted().await.log_in(MAILBOX, &lab.token).await.starts_with(WRONG));
}

#[tokio::test]
async fn smtp_can_be_switched_off() {
    let mut options = smtp_options();
    options.directories[0].smtp_auth_disabled = true;
    let lab = Lab::start_smtp(options).await;
    let mut client = lab.encrypted().await;
    let reply = client.log_in(MAILBOX, &lab.token).await;
    assert!(
        reply.starts_with("535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled"),
        "{reply}"
    );
    assert!(client.log_in(MAILBOX, "forged").await.starts_with(WRONG));
    client.dialogue(&[(FROM, "530 5.7.57")]).await;
}

#[tokio::test]
async fn passwords_are_never_taken() {
    let lab = Lab::smtp().await;
    let mut client = lab.encrypted().await;
    let user = BASE64_STANDARD.encode(MAILBOX);
    let disabled = "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.";
    client
        .dialogue(&[
            ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
            (&user, "334 UGFzc3dvcmQ6"),
            ("c2VjcmV0", disabled),
            (&format!("AUTH LOGIN {user}"), "334 UGFzc3dvcmQ6"),
            ("c2VjcmV0", disabled),
        ])
        .await;
    let heard = lab.heard(1).join("\n");
    assert!(!heard.contains("c2VjcmV0") && !heard.contains(&user), "{heard}");
}
