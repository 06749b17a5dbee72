//! What the header of a part says about it (RFC 2045, RFC 2183), as mail has it.

use std::ops::Range;

use super::{decode::TransferEncoding, parameters::Parameterized};
use crate::{HeaderBlock, words::one_line};

/// A part that is not divided further. A message within the message is one, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `type/subtype`, in lower case.
    pub media_type: String,
    pub charset: Option<String>,
    /// Of `text/calendar`: REQUEST, REPLY, CANCEL and so on.
    pub method: Option<String>,
    /// From Content-Disposition, or else from Content-Type. As it was written, decoded.
    pub name: Option<String>,
    /// Without angle brackets.
    pub content_id: Option<String>,
    pub disposition: Disposition,
    pub encoding: TransferEncoding,
    /// Of the encoded content, in the body of the message.
    pub range: Range<u64>,
    /// Octets when the encoding is taken off.
    pub decoded_len: u64,
    /// There is nothing but white space in it.
    pub is_blank: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    Unsaid,
    Inline,
    Attachment,
}

/// What the header of a part begins.
pub(super) enum Read {
    Leaf(Part),
    /// The subtype is in lower case, `start` (RFC 2387) without angle brackets.
    Multipart {
        subtype: String,
        boundary: Vec<u8>,
        start: Option<String>,
    },
}

impl Part {
    /// Text without a header.
    pub(super) fn text(at: u64) -> Self {
        Self {
            media_type: "text/plain".to_owned(),
            charset: None,
            method: None,
            name: None,
            content_id: None,
            disposition: Disposition::Unsaid,
            encoding: TransferEncoding::Identity,
            range: at..at,
            decoded_len: 0,
            is_blank: true,
        }
    }

    /// `default`: the type of a part that does not say one.
    pub(super) fn read(header: &HeaderBlock, default: &str, at: u64) -> Read {
        let parameterized = |name| header.named(name).next().map(|field| Parameterized::read(&field));
        let content_type = parameterized("Content-Type").unwrap_or_default();
        let disposition = parameterized("Content-Disposition").unwrap_or_default();
        let media_type = media_type(&content_type.value).unwrap_or(default);
        let media_type = match media_type.strip_prefix("multipart/") {
            None => media_type,
            Some(subtype) => match boundary(&content_type) {
                Some(boundary) => {
                    let subtype = subtype.to_owned();
                    let start = content_type.text("start").and_then(|id| without_brackets(&id));
                    return Read::Multipart { subtype, boundary, start };
                }
                // It cannot be divided, and somebody has written text.
                None => "text/plain",
            },
        };
        let is_text = matches!(media_type, "text/plain" | "text/html");
        let encoding = header.named("Content-Transfer-Encoding").next();
        let content_id = header.named("Content-ID").next();
        Read::Leaf(Self {
            charset: content_type.text("charset").and_then(|charset| first_word(&charset)),
            method: content_type.text("method").and_then(|method| first_word(&method)),
            name: disposition.text("filename").or_else(|| content_type.text("name")),
            content_id: content_id.and_then(|id| without_brackets(&String::from_utf8_lossy(&id.value()))),
            disposition: match disposition.value.as_str() {
                "" => Disposition::Unsaid,
                "inline" => Disposition::Inline,
                // RFC 2183 section 2.8: an unknown one is an attachment.
                _ => Disposition::Attachment,
            },
            encoding: encoding
                .map_or(TransferEncoding::Identity, |field| TransferEncoding::of(&field.value(), is_text)),
            media_type: media_type.to_owned(),
            ..Self::text(at)
        })
    }
}

/// As octets; in pieces, or with a character set, as nobody needs to and some do.
fn boundary(content_type: &Parameterized) -> Option<Vec<u8>> {
    let whole = content_type.octets("boundary").map(<[u8]>::to_vec);
    let boundary = whole.or_else(|| Some(content_type.text("boundary")?.into_bytes()))?;
    let boundary = boundary.trim_ascii_end();
    (!boundary.is_empty()).then(|| boundary.to_vec())
}

/// `type/subtype` of RFC 2045's tokens, or nothing.
fn media_type(value: &str) -> Option<&str> {
    let is_token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    let (kind, subtype) = value.split_once('/')?;
    (is_token(kind) && is_token(subtype)).then_some(value)
}

fn without_brackets(id: &str) -> Option<String> {
    let id = one_line(id);
    let id = id.trim_start_matches('<').trim_end_matches('>').trim();
    (!id.is_empty()).then(|| id.to_owned())
}

/// Without a comment, or whatever else has got into it.
fn first_word(text: &str) -> Option<String> {
    let mut words = text.split(|c: char| c.is_whitespace() || matches!(c, '(' | ';' | ','));
    words.next().filter(|word| !word.is_empty()).map(str::to_owned)
}
