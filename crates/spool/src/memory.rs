//! A store in memory: for tests, and as the smallest example of what a store must do.
//!
//! Clones share their content, so that a test can drop a spool and start another on what it left: a crash.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use bytes::Bytes;

use super::{
    Body, BodyPlace, Change, FailedAttempts, Lane, LaneId, Message, Remembered, State, Store, StoreError,
    arriving::Spill,
    store::{Arriving, Bodies, Compacted},
    stored::StoredRecord,
};
use relay_mail::MessageId;

#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    content: Mutex<MemoryContents>,
    goes_on: Condvar,
}

#[derive(Debug, Default)]
struct MemoryContents {
    lanes: BTreeMap<LaneId, Lane>,
    states: BTreeMap<MessageId, State>,
    attempts: BTreeMap<MessageId, FailedAttempts>,
    remembered: BTreeMap<MessageId, Remembered>,
    bodies: BTreeMap<MessageId, (Arc<Message>, Bytes)>,
    quarantine: BTreeMap<MessageId, String>,
    fault: Option<Fault>,
    is_stalled: bool,
}

/// What happens to the commits of a broken store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is stored.
    Lost,
    /// It is stored, but an error is returned all the same.
    Stored,
}

impl MemoryStore {
    /// From now on every commit fails, as on a broken disk.
    pub fn break_down(&self, fault: Fault) {
        self.content().fault = Some(fault);
    }

    /// The disk works again.
    pub fn mend(&self) {
        self.content().fault = None;
    }

    /// From now on commits wait, as on a disk that hangs.
    pub fn stall(&self) {
        self.content().is_stalled = true;
    }

    /// The disk no longer hangs.
    pub fn go_on(&self) {
        self.content().is_stalled = false;
        self.0.goes_on.notify_all();
    }

    /// The numbers of messages and of bodies in the store.
    pub fn count(&self) -> (usize, usize) {
        let content = self.content();
        (content.states.len(), content.bodies.len())
    }

    /// Quarantined messages, with the reasons.
    pub fn quarantined(&self) -> Vec<(MessageId, String)> {
        self.content().quarantine.iter().map(|(id, reason)| (*id, reason.clone())).collect()
    }

    fn content(&self) -> MutexGuard<'_, MemoryContents> {
        // Changes are single insertions and removals: a panic elsewhere leaves nothing half done.
        self.0.content.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Store for MemoryStore {
    fn spill(&self) -> Spill {
        Spill::Never
    }

    fn bodies(&self) -> io::Result<Box<dyn Bodies>> {
        Ok(Box::new(self.clone()))
    }

    fn lanes(&mut self) -> Result<Vec<(LaneId, Lane)>, StoreError> {
        Ok(self.content().lanes.iter().map(|(id, lane)| (*id, lane.clone())).collect())
    }

    fn remembered(&mut self) -> Result<Vec<(MessageId, Remembered)>, StoreError> {
        Ok(self.content().remembered.iter().map(|(id, remembered)| (*id, remembered.clone())).collect())
    }

    fn load(&mut self, found: &mut dyn FnMut(MessageId, State)) -> Result<usize, StoreError> {
        self.content().states.iter().for_each(|(id, state)| found(*id, *state));
        Ok(0)
    }

    fn walk(
        &self,
        after: Option<MessageId>,
        most: usize,
        found: &mut dyn FnMut(MessageId, State),
    ) -> Result<Option<MessageId>, StoreError> {
        let content = self.content();
        let behind =
            content.states.iter().filter(|(id, _)| after.is_none_or(|after| **id > after)).take(most);
        Ok(behind.inspect(|(id, state)| found(**id, **state)).last().map(|(id, _)| *id))
    }

    fn rescue(&mut self, _: &dyn Fn(LaneId, BodyPlace) -> State) -> Result<usize, StoreError> {
        Err(StoreError::Damaged("memory does not get damaged".into()))
    }

    fn sweep(&mut self) -> Result<(), StoreError> {
        let mut content = self.content();
        let MemoryContents { states, bodies, .. } = &mut *content;
        bodies.retain(|id, _| states.contains_key(id));
        Ok(())
    }

    fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        Ok(self.content().states.get(&id).copied())
    }

    fn attempts(&self, id: MessageId) -> Result<FailedAttempts, StoreError> {
        Ok(self.content().attempts.get(&id).cloned().unwrap_or_default())
    }

    fn record(&self, id: MessageId, place: BodyPlace) -> StoredRecord {
        StoredRecord::Memory { id, place, content: self.content().bodies.get(&id).cloned() }
    }

    fn put_aside(&mut self, id: MessageId, _: BodyPlace, reason: &str) -> io::Result<()> {
        self.content().quarantine.insert(id, reason.to_owned());
        Ok(())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let stalled = |content: &mut MemoryContents| content.is_stalled;
        let mut content =
            self.0.goes_on.wait_while(self.content(), stalled).unwrap_or_else(|e| e.into_inner());
        let fault = content.fault;
        if fault != Some(Fault::Lost) {
            changes.iter().for_each(|change| content.apply(change));
        }
        content.works()
    }

    fn discard(&mut self, id: MessageId, _: BodyPlace, _: bool) {
        self.content().bodies.remove(&id);
    }

    fn sparse_segment(&mut self) -> Option<u32> {
        None
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.content().works()
    }
}

impl Bodies for MemoryStore {
    fn store(&mut self, group: &mut [Arriving]) -> Result<(), StoreError> {
        let mut content = self.content();
        for Arriving { id, message, body, place } in group {
            // This store's spill never lets a body become a file.
            let Body::Memory(body) = body else { continue };
            *place = BodyPlace { segment: None, offset: 0, len: body.bytes.len() as u64 };
            content.bodies.insert(*id, (Arc::new(message.clone()), body.bytes.clone()));
        }
        Ok(())
    }

    fn compact(&mut self, _: u32) -> Result<Compacted, StoreError> {
        Ok(Compacted { moved: Vec::new(), is_more: false })
    }
}

impl MemoryContents {
    fn works(&self) -> Result<(), StoreError> {
        match self.fault {
            None => Ok(()),
            Some(_) => {
                Err(StoreError::Io { what: "cannot write", source: io::Error::other("broken on purpose") })
            }
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::AddLane { id, lane } => drop(self.lanes.insert(*id, Lane::clone(lane))),
            Change::DropLane { id, .. } => drop(self.lanes.remove(id)),
            Change::Insert { id, state } => drop(self.states.insert(*id, *state)),
            Change::Update { id, state, attempts, .. } => {
                self.states.insert(*id, *state);
                self.attempts.extend(attempts.clone().map(|attempts| (*id, attempts)));
            }
            Change::Remove { id, .. } => {
                self.states.remove(id);
                self.attempts.remove(id);
                self.bodies.remove(id);
            }
            Change::Remember { id, now, .. } if now.is_empty() => drop(self.remembered.remove(id)),
            Change::Remember { id, now, .. } => drop(self.remembered.insert(*id, now.clone())),
        }
    }
}
