use serde_json::json;

use super::*;

const AUTH: &str = "(auth)";
const CONTENT: &str = "(content)";

/// The replies to each step of a whole session, up to the end of the connection.
async fn walk(lab: &Lab) -> Vec<String> {
    let mut client = lab.connect_silently().await;
    let mut replies = vec![client.reply().await];
    let auth = format!("AUTH XOAUTH2 {}", xoauth2(MAILBOX, &lab.token));
    let content = format!("{MAIL}.");
    for step in ["EHLO a.example", "STARTTLS", AUTH, FROM, TO, "DATA", CONTENT, "QUIT"] {
        if replies.last().is_none_or(String::is_empty) {
            break;
        }
        let line = match step {
            AUTH => &auth,
            CONTENT => &content,
            step => step,
        };
        replies.push(client.say(line).await);
        if step == "STARTTLS" && replies[2].starts_with("220") {
            let Ok(encrypted) = client.shake(&lab.service, "localhost").await else {
                replies.push(String::new());
                break;
            };
            client = encrypted;
            client.say("EHLO a.example").await;
        }
    }
    replies
}

const STEPS: [(On, &str); 8] = [
    (On::SmtpConnect, "smtp_connect"),
    (On::SmtpEhlo, "smtp_ehlo"),
    (On::SmtpStartTls, "smtp_start_tls"),
    (On::SmtpAuth, "smtp_auth"),
    (On::SmtpMail, "smtp_mail"),
    (On::SmtpRcpt, "smtp_rcpt"),
    (On::SmtpData, "smtp_data"),
    (On::SmtpContent, "smtp_content"),
];

#[tokio::test]
async fn each_step_can_be_refused() {
    let lab = Lab::smtp().await;
    let well = walk(&lab).await;
    let codes = ["220", "250", "220", "235", "250", "250", "354", "250", "221"];
    assert!(
        well.iter().zip(codes).all(|(reply, code)| reply.starts_with(code)) && well.len() == 9,
        "{well:?}"
    );
    for (number, (on, name)) in STEPS.into_iter().enumerate() {
        assert_eq!(serde_json::to_value(on).expect("JSON"), name);
        lab.service.inject(Fault::reply(on, "451-4.7.500 Server busy\r\n451 4.7.500 Later").times(1));
        let mut replies = walk(&lab).await;
        assert_eq!(replies.remove(number), "451-4.7.500 Server busy\n451 4.7.500 Later", "{name}");
        assert!(lab.service.faults().is_empty());
        lab.service.inject(Fault::reply(on, "421 4.3.2 Service not available").times(1));
        let replies = walk(&lab).await;
        assert_eq!(
            replies[number..],
            ["421 4.3.2 Service not available", ""],
            "{name}: 421 ends the connection"
        );
    }
    assert_eq!(lab.delivered(), 1);
}

#[tokio::test]
async fn each_step_can_be_cut() {
    let lab = Lab::smtp().await;
    for (number, (on, name)) in STEPS.into_iter().enumerate() {
        lab.service.inject(Fault::new(on, Action::CutBefore).times(1));
        let replies = walk(&lab).await;
        assert_eq!((replies.len(), replies.last().map(String::as_str)), (number + 1, Some("")), "{name}");
    }
    assert_eq!(lab.delivered(), 0);
    for (number, (on, name)) in STEPS.into_iter().enumerate() {
        lab.service.inject(Fault::new(on, Action::CutAfter).times(1));
        let replies = walk(&lab).await;
        // A step that begins something else is cut in that.
        let begins = matches!(on, On::SmtpStartTls | On::SmtpData);
        let last = number + usize::from(begins);
        assert_eq!((replies.len(), replies.last().map(String::as_str)), (last + 1, Some("")), "{name}");
    }
    assert_eq!(lab.delivered(), 1, "by the content that was cut after");
}

