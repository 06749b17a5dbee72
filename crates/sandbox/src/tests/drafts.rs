use serde_json::json;

use super::*;

const IMMUTABLE: (&str, &str) = ("prefer", "IdType=\"ImmutableId\"");

fn messages() -> String {
    format!("{MAILBOX}/messages")
}

async fn create(lab: &Lab, immutable: bool) -> String {
    let request = lab.mail(MAILBOX, MAIL.as_bytes());
    let request = lab.graph("POST", &messages()).header("content-type", "text/plain").body(
        request.build().expect("a request").body().and_then(|b| b.as_bytes()).expect("a body").to_vec(),
    );
    let request = if immutable { request.header(IMMUTABLE.0, IMMUTABLE.1) } else { request };
    let answer = Answer::of(request).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let draft = answer.json();
    assert_eq!(
        (&draft["isDraft"], &draft["internetMessageId"]),
        (&true.into(), &"<one@contoso.example>".into())
    );
    assert_eq!(answer.header("preference-applied").is_empty(), !immutable);
    assert!(answer.header("location").ends_with(draft["id"].as_str().expect("an id")));
    draft["id"].as_str().expect("an id").to_owned()
}

async fn send(lab: &Lab, id: &str) -> Answer {
    Answer::of(lab.graph("POST", &format!("{}/{id}/send", messages())).header("content-length", "0")).await
}

#[tokio::test]
async fn a_mime_draft_is_sent_octet_for_octet_and_once() {
    let lab = Lab::default().await;
    let id = create(&lab, true).await;
    let read = format!("{}/{id}?$select=isDraft,sentDateTime", messages());
    let draft = Answer::of(lab.graph("GET", &read)).await.json();
    assert_eq!(draft["isDraft"], true);
    assert!(draft["subject"].is_null(), "not selected: {draft}");

    assert_eq!(send(&lab, &id).await.status, 202);
    let sent = Answer::of(lab.graph("GET", &read)).await.json();
    assert_eq!(sent["isDraft"], false, "the immutable id leads to the copy in Sent Items");
    assert!(sent["sentDateTime"].is_string());
    let again = send(&lab, &id).await;
    assert_eq!(again.status, 400, "{}", again.body);
    let delivered = lab.service.messages();
    assert_eq!((delivered.len(), delivered[0].via), (1, Via::Draft));
    assert_eq!(delivered[0].raw, MAIL);
}

#[tokio::test]
async fn a_regular_id_changes_when_the_message_is_sent() {
    let lab = Lab::default().await;
    let id = create(&lab, false).await;
    assert_eq!(send(&lab, &id).await.status, 202);
    let read = Answer::of(lab.graph("GET", &format!("{}/{id}", messages()))).await;
    assert_eq!((read.status, read.code().as_str()), (404, "ErrorItemNotFound"));
    assert_eq!(send(&lab, &id).await.status, 404);
    assert_eq!(lab.delivered(), 1);
}

