//! The parts of a message (RFC 2046) and where they lie.
//!
//! Line by line, in one pass and in bounded memory: of the content nothing is kept but where it begins and
//! ends, and how many octets it has when its transfer encoding is taken off. Lines may be of any length.

use std::ops::Range;

use mail_parser::parsers::MessageStream;

use super::decode::{Decoder, TransferEncoding};
use crate::{ByteSize, Field, HeaderBlock, HeaderScanner};

/// Exchange takes 250 parts.
const MAX_PARTS: usize = 1000;
/// Exchange takes 30 messages inside each other.
const MAX_DEPTH: usize = 30;
const MAX_PART_HEADER: usize = 64 * 1024;
/// RFC 2046 section 5.1.1: 70 octets, with two dashes at each end and blanks behind.
const LONGEST_DELIMITER: usize = 200;

/// The tree of parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    pub root: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Leaf(Part),
    /// `multipart/…`, with the subtype in lower case.
    Multipart {
        subtype: String,
        children: Vec<Node>,
    },
}

/// A part that is not divided further. A message within the message is one, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `type/subtype`, in lower case.
    pub media_type: String,
    pub charset: Option<String>,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    Unsaid,
    Inline,
    Attachment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it has more than {MAX_PARTS} parts")]
    TooManyParts,
    #[error("its parts are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("the header of a part is larger than {}", ByteSize(MAX_PART_HEADER as u64))]
    HeaderTooLarge,
}

/// Finds the structure of a body that it is given in portions.
#[derive(Debug)]
pub struct StructureScanner {
    open: Vec<OpenMultipart>,
    state: State,
    /// The finished root, when it is a leaf or its last delimiter has come.
    root: Option<Node>,
    parts: usize,
    failed: Option<Unreadable>,
    /// Octets so far.
    at: u64,
    line: Line,
    /// Where decoded content goes, only to be counted.
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct OpenMultipart {
    subtype: String,
    boundary: Vec<u8>,
    children: Vec<Node>,
}

#[derive(Debug)]
enum State {
    /// Before the first delimiter of a multipart or behind its last: nobody's.
    Between,
    Header(Vec<u8>),
    Content(OpenLeaf),
}

#[derive(Debug)]
struct OpenLeaf {
    part: Part,
    decoder: Decoder,
    /// The line end before the next line: it belongs to a delimiter, if one follows.
    line_end: Vec<u8>,
}

/// The line that is being read.
#[derive(Debug)]
enum Line {
    /// It may be a delimiter, or belong to a header: its octets so far.
    Held(Vec<u8>),
    /// It is content, and has been passed on so far.
    Passed,
}

impl StructureScanner {
    /// For the body of a message with this header.
    pub fn new(header: &HeaderBlock) -> Self {
        let mut scanner = Self {
            open: Vec::new(),
            state: State::Between,
            root: None,
            parts: 0,
            failed: None,
            at: 0,
            line: Line::Held(Vec::new()),
            scratch: Vec::new(),
        };
        scanner.begin(header);
        scanner
    }

    /// Takes the next octets of the body.
    pub fn push(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() && self.failed.is_none() {
            let line_feed = memchr::memchr(b'\n', chunk);
            let (piece, rest) = chunk.split_at(line_feed.map_or(chunk.len(), |at| at + 1));
            chunk = rest;
            self.take(piece);
            if line_feed.is_some() {
                self.end_line();
            }
        }
    }

    /// Of the whole body.
    pub fn finish(mut self) -> Result<Structure, Unreadable> {
        self.end_line();
        if let Some(why) = self.failed {
            return Err(why);
        }
        // The last delimiter may be missing: what is open ends here.
        self.end_part(0);
        while let Some(multipart) = self.open.pop() {
            self.put(multipart.into_node());
        }
        let nothing = || Node::Multipart { subtype: "mixed".into(), children: Vec::new() };
        Ok(Structure { root: self.root.unwrap_or_else(nothing) })
    }

    /// A piece of a line, with its line feed if it is the last.
    fn take(&mut self, piece: &[u8]) {
        self.at += piece.len() as u64;
        let Line::Held(held) = &mut self.line else { return self.content(piece) };
        let in_header = matches!(self.state, State::Header(_));
        if held.is_empty() && !in_header && !piece.starts_with(b"-") {
            self.line = Line::Passed;
            return self.content(piece);
        }
        held.extend_from_slice(piece);
        if in_header {
            if held.len() > MAX_PART_HEADER {
                self.failed = Some(Unreadable::HeaderTooLarge);
            }
            return;
        }
        let may_be_delimiter =
            held.len() <= LONGEST_DELIMITER && (held.starts_with(b"--") || held.len() == 1);
        if !may_be_delimiter {
            let held = std::mem::take(held);
            self.line = Line::Passed;
            self.content(&held);
        }
    }

