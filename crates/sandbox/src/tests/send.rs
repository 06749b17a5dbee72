use serde_json::json;

use super::*;

#[tokio::test]
async fn what_is_sent_is_delivered_octet_for_octet() {
    let lab = Lab::default().await;
    let request = lab.mail("Scanner@Contoso.example", MAIL.as_bytes()).header("client-request-id", "mine");
    let answer = Answer::of(request).await;
    assert_eq!((answer.status, answer.body.as_str()), (202, ""));
    assert_eq!(answer.header("client-request-id"), "mine");
    assert!(uuid::Uuid::try_parse(answer.header("request-id")).is_ok());
    assert!(httpdate::parse_http_date(answer.header("date")).is_ok());

    let messages = lab.service.messages();
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(message.raw, MAIL);
    assert_eq!(message.directory, DOMAIN);
    assert_eq!((message.mailbox.as_str(), message.from.as_str()), (MAILBOX, MAILBOX));
    assert_eq!(message.recipients, ["ann@example.net", "bob@example.net", "carol@example.net"]);
    assert_eq!((message.subject.as_str(), message.message_id.as_str()), ("A scän", "<one@contoso.example>"));
    assert_eq!((message.number, message.via, message.bare_lf), (1, Via::SendMail, false));

    let calls = lab.service.calls();
    let call = calls.last().expect("a call");
    assert_eq!((call.status, call.mailbox.as_deref()), (Some(202), Some("Scanner@Contoso.example")));
    assert_eq!(call.body_len, BASE64_STANDARD.encode(MAIL).len());
    assert_eq!(call.client_request_id.as_deref(), Some("mine"));
}

#[tokio::test]
async fn base64_may_be_wrapped_and_must_be_right() {
    let lab = Lab::default().await;
    let encoded = BASE64_STANDARD.encode(MAIL);
    let post = |body: String| Answer::of(lab.mail(MAILBOX, b"").body(body));
    let wrapped = encoded.as_bytes().chunks(76).map(|l| std::str::from_utf8(l).unwrap()).collect::<Vec<_>>();
    assert_eq!(post(wrapped.join("\r\n")).await.status, 202);
    let unpadded = encoded.trim_end_matches('=').to_owned();
    for bad in
        [MAIL.to_owned(), unpadded + "====", encoded.replacen('F', "F ", 1), String::new(), "-_-_".into()]
    {
        let answer = post(bad).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "ErrorMimeContentInvalidBase64String"));
        assert_eq!(answer.json()["error"]["message"], "Invalid base64 string for MIME content.");
    }
    let messages = lab.service.messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].raw, MAIL);
}

#[tokio::test]
async fn errors_carry_the_ids_of_the_call() {
    let lab = Lab::default().await;
    let answer = Answer::of(lab.mail(MAILBOX, b"x").header("client-request-id", "mine")).await;
    let inner = &answer.json()["error"]["innerError"];
    assert_eq!(inner["client-request-id"], "mine");
    assert_eq!(inner["request-id"], answer.header("request-id"));
    assert!(inner["date"].as_str().is_some_and(|date| date.ends_with('Z')));
}

#[tokio::test]
async fn headers_decide_who_sends_and_who_gets_it() {
    let contoso = Directory {
        send_as: vec![(MAILBOX.into(), "shared@contoso.example".into())],
        ..Directory::new(DOMAIN, "app-1", "s3cret+&")
    };
    let lab = Lab::start(Options { directories: vec![contoso], ..options() }).await;
    let from = |line: &str| MAIL.replace("From: Scanner <scanner@contoso.example>", line);
    let to = |lines: &str| format!("From: {MAILBOX}\r\n{lines}Subject: x\r\n\r\nx\r\n");
    let many = (0..501).map(|n| format!("r{n}@example.net")).collect::<Vec<_>>().join(",\r\n ");
    let cases = [
        (from("From: Shared@Contoso.example"), 202, ""),
        (from("From: boss@contoso.example"), 403, "ErrorSendAsDenied"),
        (from("X-From: nobody"), 400, "ErrorMimeContentInvalid"),
        (from("From: scanner@contoso.example, boss@contoso.example"), 400, "ErrorMimeContentInvalid"),
        (from("From: scanner@contoso.example\r\nFrom: boss@contoso.example"), 400, "ErrorMimeContentInvalid"),
        (from("From: a scanner"), 400, "ErrorMimeContentInvalid"),
        (to(""), 400, "ErrorInvalidRecipients"),
        (to("To: undisclosed-recipients:;\r\n"), 400, "ErrorInvalidRecipients"),
        (to("To: undisclosed-recipients:;\r\nBcc: a@example.net\r\n"), 202, ""),
        (to("To: not an address\r\n"), 400, "ErrorInvalidRecipients"),
        (to("To: a@example.net; b@example.net\r\n"), 400, "ErrorInvalidRecipients"),
        (to("To: team: a@example.net;, b@example.net\r\n"), 202, ""),
        (to("To: \"two words\"@example.net\r\n"), 202, ""),
        (to("To: a@example.net\r\nCc: broken@\r\n"), 400, "ErrorInvalidRecipients"),
        (to(&format!("To: {many}\r\n")), 400, "ErrorInvalidRecipients"),
        (to(&format!("To: {}\r\n", many.replacen("r0@example.net,\r\n ", "", 1))), 202, ""),
    ];
    let expected = cases.iter().filter(|(_, status, _)| *status == 202).count() as u64;
    for (mime, status, code) in cases {
        let answer = lab.send(&mime).await;
        assert_eq!(answer.status, status, "{mime}{}", answer.body);
        assert!(status == 202 || answer.code() == code, "{mime}{}", answer.body);
    }
    assert_eq!(lab.delivered(), expected);
    assert_eq!(lab.service.messages().last().map(|m| m.recipients.len()), Some(500));
}

