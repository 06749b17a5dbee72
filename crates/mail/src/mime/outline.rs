//! Body and attachments: what a message is when it has to be taken apart.
//!
//! A service that takes a message as properties has one body, in text or HTML, and attachments. What would
//! lose its meaning that way (a signature, an encryption) is not taken apart at all.

use std::ops::Range;

use super::{
    decode::TransferEncoding,
    structure::{Disposition, Node, Part, Structure},
};

/// Exchange takes 250 attachments.
const MAX_ATTACHMENTS: usize = 250;
/// Graph takes 4 MB a request, and some of it is not text.
const MAX_TEXT: u64 = 3_500_000;
/// Of one attachment, by upload session (Microsoft, "Attach large files to Outlook messages").
const MAX_ATTACHMENT: u64 = 150_000_000;
const MAX_NAME: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    pub body: Option<BodyText>,
    /// In their order in the message.
    pub attachments: Vec<Attachment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyText {
    pub is_html: bool,
    pub charset: Option<String>,
    pub range: Range<u64>,
    pub encoding: TransferEncoding,
    pub decoded_len: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Never empty, no path.
    pub name: String,
    pub content_type: String,
    pub content_id: Option<String>,
    /// The body shows it, by its content id.
    pub is_inline: bool,
    pub range: Range<u64>,
    pub encoding: TransferEncoding,
    pub decoded_len: u64,
}

/// Why a message has to go as it is, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCarriable {
    #[error("it is signed (multipart/signed), and the signature would break")]
    Signed,
    #[error("it is encrypted or signed ({0})")]
    Encrypted(String),
    #[error("it is in Outlook's own format (application/ms-tnef)")]
    Tnef,
    #[error("one of its multiparts has no parts")]
    NoParts,
    #[error("it is a report (multipart/report)")]
    Report,
    #[error("its text has {0} bytes; the limit is {MAX_TEXT}")]
    TextTooLong(u64),
    #[error("it has more than {MAX_ATTACHMENTS} attachments")]
    TooManyAttachments,
    #[error("its attachment {name:?} has {octets} bytes; the limit is {MAX_ATTACHMENT}")]
    AttachmentTooLarge { name: String, octets: u64 },
}

/// Of `multipart/alternative` the body is the HTML, else the text: a service that has one of them shows the
/// other by itself.
pub fn outline(structure: &Structure) -> Result<Outline, NotCarriable> {
    let mut outline = Outline { body: None, attachments: Vec::new() };
    outline.take(&structure.root, false)?;
    if let Some(body) = &outline.body
        && body.decoded_len > MAX_TEXT
    {
        return Err(NotCarriable::TextTooLong(body.decoded_len));
    }
    if outline.attachments.len() > MAX_ATTACHMENTS {
        return Err(NotCarriable::TooManyAttachments);
    }
    match outline.attachments.iter().find(|attachment| attachment.decoded_len > MAX_ATTACHMENT) {
        Some(Attachment { name, decoded_len, .. }) => {
            Err(NotCarriable::AttachmentTooLarge { name: name.clone(), octets: *decoded_len })
        }
        None => Ok(outline),
    }
}

impl Outline {
    /// `is_related`: it belongs to a body that refers to it.
    fn take(&mut self, node: &Node, is_related: bool) -> Result<(), NotCarriable> {
        let (subtype, children) = match node {
            Node::Leaf(part) => return self.take_part(part, is_related),
            Node::Multipart { subtype, children } => (subtype.as_str(), children),
        };
        if children.is_empty() {
            // Its text would be lost without a word.
            return Err(NotCarriable::NoParts);
        }
        match subtype {
            "signed" => Err(NotCarriable::Signed),
            "encrypted" => Err(NotCarriable::Encrypted("multipart/encrypted".into())),
            "report" => Err(NotCarriable::Report),
            "alternative" if self.body.is_none() => self.take_alternatives(children),
            "related" => {
                let mut children = children.iter();
                children.next().map_or(Ok(()), |root| self.take(root, false))?;
                children.try_for_each(|child| self.take(child, true))
            }
            _ => children.iter().try_for_each(|child| self.take(child, is_related)),
        }
    }

