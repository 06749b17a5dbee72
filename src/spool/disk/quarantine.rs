//! Putting damaged messages aside, for a person to look at.
//!
//! `quarantine/ID.json` says why and whose it was; `quarantine/ID.raw` has the octets found where the body should be, as
//! far as they can be read.

use std::{fs, io, io::Write, path::Path};

use super::super::{BodyReader, Message};
use crate::{clock, message::MessageId};

pub(super) fn put_aside(
    root: &Path,
    id: MessageId,
    message: Option<&Message>,
    body: Option<&BodyReader>,
    reason: &str,
) -> io::Result<()> {
    let dir = root.join("quarantine");
    let about = serde_json::json!({
        "id": id.to_string(),
        "time": clock::now().to_string(),
        "reason": reason,
        "message": message,
    });
    let mut file = fs::File::create(dir.join(format!("{id}.json")))?;
    serde_json::to_writer_pretty(&mut file, &about)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    if let Some(raw) = body.and_then(BodyReader::raw) {
        let mut file = fs::File::create(dir.join(format!("{id}.raw")))?;
        file.write_all(&raw)?;
        file.sync_all()?;
    }
    super::sync_dir(&dir)
}