    /// Octets of the current line, of which it is known that it is no delimiter.
    fn content(&mut self, mut octets: &[u8]) {
        let State::Content(leaf) = &mut self.state else { return };
        if leaf.line_end == b"\r"
            && let Some(rest) = octets.strip_prefix(b"\n")
        {
            leaf.line_end.push(b'\n');
            octets = rest;
        }
        if octets.is_empty() {
            return;
        }
        let before = std::mem::take(&mut leaf.line_end);
        leaf.decode(&before, &mut self.scratch);
        let kept = octets.len() - line_end_len(octets);
        leaf.decode(&octets[..kept], &mut self.scratch);
        leaf.line_end = before;
        leaf.line_end.clear();
        leaf.line_end.extend_from_slice(&octets[kept..]);
    }

    fn end_line(&mut self) {
        let line = std::mem::replace(&mut self.line, Line::Held(Vec::new()));
        let Line::Held(line) = line else { return };
        if self.failed.is_some() {
            return;
        }
        if let Some((depth, is_last)) = self.delimiter(&line) {
            self.end_part(line.len() as u64);
            while self.open.len() > depth + 1 {
                // It is longer than depth, so there is one.
                if let Some(inner) = self.open.pop() {
                    self.put(inner.into_node());
                }
            }
            if !is_last {
                self.state = State::Header(Vec::new());
            } else if let Some(ended) = self.open.pop() {
                self.put(ended.into_node());
            }
            return;
        }
        match &mut self.state {
            State::Between => {}
            State::Content(_) => self.content(&line),
            State::Header(header) => {
                header.extend_from_slice(&line);
                if header.len() > MAX_PART_HEADER {
                    self.failed = Some(Unreadable::HeaderTooLarge);
                } else if line.trim_ascii().is_empty() {
                    let header = std::mem::take(header);
                    self.end_header(&header);
                }
            }
        }
    }

    fn end_header(&mut self, octets: &[u8]) {
        match HeaderScanner::split_message(octets) {
            Ok(split) => self.begin(&split.header),
            Err(_) => self.begin(&HeaderBlock::default()),
        }
    }

    /// Which of the open multiparts this line divides, and whether it is its end.
    fn delimiter(&self, line: &[u8]) -> Option<(usize, bool)> {
        let text = line.strip_prefix(b"--")?.trim_ascii_end();
        let innermost_first = self.open.iter().enumerate().rev();
        innermost_first.into_iter().find_map(|(depth, multipart)| {
            match text.strip_prefix(multipart.boundary.as_slice())? {
                b"" => Some((depth, false)),
                b"--" => Some((depth, true)),
                _ => None,
            }
        })
    }

    /// A part begins here, and this is its header.
    fn begin(&mut self, header: &HeaderBlock) {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            self.failed = Some(Unreadable::TooManyParts);
            return;
        }
        let in_digest = self.open.last().is_some_and(|outer| outer.subtype == "digest");
        let part = Part::read(header, if in_digest { "message/rfc822" } else { "text/plain" }, self.at);
        let boundary = part.media_type.strip_prefix("multipart/").zip(boundary(header));
        match boundary {
            Some(_) if self.open.len() >= MAX_DEPTH => self.failed = Some(Unreadable::TooDeep),
            Some((subtype, boundary)) => {
                let subtype = subtype.to_owned();
                self.open.push(OpenMultipart { subtype, boundary, children: Vec::new() });
                self.state = State::Between;
            }
            None => {
                let decoder = Decoder::new(part.encoding);
                self.state = State::Content(OpenLeaf { part, decoder, line_end: Vec::new() });
            }
        }
    }

