//! Attachments: listed while a draft waits, and described once it is sent.

use ring::digest;
use serde_json::json;

use super::*;
use crate::attachment::hex;

fn messages() -> String {
    format!("{MAILBOX}/messages")
}

fn sha256(content: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, content))
}

async fn draft(lab: &Lab, message: Value) -> String {
    let answer = lab.json("POST", &messages(), message).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    format!("{}/{}", messages(), answer.json()["id"].as_str().expect("an id"))
}

fn to_ann() -> Value {
    json!({ "subject": "Files", "toRecipients": [{ "emailAddress": { "address": "ann@example.net" } }] })
}

fn file(name: &str, content: &[u8]) -> Value {
    json!({ "@odata.type": "#microsoft.graph.fileAttachment", "name": name, "contentType": "text/plain",
            "contentBytes": BASE64_STANDARD.encode(content) })
}

async fn list(lab: &Lab, path: &str) -> Answer {
    Answer::of(lab.graph("GET", path)).await
}

async fn send(lab: &Lab, draft: &str) -> Answer {
    Answer::of(lab.graph("POST", &format!("{draft}/send")).header("content-length", "0")).await
}

async fn begin(lab: &Lab, draft: &str, size: usize) -> String {
    let item = json!({ "AttachmentItem": { "attachmentType": "file", "name": "big.bin", "size": size } });
    let begun = lab.json("POST", &format!("{draft}/attachments/createUploadSession"), item).await;
    assert_eq!(begun.status, 201, "{}", begun.body);
    begun.json()["uploadUrl"].as_str().expect("a URL").to_owned()
}

fn put(lab: &Lab, url: &str, first: usize, piece: &[u8], total: usize) -> reqwest::RequestBuilder {
    let range = format!("bytes {first}-{}/{total}", first + piece.len() - 1);
    lab.http.put(url).header("content-range", range).body(piece.to_vec())
}

#[tokio::test]
async fn what_is_attached_is_listed_and_described() {
    let lab = Lab::default().await;
    let mut message = to_ann();
    message["attachments"] = json!([file("a.txt", b"hello")]);
    let path = draft(&lab, message).await;
    let attachments = format!("{path}/attachments");
    let mut logo = file("logo.png", b"PNG");
    (logo["isInline"], logo["contentId"]) = (true.into(), "logo@1".into());
    logo["contentType"] = "image/png".into();
    let posted = lab.json("POST", &attachments, logo).await;
    assert_eq!(posted.status, 201, "{}", posted.body);

    let listed = list(&lab, &attachments).await.json();
    let listed = listed["value"].as_array().expect("a list");
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["name"], &listed[0]["size"]), (&"a.txt".into(), &5.into()));
    assert_eq!(listed[1], {
        let mut expected = posted.json();
        expected["id"] = listed[1]["id"].clone();
        expected
    });
    assert_eq!(listed[1]["id"], posted.json()["id"]);
    assert_ne!(listed[0]["id"], listed[1]["id"]);
    let few = list(&lab, &format!("{attachments}?$select=name,size")).await.json();
    let keys: Vec<&String> = few["value"][1].as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["@odata.type", "id", "name", "size"]);
    let missing = list(&lab, &format!("{MAILBOX}/messages/AAMkADx/attachments")).await;
    assert_eq!(missing.status, 400);

    assert_eq!(send(&lab, &path).await.status, 202);
    let sent = lab.service.messages().pop().expect("a message");
    let described = |name: &str, content_type: &str, cid: Option<&str>, content: &[u8]| DeliveredAttachment {
        name: name.into(),
        content_type: content_type.into(),
        is_inline: cid.is_some(),
        content_id: cid.map(str::to_owned),
        size: content.len(),
        sha256: sha256(content),
    };
    let expected = [
        described("a.txt", "text/plain", None, b"hello"),
        described("logo.png", "image/png", Some("logo@1"), b"PNG"),
    ];
    assert_eq!(sent.attachments, expected);
    let parsed = mail_parser::MessageParser::default().parse(&*sent.raw).expect("MIME");
    assert!(parsed.attachments().any(|part| part.contents() == b"PNG"), "small ones are in the source");
    let over_http = Answer::of(lab.http.get(format!("{}/_sandbox/messages", lab.service.url()))).await.json();
    assert_eq!(over_http[0]["attachments"][0]["sha256"], sha256(b"hello"));
}

#[tokio::test]
async fn the_parts_of_a_mime_draft_are_listed_and_hide_nothing() {
    let lab = Lab::default().await;
    let mail = "From: scanner@contoso.example\r\nTo: ann@example.net\r\nMIME-Version: 1.0\r\n\
                Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nHello.\r\n--b\r\n\
                Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=s.pdf\r\n\r\n\
                PDF\r\n--b--\r\n";
    let request = lab.graph("POST", &messages()).header("content-type", "text/plain");
    let created = Answer::of(request.body(BASE64_STANDARD.encode(mail))).await.json();
    assert_eq!(created["hasAttachments"], true);
    let path = format!("{}/{}", messages(), created["id"].as_str().expect("an id"));
    let listed = list(&lab, &format!("{path}/attachments")).await.json();
    assert_eq!(listed["value"][0]["name"], "s.pdf");
    assert_eq!(listed["value"][0]["contentType"], "application/pdf");
    assert_eq!(send(&lab, &path).await.status, 202);
    let sent = lab.service.messages().pop().expect("a message");
    assert!(sent.raw == mail && sent.attachments.is_empty(), "looking at it did not change it");
}