#[tokio::test]
async fn sent_mail_is_found_by_its_message_id() {
    let lab = Lab::default().await;
    let mail = MAIL.replace("<one@", "<o'ne+1@");
    assert_eq!(lab.send(mail).await.status, 202);
    let find = async |folder: &str, id: &str| {
        let path =
            format!("{MAILBOX}/{folder}messages?$filter=internetMessageId%20eq%20'{id}'&$select=isDraft");
        let answer = Answer::of(lab.graph("GET", &path)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["value"].as_array().expect("a list").len()
    };
    assert_eq!(find("", "%3Co''ne%2B1@contoso.example%3E").await, 1);
    assert_eq!(find("mailFolders/SentItems/", "%3Co''ne%2B1@contoso.example%3E").await, 1);
    assert_eq!(find("mailFolders/drafts/", "%3Co''ne%2B1@contoso.example%3E").await, 0);
    assert_eq!(find("", "%3Co''ne+1@contoso.example%3E").await, 0, "a plus is a space");
    let bad = Answer::of(lab.graph("GET", &format!("{}?$filter=subject%20eq%20'x'", messages()))).await;
    assert_eq!(bad.status, 400);
}

#[tokio::test]
async fn a_copy_can_take_its_time_to_appear() {
    let lab = Lab::start(Options { sent_items_after: Duration::from_secs(3600), ..options() }).await;
    let id = create(&lab, true).await;
    assert_eq!(send(&lab, &id).await.status, 202);
    assert_eq!(Answer::of(lab.graph("GET", &format!("{}/{id}", messages()))).await.status, 404);
}

#[tokio::test]
async fn changed_recipients_keep_the_mime_and_other_changes_do_not() {
    let lab = Lab::default().await;
    let only = json!({ "toRecipients": [{ "emailAddress": { "address": "zoe@example.net" } }],
                       "ccRecipients": [], "bccRecipients": [] });
    let id = create(&lab, true).await;
    let patched = lab.json("PATCH", &format!("{}/{id}", messages()), only.clone()).await;
    assert_eq!((patched.status, &patched.json()["ccRecipients"]), (200, &json!([])));
    assert_eq!(send(&lab, &id).await.status, 202);
    let sent = lab.service.messages().pop().expect("a message");
    assert_eq!(sent.recipients, ["zoe@example.net"]);
    assert_eq!(sent.raw, MAIL);

    let id = create(&lab, true).await;
    let path = format!("{}/{id}", messages());
    let change = json!({ "subject": "Other", "internetMessageId": "<two@contoso.example>" });
    assert_eq!(lab.json("PATCH", &path, change).await.status, 200);
    let file = json!({ "@odata.type": "#microsoft.graph.fileAttachment", "name": "a.txt",
                       "contentType": "text/plain", "contentBytes": "aGVsbG8gZmlsZQ==" });
    let attached = lab.json("POST", &format!("{path}/attachments"), file).await;
    assert_eq!((attached.status, attached.json()["size"].as_u64()), (201, Some(10)), "{}", attached.body);
    assert_eq!(send(&lab, &id).await.status, 202);
    let sent = lab.service.messages().pop().expect("a message");
    assert_eq!((sent.subject.as_str(), sent.message_id.as_str()), ("Other", "<two@contoso.example>"));
    assert_eq!(sent.recipients, ["ann@example.net", "bob@example.net", "carol@example.net"]);
    let text = String::from_utf8_lossy(&sent.raw);
    assert!(
        text.contains("Hello.") && text.contains("a.txt") && text.contains("two@contoso.example"),
        "{text}"
    );

    let late = lab.json("PATCH", &path, only).await;
    assert_eq!(late.status, 400, "{}", late.body);
}

#[tokio::test]
async fn json_drafts_are_deleted_and_their_ids_are_the_mailboxes_own() {
    let lab = Lab::default().await;
    let draft = lab.json("POST", &messages(), json!({ "subject": "x" })).await.json();
    assert!(draft["internetMessageId"].as_str().is_some_and(|id| id.starts_with('<')), "{draft}");
    let id = draft["id"].as_str().expect("an id");
    let elsewhere = Answer::of(lab.graph("GET", &format!("other@contoso.example/messages/{id}"))).await;
    assert_eq!((elsewhere.status, elsewhere.code().as_str()), (400, "ErrorInvalidIdMalformed"));
    let nobody = send(&lab, id).await;
    assert_eq!((nobody.status, nobody.code().as_str()), (400, "ErrorInvalidRecipients"));
    assert_eq!(Answer::of(lab.graph("DELETE", &format!("{}/{id}", messages()))).await.status, 204);
    assert_eq!(Answer::of(lab.graph("DELETE", &format!("{}/{id}", messages()))).await.status, 404);
    assert_eq!(lab.delivered(), 0);
}

#[tokio::test]
async fn drafts_need_the_right_to_write_and_sending_the_right_to_send() {
    let contoso =
        |role: &str| Directory { roles: vec![role.into()], ..Directory::new(DOMAIN, "app-1", "s3cret+&") };
    let start = |role| Lab::start(Options { directories: vec![contoso(role)], ..options() });
    let lab = start("Mail.Send").await;
    for (method, path) in [("POST", messages()), ("GET", messages()), ("DELETE", format!("{}/x", messages()))]
    {
        let answer = lab.json(method, &path, json!({})).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "ErrorAccessDenied"), "{method}");
    }
    let lab = start("Mail.ReadWrite").await;
    let id = create(&lab, false).await;
    assert_eq!(send(&lab, &id).await.status, 403);
    let lab = start("Mail.Read").await;
    assert_eq!(lab.json("POST", &messages(), json!({})).await.status, 403);
    assert_eq!(Answer::of(lab.graph("GET", &messages())).await.status, 200);
    let lost = Answer::of(lab.graph("GET", &format!("{MAILBOX}/calendar"))).await;
    assert_eq!((lost.status, lost.code().as_str()), (400, "BadRequest"));
}

#[tokio::test]
async fn recipients_of_drafts_are_misunderstood_on_demand() {
    let lab = Lab::default().await;
    let fault = |json: serde_json::Value| serde_json::from_value::<Fault>(json).expect("a fault");
    let misreading =
        json!({ "drop": ["NEW@example.net"], "add": ["c@example.org"], "rewrite": { "a@x.se": "b@x.se" } });
    let misread = fault(json!({ "on": "messages", "action": { "recipients": misreading } }));
    assert_eq!(misread.check(), Ok(()));
    let elsewhere = fault(json!({ "on": "send_mail", "action": { "recipients": misreading } }));
    assert_eq!(elsewhere.check(), Err(InvalidFault::NoRecipients));

    lab.service.inject(misread);
    let id = create(&lab, true).await;
    let to = |list: &[&str]| -> Vec<serde_json::Value> {
        list.iter().map(|address| json!({ "emailAddress": { "address": address } })).collect()
    };
    let change = json!({ "toRecipients": to(&["A@x.se", "new@example.net"]), "ccRecipients": [], "bccRecipients": [] });
    let request = lab.graph("PATCH", &format!("{}/{id}", messages()));
    let changed =
        Answer::of(request.header("content-type", "application/json").body(change.to_string())).await;
    let changed = changed.json();
    assert_eq!(changed["toRecipients"], json!(to(&["b@x.se"])));
    assert_eq!(changed["bccRecipients"], json!(to(&["c@example.org"])));
    assert_eq!(send(&lab, &id).await.status, 202);
    assert_eq!(lab.service.messages()[0].recipients, ["b@x.se", "c@example.org"]);
}
