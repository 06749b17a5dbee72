//! What a JSON message contains besides its text, and what of that reaches the MIME and the copy in Sent
//! Items.

use mail_parser::{HeaderValue, MessageParser};
use serde_json::json;

use super::*;
use crate::{
    items::{Draft, Items},
    resource::MessageResource,
};

fn messages() -> String {
    format!("{MAILBOX}/messages")
}

fn someone(address: &str, name: &str) -> Value {
    json!({ "emailAddress": { "address": address, "name": name } })
}

fn full() -> Value {
    json!({
        "subject": "All of it",
        "body": { "contentType": "html", "content": "<p>Hello.</p>" },
        "from": someone(MAILBOX, "Scanner, 2nd floor"),
        "sender": someone(MAILBOX, ""),
        "replyTo": [someone("desk@contoso.example", "Desk")],
        "toRecipients": [someone("ann@example.net", "Änn")],
        "ccRecipients": [someone("bob@example.net", "Bob \"B\" Brown")],
        "bccRecipients": [someone("carol@example.net", "Carol")],
        "importance": "High",
        "isReadReceiptRequested": true,
        "isDeliveryReceiptRequested": true,
        "internetMessageId": "<loses@contoso.example>",
        "internetMessageHeaders": [{ "name": "X-Job", "value": "7" }],
        "singleValueExtendedProperties": [
            { "id": "String 0X1035", "value": "<wins@contoso.example>" },
            { "id": "String 0x1042", "value": "<before@example.net>" },
            { "id": "String 0x1039", "value": "<first@example.net> <before@example.net>" },
            { "id": "Integer 0x0E07", "value": "1" },
        ],
    })
}

async fn draft(lab: &Lab, message: Value) -> (String, Value) {
    let answer = lab.json("POST", &messages(), message).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let message = answer.json();
    (format!("{}/{}", messages(), message["id"].as_str().expect("an id")), message)
}

async fn send(lab: &Lab, path: &str) -> std::sync::Arc<Delivered> {
    let sent = lab.graph("POST", &format!("{path}/send")).header("content-length", "0");
    let answer = Answer::of(sent).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    lab.service.messages().pop().expect("a message")
}

#[tokio::test]
async fn properties_become_headers() {
    let lab = Lab::default().await;
    let (path, created) = draft(&lab, full()).await;
    assert_eq!(created["internetMessageId"], "<wins@contoso.example>");
    assert_eq!((&created["importance"], &created["isReadReceiptRequested"]), (&"high".into(), &true.into()));
    assert_eq!(created["toRecipients"][0]["emailAddress"]["name"], "Änn");
    assert!(created["singleValueExtendedProperties"].is_null(), "only given back on demand");
    let sent = send(&lab, &path).await;
    assert_eq!(sent.message_id, "<wins@contoso.example>");
    assert_eq!(sent.recipients, ["ann@example.net", "bob@example.net", "carol@example.net"]);
    let parsed = MessageParser::default().parse(&*sent.raw).expect("MIME");
    let names = |address: Option<&mail_parser::Address<'_>>| -> Vec<(String, String)> {
        let all = address.into_iter().flat_map(|list| list.clone().into_list());
        all.map(|a| (a.name.unwrap_or_default().into(), a.address.unwrap_or_default().into())).collect()
    };
    let one = |name: &str, address: &str| vec![(name.to_owned(), address.to_owned())];
    assert_eq!(names(parsed.from()), one("Scanner, 2nd floor", MAILBOX));
    assert_eq!(names(parsed.to()), one("Änn", "ann@example.net"));
    assert_eq!(names(parsed.cc()), one("Bob \"B\" Brown", "bob@example.net"));
    assert_eq!(names(parsed.reply_to()), one("Desk", "desk@contoso.example"));
    assert!(parsed.bcc().is_none() && parsed.sender().is_none());
    assert_eq!(parsed.in_reply_to(), &HeaderValue::Text("before@example.net".into()));
    assert_eq!(parsed.references().as_text_list().map(<[_]>::len), Some(2));
    let header = |name: &str| parsed.header_raw(name).unwrap_or_default().trim().to_owned();
    assert_eq!((header("Importance").as_str(), header("X-Job").as_str()), ("high", "7"));
    for receipt in ["Disposition-Notification-To", "Return-Receipt-To"] {
        assert!(header(receipt).contains(MAILBOX), "{receipt}: {}", header(receipt));
    }
}

#[tokio::test]
async fn a_change_merges_properties_and_keeps_the_rest() {
    let lab = Lab::default().await;
    let (path, _) = draft(&lab, full()).await;
    let change = json!({
        "importance": "low", "isReadReceiptRequested": false, "internetMessageId": "<three@contoso.example>",
        "singleValueExtendedProperties": [{ "id": "String 0X1042", "value": "<later@example.net>" }],
    });
    let changed = lab.json("PATCH", &path, change).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(changed.json()["internetMessageId"], "<wins@contoso.example>", "the property still wins");
    let text = String::from_utf8_lossy(&send(&lab, &path).await.raw).into_owned();
    for wanted in ["Importance: low", "In-Reply-To: <later@", "References: <first@", "Return-Receipt-To: "] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(!text.contains("Disposition-Notification-To"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let lab = Lab::default().await;
    let property =
        |id: &str, value: &str| json!({ "singleValueExtendedProperties": [{ "id": id, "value": value }] });
    for (message, code) in [
        (property("0x1042", "<a@b>"), "ErrorInvalidRequest"),
        (property("String 0x1042", "<a@b>\r\nBcc: eve@example.net"), "ErrorInvalidRequest"),
        (json!({ "importance": "urgent" }), "UnableToDeserializePostBody"),
        (
            json!({ "internetMessageHeaders": [{ "name": "X-Job", "value": "7\r\nBcc: eve@example.net" }] }),
            "InvalidInternetMessageHeader",
        ),
    ] {
        let (path, _) = draft(&lab, json!({})).await;
        let sent = json!({ "message": &message });
        for (method, path, body) in [
            ("POST", messages(), &message),
            ("PATCH", path, &message),
            ("POST", format!("{MAILBOX}/sendMail"), &sent),
        ] {
            let answer = lab.json(method, &path, body.clone()).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, code), "{method} {message}");
        }
    }
    let mut message = full();
    message["sender"] = someone("boss@contoso.example", "Boss");
    let answer = lab.json("POST", &format!("{MAILBOX}/sendMail"), json!({ "message": message })).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "ErrorSendAsDenied"));
}