#[tokio::test]
async fn a_cut_after_the_last_piece_leaves_the_file_and_no_session() {
    const SIZE: usize = 5 << 20;
    let lab = Lab::default().await;
    let path = draft(&lab, to_ann()).await;
    let url = begin(&lab, &path, SIZE).await;
    let content = vec![7; SIZE];
    let (first, second) = content.split_at(3 << 20);
    lab.service.inject(Fault::new(On::Upload, Action::CutAfter).skip(1).times(1));
    assert_eq!(Answer::of(put(&lab, &url, 0, first, SIZE)).await.status, 200);
    put(&lab, &url, first.len(), second, SIZE).send().await.expect_err("no answer");
    for repeated in [put(&lab, &url, first.len(), second, SIZE), lab.http.get(&url)] {
        let answer = Answer::of(repeated).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "uploadSessionNotFound"));
    }
    let listed = list(&lab, &format!("{path}/attachments")).await.json();
    assert_eq!((&listed["value"][0]["size"], &listed["value"][1]), (&SIZE.into(), &Value::Null));
    assert_eq!(send(&lab, &path).await.status, 202);
    let sent = lab.service.messages().pop().expect("a message");
    assert_eq!(sent.attachments[0].sha256, sha256(&content));
}

#[tokio::test]
async fn the_end_of_a_draft_ends_its_uploads() {
    const SIZE: usize = 3 << 20;
    let lab = Lab::default().await;
    for end in ["delete", "permanentDelete", "send"] {
        let path = draft(&lab, to_ann()).await;
        let other = draft(&lab, to_ann()).await;
        let url = begin(&lab, &path, SIZE).await;
        let others = begin(&lab, &other, SIZE).await;
        let ended = match end {
            "delete" => Answer::of(lab.graph("DELETE", &path)).await,
            _ => Answer::of(lab.graph("POST", &format!("{path}/{end}")).header("content-length", "0")).await,
        };
        assert!(matches!(ended.status, 202 | 204), "{end} {}", ended.body);
        let late = Answer::of(put(&lab, &url, 0, b"x", SIZE)).await;
        assert_eq!((late.status, late.code().as_str()), (404, "uploadSessionNotFound"), "{end}");
        assert_eq!(Answer::of(put(&lab, &others, 0, b"x", SIZE)).await.status, 200, "{end}");
    }
}

#[tokio::test]
async fn attachments_count_towards_the_size_of_a_message() {
    const PIECE: usize = 3 << 20;
    let limits = Limits { message_bytes: Some(13 << 20), ..Limits::unthrottled() };
    let lab = Lab::start(Options { limits, ..options() }).await;
    let content = vec![1; PIECE];
    for (pieces, status) in [(3, 202), (4, 400)] {
        let path = draft(&lab, to_ann()).await;
        let total = pieces * PIECE;
        let url = begin(&lab, &path, total).await;
        for piece in 0..pieces {
            let answer = Answer::of(put(&lab, &url, piece * PIECE, &content, total)).await;
            assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
        }
        let answer = send(&lab, &path).await;
        assert_eq!(answer.status, status, "12 MiB are more than 16 as base64: {}", answer.body);
        assert!(status == 202 || answer.code() == "ErrorMessageSizeExceeded", "{}", answer.body);
    }
    assert_eq!(lab.service.drafts(), 1, "what is refused stays a draft");
}

#[tokio::test]
async fn a_hundred_and_forty_megabytes_go_through_without_being_copied_about() {
    const PIECE: usize = 3_932_160;
    const SIZE: usize = 140_000_000;
    let limits = Limits { message_bytes: None, ..Limits::unthrottled() };
    let lab = Lab::start(Options { limits, ..options() }).await;
    let path = draft(&lab, to_ann()).await;
    let url = begin(&lab, &path, SIZE).await;
    let mut whole = digest::Context::new(&digest::SHA256);
    let mut first = 0;
    while first < SIZE {
        let piece = vec![(first / PIECE) as u8; PIECE.min(SIZE - first)];
        whole.update(&piece);
        let answer = Answer::of(put(&lab, &url, first, &piece, SIZE)).await;
        assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
        first += piece.len();
    }
    assert_eq!(send(&lab, &path).await.status, 202);
    let sent = lab.service.messages().pop().expect("a message");
    let attachment = &sent.attachments[0];
    assert_eq!((attachment.size, &attachment.sha256), (SIZE, &hex(whole.finish())));
    let text = String::from_utf8_lossy(&sent.raw);
    let line = format!("(140000000 octets left out, sha256 {})", attachment.sha256);
    assert!(sent.raw.len() < 10_000 && text.contains("big.bin"), "{text}");
    assert!(text.replace("=\r\n", "").contains(&line), "{text}");
}
