use super::*;

#[tokio::test]
async fn parameters_are_checked_and_kept() {
    let lab = Lab::smtp().await;
    let mut client = lab.submitter(MAILBOX).await;
    for wrong in [
        "SIZE=x",
        "SIZE=",
        "SIZE",
        "SIZE=1 SIZE=1",
        "BODY=9BIT",
        "SMTPUTF8=1",
        "RET=ALL",
        "ENVID=",
        "ENVID=a=b",
        "ENVID=a+2b",
        "X-LUNCH",
        "NOTIFY=NEVER",
    ] {
        client.dialogue(&[(&format!("{FROM} {wrong}"), "501 5.5.4")]).await;
    }
    for wrong in [
        "MAIL TO:<a@b.example>",
        "MAIL FROM: <a@b.example>",
        "MAIL FROM:a@b.example",
        "MAIL FROM:<a@b.example",
    ] {
        client.dialogue(&[(wrong, "501 5.5.4")]).await;
    }
    client
        .dialogue(&[
            ("MAIL FROM:<a>", "501 5.1.7"),
            (&format!("{FROM} SIZE=157286401"), "552 5.3.4"),
            (
                &format!("{FROM} SIZE=157286400 body=8bitmime RET=HDRS ENVID=QQ+2B1 SMTPUTF8 AUTH=<>"),
                "250 2.1.0",
            ),
        ])
        .await;
    for wrong in [
        "NOTIFY=NOW",
        "NOTIFY=NEVER,SUCCESS",
        "ORCPT=a@example.net",
        "ORCPT=rfc822;a=b",
        "RET=FULL",
        "SIZE=1",
    ] {
        client.dialogue(&[(&format!("{TO} {wrong}"), "501 5.5.4")]).await;
    }
    client
        .dialogue(&[
            ("RCPT TO:<>", "501 5.1.3 Invalid address"),
            ("RCPT TO:<ann>", "501 5.1.3 Invalid address"),
            ("RCPT TO:\"a>b\"@example.net", "501 5.5.4"),
            (&format!("{TO} notify=SUCCESS,DELAY ORCPT=rfc822;old+2Bann@example.net"), "250 2.1.5"),
            ("RCPT TO:<\"a> b\"@example.net>", "250 2.1.5"),
            (TO, "250 2.1.5"),
            ("DATA", "354 Start mail input; end with <CRLF>.<CRLF>"),
        ])
        .await;
    let reply = client.say(&format!("{MAIL}.")).await;
    assert!(reply.starts_with("250 2.0.0 OK <") && reply.ends_with(".prod.outlook.com]"), "{reply}");
    assert!(reply.contains("> [Hostname="), "{reply}");

    let delivered = lab.service.messages().remove(0);
    assert_eq!((&*delivered.raw, delivered.via), (MAIL.as_bytes(), Via::Smtp));
    assert_eq!((&*delivered.directory, &*delivered.mailbox, &*delivered.from), (DOMAIN, MAILBOX, MAILBOX));
    assert_eq!((&*delivered.subject, &*delivered.message_id), ("A scän", "<one@contoso.example>"));
    assert_eq!(
        delivered.recipients,
        ["ann@example.net", "\"a> b\"@example.net", "ann@example.net"],
        "the envelope's"
    );
    let envelope = delivered.envelope.clone().expect("an envelope");
    assert_eq!((&*envelope.mail_from, envelope.size), (MAILBOX, MAIL.len() as u64));
    assert_eq!(envelope.parameter("BODY"), Some("8bitmime"));
    assert_eq!((envelope.parameter("smtputf8"), envelope.parameter("NOTIFY")), (Some(""), None));
    assert_eq!(envelope.parameters[3], "ENVID=QQ+2B1");
    assert_eq!(envelope.recipients[0].parameter("NOTIFY"), Some("SUCCESS,DELAY"));
    assert_eq!(envelope.recipients[0].parameter("ORCPT"), Some("rfc822;old+2Bann@example.net"));
    assert!(envelope.recipients[1].parameters.is_empty() && !envelope.chunking && !envelope.eight_bit);
    assert_eq!(lab.service.smtp_sessions().messages, 1);
}

#[tokio::test]
async fn what_is_sent_lies_in_sent_items() {
    let mut lab = Lab::smtp().await;
    assert!(lab.submitter(MAILBOX).await.send(MAIL).await.starts_with("250"));
    lab.token = lab.log_in(&lab.service.url()).await;
    let path = "mailFolders/SentItems/messages?$filter=internetMessageId%20eq%20'%3Cone@contoso.example%3E'";
    let found = Answer::of(lab.graph("GET", &format!("{MAILBOX}/{path}"))).await.json();
    assert_eq!(found["value"].as_array().map(Vec::len), Some(1), "{found}");
}

