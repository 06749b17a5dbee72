//! Body and attachments: what a message is when it has to be taken apart.
//!
//! A service that takes a message as properties has one body, in text or HTML, and attachments. What would
//! lose its meaning that way (a signature, an encryption) is not taken apart at all.

use std::{collections::HashSet, ops::Range};

use super::{
    decode::TransferEncoding,
    part::{Disposition, Part},
    structure::{Node, Structure},
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
mod tests;
