//! Inspects a spool without changing it: what the index contains, and whether each body is what was stored.
//!
//! Works on a store that was opened and not [loaded](super::Store::load): a load quarantines and sweeps.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

pub(crate) use super::index::Census;
use super::{DiskStore, walk::Walk};
use crate::{BodyPlace, Lane, LaneId, Message, State, StoreError, body_record::RecordHeader};
use relay_mail::MessageId;

/// Octets of a body read at a time.
const CHUNK: usize = 256 * 1024;

/// What is wrong with a message, and in which file.
#[derive(Debug)]
pub(crate) struct Damage {
    pub(crate) reason: String,
    pub(crate) file: PathBuf,
}

/// Why a body could not be read out.
#[derive(Debug)]
pub(crate) enum Fault {
    Damage(Damage),
    /// It could be read, but the receiver of the octets failed.
    Sink(io::Error),
}

/// Records that belong to no message: never acknowledged, or of a message that has ended. The next start
/// sweeps it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Unowned {
    pub large_bodies: usize,
    /// Records in segments.
    pub records: usize,
}

/// Looks at messages one by one.
pub(crate) struct Inspector<'a> {
    store: &'a DiskStore,
    lanes: &'a HashMap<LaneId, Lane>,
    /// The segment that was read last: the next body is most likely in the same one.
    segment: Option<(u32, Arc<File>)>,
}

/// A message that was found correct in all but the octets of its body, which are not checked yet.
pub(crate) struct Inspected {
    pub(crate) message: Message,
    pub(crate) body_len: u64,
    pub(crate) body_crc: u32,
    file: Arc<File>,
    path: Arc<Path>,
    start: u64,
}

impl DiskStore {
    pub(crate) fn census(&self) -> Result<Census, StoreError> {
        self.index()?.census()
    }

    pub(crate) fn inspector<'a>(&'a self, lanes: &'a HashMap<LaneId, Lane>) -> Inspector<'a> {
        Inspector { store: self, lanes, segment: None }
    }

    /// Damage of the index: what it has, or lacks, of a message about which nothing else is known.
    pub(crate) fn damage_of_index(&self, reason: &str) -> Damage {
        Damage { reason: reason.to_owned(), file: self.root.join("index") }
    }

    /// Counts what belongs to none of the messages in `census`. In a segment, records are walked by their
    /// headers; the walk ends where no whole record follows, as at a torn tail.
    pub(crate) fn unowned(&self, census: &Census) -> io::Result<Unowned> {
        let mut large = HashSet::new();
        let mut records = HashSet::new();
        let mut unknown = HashSet::new();
        for (id, state) in &census.states {
            match state.map(|state| state.body) {
                None => drop(unknown.insert(*id)),
                Some(place) => match place.segment {
                    Some(segment) => drop(records.insert((segment, place.offset))),
                    None => drop(large.insert(*id)),
                },
            }
        }
        let mut unowned = Unowned::default();
        for entry in fs::read_dir(&self.large)? {
            let id = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            let is_owned = id.is_some_and(|id| large.contains(&id) || unknown.contains(&id));
            unowned.large_bodies += usize::from(!is_owned);
        }
        for number in self.segments.numbers() {
            let file = File::open(self.segments.path_of(number))?;
            for found in Walk::through(&file, Some(number))? {
                let found = found?;
                let is_owned = records.contains(&(number, found.place.offset)) || unknown.contains(&found.id);
                unowned.records += usize::from(!is_owned);
            }
        }
        Ok(unowned)
    }

    /// The number of damaged messages that were quarantined earlier.
    pub(crate) fn quarantined(&self) -> io::Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(self.root.join("quarantine"))? {
            count += usize::from(Path::new(&entry?.file_name()).extension().is_some_and(|e| e == "json"));
        }
        Ok(count)
    }
}

impl Inspector<'_> {
    /// Looks at everything but the octets of the body.
    pub(crate) fn look(&mut self, id: MessageId, state: &State) -> Result<Inspected, Damage> {
        let in_index = |reason: &str| self.store.damage_of_index(reason);
        let lane = self.lanes.get(&state.lane).ok_or_else(|| in_index("its lane is unknown"))?;
        let found = self.record(id, state.body)?;
        if lane.tenant != found.message.tenant || lane.author != found.message.author {
            return Err(in_index("its lane is another tenant's or author's"));
        }
        Ok(found)
    }

    /// Looks only at the record of the body, and at nothing in the index.
    pub(crate) fn record(&mut self, id: MessageId, place: BodyPlace) -> Result<Inspected, Damage> {
        let path: Arc<Path> = self.store.path(id, place).into();
        let damage = |reason: String| Damage { reason, file: path.to_path_buf() };
        let wrong = |reason: &str| damage(reason.to_owned());
        let unreadable = |error| damage(why_unreadable(&error));
        let file = match (place.segment, &self.segment) {
            (Some(wanted), Some((open, file))) if wanted == *open => file.clone(),
            _ => Arc::new(File::open(&path).map_err(unreadable)?),
        };
        if let Some(number) = place.segment {
            self.segment = Some((number, file.clone()));
        }
        let header = RecordHeader::read(&file, place.offset)
            .map_err(unreadable)?
            .ok_or_else(|| wrong("no record begins where its body should be"))?;
        if header.id != id {
            return Err(damage(format!("the record of {} is where its body should be", header.id)));
        }
        if header.body_len != place.len {
            let stored = header.body_len;
            let known = place.len;
            return Err(damage(format!("its body is {stored} octets long, and the index says {known}")));
        }
        let message = header
            .read_message(&file, place.offset)
            .map_err(unreadable)?
            .ok_or_else(|| wrong("the checksum of the envelope beside its body differs"))?;
        let start = place.offset + RecordHeader::LEN as u64;
        let body_len = header.body_len;
        let body_crc = header.body_crc;
        Ok(Inspected { message, body_len, body_crc, file, path, start })
    }
}

impl Inspected {
    /// Passes the octets of the body to `sink`, part by part, and states at the end whether they are those
    /// that were stored.
    pub(crate) fn copy(&self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Fault> {
        let damage = |reason| Fault::Damage(Damage { reason, file: self.path.to_path_buf() });
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; CHUNK.min(usize::try_from(self.body_len).unwrap_or(CHUNK))];
        let mut at = self.start;
        let end = self.start + self.body_len;
        while at < end {
            let part = &mut buffer[..CHUNK.min(usize::try_from(end - at).unwrap_or(CHUNK))];
            self.file.read_exact_at(part, at).map_err(|error| damage(why_unreadable(&error)))?;
            hasher.update(part);
            at += part.len() as u64;
            sink(part).map_err(Fault::Sink)?;
        }
        if hasher.finalize() == self.body_crc { Ok(()) } else { Err(damage("its checksum differs".into())) }
    }
}

fn why_unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "its body is missing".into(),
        io::ErrorKind::UnexpectedEof => "its body ends too soon".into(),
        _ => format!("its body cannot be read: {error}"),
    }
}
