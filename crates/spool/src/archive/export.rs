//! Messages as files, for another disk, another machine, or a person.
//!
//! Works in groups: the files of a group are written, then synced together, then the bodies get their names,
//! then the JSON files. So where there is an `ID.json`, the message is complete, even after a power failure.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{
    ArchiveError, Damaged, Step,
    entry::{Entry, ExportedState},
    folder::{Folder, Part, refuse_inside, sync_all},
    open,
};
use crate::{
    Phase, Remembered, State, clock,
    disk::inspection::{Damage, Fault, Inspected, Inspector},
};
use relay_mail::{MessageId, Timestamp};

/// The most messages in a group, each with two open files, and the most octets of their bodies.
const GROUP: usize = 128;
const GROUP_OCTETS: u64 = 16 * 1024 * 1024;

/// What to export.
#[derive(Debug, Clone)]
pub struct Source {
    pub spool: PathBuf,
    /// How long a message waits whose attempt was in progress when the relay ended.
    pub settle_after: Duration,
}

#[derive(Debug, Default, Serialize)]
pub struct Exported {
    /// Messages written by this run.
    pub exported: usize,
    /// Messages that were already there, complete.
    pub skipped: usize,
    /// Octets of the bodies that this run has written.
    pub octets: u64,
    /// What is wrong with the index as a whole: messages may be missing. The next start rebuilds it.
    pub index: Option<String>,
    /// Messages that were not exported.
    pub damaged: Vec<Damaged>,
    /// Messages in the folder that are not in the spool: they have ended since they were exported, or came
    /// from another spool. An import would bring them back.
    pub strangers: Vec<String>,
}

impl Exported {
    /// Whether the folder has all messages of the spool, and no other.
    pub fn is_complete(&self) -> bool {
        self.damaged.is_empty() && self.index.is_none() && self.strangers.is_empty()
    }
}

/// Writes every message to `folder`, and changes nothing in the spool.
pub fn export(
    source: &Source,
    folder: &Path,
    progress: &mut dyn FnMut(Step),
) -> Result<Exported, ArchiveError> {
    let spool = &source.spool;
    refuse_inside(folder, spool)?;
    let store = open(spool)?;
    let census = store.census().map_err(ArchiveError::store(spool))?;
    let folder = Folder::make(folder)?;
    let in_folder = || ArchiveError::io(folder.path());
    folder.remove_parts().map_err(in_folder())?;
    let mut there: HashSet<String> =
        folder.names().map_err(in_folder())?.into_iter().filter_map(stem_of_json).collect();

    let mut export = Export {
        inspector: store.inspector(&census.lanes),
        remembered: &census.remembered,
        retry_at: clock::now() + source.settle_after,
        folder: folder.clone(),
        group: Group::default(),
        exported: Exported::default(),
    };
    let mut step = Step { total: census.states.len(), ..Step::default() };
    for (id, state) in &census.states {
        let was_there = there.remove(&id.to_string());
        let damage = match state {
            None => Some(store.damage_of_index("its state is unreadable")),
            Some(state) => export.message(*id, state, was_there)?,
        };
        export.exported.damaged.extend(damage.map(|damage| Damaged::new(*id, damage)));
        step.done += 1;
        step.octets = export.exported.octets;
        progress(step);
    }
    export.complete_group()?;
    let mut exported = export.exported;
    exported.index = census.damage.clone();
    exported.strangers = there.into_iter().collect();
    exported.strangers.sort_unstable();
    Ok(exported)
}

fn stem_of_json(name: String) -> Option<String> {
    name.strip_suffix(".json").map(str::to_owned)
}

struct Export<'a> {
    inspector: Inspector<'a>,
    remembered: &'a HashMap<MessageId, Remembered>,
    /// When a message in doubt is tried again.
    retry_at: Timestamp,
    folder: Folder,
    group: Group,
    exported: Exported,
}

