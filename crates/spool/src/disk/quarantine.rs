//! Quarantining damaged messages, for a person to look at.
//!
//! `quarantine/ID.json` says why and whose it was; `quarantine/ID.raw` has the octets found where the body
//! should be: for a large body the whole record, for a small one the body. `quarantine/index-TIME/` is a
//! damaged index.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use serde_json::{Value, json};

use super::super::{BodyPlace, Message, body_record::RecordHeader};
use crate::clock;
use relay_mail::MessageId;

/// Quarantines a message whose body should be at `place` in `file`.
pub(super) fn put_aside(
    root: &Path,
    id: MessageId,
    place: BodyPlace,
    file: &Path,
    reason: &str,
) -> io::Result<()> {
    let raw = root.join("quarantine").join(format!("{id}.raw"));
    let message = match File::open(file) {
        Ok(mut from) => {
            match place.segment {
                // A second link costs nothing.
                None => match fs::hard_link(file, &raw) {
                    // An earlier try got this far.
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    linked => linked?,
                },
                Some(_) => {
                    from.seek(SeekFrom::Start(place.offset + RecordHeader::LEN as u64))?;
                    let mut to = File::create(raw)?;
                    io::copy(&mut (&mut from).take(place.len), &mut to)?;
                    to.sync_all()?;
                }
            }
            read_message(&from, id, place)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    write_about(root, id, reason, &json!({ "message": message }))
}

/// Quarantines a record of the index that is unreadable, or that is all that is left of a message.
pub(super) fn put_aside_record(root: &Path, id: MessageId, raw: &[u8], has_body: bool) -> io::Result<()> {
    let record = raw.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    let reason = if has_body {
        "its record in the index is unreadable; the message is recovered from its body"
    } else {
        "its record in the index is unreadable or incomplete, and no body was found"
    };
    write_about(root, id, reason, &json!({ "record": record }))
}

fn write_about(root: &Path, id: MessageId, reason: &str, more: &Value) -> io::Result<()> {
    let dir = root.join("quarantine");
    let mut about = json!({ "id": id.to_string(), "time": clock::wall().to_string(), "reason": reason });
    if let (Some(about), Some(more)) = (about.as_object_mut(), more.as_object()) {
        about.extend(more.clone());
    }
    let mut file = File::create(dir.join(format!("{id}.json")))?;
    serde_json::to_writer_pretty(&mut file, &about)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    super::sync_dir(&dir)
}

/// The message whose body it is, if that much is whole.
fn read_message(file: &File, id: MessageId, place: BodyPlace) -> Option<Message> {
    let header = RecordHeader::read(file, place.offset).ok()??;
    if header.id == id { header.read_message(file, place.offset).ok()? } else { None }
}
