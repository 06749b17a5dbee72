//! A store in memory: for tests, and as the smallest example of what a store has to do.
//!
//! Clones share their content, so that a test can drop a spool and start another on what it left: a crash.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;

use super::{
    Body, BodyPlace, BodyReader, Change, Lane, LaneId, Message, State, Store, StoreError, body::Spill,
};
use crate::message::MessageId;

#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    lanes: BTreeMap<LaneId, Lane>,
    messages: BTreeMap<MessageId, (Message, State, Bytes)>,
    quarantine: BTreeMap<MessageId, String>,
    broken: bool,
}

impl MemoryStore {
    /// From now on every commit fails, as on a broken disk.
    pub fn break_down(&self) {
        self.content().broken = true;
    }

    /// Messages put aside, with the reasons.
    pub fn quarantined(&self) -> Vec<(MessageId, String)> {
        self.content().quarantine.iter().map(|(id, reason)| (*id, reason.clone())).collect()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Changes are single insertions and removals: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Store for MemoryStore {
    fn spill(&self) -> Spill {
        Spill::Never
    }

    fn lanes(&mut self) -> Result<Vec<(LaneId, Lane)>, StoreError> {
        Ok(self.content().lanes.iter().map(|(id, lane)| (*id, lane.clone())).collect())
    }

    fn load(&mut self, found: &mut dyn FnMut(MessageId, State)) -> Result<usize, StoreError> {
        self.content().messages.iter().for_each(|(id, (_, state, _))| found(*id, *state));
        Ok(0)
    }

    fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        Ok(self.content().messages.get(&id).map(|(_, state, _)| *state))
    }

    fn message(&self, id: MessageId, _: BodyPlace) -> Result<Option<Message>, StoreError> {
        Ok(self.content().messages.get(&id).map(|(message, ..)| message.clone()))
    }

    fn body(&self, id: MessageId, _: BodyPlace) -> BodyReader {
        let bytes = self.content().messages.get(&id).map(|(.., body)| body.clone());
        BodyReader::memory(id, bytes.unwrap_or_default())
    }

    fn put_aside(&mut self, id: MessageId, _: BodyPlace, reason: &str) -> std::io::Result<()> {
        self.content().quarantine.insert(id, reason.to_owned());
        Ok(())
    }

    fn commit(&mut self, changes: &mut [Change]) -> Result<(), StoreError> {
        let mut content = self.content();
        if content.broken {
            let source = std::io::Error::other("broken on purpose");
            return Err(StoreError::Io { what: "cannot write", source });
        }
        for change in changes {
            content.apply(change);
        }
        Ok(())
    }
}

impl Content {
    fn apply(&mut self, change: &mut Change) {
        match change {
            Change::AddLane { id, lane } => drop(self.lanes.insert(*id, Lane::clone(lane))),
            Change::DropLane(id) => drop(self.lanes.remove(id)),
            Change::Insert { id, message, state, body } => {
                // This store's spill never lets a body become a file.
                let Body::Memory(bytes) = body else { return };
                self.messages.insert(*id, (message.clone(), *state, bytes.clone()));
            }
            Change::Update { id, state } => {
                if let Some((_, stored, _)) = self.messages.get_mut(id) {
                    *stored = *state;
                }
            }
            Change::Remove { id, .. } => drop(self.messages.remove(id)),
        }
    }
}
