//! Body and attachments: what a message is when it has to be taken apart.
//!
//! A service that takes a message as properties has one body, in text or HTML, and attachments. What would
//! lose its meaning that way (a signature, an encryption) is not taken apart at all.

use std::{collections::HashSet, ops::Range};

use super::{
    decode::TransferEncoding,
    structure::{Disposition, Node, Part, Structure},
};
use crate::{charset::is_readable, words::one_line};

/// Exchange takes 250 attachments.
const MAX_ATTACHMENTS: usize = 250;
/// Graph takes 4 MB a request, and some of it is not text.
const MAX_TEXT: u64 = 3_500_000;
/// Of one attachment, by upload session (Microsoft, "Attach large files to Outlook messages").
const MAX_ATTACHMENT: u64 = 150_000_000;
/// Characters of a name, and of the extension that stays when it is cut.
const MAX_NAME: usize = 200;
const MAX_EXTENSION: usize = 20;
/// Octets of a content id, which is in a line of the header (RFC 5322 section 2.1.1), each of which may be
/// three in a URL.
const MAX_CONTENT_ID: usize = 3 * 998;

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
    /// The body shows it, by its content id: see [`Outline::find_inline`].
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
    #[error("it has more than {MAX_ATTACHMENTS} attachments")]
    TooManyAttachments,
    #[error("its attachment {name:?} has {octets} bytes; the limit is {MAX_ATTACHMENT}")]
    AttachmentTooLarge { name: String, octets: u64 },
}

/// Of `multipart/alternative` the body is the HTML, else the text: a service that has one of them shows the
/// other by itself.
pub fn outline(structure: &Structure) -> Result<Outline, NotCarriable> {
    let mut collected = Collected::default();
    collected.take(&structure.root, Place::default())?;
    let outline = collected.into_outline();
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
    /// Finds out which attachments `html`, the body, shows (RFC 2392). All others are to be listed, whatever
    /// their disposition was: what is neither shown nor listed would be lost.
    pub fn find_inline(&mut self, html: &str) {
        let shown = content_ids(html);
        for attachment in &mut self.attachments {
            let id = attachment.content_id.as_ref().map(|id| id.to_ascii_lowercase());
            attachment.is_inline = id.is_some_and(|id| shown.contains(&id));
        }
    }
}

/// The ids in `cid:` URLs, in lower case.
fn content_ids(html: &str) -> HashSet<String> {
    let mut ids = HashSet::new();
    let mut rest = html.as_bytes();
    while let Some(colon) = memchr::memchr(b':', rest) {
        let (before, after) = rest.split_at(colon);
        rest = &after[1..];
        if before.len() >= 3 && before[before.len() - 3..].eq_ignore_ascii_case(b"cid") {
            let possible = &rest[..rest.len().min(MAX_CONTENT_ID)];
            let Some(end) = possible.iter().position(|octet| b"\"'<>) \t\r\n".contains(octet)) else {
                // It ends with the text, or is none.
                rest = &rest[possible.len()..];
                if rest.is_empty() {
                    ids.insert(content_id(possible));
                }
                continue;
            };
            ids.insert(content_id(&rest[..end]));
            rest = &rest[end..];
        }
    }
    ids
}

fn content_id(url: &[u8]) -> String {
    let id = percent_encoding::percent_decode(url).decode_utf8_lossy();
    id.replace("&amp;", "&").to_ascii_lowercase()
}

/// Where in the tree a part is.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Beside the root of a `multipart/related`: what it is for, the root says.
    is_related: bool,
    /// In an alternative to what was chosen: its text is there already.
    is_alternative: bool,
}

/// What was found so far.
#[derive(Default)]
struct Collected<'a> {
    /// The last is the one to show, those before it are blank.
    body: Option<&'a Part>,
    attached: Vec<&'a Part>,
    /// A text with a name, for a message that has no other.
    named_text: Option<&'a Part>,
}

