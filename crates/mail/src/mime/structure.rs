//! The parts of a message (RFC 2046) and where they lie.
//!
//! Line by line, in one pass and in bounded memory: of the content nothing is kept but where it begins and
//! ends, and how many octets it has when its transfer encoding is taken off. Lines may be of any length.

use super::{
    decode::Decoder,
    part::{Part, Read},
};
use crate::{ByteSize, HeaderBlock, HeaderScanner, header::name_length};

/// Exchange takes 250 parts.
const MAX_PARTS: usize = 1000;
/// Exchange takes 30 messages inside each other.
const MAX_DEPTH: usize = 30;
const MAX_PART_HEADER: usize = 64 * 1024;
/// Blanks that may follow a delimiter.
const MAX_PADDING: usize = 200;

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
        /// RFC 2387: which part the others belong to, without angle brackets.
        start: Option<String>,
        children: Vec<Node>,
    },
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
    start: Option<String>,
    children: Vec<Node>,
    /// What stands before the first delimiter. It counts only if there is none.
    preamble: Option<Part>,
}

#[derive(Debug)]
enum State {
    /// Behind the last delimiter of a multipart: nobody's.
    Between,
    Header(Vec<u8>),
    Content(OpenLeaf),
}

#[derive(Debug)]
struct OpenLeaf {
    part: Part,
    kind: LeafKind,
    decoder: Decoder,
    /// The line end before the next line: it belongs to a delimiter, if one follows.
    line_end: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeafKind {
    Part,
    /// A part whose header has no field.
    Bare,
    /// Text in front of the first delimiter.
    Preamble,
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
        scanner.begin(header, 0);
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
        let nothing = || Node::Multipart { subtype: "mixed".into(), start: None, children: Vec::new() };
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
        let longest = self.open.iter().map(|multipart| multipart.boundary.len()).max().unwrap_or(0);
        let may_be_delimiter = held.len() <= longest + 4 + MAX_PADDING
            && !self.open.is_empty()
            && (held.starts_with(b"--") || held.len() == 1);
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
            State::Header(header) if line.trim_ascii().is_empty() => {
                let header = std::mem::take(header);
                self.end_header(&header, self.at);
            }
            State::Header(header) => match header_line(header, &line) {
                HeaderLine::Whole => header.extend_from_slice(&line),
                HeaderLine::Unfolded => {
                    header.push(b' ');
                    header.extend_from_slice(&line);
                }
                HeaderLine::Content => {
                    let header = std::mem::take(header);
                    self.end_header(&header, self.at - line.len() as u64);
                    // The line may be a delimiter of the multipart that has just begun.
                    self.line = Line::Held(line);
                    return self.end_line();
                }
            },
        }
        if matches!(&self.state, State::Header(header) if header.len() > MAX_PART_HEADER) {
            self.failed = Some(Unreadable::HeaderTooLarge);
        }
    }

    /// The part's content begins at `at`.
    fn end_header(&mut self, octets: &[u8], at: u64) {
        let split = HeaderScanner::split_message(octets).or_else(|_| {
            // All that it can object to is a carriage return inside of a line.
            let octets: Vec<u8> = octets.iter().copied().filter(|octet| *octet != b'\r').collect();
            HeaderScanner::split_message(&octets)
        });
        self.begin(&split.map(|split| split.header).unwrap_or_default(), at);
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

    /// A part begins at `at`, and this is its header.
    fn begin(&mut self, header: &HeaderBlock, at: u64) {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            self.failed = Some(Unreadable::TooManyParts);
            return;
        }
        let in_digest = self.open.last().is_some_and(|outer| outer.subtype == "digest");
        let default = if in_digest { "message/rfc822" } else { "text/plain" };
        let kind = if header.is_empty() { LeafKind::Bare } else { LeafKind::Part };
        let leaf = match Part::read(header, default, at) {
            Read::Leaf(part) => OpenLeaf::new(part, kind),
            Read::Multipart { .. } if self.open.len() >= MAX_DEPTH => {
                self.failed = Some(Unreadable::TooDeep);
                return;
            }
            Read::Multipart { subtype, boundary, start } => {
                let (children, preamble) = (Vec::new(), None);
                self.open.push(OpenMultipart { subtype, boundary, start, children, preamble });
                OpenLeaf::new(Part::text(at), LeafKind::Preamble)
            }
        };
        self.state = State::Content(leaf);
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
                self.end_header(&header, self.at - delimiter);
                match std::mem::replace(&mut self.state, State::Between) {
                    State::Content(leaf) => leaf,
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
        leaf.count(&self.scratch);
        leaf.part.range.end = end.max(leaf.part.range.start);
        match (leaf.kind, self.open.last_mut()) {
            (LeafKind::Preamble, Some(multipart)) => {
                multipart.preamble = Some(leaf.part).filter(|part| !part.is_blank);
            }
            // A delimiter too many is no part.
            (LeafKind::Bare, Some(_)) if leaf.part.is_blank => {}
            _ => self.put(Node::Leaf(leaf.part)),
        }
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
        match self.preamble {
            // A boundary that never came: all of it is text.
            Some(text) if self.children.is_empty() => Node::Leaf(text),
            _ => Node::Multipart { subtype: self.subtype, start: self.start, children: self.children },
        }
    }
}

impl OpenLeaf {
    fn new(part: Part, kind: LeafKind) -> Self {
        let decoder = Decoder::new(part.encoding);
        Self { part, kind, decoder, line_end: Vec::new() }
    }

    fn decode(&mut self, octets: &[u8], scratch: &mut Vec<u8>) {
        scratch.clear();
        self.decoder.push(octets, scratch);
        self.count(scratch);
    }

    fn count(&mut self, decoded: &[u8]) {
        self.part.decoded_len += decoded.len() as u64;
        self.part.is_blank = self.part.is_blank && decoded.iter().all(u8::is_ascii_whitespace);
    }
}

/// What a line is in the header of a part.
enum HeaderLine {
    /// A field, or the continuation of one.
    Whole,
    /// A parameter whose fold has lost its blank.
    Unfolded,
    /// The empty line in front of the content is missing.
    Content,
}

fn header_line(header: &[u8], line: &[u8]) -> HeaderLine {
    let continues = !header.is_empty() && line.starts_with(b" ") || line.starts_with(b"\t");
    if continues || name_length(line).is_some() {
        return HeaderLine::Whole;
    }
    let is_token = |octet: &u8| octet.is_ascii_alphanumeric() || b"-*".contains(octet);
    let name_len = line.iter().take_while(|octet| is_token(octet)).count();
    let is_parameter = name_len > 0 && line.get(name_len) == Some(&b'=');
    match !header.is_empty() && (is_parameter || header.trim_ascii_end().ends_with(b";")) {
        true => HeaderLine::Unfolded,
        false => HeaderLine::Content,
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

#[cfg(test)]
mod tests;
