//! Finding records in a file when their places are no longer known.

use std::{fs::File, io};

use super::super::{BodyPlace, Message, body_record::RecordHeader};
use relay_mail::MessageId;

/// The records of a segment or of a large body's file, one after the other, up to the end or to the first
/// invalid header. (What looks like a record further on is not believed: it may be in somebody's body.)
pub(super) struct Walk<'a> {
    file: &'a File,
    /// `None`: the file has a body of its own.
    segment: Option<u32>,
    at: u64,
    len: u64,
}

/// A record whose header is whole.
pub(super) struct Found {
    pub(super) id: MessageId,
    pub(super) place: BodyPlace,
    pub(super) header: RecordHeader,
}

impl<'a> Walk<'a> {
    pub(super) fn through(file: &'a File, segment: Option<u32>) -> io::Result<Self> {
        Self::from(file, segment, 0)
    }

    pub(super) fn from(file: &'a File, segment: Option<u32>, at: u64) -> io::Result<Self> {
        Ok(Self { file, segment, at, len: file.metadata()?.len() })
    }

    /// Where the next record would begin.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    fn next_record(&mut self) -> io::Result<Option<Found>> {
        if self.at + RecordHeader::LEN as u64 > self.len {
            return Ok(None);
        }
        let Some(header) = RecordHeader::read(self.file, self.at)? else { return Ok(None) };
        let place = BodyPlace { segment: self.segment, offset: self.at, len: header.body_len };
        let end = self.at.saturating_add(header.record_len());
        if end > self.len {
            return Ok(None);
        }
        self.at = end;
        Ok(Some(Found { id: header.id, place, header }))
    }
}

impl Iterator for Walk<'_> {
    type Item = io::Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

impl Found {
    /// The message whose record it is; `None` if that part is damaged.
    pub(super) fn message(&self, file: &File) -> io::Result<Option<Message>> {
        self.header.read_message(file, self.place.offset)
    }
}