impl<'a> Collected<'a> {
    fn take(&mut self, node: &'a Node, place: Place) -> Result<(), NotCarriable> {
        let (subtype, start, children) = match node {
            Node::Leaf(part) => return self.take_part(part, place),
            Node::Multipart { subtype, start, children } => (subtype.as_str(), start, children),
        };
        match subtype {
            "signed" => Err(NotCarriable::Signed),
            "encrypted" => Err(NotCarriable::Encrypted("multipart/encrypted".into())),
            "alternative" => self.take_alternatives(children, place),
            "related" => {
                let root = related_root(start.as_deref(), children);
                for (n, child) in children.iter().enumerate() {
                    let is_related = place.is_related || n != root;
                    self.take(child, Place { is_related, ..place })?;
                }
                Ok(())
            }
            _ => children.iter().try_for_each(|child| self.take(child, place)),
        }
    }

    fn take_alternatives(&mut self, children: &'a [Node], place: Place) -> Result<(), NotCarriable> {
        let last = |is_wanted: &dyn Fn(&Part) -> bool| {
            children.iter().rposition(|child| first_text(child).is_some_and(is_wanted))
        };
        let best = last(&|part| part.media_type == "text/html" && !part.is_blank)
            .or_else(|| last(&|part| !part.is_blank))
            .or_else(|| last(&|_| true));
        for (n, child) in children.iter().enumerate() {
            let is_alternative = place.is_alternative || best.is_some_and(|best| best != n);
            self.take(child, Place { is_alternative, ..place })?;
        }
        Ok(())
    }

    fn take_part(&mut self, part: &'a Part, place: Place) -> Result<(), NotCarriable> {
        match part.media_type.as_str() {
            "application/pkcs7-mime" | "application/x-pkcs7-mime" | "application/pgp-encrypted" => {
                return Err(NotCarriable::Encrypted(part.media_type.clone()));
            }
            "application/ms-tnef" | "application/vnd.ms-tnef" => return Err(NotCarriable::Tnef),
            _ => {}
        }
        if place.is_alternative && is_other_form(part) {
            return Ok(());
        }
        if is_body(part) && !place.is_related {
            match self.body {
                // An empty text gives way to the one behind it.
                Some(body) if !body.is_blank && !part.is_blank => self.attached.push(part),
                Some(_) if part.is_blank => {}
                _ => self.body = Some(part),
            }
            return Ok(());
        }
        let could_be_body = is_text(part) && part.disposition != Disposition::Attachment && !place.is_related;
        if could_be_body && self.named_text.is_none() {
            self.named_text = Some(part);
        }
        self.attached.push(part);
        Ok(())
    }

    fn into_outline(mut self) -> Outline {
        if self.body.is_none_or(|body| body.is_blank)
            && let Some(named) = self.named_text
        {
            self.attached.retain(|part| !std::ptr::eq(*part, named));
            self.body = Some(named);
        }
        // Too long for a request, or in letters that nobody knows: it is attached as it is.
        if let Some(body) = self.body
            && (body.decoded_len > MAX_TEXT || !is_readable(body.charset.as_deref()))
        {
            self.attached.push(body);
        }
        let attachments = self.attached.iter().enumerate().map(|(n, part)| Attachment::of(part, n + 1));
        Outline {
            attachments: attachments.collect(),
            body: self.body.filter(|body| body.decoded_len <= MAX_TEXT).map(BodyText::of),
        }
    }
}

impl BodyText {
    fn of(part: &Part) -> Self {
        Self {
            is_html: part.media_type == "text/html",
            charset: part.charset.clone(),
            range: part.range.clone(),
            encoding: part.encoding,
            decoded_len: part.decoded_len,
        }
    }
}

impl Attachment {
    fn of(part: &Part, number: usize) -> Self {
        let content_type = match (&part.method, part.media_type.as_str()) {
            // What makes an invitation of a calendar.
            (Some(method), "text/calendar") => format!("text/calendar; method={method}"),
            (_, media_type) => media_type.to_owned(),
        };
        Self {
            name: name_of(part, number),
            content_type,
            content_id: part.content_id.clone(),
            is_inline: false,
            range: part.range.clone(),
            encoding: part.encoding,
            decoded_len: part.decoded_len,
        }
    }
}

