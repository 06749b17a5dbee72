use super::*;
use crate::{HeaderScanner, StructureScanner};

fn outlined(message: &str) -> Result<Outline, NotCarriable> {
    let split = HeaderScanner::split_message(message.as_bytes()).unwrap();
    let mut scanner = StructureScanner::new(&split.header);
    scanner.push(&split.body);
    outline(&scanner.finish().unwrap())
}

fn part(kind: &str, more: &str) -> String {
    format!("--b\r\nContent-Type: {kind}\r\n{more}\r\nx\r\n")
}

fn mixed(subtype: &str, parts: &[String]) -> String {
    format!("Content-Type: multipart/{subtype}; boundary=b\r\n\r\n{}--b--\r\n", parts.concat())
}

fn names(outline: &Outline) -> Vec<(&str, bool)> {
    outline.attachments.iter().map(|a| (a.name.as_str(), a.is_inline)).collect()
}

#[test]
fn body_and_attachments() {
    let text = || part("text/plain", "");
    let file = "Content-Disposition: attachment; filename=a.pdf\r\n";
    let found = outlined(&mixed("mixed", &[text(), part("application/pdf", file), text()])).unwrap();
    assert!(found.body.as_ref().is_some_and(|body| !body.is_html));
    assert_eq!(names(&found), [("a.pdf", false), ("attachment-2.txt", false)]);

    let found =
        outlined(&mixed("alternative", &[text(), part("text/html", ""), part("text/calendar", "")])).unwrap();
    assert!(found.body.as_ref().is_some_and(|body| body.is_html));
    assert_eq!(names(&found), [("attachment-1.ics", false)]);

    let image = part("image/png", "Content-ID: <i@x>\r\n");
    let mut found =
        outlined(&mixed("related", &[part("text/html", ""), image, part("image/gif", "")])).unwrap();
    found.find_inline("<img src=\"cid:i@x\">");
    assert_eq!(names(&found), [("attachment-1.png", true), ("attachment-2.gif", false)]);
    assert_eq!(found.attachments[0].content_id.as_deref(), Some("i@x"));

    // A file alone, and a text with a name where there is no other.
    let found = outlined("Content-Type: application/pdf; name=x.pdf\r\n\r\nx").unwrap();
    assert_eq!((found.body.is_none(), names(&found)), (true, vec![("x.pdf", false)]));
    let found = outlined(&mixed("mixed", &[part("text/plain; name=notes.txt", "")])).unwrap();
    assert_eq!((found.body.is_some(), names(&found)), (true, vec![]));
    let file = "Content-Disposition: attachment; filename=notes.txt\r\n";
    let found = outlined(&mixed("mixed", &[part("text/plain", file)])).unwrap();
    assert_eq!((found.body.is_none(), names(&found)), (true, vec![("notes.txt", false)]));
    let found = outlined(&mixed("mixed", &[part("message/rfc822", "")])).unwrap();
    assert_eq!(names(&found), [("attachment-1.eml", false)]);
}

#[test]
fn names_are_no_paths() {
    for (given, name) in [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\temp\\\\x.doc", "x.doc"),
        ("..", "attachment-1.bin"),
        ("a b.txt", "a b.txt"),
    ] {
        let more = format!("Content-Disposition: attachment; filename=\"{given}\"\r\n");
        let found = outlined(&mixed("mixed", &[part("application/x", &more)])).unwrap();
        assert_eq!(names(&found), [(name, false)], "{given}");
    }
}

#[test]
fn what_cannot_be_taken_apart() {
    let inner = |kind: &str| mixed("mixed", &[part(kind, "")]);
    let text = [part("text/plain", "")];
    assert_eq!(outlined(&mixed("signed", &text)), Err(NotCarriable::Signed));
    assert!(matches!(outlined(&mixed("encrypted", &text)), Err(NotCarriable::Encrypted(_))));
    assert!(matches!(outlined(&inner("application/pkcs7-mime")), Err(NotCarriable::Encrypted(_))));
    assert_eq!(outlined(&inner("application/ms-tnef")), Err(NotCarriable::Tnef));
    let many = vec![part("application/x", ""); 251];
    assert_eq!(outlined(&mixed("mixed", &many)), Err(NotCarriable::TooManyAttachments));
}