#[tokio::test]
async fn a_refusal_can_come_after_delivery() {
    let lab = Lab::smtp().await;
    let after = |on| Fault::new(on, Action::ReplyAfter("451 4.4.2 Timeout".into())).times(1);
    lab.service.inject(after(On::SmtpContent));
    assert_eq!(walk(&lab).await[7], "451 4.4.2 Timeout");
    assert_eq!(lab.delivered(), 1);

    lab.service.inject(after(On::SmtpRcpt));
    let replies = walk(&lab).await;
    assert!(replies[5] == "451 4.4.2 Timeout" && replies[6].starts_with("354"), "{replies:?}");
    lab.service.inject(after(On::SmtpAuth));
    let replies = walk(&lab).await;
    assert!(replies[3] == "451 4.4.2 Timeout" && replies[4].starts_with("250"), "{replies:?}");
    lab.service.inject(after(On::SmtpConnect));
    assert!(walk(&lab).await[1].starts_with("503"), "who is turned away has QUIT only");
    // Nothing begins that the client has not been told about.
    lab.service.inject(after(On::SmtpStartTls));
    assert!(walk(&lab).await[3].starts_with("504"));
    lab.service.inject(after(On::SmtpData));
    let mut client = lab.submitter(MAILBOX).await;
    client.dialogue(&[(FROM, "250"), (TO, "250"), ("DATA", "451"), ("NOOP", "250")]).await;
}

#[tokio::test]
async fn chunks_have_the_same_two_steps() {
    let lab = Lab::smtp().await;
    let mut client = lab.submitter(MAILBOX).await;
    let first = format!("BDAT {}\r\n{}", MAIL.len(), &MAIL[..MAIL.len() - 2]);
    let all = format!("{first}\r\nBDAT 0 LAST");
    lab.service.inject(Fault::reply(On::SmtpData, "452 4.3.1 Insufficient resources").times(1));
    client.dialogue(&[(FROM, "250"), (TO, "250"), (&first, "452 4.3.1"), ("BDAT 0 LAST", "503 5.5.2")]).await;
    lab.service.inject(Fault::reply(On::SmtpContent, "554 5.6.0 No").times(1));
    client.dialogue(&[(FROM, "250"), (TO, "250"), (&all, "250 2.6.0")]).await;
    assert_eq!(client.reply().await, "554 5.6.0 No");
    let whole = format!("BDAT {} LAST\r\n{}", MAIL.len(), &MAIL[..MAIL.len() - 2]);
    lab.service.inject(Fault::new(On::SmtpData, Action::ReplyAfter("451 4.4.2 Timeout".into())).times(1));
    client.dialogue(&[(FROM, "250"), (TO, "250"), (&whole, "451 4.4.2")]).await;
    assert_eq!(lab.delivered(), 1);
    lab.service.inject(Fault::new(On::SmtpContent, Action::CutAfter).times(1));
    client.dialogue(&[(FROM, "250"), (TO, "250")]).await;
    assert_eq!(client.say(&whole).await, "");
    assert_eq!(lab.delivered(), 2);
}

#[tokio::test]
async fn scope_and_count_are_heeded() {
    let lab = Lab::smtp().await;
    let other = "other@contoso.example";
    lab.service
        .inject(Fault::reply(On::SmtpAuth, "454 4.7.0 Temporary").for_mailbox("SCANNER@contoso.example"));
    lab.service.inject(Fault::reply(On::SmtpMail, "451 4.3.0 x").for_directory("fabrikam.example"));
    lab.service.inject(Fault::reply(On::SmtpMail, "451 4.3.0 x").for_directory("c0-ff-ee").skip(1).times(1));
    lab.service.inject(Fault { probability: 0.0, ..Fault::reply(On::SmtpRcpt, "451 4.3.0 x") });
    lab.service.inject(Fault::status(On::AnyGraph, 500, "x"));
    let mut client = lab.encrypted().await;
    assert_eq!(client.log_in(MAILBOX, &lab.token).await, "454 4.7.0 Temporary");
    assert!(client.log_in(other, &lab.token).await.starts_with("235"));
    let from = format!("MAIL FROM:<{other}>");
    client.dialogue(&[(&from, "250"), (TO, "250"), ("RSET", "250"), (&from, "451"), (&from, "250")]).await;
    assert_eq!(lab.service.smtp_sessions().refused_auths, 1);
}

