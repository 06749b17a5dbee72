//! One message on its way into the folder: content in, in any chunks; a durable file out.

use super::{
    exit::{Exit, Failure},
    letter::{Letter, Wishes},
    outgoing::Outgoing,
    site::Site,
};
use crate::ingress::newlines::{BareNewline, Lenience, Newlines};
use relay_mail::{HeaderScanner, InvalidHeader, SplitMessage};

/// Holds the header until it is complete, then nothing but a chunk. If it is dropped before
/// [`Posting::finish`], it leaves nothing.
pub(super) struct Posting<'a> {
    site: &'a Site,
    wishes: Wishes,
    part: Part,
    newlines: Newlines,
}

enum Part {
    Header(HeaderScanner),
    Body(Outgoing),
}

impl<'a> Posting<'a> {
    pub(super) fn new(site: &'a Site, wishes: Wishes) -> Self {
        let part = Part::Header(HeaderScanner::default());
        Self { site, wishes, part, newlines: Newlines::new(Lenience::LineFeed) }
    }

    /// Takes the next part of the content. Lines end in LF or CR LF.
    pub(super) fn write(&mut self, content: &[u8]) -> Result<(), Failure> {
        match &mut self.part {
            Part::Body(_) => self.write_body(content),
            Part::Header(scanner) => match scanner.push(content)? {
                None => Ok(()),
                Some(split) => self.take_header(&split),
            },
        }
    }

    /// The content is complete. When this returns `Ok`, the message is durable in the folder.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        if let Part::Header(scanner) = &mut self.part {
            let split = std::mem::take(scanner).finish()?;
            self.take_header(&split)?;
        }
        self.newlines.finish()?;
        match self.part {
            Part::Body(outgoing) => outgoing.finish(),
            // The header was taken just now, if not before.
            Part::Header(_) => Err(Exit::Software.because("no header was taken")),
        }
    }

    fn take_header(&mut self, split: &SplitMessage) -> Result<(), Failure> {
        let Letter { tenant, top } = self.wishes.letter(&split.header, self.site)?;
        let mut outgoing = Outgoing::create(self.site.folder(&tenant))?;
        outgoing.write(&top)?;
        self.part = Part::Body(outgoing);
        self.write_body(&split.body)
    }

    fn write_body(&mut self, content: &[u8]) -> Result<(), Failure> {
        let Part::Body(outgoing) = &mut self.part else { return Ok(()) };
        outgoing.write(&self.newlines.mend(content)?)?;
        // The relay counts the lines of the envelope, too.
        match self.site.max_message() {
            Some(max) if outgoing.size() > max.0 => {
                Err(Exit::Data.because(format!("the message is larger than smtp.max_message, {max}")))
            }
            _ => Ok(()),
        }
    }
}

impl From<InvalidHeader> for Failure {
    fn from(error: InvalidHeader) -> Self {
        Exit::Data.because(error.to_string())
    }
}

impl From<BareNewline> for Failure {
    fn from(error: BareNewline) -> Self {
        Exit::Data.because(error.to_string())
    }
}