#[test]
fn a_text_that_is_too_long_or_in_unknown_letters_is_attached() {
    let long = format!("Content-Type: text/plain\r\n\r\n{}", "x".repeat(3_500_001));
    let found = outlined(&long).unwrap();
    assert_eq!((found.body, found.attachments[0].decoded_len), (None, 3_500_001));
    let found = outlined("Content-Type: text/plain; charset=viscii\r\n\r\nx").unwrap();
    assert_eq!((found.body.is_some(), names(&found)), (true, vec![("attachment-1.txt", false)]));
}

fn content(kind: &str, more: &str, content: &str) -> String {
    format!("--b\r\nContent-Type: {kind}\r\n{more}\r\n{content}\r\n")
}

/// Whether the body is HTML and its octets, then the names of the attachments.
fn shown(message: &str) -> (Option<(bool, u64)>, Vec<String>) {
    let found = outlined(message).unwrap();
    let body = found.body.map(|body| (body.is_html, body.decoded_len));
    (body, found.attachments.into_iter().map(|attachment| attachment.name).collect())
}

#[test]
fn which_part_is_the_body() {
    let attached = |name: &str| format!("Content-Disposition: attachment; filename={name}\r\n");
    let none: Vec<String> = Vec::new();
    // An empty text gives way to the HTML behind it.
    let parts = [
        content("text/plain", "", ""),
        part("application/pdf", &attached("a.pdf")),
        content("text/html", "", "html"),
    ];
    assert_eq!(shown(&mixed("mixed", &parts)), (Some((true, 4)), vec!["a.pdf".to_owned()]));
    // HTML that is empty gives way to the text.
    let parts = [content("text/plain", "", "text!"), content("text/html", "", " \r\n")];
    assert_eq!(shown(&mixed("alternative", &parts)), (Some((false, 5)), none.clone()));
    // Nothing with a name is left out of an alternative.
    let parts = [
        content("text/plain", "Content-Disposition: inline\r\n", "text"),
        content("text/html", "", "html!"),
        content("text/plain; name=log.txt", &attached("log.txt"), "log"),
        content("text/html", &attached("report.html"), "report"),
        content("text/enriched", "", "other"),
    ];
    let names = vec!["log.txt".to_owned(), "report.html".to_owned()];
    assert_eq!(shown(&mixed("alternative", &parts)), (Some((true, 5)), names));
    // The part that `start` names, whatever its place.
    let parts = [
        content("image/png", "Content-ID: <i@x>\r\n", "image"),
        content("text/html", "Content-ID: <root@x>\r\n", "root"),
    ];
    let related = mixed("related", &parts).replace("boundary=b", "boundary=b; start=\"<root@x>\"");
    assert_eq!(shown(&related), (Some((true, 4)), vec!["attachment-1.png".to_owned()]));
    // A report: its first part is for people.
    let parts = [
        content("text/plain", "", "for people"),
        content("message/feedback-report", "", "Feedback-Type: abuse"),
        content("message/rfc822", "", "Subject: spam"),
    ];
    let names = vec!["attachment-1.txt".to_owned(), "attachment-2.eml".to_owned()];
    assert_eq!(shown(&mixed("report; report-type=feedback-report", &parts)), (Some((false, 10)), names));
    // Nothing at all.
    assert_eq!(shown(&mixed("mixed", &[])), (None, none.clone()));
    assert_eq!(shown("Content-Type: multipart/mixed; boundary=b\r\n\r\nonly text"), (Some((false, 9)), none));
}

#[test]
fn names_are_cut_in_front_of_their_extension() {
    let name = format!("{}.pdf", "n".repeat(300));
    assert_eq!(shortened(&name), format!("{}.pdf", "n".repeat(196)));
    assert_eq!(shortened(&"ü".repeat(300)).chars().count(), 200);
    assert_eq!(shortened(&format!("a.{}", "x".repeat(300))).chars().count(), 200);
    assert_eq!(shortened("short.txt"), "short.txt");
}

#[test]
fn what_the_body_shows() {
    let ids = content_ids("<img src='CID:a%40x'><a href=cid:b@x>c</a> url(cid:c@X) \"cid:d&amp;e\" acid: ");
    let mut ids: Vec<_> = ids.into_iter().filter(|id| !id.is_empty()).collect();
    ids.sort();
    assert_eq!(ids, ["a@x", "b@x", "c@x", "d&e"]);
    // The text may be cut. What is longer than any id is none.
    let long = format!("cid:{} <img src=cid:e@x>", "x".repeat(MAX_CONTENT_ID));
    assert_eq!(content_ids(&long), HashSet::from(["e@x".to_owned()]));
    assert_eq!(content_ids("cid:f@x"), HashSet::from(["f@x".to_owned()]));
}
