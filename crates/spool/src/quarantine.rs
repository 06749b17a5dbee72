//! What is in the quarantine, for whoever decides about it.
//!
//! An entry is a message (`ID.json` and `ID.raw`) or a damaged index (a folder `index-TIME`). The relay puts
//! entries there and never takes one away: that is for people. Everything here blocks.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Message, body_record::RecordHeader};
use relay_mail::MessageId;

/// The quarantine of one spool.
#[derive(Debug, Clone)]
pub struct Quarantine(PathBuf);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The id of the message, or the name of the folder.
    pub name: QuarantineName,
    /// When it was put there, in RFC 3339. Empty for a damaged index, and for an entry that cannot be read.
    pub time: String,
    pub reason: String,
    /// Whose it is, if that is readable.
    pub message: Option<Message>,
    /// Octets of what is left of the body, or of the damaged index. `None`: nothing is left.
    pub octets: Option<u64>,
}

/// A name that an entry can have, and no other file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuarantineName {
    Message(MessageId),
    /// With the number in the folder's name.
    Index(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an entry: expected the id of a message, or index-NUMBER")]
pub struct InvalidQuarantineName;

/// `ID.json`.
#[derive(Deserialize)]
struct About {
    #[serde(default)]
    time: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: Option<Message>,
}

impl std::str::FromStr for QuarantineName {
    type Err = InvalidQuarantineName;

    fn from_str(text: &str) -> Result<Self, InvalidQuarantineName> {
        let index = text.strip_prefix("index-").and_then(|number| number.parse().ok()).map(Self::Index);
        let name = index.or_else(|| text.parse().ok().map(Self::Message)).ok_or(InvalidQuarantineName)?;
        Ok(name)
    }
}

impl std::fmt::Display for QuarantineName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Message(id) => write!(f, "{id}"),
            Self::Index(number) => write!(f, "index-{number}"),
        }
    }
}

impl Quarantine {
    /// Of the spool in `root`.
    pub fn of(root: &Path) -> Self {
        Self(root.join("quarantine"))
    }

    /// All entries: messages by age, then indexes.
    pub fn list(&self) -> io::Result<Vec<Quarantined>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            // A message without its JSON has not been put there to the end.
            let name = name.strip_suffix(".json").unwrap_or(name);
            names.extend(name.parse::<QuarantineName>());
        }
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| self.get(&name).transpose()).collect()
    }

    /// `None`: there is no such entry.
    pub fn get(&self, name: &QuarantineName) -> io::Result<Option<Quarantined>> {
        match name {
            QuarantineName::Message(_) => self.message(name),
            QuarantineName::Index(_) => {
                let Some(octets) = missing_is_none(octets_in(&self.0.join(name.to_string())))? else {
                    return Ok(None);
                };
                let reason = "a damaged index, of which the spool has made a new one".to_owned();
                let time = String::new();
                Ok(Some(Quarantined {
                    name: name.clone(),
                    time,
                    reason,
                    message: None,
                    octets: Some(octets),
                }))
            }
        }
    }

    fn message(&self, name: &QuarantineName) -> io::Result<Option<Quarantined>> {
        let Some(json) = missing_is_none(fs::read(self.file(name, "json")))? else { return Ok(None) };
        let About { time, reason, message } = serde_json::from_slice(&json).unwrap_or_else(|error| About {
            time: String::new(),
            reason: format!("its description cannot be read: {error}"),
            message: None,
        });
        let octets = self.body(name)?.map(|(_, len)| len);
        Ok(Some(Quarantined { name: name.clone(), time, reason, message, octets }))
    }

    /// What is left of a message's body, and how many octets. `None`: nothing.
    pub fn body(&self, name: &QuarantineName) -> io::Result<Option<(io::Take<File>, u64)>> {
        let Some(mut file) = missing_is_none(File::open(self.file(name, "raw")))? else { return Ok(None) };
        let len = file.metadata()?.len();
        let mut begin = [0; RecordHeader::LEN];
        let mut record = None;
        if file.read_exact(&mut begin).is_ok() {
            // Of a large body the whole record is there.
            let is_of_it =
                |header: &RecordHeader| matches!(name, QuarantineName::Message(id) if *id == header.id);
            record = RecordHeader::decode(&begin).filter(is_of_it);
        }
        let begin = if record.is_some() { RecordHeader::LEN as u64 } else { 0 };
        let len = match record {
            Some(header) => header.body_len.min(len.saturating_sub(begin)),
            None => len,
        };
        file.seek(SeekFrom::Start(begin))?;
        Ok(Some((file.take(len), len)))
    }

    /// Removes an entry for good. `false`: there is none.
    pub fn remove(&self, name: &QuarantineName) -> io::Result<bool> {
        let removed = match name {
            QuarantineName::Index(_) => missing_is_none(fs::remove_dir_all(self.0.join(name.to_string())))?,
            QuarantineName::Message(_) => {
                // The JSON last: while it is there, the entry is.
                missing_is_none(fs::remove_file(self.file(name, "raw")))?;
                missing_is_none(fs::remove_file(self.file(name, "json")))?
            }
        };
        File::open(&self.0)?.sync_all()?;
        Ok(removed.is_some())
    }

    fn file(&self, name: &QuarantineName, extension: &str) -> PathBuf {
        self.0.join(format!("{name}.{extension}"))
    }
}

fn missing_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn octets_in(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        sum += if kind.is_dir() { octets_in(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}
