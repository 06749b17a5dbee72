//! Rebuilding the index when it is damaged.
//!
//! What is left of the old index is believed where a body confirms it. A body that the old index does not
//! know is a message that was lost from it, unless it is known to have ended. Such a message is in doubt, and
//! is sent again. So nothing that was acknowledged is lost with the index. A message that had ended in the
//! last seconds before a power failure that also damaged the index may be sent twice.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io,
};

use tracing::{info, warn};

use super::{DiskStore, Index, Seen, close, quarantine::put_aside_record, sync_dir, walk::Walk};
use crate::{
    BodyPlace, Change, Lane, LaneId, Remembered, State, StoreError, clock, lane::Lanes, store::guarded,
};
use relay_mail::MessageId;

/// Changes that are written to the new index at a time.
const BATCH: usize = 5000;

/// What is known of a message: its state from the old index, its body.
#[derive(Default)]
struct Known {
    state: Option<State>,
    body: Option<(BodyPlace, Lane)>,
}

/// What can still be read from the old index.
#[derive(Default)]
struct Remains {
    lanes: HashMap<LaneId, Lane>,
    states: BTreeMap<MessageId, State>,
    remembered: HashMap<MessageId, Remembered>,
    unreadable: Vec<(MessageId, Vec<u8>)>,
}

/// Ended messages by segment, since an import may bring a message back under its old id.
type Ended = HashMap<u32, HashSet<MessageId>>;

fn has_ended(ended: &Ended, id: MessageId, segment: Option<u32>) -> bool {
    segment.and_then(|segment| ended.get(&segment)).is_some_and(|ended| ended.contains(&id))
}

impl DiskStore {
    pub(super) fn make_index_anew(
        &mut self,
        found: &dyn Fn(LaneId, BodyPlace) -> State,
    ) -> Result<usize, StoreError> {
        let io = |source| StoreError::Io { what: "cannot rescue the spool", source };
        let remains = self.remains();
        let ended = self.ended().map_err(io)?;
        let bodies = self.find_bodies(&ended).map_err(io)?;
        let mut put_aside = 1;
        for (id, raw) in &remains.unreadable {
            put_aside_record(&self.root, *id, raw, bodies.contains_key(id)).map_err(io)?;
            put_aside += 1;
        }
        let mut changes = Vec::new();
        let mut lanes = Lanes::default();
        let mut kept = 0;
        let mut rescued = 0;
        let mut remembered = remains.remembered;
        let mut messages: BTreeMap<MessageId, Known> = BTreeMap::new();
        for (id, state) in remains.states {
            if !has_ended(&ended, id, state.body.segment) {
                messages.entry(id).or_default().state = Some(state);
            }
        }
        for (id, body) in bodies {
            messages.entry(id).or_default().body = Some(body);
        }
        for (id, Known { state, body }) in messages {
            let state = match (state, body) {
                (Some(state), body) => {
                    let lane = body.map(|(_, lane)| lane).or_else(|| remains.lanes.get(&state.lane).cloned());
                    let Some(lane) = lane else {
                        warn!(%id, "message lost: only its record in the damaged index is left");
                        put_aside_record(&self.root, id, &state.encode(), false).map_err(io)?;
                        put_aside += 1;
                        continue;
                    };
                    State { lane: lanes.enter_new(&lane, &mut changes).0, ..state }
                }
                (None, Some((place, lane))) => {
                    rescued += 1;
                    found(lanes.enter_new(&lane, &mut changes).0, place)
                }
                (None, None) => continue,
            };
            changes.push(Change::Insert { id, state });
            kept += 1;
            if let Some(now) = remembered.remove(&id) {
                changes.push(Change::Remember { id, was: Remembered::default(), now });
            }
        }
        self.replace_index(&changes)?;
        info!(messages = kept, rescued, "spool index rebuilt");
        Ok(put_aside)
    }

    fn remains(&mut self) -> Remains {
        let mut remains = Remains::default();
        let Some(old) = self.index.take() else { return remains };
        // Sled stops where it meets the damage; what came before is read.
        let read = guarded(|| {
            remains.lanes = old.lanes()?.0.into_iter().collect();
            old.states(&mut Seen::default(), &mut |id, state| match state {
                Ok(state) => drop(remains.states.insert(id, state)),
                Err(raw) => remains.unreadable.push((id, raw)),
            })
        });
        // A message can do without: a reason to hold it is a comfort, and a draft is found by its Message-ID.
        if let Ok(remembered) = guarded(|| old.remembered(&mut Seen::default())) {
            remains.remembered.extend(remembered);
        }
        if let Err(error) = read {
            warn!(%error, states = remains.states.len(), "damaged index only partly readable");
        }
        if let Err(error) = close(old) {
            warn!(%error, "closing the damaged index failed");
        }
        remains
    }

    fn ended(&self) -> io::Result<Ended> {
        self.segments.numbers().into_iter().map(|n| Ok((n, self.segments.ended_in(n)?))).collect()
    }

    /// Every body that may be a message's: whose it is, and where.
    fn find_bodies(&self, ended: &Ended) -> io::Result<HashMap<MessageId, (BodyPlace, Lane)>> {
        let mut bodies = HashMap::new();
        let mut look_through = |walk: Walk<'_>, file: &File| -> io::Result<()> {
            for found in walk {
                let found = found?;
                if has_ended(ended, found.id, found.place.segment) {
                    continue;
                }
                match found.message(file)? {
                    Some(message) => {
                        let lane = Lane { tenant: message.tenant, author: message.author };
                        bodies.insert(found.id, (found.place, lane));
                    }
                    None => warn!(id = %found.id, "body with an unreadable envelope found"),
                }
            }
            Ok(())
        };
        for number in self.segments.numbers() {
            let file = File::open(self.segments.path_of(number))?;
            look_through(Walk::through(&file, Some(number))?, &file)?;
        }
        for entry in fs::read_dir(&self.large)? {
            let file = File::open(entry?.path())?;
            look_through(Walk::through(&file, None)?, &file)?;
        }
        Ok(bodies)
    }

    /// Fills a new index beside the old one, which is quarantined only then. Whatever interrupts this work,
    /// the next start finds an index that is either complete or known to be damaged.
    fn replace_index(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let io = |source| StoreError::Io { what: "cannot put the damaged index aside", source };
        let dir = self.root.join("index");
        let unfinished = self.root.join("index.new");
        match fs::remove_dir_all(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => super::create_private_dir(&unfinished).map_err(io)?,
        }
        let mut new = Index::open(&unfinished, true)?;
        changes.chunks(BATCH).try_for_each(|batch| new.apply(batch))?;
        // Sled remembers where it was opened.
        close(new)?;
        let quarantine = self.root.join("quarantine");
        let aside = quarantine.join(format!("index-{}", clock::now().as_millis()));
        fs::rename(&dir, &aside).map_err(io)?;
        fs::rename(&unfinished, &dir).map_err(io)?;
        [&self.root, &quarantine].iter().try_for_each(|dir| sync_dir(dir)).map_err(io)?;
        warn!(path = %aside.display(), "damaged index moved aside");
        self.index = Some(Index::open(&dir, false)?);
        self.broken.clear();
        Ok(())
    }
}