/// Files that are written and not yet synced.
#[derive(Default)]
struct Group {
    bodies: Vec<Part>,
    entries: Vec<Part>,
    octets: u64,
}

impl Export<'_> {
    /// Returns what is wrong with the message, if anything; nothing of it is exported then.
    fn message(
        &mut self,
        id: MessageId,
        state: &State,
        was_there: bool,
    ) -> Result<Option<Damage>, ArchiveError> {
        let inspected = match self.inspector.look(id, state) {
            Ok(inspected) => inspected,
            Err(damage) => return Ok(Some(damage)),
        };
        let entry = self.entry(id, state, &inspected);
        if was_there && self.is_complete(&entry, state) {
            self.exported.skipped += 1;
            return Ok(None);
        }
        let name = id.to_string();
        let path = self.folder.eml(&name);
        let mut body = self.folder.begin(path.clone()).map_err(ArchiveError::io(&path))?;
        match inspected.copy(&mut |octets| body.file.write_all(octets)) {
            Ok(()) => {}
            Err(Fault::Sink(error)) => return Err(ArchiveError::io(&path)(error)),
            Err(Fault::Damage(damage)) => {
                body.remove().map_err(ArchiveError::io(&path))?;
                return Ok(Some(damage));
            }
        }
        let path = self.folder.json(&name);
        let part = self.folder.begin(path.clone()).and_then(|mut part| {
            part.file.write_all(&entry.to_json())?;
            Ok(part)
        });
        self.group.bodies.push(body);
        self.group.entries.push(part.map_err(ArchiveError::io(&path))?);
        self.group.octets += entry.size;
        self.exported.exported += 1;
        self.exported.octets += entry.size;
        if self.group.bodies.len() >= GROUP || self.group.octets >= GROUP_OCTETS {
            self.complete_group()?;
        }
        Ok(None)
    }

    /// The message as the next start would find it.
    fn entry(&self, id: MessageId, state: &State, inspected: &Inspected) -> Entry {
        let waiting = |due| ExportedState::Waiting { due: Some(due) };
        let (standing, attempts, in_doubt) = match state.phase {
            Phase::Waiting { due } => (waiting(due), state.attempts, state.doubt.is_some()),
            Phase::Leased => (waiting(self.retry_at), state.attempts.saturating_add(1), true),
            Phase::Held => {
                let reason = self.remembered.get(&id).and_then(|remembered| remembered.held.clone());
                (ExportedState::Held { reason }, state.attempts, state.doubt.is_some())
            }
        };
        Entry {
            id,
            message: inspected.message.clone(),
            standing,
            attempts,
            in_doubt,
            size: inspected.body_len,
            crc32: inspected.body_crc,
        }
    }

    /// Whether the folder has the message as it is now: the relay may have run since it was exported.
    fn is_complete(&self, entry: &Entry, state: &State) -> bool {
        let name = entry.id.to_string();
        let Ok(text) = fs::read(self.folder.json(&name)) else { return false };
        let Ok(mut there) = Entry::parse(&text) else { return false };
        if matches!(state.phase, Phase::Leased) {
            // The time from the earlier export is just as good.
            there.standing = entry.standing.clone();
        }
        // The written text may say less than what is known, so texts are compared.
        there.to_json() == entry.to_json()
            && fs::metadata(self.folder.eml(&name)).is_ok_and(|eml| eml.is_file() && eml.len() == entry.size)
    }

    fn complete_group(&mut self) -> Result<(), ArchiveError> {
        let Group { bodies, entries, .. } = std::mem::take(&mut self.group);
        let complete = |parts: &[Part]| {
            parts.iter().try_for_each(Part::complete)?;
            self.folder.sync()
        };
        sync_all(&bodies, &entries)
            .and_then(|()| complete(&bodies))
            .and_then(|()| complete(&entries))
            .map_err(ArchiveError::io(self.folder.path()))
    }
}