#[tokio::test]
async fn senders_are_the_mailboxs() {
    let mut options = smtp_options();
    options.directories[0].send_as = vec![(MAILBOX.into(), "Shared@contoso.example".into())];
    let lab = Lab::start_smtp(options).await;
    let mut client = lab.submitter(MAILBOX).await;
    let denied = "554 5.2.252 SendAsDenied; scanner@contoso.example not allowed to send as ";
    client
        .dialogue(&[
            ("MAIL FROM:<boss@contoso.example>", &format!("{denied}boss@contoso.example; STOREDRV.")),
            ("MAIL FROM:<>", denied),
            ("MAIL FROM:<shared@contoso.example>", "250"),
            ("RSET", "250"),
        ])
        .await;
    let as_boss = MAIL.replace("From: Scanner <scanner@", "From: Boss <boss@");
    assert!(client.send(&as_boss).await.starts_with(denied));
    assert!(client.send(&MAIL.replace("scanner@", "shared@")).await.starts_with("250"));
    for wrong in [
        "Subject: no author\r\n\r\n",
        "From: scanner@contoso.example, ann@contoso.example\r\n\r\n",
        "From: scanner@contoso.example\r\nFrom: scanner@contoso.example\r\n\r\n",
        "",
    ] {
        assert!(client.send(wrong).await.starts_with("554 5.6.0"), "{wrong}");
    }
    assert_eq!(lab.delivered(), 1);
}

#[tokio::test]
async fn refusals_of_senders_have_other_forms() {
    for (form, at_mail, reply) in [
        (SenderRefusal::StoreDriver, false, "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException"),
        (
            SenderRefusal::NoPermission,
            true,
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
        ),
    ] {
        let mut options = smtp_options();
        options.submission.sender_refusal = form;
        let lab = Lab::start_smtp(options).await;
        let mut client = lab.submitter(MAILBOX).await;
        let boss = "MAIL FROM:<boss@contoso.example>";
        if at_mail {
            client.dialogue(&[(boss, reply)]).await;
        } else {
            client
                .dialogue(&[(boss, "250"), (TO, "250"), ("DATA", "354"), (&format!("{MAIL}."), reply)])
                .await;
        }
        assert!(client.send(&MAIL.replace("scanner@", "boss@")).await.starts_with(reply));
        assert_eq!(lab.delivered(), 0);
    }
}

#[tokio::test]
async fn recipients_can_be_refused() {
    let mut options = smtp_options();
    options.submission.refused_recipients = vec![
        ("Gone@example.net".into(), "550 5.1.1 User unknown".into()),
        ("busy@example.net".into(), "450-4.2.1 Mailbox busy\n450 4.2.1 Later".into()),
    ];
    let lab = Lab::start_smtp(options).await;
    let mut client = lab.submitter(MAILBOX).await;
    client
        .dialogue(&[
            (FROM, "250"),
            ("RCPT TO:<gone@example.net>", "550 5.1.1 User unknown"),
            ("RCPT TO:<busy@example.net>", "450-4.2.1 Mailbox busy\n450 4.2.1 Later"),
            ("DATA", "503 5.5.2 Need rcpt command"),
            (TO, "250"),
            ("DATA", "354"),
            (&format!("{MAIL}."), "250"),
        ])
        .await;
    assert_eq!(lab.service.messages()[0].recipients, ["ann@example.net"]);
}

#[tokio::test]
async fn smtputf8_is_needed_for_what_is_not_ascii() {
    let lab = Lab::smtp().await;
    let mut client = lab.submitter(MAILBOX).await;
    let umlaut = MAIL.replace("=?utf-8?Q?sc=C3=A4n?=", "scän");
    client
        .dialogue(&[
            ("MAIL FROM:<bür@contoso.example>", "553 5.6.7"),
            (FROM, "250"),
            ("RCPT TO:<bür@example.net>", "550 5.6.7"),
        ])
        .await;
    client.dialogue(&[(TO, "250"), ("DATA", "354"), (&format!("{umlaut}."), "554 5.6.9")]).await;
    let utf8 = format!("{FROM} SMTPUTF8 BODY=8BITMIME");
    client
        .dialogue(&[
            (&utf8, "250"),
            ("RCPT TO:<bür@example.net>", "250"),
            ("DATA", "354"),
            (&format!("{umlaut}."), "250"),
        ])
        .await;
    // For a body, other rules apply.
    assert!(client.send(&format!("{MAIL}scän\r\n")).await.starts_with("250"));
    let messages = lab.service.messages();
    assert_eq!((messages.len(), messages[0].subject.as_str()), (2, "A scän"));
    assert!(messages.iter().all(|message| message.envelope.as_ref().expect("an envelope").eight_bit));
}

#[tokio::test]
async fn smtputf8_can_be_refused_although_it_is_offered() {
    let mut options = smtp_options();
    options.submission.refuses_smtputf8 = true;
    let lab = Lab::start_smtp(options).await;
    let mut client = lab.submitter(MAILBOX).await;
    client
        .dialogue(&[(&format!("{FROM} SMTPUTF8"), "502 5.3.3 Command not implemented"), (FROM, "250")])
        .await;
}