    fn take_alternatives(&mut self, children: &[Node]) -> Result<(), NotCarriable> {
        let has = |kind: &'static str| {
            move |child: &&Node| first_text(child).is_some_and(|part| part.media_type == kind)
        };
        let best = children
            .iter()
            .rev()
            .find(has("text/html"))
            .or_else(|| children.iter().rev().find(has("text/plain")));
        if let Some(best) = best {
            self.take(best, false)?;
        }
        for child in children.iter().filter(|child| best.is_none_or(|best| !std::ptr::eq(*child, best))) {
            match child {
                // The same in another form.
                Node::Leaf(part)
                    if matches!(
                        part.media_type.as_str(),
                        "text/plain" | "text/html" | "text/enriched" | "text/richtext"
                    ) => {}
                // An invitation, say.
                other => self.take(other, false)?,
            }
        }
        Ok(())
    }

    fn take_part(&mut self, part: &Part, is_related: bool) -> Result<(), NotCarriable> {
        match part.media_type.as_str() {
            "application/pkcs7-mime" | "application/x-pkcs7-mime" | "application/pgp-encrypted" => {
                return Err(NotCarriable::Encrypted(part.media_type.clone()));
            }
            "application/ms-tnef" | "application/vnd.ms-tnef" => return Err(NotCarriable::Tnef),
            _ => {}
        }
        if is_body(part) && self.body.is_none() && !is_related {
            self.body = Some(BodyText {
                is_html: part.media_type == "text/html",
                charset: part.charset.clone(),
                range: part.range.clone(),
                encoding: part.encoding,
                decoded_len: part.decoded_len,
            });
            return Ok(());
        }
        let is_inline = part.content_id.is_some()
            && (is_related && part.disposition != Disposition::Attachment
                || part.disposition == Disposition::Inline);
        let media_type = if part.media_type.starts_with("multipart/") {
            "application/octet-stream"
        } else {
            part.media_type.as_str()
        };
        self.attachments.push(Attachment {
            name: name_of(part, self.attachments.len() + 1),
            content_type: media_type.to_owned(),
            content_id: part.content_id.clone(),
            is_inline,
            range: part.range.clone(),
            encoding: part.encoding,
            decoded_len: part.decoded_len,
        });
        Ok(())
    }
}

fn is_body(part: &Part) -> bool {
    matches!(part.media_type.as_str(), "text/plain" | "text/html")
        && part.disposition != Disposition::Attachment
        && part.name.is_none()
}

/// The text that a node would show.
fn first_text(node: &Node) -> Option<&Part> {
    match node {
        Node::Leaf(part) => is_body(part).then_some(part),
        Node::Multipart { subtype, children } if subtype == "alternative" => {
            let html = |child: &&Node| first_text(child).is_some_and(|part| part.media_type == "text/html");
            children.iter().find(html).or(children.first()).and_then(first_text)
        }
        Node::Multipart { children, .. } => children.first().and_then(first_text),
    }
}

fn name_of(part: &Part, number: usize) -> String {
    let given = part.name.as_deref().unwrap_or_default();
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let clean = clean.trim();
    if !clean.is_empty() && clean.chars().any(|c| c != '.') {
        return clean.to_owned();
    }
    let extension = match part.media_type.as_str() {
        "message/rfc822" => "eml",
        "text/plain" => "txt",
        "text/html" => "html",
        "text/calendar" => "ics",
        "text/csv" => "csv",
        "application/pdf" => "pdf",
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        _ => "bin",
    };
    format!("attachment-{number}.{extension}")
}

#[cfg(test)]
mod tests {
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
            outlined(&mixed("alternative", &[text(), part("text/html", ""), part("text/calendar", "")]))
                .unwrap();
        assert!(found.body.as_ref().is_some_and(|body| body.is_html));
        assert_eq!(names(&found), [("attachment-1.ics", false)]);

        let image = part("image/png", "Content-ID: <i@x>\r\n");
        let found =
            outlined(&mixed("related", &[part("text/html", ""), image, part("image/gif", "")])).unwrap();
        assert_eq!(names(&found), [("attachment-1.png", true), ("attachment-2.gif", false)]);
        assert_eq!(found.attachments[0].content_id.as_deref(), Some("i@x"));

        // A file alone, and a text that is one.
        let found = outlined("Content-Type: application/pdf; name=x.pdf\r\n\r\nx").unwrap();
        assert_eq!((found.body.is_none(), names(&found)), (true, vec![("x.pdf", false)]));
        let found = outlined(&mixed("mixed", &[part("text/plain; name=notes.txt", "")])).unwrap();
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
        assert_eq!(outlined(&mixed("report", &text)), Err(NotCarriable::Report));
        assert!(matches!(outlined(&mixed("encrypted", &text)), Err(NotCarriable::Encrypted(_))));
        assert_eq!(outlined(&mixed("mixed", &[])), Err(NotCarriable::NoParts));
        assert!(matches!(outlined(&inner("application/pkcs7-mime")), Err(NotCarriable::Encrypted(_))));
        assert_eq!(outlined(&inner("application/ms-tnef")), Err(NotCarriable::Tnef));
        let many = vec![part("application/x", ""); 251];
        assert_eq!(outlined(&mixed("mixed", &many)), Err(NotCarriable::TooManyAttachments));
        let long = format!("Content-Type: text/plain\r\n\r\n{}", "x".repeat(3_500_001));
        assert_eq!(outlined(&long), Err(NotCarriable::TextTooLong(3_500_001)));
    }
}
