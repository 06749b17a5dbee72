//! Checks whether every message in the spool is as it was stored.

use std::{io, path::Path};

use serde::Serialize;

use super::{ArchiveError, Damaged, Step, open};
use crate::{
    Phase,
    disk::inspection::{Damage, Fault, Inspector, Unowned},
    record::State,
};
use relay_mail::MessageId;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Checked {
    /// All messages in the index.
    pub messages: usize,
    pub waiting: usize,
    /// Messages that an operator holds.
    pub held: usize,
    /// Messages with a worker when the relay ended. The next start finds them in doubt.
    pub leased: Vec<String>,
    /// Octets of bodies, according to the index.
    pub octets: u64,
    pub damaged: Vec<Damaged>,
    /// What is wrong with the index as a whole: records are missing, or have come back. The next start
    /// rebuilds it from the bodies.
    pub index: Option<String>,
    pub unreadable_lanes: usize,
    /// Records of the index that this version does not know.
    pub unknown_records: usize,
    pub unowned: Unowned,
    /// Messages that were quarantined earlier.
    pub quarantined: usize,
}

impl Checked {
    /// Whether nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty()
            && self.index.is_none()
            && self.unreadable_lanes == 0
            && self.unknown_records == 0
    }
}

/// Reads all of the spool, and changes nothing.
pub fn check(spool: &Path, progress: &mut dyn FnMut(Step)) -> Result<Checked, ArchiveError> {
    let store = open(spool)?;
    let mut census = store.census().map_err(ArchiveError::store(spool))?;
    let mut checked = Checked {
        messages: census.states.len(),
        index: census.damage.take(),
        unreadable_lanes: census.unreadable_lanes,
        unknown_records: census.unknown,
        ..Checked::default()
    };
    let mut inspector = store.inspector(&census.lanes);
    let mut step = Step { total: census.states.len(), ..Step::default() };
    for (id, state) in &census.states {
        let damage = match state {
            None => Some(store.damage_of_index("its state is unreadable")),
            Some(state) => {
                match state.phase {
                    Phase::Waiting { .. } => checked.waiting += 1,
                    Phase::Leased => checked.leased.push(id.to_string()),
                    Phase::Held => checked.held += 1,
                }
                checked.octets += state.body.len;
                step.octets += state.body.len;
                read(&mut inspector, *id, state)
            }
        };
        checked.damaged.extend(damage.map(|damage| Damaged::new(*id, damage)));
        step.done += 1;
        progress(step);
    }
    let unreadable = |e: io::Error| ArchiveError::io(spool)(e);
    checked.unowned = store.unowned(&census).map_err(unreadable)?;
    checked.quarantined = store.quarantined().map_err(unreadable)?;
    Ok(checked)
}

fn read(inspector: &mut Inspector<'_>, id: MessageId, state: &State) -> Option<Damage> {
    let inspected = match inspector.look(id, state) {
        Ok(inspected) => inspected,
        Err(damage) => return Some(damage),
    };
    match inspected.copy(&mut |_| Ok(())) {
        // The octets go nowhere, so this cannot fail.
        Ok(()) | Err(Fault::Sink(_)) => None,
        Err(Fault::Damage(damage)) => Some(damage),
    }
}
