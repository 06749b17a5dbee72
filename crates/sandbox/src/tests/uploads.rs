use serde_json::json;

use super::*;

const SIZE: usize = 5 << 20;

async fn draft(lab: &Lab) -> String {
    let message = json!({
        "subject": "Large", "body": { "contentType": "text", "content": "see file" },
        "toRecipients": [{ "emailAddress": { "address": "ann@example.net" } }],
    });
    let draft = lab.json("POST", &format!("{MAILBOX}/messages"), message).await.json();
    draft["id"].as_str().expect("an id").to_owned()
}

async fn begin(lab: &Lab, draft: &str, size: usize) -> Answer {
    let item = json!({ "AttachmentItem": { "attachmentType": "file", "name": "big.bin", "size": size } });
    lab.json("POST", &format!("{MAILBOX}/messages/{draft}/attachments/createUploadSession"), item).await
}

fn put(lab: &Lab, url: &str, first: usize, piece: &[u8]) -> reqwest::RequestBuilder {
    let range = format!("bytes {first}-{}/{SIZE}", first + piece.len() - 1);
    let request = lab.http.put(url).header("content-type", "application/octet-stream");
    request.header("content-range", range).body(piece.to_vec())
}

#[tokio::test]
async fn a_file_goes_up_in_order_and_out_with_the_message() {
    let lab = Lab::default().await;
    let id = draft(&lab).await;
    let begun = begin(&lab, &id, SIZE).await;
    assert_eq!((begun.status, &begun.json()["nextExpectedRanges"]), (201, &json!(["0-"])), "{}", begun.body);
    let url = begun.json()["uploadUrl"].as_str().expect("a URL").to_owned();
    let file: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
    let (first, second) = file.split_at(3 << 20);

    let with_token = Answer::of(put(&lab, &url, 0, first).bearer_auth(&lab.token)).await;
    assert_eq!(with_token.status, 401);
    let early = Answer::of(put(&lab, &url, first.len(), second)).await;
    assert_eq!((early.status, early.code().as_str()), (416, "fragmentOutOfOrder"));
    let halfway = Answer::of(put(&lab, &url, 0, first)).await;
    assert_eq!((halfway.status, &halfway.json()["nextExpectedRanges"]), (200, &json!(["3145728"])));
    assert!(halfway.json()["ExpirationDateTime"].is_string());
    let repeated = Answer::of(put(&lab, &url, 0, first)).await;
    assert_eq!((repeated.status, repeated.code().as_str()), (416, "fragmentOverlap"));
    let wrong = lab.http.put(&url).header("content-range", "bytes 3145728-3145728/3145729").body("x");
    assert_eq!(Answer::of(wrong).await.status, 416);
    assert_eq!(Answer::of(lab.http.put(&url).body("x")).await.status, 400);
    let huge = Answer::of(lab.http.put(&url).body(vec![0; 4 << 20])).await;
    assert_eq!((huge.status, huge.code().as_str()), (413, "maxFragmentLengthExceeded"));
    assert_eq!(Answer::of(lab.http.get(&url)).await.json()["nextExpectedRanges"], json!(["3145728"]));
    let done = Answer::of(put(&lab, &url, first.len(), second)).await;
    assert_eq!((done.status, done.body.as_str()), (201, ""));
    assert!(done.header("location").contains("/Attachments('"));
    assert_eq!(Answer::of(lab.http.get(&url)).await.code(), "uploadSessionNotFound");

    let sent = lab.graph("POST", &format!("{MAILBOX}/messages/{id}/send")).header("content-length", "0");
    assert_eq!(Answer::of(sent).await.status, 202);
    let message = lab.service.messages().pop().expect("a message");
    let parsed = mail_parser::MessageParser::default().parse(&*message.raw).expect("MIME");
    assert!(parsed.attachment(0).is_some_and(|part| part.contents() == file));
    assert!(lab.service.calls().iter().all(|call| !call.path.contains("authtoken")), "it is a secret");
}

#[tokio::test]
async fn sizes_decide_between_the_two_ways() {
    let lab = Lab::default().await;
    let id = draft(&lab).await;
    let small = begin(&lab, &id, (3 << 20) - 1).await;
    assert_eq!(small.code(), "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize");
    assert_eq!(begin(&lab, &id, (150 << 20) + 1).await.status, 400);
    assert_eq!(begin(&lab, "AAMkADx", SIZE).await.status, 400);
    let file = json!({ "@odata.type": "#microsoft.graph.fileAttachment", "name": "a",
                       "contentBytes": BASE64_STANDARD.encode(vec![0; 3 << 20]) });
    let posted = lab.json("POST", &format!("{MAILBOX}/messages/{id}/attachments"), file).await;
    assert_eq!(posted.status, 413, "3 MiB do not fit a request");
}

#[tokio::test]
async fn sessions_end_by_time_and_by_wish() {
    let lab = Lab::start(Options { upload_lifetime: Duration::ZERO, ..options() }).await;
    let id = draft(&lab).await;
    let url = begin(&lab, &id, SIZE).await.json()["uploadUrl"].as_str().expect("a URL").to_owned();
    let late = Answer::of(put(&lab, &url, 0, b"x")).await;
    assert_eq!((late.status, late.code().as_str()), (404, "uploadSessionNotFound"));

    let lab = Lab::default().await;
    let id = draft(&lab).await;
    let url = begin(&lab, &id, SIZE).await.json()["uploadUrl"].as_str().expect("a URL").to_owned();
    lab.service.inject(Fault::status(On::Upload, 503, "x").for_mailbox(MAILBOX).times(1));
    assert_eq!(Answer::of(put(&lab, &url, 0, b"x")).await.status, 503);
    assert_eq!(Answer::of(lab.http.delete(&url)).await.status, 204);
    assert_eq!(Answer::of(put(&lab, &url, 0, b"x")).await.status, 404);
}
