use super::*;

#[tokio::test]
async fn before_tls_there_is_no_login() {
    let lab = Lab::smtp().await;
    let mut client = lab.connect_silently().await;
    let greeting = client.reply().await;
    assert!(
        greeting.starts_with("220 ") && greeting.contains("Microsoft ESMTP MAIL Service ready at "),
        "{greeting}"
    );
    let hello = client.say("EHLO client.example").await;
    let offers: Vec<&str> = hello.lines().skip(1).map(|line| &line[4..]).collect();
    let common = [
        "SIZE 157286400",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "",
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "SMTPUTF8",
    ];
    assert_eq!(offers, common.map(|offer| if offer.is_empty() { "STARTTLS" } else { offer }));
    client
        .dialogue(&[
            ("AUTH XOAUTH2", "504 5.7.4"),
            (&format!("AUTH XOAUTH2 {}", xoauth2(MAILBOX, &lab.token)), "504 5.7.4"),
            (FROM, "530 5.7.57 Client not authenticated to send mail."),
            ("RCPT TO:<a@example.net>", "530 5.7.57"),
            ("DATA", "530 5.7.57"),
            ("BDAT 0 LAST", "530 5.7.57"),
            ("STARTTLS now", "501 5.5.4"),
            ("STARTTLS", "220 2.0.0"),
        ])
        .await;
    let mut client = client.shake(&lab.service, "127.0.0.1").await.expect("TLS");
    client
        .dialogue(&[("AUTH XOAUTH2", "503 5.5.2 Send hello first"), (FROM, "503 5.5.2 Send hello first")])
        .await;
    let hello = client.say("EHLO client.example").await;
    let offers: Vec<&str> = hello.lines().skip(1).map(|line| &line[4..]).collect();
    assert_eq!(offers, common.map(|offer| if offer.is_empty() { "AUTH LOGIN XOAUTH2" } else { offer }));
    client.dialogue(&[("STARTTLS", "503 5.5.1"), (FROM, "530 5.7.57")]).await;
    assert!(lab.heard(1).iter().all(|line| !line.contains(&lab.token)));
}

#[tokio::test]
async fn commands_have_an_order() {
    let lab = Lab::smtp().await;
    let mut client = lab.connect().await;
    client
        .dialogue(&[
            ("MAIL FROM:<>", "503 5.5.2 Send hello first"),
            ("STARTTLS", "503 5.5.2 Send hello first"),
            ("EHLO", "501 5.5.4"),
            ("HELO client", "250 "),
            ("STARTTLS", "503 5.5.2"),
        ])
        .await;
    let mut client = lab.submitter(MAILBOX).await;
    client
        .dialogue(&[
            (TO, "503 5.5.2 Need mail command"),
            ("DATA", "503 5.5.2 Need mail command"),
            ("AUTH XOAUTH2", "503 5.5.1"),
            (FROM, "250 2.1.0 Sender OK"),
            (FROM, "503 5.5.2 Sender already specified"),
            ("DATA", "503 5.5.2 Need rcpt command"),
            (TO, "250 2.1.5 Recipient OK"),
            ("DATA now", "501 5.5.4"),
            ("RSET", "250 2.0.0"),
            (TO, "503 5.5.2 Need mail command"),
            (FROM, "250"),
            ("EHLO again.example", "250-"),
            (TO, "503 5.5.2 Need mail command"),
        ])
        .await;
}

#[tokio::test]
async fn small_talk() {
    let lab = Lab::smtp().await;
    let mut client = lab.connect().await;
    client
        .dialogue(&[
            ("NOOP", "250 2.0.0 OK"),
            ("HELP", "214-"),
            ("VRFY ann", "252 2.1.5"),
            ("EXPN staff", "502 5.3.3"),
            ("LUNCH", "500 5.3.3"),
            ("", "500"),
            ("NOOP\u{1}", "500 5.5.2"),
            ("NOOP\nNOOP", "500 5.5.2"),
            (&"x".repeat(600), "500 5.3.3"),
            (&"x".repeat(4000), "500 5.5.2 Line too long"),
            ("ehlo lower.example", "250-"),
            ("QUIT", "221 2.0.0 Service closing transmission channel"),
        ])
        .await;
    assert_eq!(client.reply().await, "");
    let heard = lab.heard(1);
    assert!(heard.contains(&"1 C: VRFY ann".to_owned()) && !heard.concat().contains("LUNCH"), "{heard:?}");
}

#[tokio::test]
async fn what_is_injected_before_tls_is_forgotten() {
    let lab = Lab::smtp().await;
    let mut client = lab.connect().await;
    client.say("EHLO client.example").await;
    client.write("STARTTLS\r\nEHLO injected.example\r\nNOOP\r\n").await;
    assert_eq!(client.reply().await, "220 2.0.0 SMTP server ready");
    let mut client = client.shake(&lab.service, "::1").await.expect("TLS");
    client.dialogue(&[(FROM, "503 5.5.2 Send hello first")]).await;
    assert!(!lab.heard(1).concat().contains("injected"));
}

#[tokio::test]
async fn the_certificate_is_for_the_loopback_only_and_each_service_has_its_own() {
    let lab = Lab::smtp().await;
    let other = Lab::smtp().await;
    for (service, name) in [(&lab.service, "relay.example"), (&other.service, "localhost")] {
        let mut client = lab.connect().await;
        client.say("EHLO client.example").await;
        client.say("STARTTLS").await;
        assert!(client.shake(service, name).await.is_err(), "{name}");
    }
    assert_eq!(lab.service.ca_pem(), lab.service.ca_pem());
}

#[tokio::test]
async fn silence_ends_a_session() {
    let mut options = smtp_options();
    options.submission.idle_timeout = Duration::from_millis(50);
    let lab = Lab::start_smtp(options).await;
    let mut client = lab.connect().await;
    assert_eq!(client.reply().await, "421 4.4.1 Connection timed out");
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn there_can_be_no_smtp() {
    let lab = Lab::start(Options { smtp: None, ..options() }).await;
    assert_eq!(lab.service.smtp_address(), None);
    assert_eq!(lab.service.smtp_sessions(), SmtpSessions::default());
}

#[tokio::test]
async fn shutdown_ends_sessions_and_frees_the_port() {
    let lab = Lab::smtp().await;
    let address = lab.service.smtp_address();
    let mut client = lab.submitter(MAILBOX).await;
    timeout(PATIENCE, lab.service.clone().shutdown()).await.expect("an end");
    assert_eq!(client.reply().await, "");
    Service::start(Options { smtp: address, ..options() }).await.expect("the port is free");
}
