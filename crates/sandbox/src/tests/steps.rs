//! Faults that meet one step of sending by drafts and uploads, and how the log of calls shows them.

use serde_json::json;

use super::*;

fn messages() -> String {
    format!("{MAILBOX}/messages")
}

/// One call of each kind on a new draft, in this order: create, read, list, change, attach, list the
/// attachments, begin an upload, delete. Returns the statuses.
async fn walk(lab: &Lab) -> Vec<u16> {
    let created = lab.json("POST", &messages(), json!({ "subject": "x" })).await;
    let id = match created.status {
        201 => created.json()["id"].as_str().expect("an id").to_owned(),
        _ => "none".into(),
    };
    let path = format!("{}/{id}", messages());
    let file =
        json!({ "@odata.type": "#microsoft.graph.fileAttachment", "name": "a", "contentBytes": "aGk=" });
    let upload = json!({ "AttachmentItem": { "attachmentType": "file", "name": "b", "size": 5 << 20 } });
    let attachments = format!("{path}/attachments");
    let mut statuses = vec![created.status];
    for (method, path, body) in [
        ("GET", &path, Value::Null),
        ("GET", &messages(), Value::Null),
        ("PATCH", &path, json!({ "subject": "y" })),
        ("POST", &attachments, file),
        ("GET", &attachments, Value::Null),
        ("POST", &format!("{attachments}/createUploadSession"), upload),
        ("DELETE", &path, Value::Null),
    ] {
        statuses.push(lab.json(method, path, body).await.status);
    }
    statuses
}

#[tokio::test]
async fn each_step_can_be_struck_alone() {
    const WELL: [u16; 8] = [201, 200, 200, 200, 201, 200, 201, 204];
    let lab = Lab::default().await;
    assert_eq!(walk(&lab).await, WELL);
    let steps: [(&str, &[usize]); 6] = [
        ("read", &[1, 2, 5]),
        ("update_draft", &[3]),
        ("attach", &[4]),
        ("begin_upload", &[6]),
        ("delete_draft", &[7]),
        ("messages", &[0, 1, 2, 3, 4, 5, 6, 7]),
    ];
    for (on, struck) in steps {
        let fault = json!({ "on": on, "action": { "status": { "code": 503, "error": "x" } } });
        lab.service.inject(serde_json::from_value(fault).expect("a fault"));
        let mut expected = WELL;
        struck.iter().for_each(|step| expected[*step] = 503);
        assert_eq!(walk(&lab).await, expected, "{on}");
        lab.service.clear_faults();
    }
    lab.service.inject(Fault::status(On::CreateDraft, 503, "x"));
    assert_eq!(walk(&lab).await[0], 503);
    lab.service.inject(Fault::status(On::Messages, 503, "x"));
    assert_eq!(lab.send(MAIL).await.status, 202, "sendMail is not a call on messages");
}

#[tokio::test]
async fn a_fault_can_let_calls_pass_first() {
    let lab = Lab::default().await;
    lab.service.inject(Fault::status(On::SendMail, 503, "x").for_mailbox(MAILBOX).skip(2).times(1));
    let other = MAIL.replace("scanner@", "other@");
    assert_eq!(Answer::of(lab.mail("other@contoso.example", other.as_bytes())).await.status, 202);
    assert_eq!(lab.service.faults()[0].skip, 2, "calls that do not match are not counted");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(lab.send(MAIL).await.status);
    }
    assert_eq!(statuses, [202, 202, 503, 202]);

    let old: Fault =
        serde_json::from_value(json!({ "on": "upload", "action": "cut_after" })).expect("a fault");
    assert_eq!((old.skip, old.times), (0, None));
    let text = serde_json::to_value(&old).expect("JSON");
    assert!(text.get("skip").is_none(), "{text}");
}

#[tokio::test]
async fn a_throttle_answer_can_name_its_scope() {
    let lab = Lab::default().await;
    let scope = "Tenant_Application/ReadWrite/app-1/c0-ff-ee//";
    let fault = StatusFault::new(429, "TooManyRequests").retry_after("7").throttle_scope(scope);
    lab.service.inject(Fault::new(On::AnyGraph, Action::Status(fault)).times(1));
    let answer = lab.send(MAIL).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "7"));
    assert_eq!(answer.header("x-ms-throttle-scope"), scope);
    assert_eq!(lab.send(MAIL).await.header("x-ms-throttle-scope"), "");
}

#[tokio::test]
async fn calls_tell_their_connections_apart() {
    let lab = Lab::default().await;
    lab.service.inject(Fault::new(On::SendMail, Action::CutBefore).skip(1).times(1));
    assert_eq!(lab.send(MAIL).await.status, 202);
    lab.mail(MAILBOX, MAIL.as_bytes()).send().await.expect_err("no answer");
    assert_eq!(lab.send(MAIL).await.status, 202);
    let calls = lab.service.calls();
    let sends: Vec<u64> =
        calls.iter().filter(|c| c.path.ends_with("sendMail")).map(|c| c.connection).collect();
    assert_eq!(sends.len(), 3);
    assert!(sends[0] >= 1 && sends[2] > sends[1], "after a cut there is a new one: {sends:?}");
}

#[tokio::test]
async fn calls_take_their_time_and_keep_their_place() {
    let limits = Limits { concurrency: Some(4), ..Limits::unthrottled() };
    let lab = Lab::start(Options { latency: Duration::from_millis(200), limits, ..options() }).await;
    let begun = tokio::time::Instant::now();
    let (one, two) = tokio::join!(lab.send(MAIL), lab.send(MAIL));
    assert_eq!((one.status, two.status), (202, 202));
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(lab.service.peak_concurrency(MAILBOX), 2);
    let begun = tokio::time::Instant::now();
    assert_eq!(Answer::of(lab.http.get(format!("{}/api/v2.0/x", lab.service.url()))).await.status, 404);
    assert!(begun.elapsed() >= Duration::from_millis(200), "calls of an upload URL as well");
}

#[tokio::test]
async fn drafts_that_are_left_are_counted() {
    let lab = Lab::default().await;
    assert_eq!(lab.service.drafts(), 0);
    let draft = lab.json("POST", &messages(), json!({ "subject": "x" })).await.json();
    let elsewhere = lab.json("POST", "other@contoso.example/messages", json!({ "subject": "y" })).await;
    assert_eq!((elsewhere.status, lab.service.drafts()), (201, 2));
    let counts = Answer::of(lab.http.get(format!("{}/_sandbox/counts", lab.service.url()))).await.json();
    assert_eq!(counts["drafts"], 2);
    let path = format!("{}/{}", messages(), draft["id"].as_str().expect("an id"));
    let gone = |answer: Answer| (answer.status, answer.code());
    assert_eq!(Answer::of(lab.graph("POST", &format!("{path}/permanentDelete"))).await.status, 204);
    assert_eq!(lab.service.drafts(), 1);
    for (method, path) in [("POST", format!("{path}/permanentDelete")), ("DELETE", path)] {
        let answer = gone(Answer::of(lab.graph(method, &path)).await);
        assert_eq!(answer, (404, "ErrorItemNotFound".to_owned()), "{method}");
    }
}