#[tokio::test]
async fn copies_remember_who_got_them() {
    let lab = Lab::default().await;
    let (path, created) = draft(&lab, full()).await;
    send(&lab, &path).await;
    assert_eq!(lab.send(MAIL).await.status, 202);
    let query = "$select=toRecipients,ccRecipients,bccRecipients,createdDateTime,sentDateTime,isDraft";
    let find = async |id: &str| {
        let id = id.replace('<', "%3C").replace('>', "%3E");
        let path = format!("{}?$filter=internetMessageId%20eq%20'{id}'&{query}", messages());
        Answer::of(lab.graph("GET", &path)).await.json()["value"][0].take()
    };
    let copy = find("<wins@contoso.example>").await;
    for kind in ["toRecipients", "ccRecipients", "bccRecipients"] {
        assert_eq!(copy[kind], created[kind], "{kind}");
    }
    assert_eq!((&copy["createdDateTime"], &copy["isDraft"]), (&created["createdDateTime"], &false.into()));
    assert!(copy["sentDateTime"].is_string() && copy["subject"].is_null(), "{copy}");
    let by_id = format!("{}/{}?{query}", messages(), copy["id"].as_str().expect("an id"));
    assert_eq!(Answer::of(lab.graph("GET", &by_id)).await.json()["bccRecipients"], created["bccRecipients"]);
    let copy = find("<one@contoso.example>").await;
    let addresses: Vec<&Value> = ["toRecipients", "ccRecipients", "bccRecipients"]
        .iter()
        .flat_map(|kind| copy[kind].as_array().expect("a list"))
        .map(|recipient| &recipient["emailAddress"]["address"])
        .collect();
    assert_eq!(addresses, ["ann@example.net", "bob@example.net", "ANN@example.net", "carol@example.net"]);
    assert!(copy["createdDateTime"].is_string());
}

#[tokio::test(start_paused = true)]
async fn an_immutable_id_leads_to_nothing_until_the_copy_appears() {
    let mut items = Items::default();
    let message = MessageResource::default();
    let draft = Draft { message, mime: None, attachments: Vec::new(), created: crate::clock::now() };
    let item = items.insert(draft);
    let number = item.number();
    let immutable = item.id(MAILBOX, true);
    let regular = item.id(MAILBOX, false);
    items.move_to_sent(number, Duration::from_secs(60));
    assert!(items.find(&immutable, MAILBOX).is_err() && items.all().next().is_none());
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(items.find(&immutable, MAILBOX).is_ok_and(|item| item.number() == number));
    assert!(items.find(&regular, MAILBOX).is_err());
}

#[tokio::test]
async fn basic_readers_see_no_bodies_and_no_attachments() {
    let app = |role: &str, id: &str| Directory {
        roles: vec![role.into()],
        ..Directory::new(DOMAIN, id, "s3cret+&")
    };
    for (role, bodies) in [("Mail.ReadBasic", false), ("Mail.ReadBasic.All", false), ("Mail.Read", true)] {
        // Two organisations cannot share a mailbox, so the message to be read is put there from inside.
        let lab = Lab::start(Options { directories: vec![app(role, "app-1")], ..options() }).await;
        let mailbox = lab.service.0.world.tenants[0].mailbox(MAILBOX).expect("a mailbox");
        let message = serde_json::from_value(json!({ "body": { "contentType": "text", "content": "x" } }));
        let message: MessageResource = message.expect("a message");
        let id = {
            let mut items = mailbox.items.lock().expect("a lock");
            let created = crate::clock::now();
            items.insert(Draft { message, mime: None, attachments: Vec::new(), created }).id(MAILBOX, false)
        };
        let path = format!("{}/{id}", messages());
        let read = Answer::of(lab.graph("GET", &path)).await;
        assert_eq!((read.status, read.json()["body"].is_object()), (200, bodies), "{role}");
        let list = Answer::of(lab.graph("GET", &messages())).await.json();
        assert_eq!(list["value"][0]["body"].is_object(), bodies, "{role}");
        let attachments = Answer::of(lab.graph("GET", &format!("{path}/attachments"))).await;
        assert_eq!(attachments.status, if bodies { 200 } else { 403 }, "{role}");
    }
    let lab = Lab::start(Options { directories: vec![app("Mail.Send", "app-1")], ..options() }).await;
    for path in [messages(), format!("{}/x", messages()), format!("{}/x/attachments", messages())] {
        let answer = Answer::of(lab.graph("GET", &path)).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "ErrorAccessDenied"), "{path}");
    }
}