#[tokio::test]
async fn a_challenge_comes_before_the_refusal() {
    let lab = Lab::smtp().await;
    lab.service.inject(Fault::reply(On::SmtpAuth, "334 eyJzdGF0dXMiOiI0MDEifQ==").times(1));
    let mut client = lab.encrypted().await;
    assert_eq!(client.log_in(MAILBOX, &lab.token).await, "334 eyJzdGF0dXMiOiI0MDEifQ==");
    client.dialogue(&[("", "535 5.7.3 Authentication unsuccessful")]).await;
    assert!(client.log_in(MAILBOX, &lab.token).await.starts_with("235"));
}

#[tokio::test]
async fn delays_hold_one_answer_back() {
    let lab = Lab::smtp().await;
    lab.service.inject(Fault::new(On::SmtpRcpt, Action::Delay(Duration::from_secs(3600))).times(1));
    let mut client = lab.submitter(MAILBOX).await;
    client.write(format!("{FROM}\r\n{TO}\r\n")).await;
    assert!(client.reply().await.starts_with("250 2.1.0"), "what came before is answered");
    assert!(timeout(Duration::from_millis(50), client.0.fill_buf()).await.is_err());
}

#[tokio::test]
async fn faults_come_over_http() {
    let lab = Lab::smtp().await;
    let faults = format!("{}/_sandbox/faults", lab.service.url());
    let post = |fault: Value| Answer::of(lab.http.post(&faults).body(fault.to_string()));
    for (on, action, expected) in [
        ("smtp_mail", json!({ "reply": "432 4.3.2 x" }), 201),
        ("smtp_start_tls", json!({ "reply_after": "454 4.7.0 x" }), 201),
        ("smtp_content", json!("cut_after"), 201),
        ("smtp_data", json!({ "delay": "1s" }), 201),
        ("smtp_mail", json!({ "status": { "code": 503 } }), 400),
        ("smtp_content", json!({ "status_after": { "code": 503 } }), 400),
        ("send_mail", json!({ "reply": "432 4.3.2 x" }), 400),
        ("token", json!({ "reply_after": "432 4.3.2 x" }), 400),
        ("smtp_mail", json!({ "reply": "busy" }), 400),
        ("smtp_mail", json!({ "reply": "432 a\u{7}b" }), 400),
    ] {
        let answer = post(json!({ "on": on, "action": action, "times": 1 })).await;
        assert_eq!(answer.status, expected, "{on} {action}: {}", answer.body);
        if expected == 400 {
            let says = answer.body.contains("reply") && answer.body.len() > 40;
            assert!(says, "{}", answer.body);
        }
    }
    assert_eq!(lab.service.faults()[0], Fault::reply(On::SmtpMail, "432 4.3.2 x").times(1));
    lab.service.clear_faults();
    walk(&lab).await;
    let smtp = Answer::of(lab.http.get(format!("{}/_sandbox/smtp", lab.service.url()))).await.json();
    assert_eq!((&smtp["sessions"]["messages"], &smtp["sessions"]["peaks"][MAILBOX]), (&1.into(), &1.into()));
    assert_eq!(
        (&smtp["log"][1]["text"], &smtp["log"][1]["from_client"]),
        (&"EHLO a.example".into(), &true.into())
    );
    let messages = Answer::of(lab.http.get(format!("{}/_sandbox/messages", lab.service.url()))).await.json();
    assert_eq!(
        (&messages[0]["via"], &messages[0]["envelope"]["mail_from"]),
        (&"smtp".into(), &MAILBOX.into())
    );
}

#[tokio::test]
#[should_panic(expected = "status is an answer of HTTP")]
async fn a_fault_that_could_not_strike_is_a_mistake() {
    Lab::smtp().await.service.inject(Fault::status(On::SmtpMail, 503, "x"));
}