#[tokio::test]
async fn bare_lf_is_delivered_and_marked() {
    let lab = Lab::default().await;
    assert_eq!(lab.send(MAIL.replace("Hello.\r\n", "Hello.\n")).await.status, 202);
    assert!(lab.service.messages()[0].bare_lf);
}

#[tokio::test]
async fn sending_needs_its_permission() {
    let contoso =
        Directory { roles: vec!["Mail.ReadWrite".into()], ..Directory::new(DOMAIN, "app-1", "s3cret+&") };
    let lab = Lab::start(Options { directories: vec![contoso], ..options() }).await;
    let answer = lab.send(MAIL).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "ErrorAccessDenied"));
}

#[tokio::test]
async fn size_has_two_limits_and_one_of_them_is_silent() {
    let lab = Lab::default().await;
    let mail = |size: usize| format!("{MAIL}{}", "x".repeat(size - MAIL.len()));
    assert_eq!(lab.send(mail(2240 << 10)).await.status, 202);
    let silent = lab.send(mail((2240 << 10) + 1)).await;
    assert_eq!((silent.status, silent.body.as_str()), (200, ""));
    let refused = lab.send(mail((3 << 20) + 1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "RequestEntityTooLarge"));
    assert_eq!(lab.delivered(), 1);
}

#[tokio::test]
async fn json_messages_are_built_into_mime() {
    let lab = Lab::default().await;
    let path = format!("{MAILBOX}/sendMail");
    let message = json!({
        "subject": "Grüße",
        "body": { "contentType": "Text", "content": "Hello." },
        "toRecipients": [{ "emailAddress": { "address": "ann@example.net", "name": "Ann" } }],
        "bccRecipients": [{ "emailAddress": { "address": "bob@example.net" } }],
        "internetMessageHeaders": [{ "name": "X-Job", "value": "7" }],
    });
    let answer = lab.json("POST", &path, json!({ "message": message, "saveToSentItems": "false" })).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let delivered = lab.service.messages().pop().expect("a message");
    assert_eq!(delivered.recipients, ["ann@example.net", "bob@example.net"]);
    assert_eq!((delivered.from.as_str(), delivered.subject.as_str()), (MAILBOX, "Grüße"));
    let text = String::from_utf8_lossy(&delivered.raw);
    assert!(text.contains("X-Job: 7\r\n") && text.contains("Hello.") && !text.contains("bob@"), "{text}");

    let with = |name: &str, value: serde_json::Value| {
        let mut message = message.clone();
        message[name] = value;
        json!({ "message": message })
    };
    let header = json!({ "name": "X-Job", "value": "7" });
    let cases = [
        (json!({}), 400, "ErrorInvalidParameter"),
        (json!({ "message": 7 }), 400, "UnableToDeserializePostBody"),
        (with("internetMessageHeaders", json!([])), 400, "InvalidInternetMessageHeaderCollection"),
        (
            with("internetMessageHeaders", json!(vec![header; 6])),
            400,
            "InvalidInternetMessageHeaderCollection",
        ),
        (
            with("internetMessageHeaders", json!([{ "name": "References", "value": "7" }])),
            400,
            "InvalidInternetMessageHeader",
        ),
        (
            with("toRecipients", json!([{ "emailAddress": { "address": "ann" } }])),
            400,
            "ErrorInvalidRecipients",
        ),
        (
            with("from", json!({ "emailAddress": { "address": "boss@contoso.example" } })),
            403,
            "ErrorSendAsDenied",
        ),
    ];
    for (body, status, code) in cases {
        let answer = lab.json("POST", &path, body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}{}", answer.body);
    }
    let html = lab.graph("POST", &path).header("content-type", "text/html").body("x");
    assert_eq!(Answer::of(html).await.status, 415);
}

#[tokio::test]
async fn the_last_messages_are_kept_and_all_are_counted() {
    let lab = Lab::start(Options { keep_messages: 4, ..options() }).await;
    for n in 0..10 {
        assert_eq!(lab.send(MAIL.replace("Subject: ", &format!("Subject: {n} "))).await.status, 202);
    }
    let messages = lab.service.wait_for(10, Duration::from_secs(5)).await;
    let numbers: Vec<u64> = messages.iter().map(|message| message.number).collect();
    assert_eq!(numbers, [7, 8, 9, 10], "only the last are kept");
    assert!(messages[0].subject.starts_with("6 "));
    assert_eq!(lab.service.counts().messages, 10);
    assert_eq!(lab.service.counts().message_bytes, 10 * (MAIL.len() as u64 + 2));
}
