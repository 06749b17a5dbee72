use serde_json::json;

use super::*;

async fn get(lab: &Lab, path: &str) -> Answer {
    Answer::of(lab.http.get(format!("{}{path}", lab.service.url()))).await
}

#[tokio::test]
async fn delivered_mail_can_be_read_over_http() {
    let lab = Lab::default().await;
    assert_eq!(lab.send(MAIL).await.status, 202);
    let list = get(&lab, "/_sandbox/messages?count=1").await.json();
    assert_eq!(list[0]["id"], 1);
    assert_eq!((&list[0]["mailbox"], &list[0]["size"]), (&MAILBOX.into(), &MAIL.len().into()));
    assert_eq!(list[0]["recipients"], json!(["ann@example.net", "bob@example.net", "carol@example.net"]));
    let one = get(&lab, "/_sandbox/messages/1").await.json();
    assert_eq!(one["raw"], BASE64_STANDARD.encode(MAIL));
    let source = get(&lab, "/_sandbox/messages/1/source").await;
    assert_eq!((source.body.as_str(), source.header("content-type")), (MAIL, "text/plain; charset=utf-8"));
    assert_eq!(get(&lab, "/_sandbox/messages/2").await.status, 404);
    assert_eq!(
        get(&lab, "/_sandbox/messages?count=2&timeout=10ms").await.json().as_array().map(Vec::len),
        Some(1)
    );
    let calls = get(&lab, "/_sandbox/calls").await.json();
    assert_eq!((&calls[1]["status"], &calls[1]["directory"]), (&202.into(), &DOMAIN.into()));
    assert_eq!(get(&lab, "/_sandbox/counts").await.json()["messages"], 1);
}

#[tokio::test]
async fn faults_come_and_go_over_http() {
    let lab = Lab::default().await;
    let faults = format!("{}/_sandbox/faults", lab.service.url());
    let post = |fault: Value| Answer::of(lab.http.post(&faults).body(fault.to_string()));
    let status = json!({ "status": { "code": 429, "error": "TooManyRequests", "retry_after": "3" } });
    assert_eq!(post(json!({ "on": "send_mail", "action": status, "times": 1 })).await.status, 201);
    assert_eq!(post(json!({ "on": "any_graph", "action": "cut_after", "mailbox": "x@y" })).await.status, 201);
    assert_eq!(post(json!({ "on": "upload", "action": { "delay": "1s 500ms" } })).await.status, 201);
    assert_eq!(get(&lab, "/_sandbox/faults").await.json().as_array().map(Vec::len), Some(3));
    assert_eq!(lab.service.faults()[2].action, Action::Delay(Duration::from_millis(1500)));
    let answer = lab.send(MAIL).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "3"));
    for bad in [
        json!({ "on": "lunch", "action": "cut_after" }),
        json!({ "on": "token", "action": { "status": { "code": 99 } } }),
    ] {
        assert_eq!(post(bad).await.status, 400);
    }
    assert_eq!(Answer::of(lab.http.delete(&faults)).await.status, 204);
    assert!(lab.service.faults().is_empty());
}

#[tokio::test]
async fn the_page_shows_mail_and_trusts_none_of_it() {
    let lab = Lab::default().await;
    assert!(get(&lab, "/").await.body.contains("Nothing yet"));
    let mail = MAIL.replace("Subject: ", "Subject: <script>alert('1')</script> & ");
    assert_eq!(lab.send(mail).await.status, 202);
    lab.service.inject(Fault::status(On::Token, 503, "<b>"));
    let page = get(&lab, "/").await;
    assert!(page.header("content-type").starts_with("text/html"));
    for shown in [
        "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; A scän",
        "/_sandbox/messages/1/source",
        "carol@",
        "&lt;b&gt;",
    ] {
        assert!(page.body.contains(shown), "{shown}");
    }
    assert!(!page.body.contains("<script") && !page.body.contains("<b>\""));
}