/// RFC 2387: the part that `start` names, else the first.
fn related_root(start: Option<&str>, children: &[Node]) -> usize {
    let has_id = |child: &Node| {
        let Node::Leaf(part) = child else { return false };
        start.is_some_and(|start| part.content_id.as_deref() == Some(start))
    };
    children.iter().position(has_id).unwrap_or(0)
}

fn is_text(part: &Part) -> bool {
    matches!(part.media_type.as_str(), "text/plain" | "text/html")
}

fn is_body(part: &Part) -> bool {
    is_text(part) && part.disposition != Disposition::Attachment && part.name.is_none()
}

/// The same text in another form. What has a name, or is attached, is something else.
fn is_other_form(part: &Part) -> bool {
    is_body(part)
        || part.name.is_none()
            && part.disposition != Disposition::Attachment
            && matches!(
                part.media_type.as_str(),
                "text/enriched" | "text/richtext" | "text/x-amp-html" | "text/watch-html"
            )
}

/// The text that a node would show. Each child is asked once: they may be nested.
fn first_text(node: &Node) -> Option<&Part> {
    match node {
        Node::Leaf(part) => is_body(part).then_some(part),
        Node::Multipart { subtype, children, .. } if subtype == "alternative" => {
            let is_html = |part: &&Part| part.media_type == "text/html" && !part.is_blank;
            let mut texts = children.iter().map(first_text);
            let first = texts.next()?;
            first.filter(is_html).or_else(|| texts.flatten().find(is_html)).or(first)
        }
        Node::Multipart { subtype, start, children } if subtype == "related" => {
            children.get(related_root(start.as_deref(), children)).and_then(first_text)
        }
        Node::Multipart { children, .. } => {
            let mut texts = children.iter().filter_map(first_text);
            let first = texts.next()?;
            if !first.is_blank {
                return Some(first);
            }
            texts.find(|part| !part.is_blank).or(Some(first))
        }
    }
}

fn name_of(part: &Part, number: usize) -> String {
    let given = part.name.as_deref().map(one_line).unwrap_or_default();
    let name = given.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    if name.chars().any(|c| c != '.') {
        return shortened(name);
    }
    let extension = match part.media_type.as_str() {
        "message/rfc822" | "message/global" => "eml",
        "text/html" => "html",
        "text/calendar" => "ics",
        "text/csv" => "csv",
        "application/pdf" => "pdf",
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        // Those of reports among them: delivery-status, disposition-notification, feedback-report.
        media_type if media_type.starts_with("text/") || media_type.starts_with("message/") => "txt",
        _ => "bin",
    };
    format!("attachment-{number}.{extension}")
}

/// Cut in front of its extension, by which the receiver's system knows what it is.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= MAX_NAME {
        return name.to_owned();
    }
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    let extension = extension.filter(|extension| extension.chars().count() <= MAX_EXTENSION);
    let kept = MAX_NAME - extension.map_or(0, |extension| extension.chars().count() + 1);
    let stem: String = name.chars().take(kept).collect();
    match extension {
        Some(extension) => format!("{}.{extension}", stem.trim_end()),
        None => stem,
    }
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
        assert_eq!(
            shown("Content-Type: multipart/mixed; boundary=b\r\n\r\nonly text"),
            (Some((false, 9)), none)
        );
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
        let ids =
            content_ids("<img src='CID:a%40x'><a href=cid:b@x>c</a> url(cid:c@X) \"cid:d&amp;e\" acid: ");
        let mut ids: Vec<_> = ids.into_iter().filter(|id| !id.is_empty()).collect();
        ids.sort();
        assert_eq!(ids, ["a@x", "b@x", "c@x", "d&e"]);
        // The text may be cut. What is longer than any id is none.
        let long = format!("cid:{} <img src=cid:e@x>", "x".repeat(MAX_CONTENT_ID));
        assert_eq!(content_ids(&long), HashSet::from(["e@x".to_owned()]));
        assert_eq!(content_ids("cid:f@x"), HashSet::from(["f@x".to_owned()]));
    }
}