    /// The part that is open ends before the last `delimiter` octets.
    fn end_part(&mut self, delimiter: u64) {
        let leaf = match std::mem::replace(&mut self.state, State::Between) {
            State::Between => return,
            State::Content(leaf) => leaf,
            // The message ends with a delimiter.
            State::Header(header) if header.is_empty() && delimiter == 0 => return,
            // A header without a body.
            State::Header(header) => {
                self.end_header(&header);
                match std::mem::replace(&mut self.state, State::Between) {
                    State::Content(mut leaf) => {
                        leaf.part.range = self.at - delimiter..self.at - delimiter;
                        leaf
                    }
                    _ => return,
                }
            }
        };
        let mut leaf = leaf;
        let mut end = self.at - delimiter;
        if delimiter == 0 {
            // The end of the message, and not of a part: the last line end is content.
            let line_end = std::mem::take(&mut leaf.line_end);
            leaf.decode(&line_end, &mut self.scratch);
        } else {
            end -= leaf.line_end.len() as u64;
        }
        self.scratch.clear();
        leaf.decoder.finish(&mut self.scratch);
        leaf.part.decoded_len += self.scratch.len() as u64;
        leaf.part.range.end = end.max(leaf.part.range.start);
        self.put(Node::Leaf(leaf.part));
    }

    fn put(&mut self, node: Node) {
        match self.open.last_mut() {
            Some(outer) => outer.children.push(node),
            None => self.root = Some(node),
        }
    }
}

impl OpenMultipart {
    fn into_node(self) -> Node {
        Node::Multipart { subtype: self.subtype, children: self.children }
    }
}

impl OpenLeaf {
    fn decode(&mut self, octets: &[u8], scratch: &mut Vec<u8>) {
        scratch.clear();
        self.decoder.push(octets, scratch);
        self.part.decoded_len += scratch.len() as u64;
    }
}

fn line_end_len(octets: &[u8]) -> usize {
    match octets {
        [.., b'\r', b'\n'] => 2,
        // A CR at the end may be the first half of a line end.
        [.., b'\n' | b'\r'] => 1,
        _ => 0,
    }
}

impl Part {
    fn read(header: &HeaderBlock, default: &str, at: u64) -> Self {
        let content_type = header.named("Content-Type").next();
        let content_type = content_type.as_ref().map(parse);
        let disposition = header.named("Content-Disposition").next();
        let disposition = disposition.as_ref().map(parse);
        let attribute = |of: &Option<mail_parser::HeaderValue<'_>>, name| {
            let parsed = of.as_ref()?.as_content_type()?;
            parsed.attribute(name).map(str::to_owned).filter(|text| !text.trim().is_empty())
        };
        let media_type = content_type.as_ref().and_then(|value| value.as_content_type()).and_then(|parsed| {
            let subtype = parsed.subtype().filter(|subtype| !subtype.is_empty())?;
            Some(format!("{}/{subtype}", parsed.ctype()).to_ascii_lowercase())
        });
        let kind = disposition.as_ref().and_then(|value| value.as_content_type()).map(|parsed| {
            match parsed.ctype() {
                inline if inline.eq_ignore_ascii_case("inline") => Disposition::Inline,
                // RFC 2183 section 2.8: an unknown one is an attachment.
                _ => Disposition::Attachment,
            }
        });
        let content_id = header.named("Content-ID").next().map(|field| {
            let value = String::from_utf8_lossy(&field.value()).into_owned();
            value.trim().trim_start_matches('<').trim_end_matches('>').to_owned()
        });
        let encoding = header.named("Content-Transfer-Encoding").next();
        Self {
            media_type: media_type.unwrap_or_else(|| default.to_owned()),
            charset: attribute(&content_type, "charset"),
            name: attribute(&disposition, "filename").or_else(|| attribute(&content_type, "name")),
            content_id: content_id.filter(|id| !id.is_empty()),
            disposition: kind.unwrap_or(Disposition::Unsaid),
            encoding: encoding
                .map_or(TransferEncoding::Identity, |field| TransferEncoding::of(&field.value())),
            range: at..at,
            decoded_len: 0,
        }
    }
}

fn parse<'a>(field: &Field<'a>) -> mail_parser::HeaderValue<'a> {
    MessageStream::new(field.raw_value()).parse_content_type()
}

fn boundary(header: &HeaderBlock) -> Option<Vec<u8>> {
    let field = header.named("Content-Type").next()?;
    let parsed = parse(&field);
    let boundary = parsed.as_content_type()?.attribute("boundary")?.trim_end();
    (!boundary.is_empty() && boundary.len() <= LONGEST_DELIMITER - 10).then(|| boundary.as_bytes().to_vec())
}

#[cfg(test)]
mod tests;
