//! Putting damaged messages aside, for a person to look at.
//!
//! `quarantine/ID.json` says why and whose it was; `quarantine/ID.raw` has the octets found where the body should be: of
//! a large body the whole record, of a small one the body.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use super::super::{Message, body_record::RecordHeader};
use crate::{clock, message::MessageId};

/// Where the octets of a damaged body are.
pub(super) enum Found {
    /// They have a file of their own: a second link to it costs nothing.
    Own(Box<Path>),
    /// In a segment.
    Within { path: Box<Path>, offset: u64, body_len: u64 },
}

pub(super) fn put_aside(
    root: &Path,
    id: MessageId,
    message: Option<&Message>,
    body: Option<Found>,
    reason: &str,
) -> io::Result<()> {
    let dir = root.join("quarantine");
    let about = serde_json::json!({
        "id": id.to_string(),
        "time": clock::now().to_string(),
        "reason": reason,
        "message": message,
    });
    let mut file = File::create(dir.join(format!("{id}.json")))?;
    serde_json::to_writer_pretty(&mut file, &about)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    let raw = dir.join(format!("{id}.raw"));
    match body {
        None => {}
        Some(Found::Own(path)) => match fs::hard_link(path, &raw) {
            // An earlier try got this far.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked?,
        },
        Some(Found::Within { path, offset, body_len }) => {
            let mut from = File::open(path)?;
            from.seek(SeekFrom::Start(offset + RecordHeader::LEN as u64))?;
            let mut to = File::create(raw)?;
            io::copy(&mut from.take(body_len), &mut to)?;
            to.sync_all()?;
        }
    }
    super::sync_dir(&dir)
}
