//! Lanes: the pairs of tenant and author that messages belong to.
//!
//! A waiting message costs a small fixed record; whose it is would be the largest part of it. So each pair is stored
//! once and messages refer to it by number. The scheduler makes its queues from lanes: the tenant and the mailbox that the
//! tenant's configuration gives for the author.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::Change;
use crate::{config::TenantName, message::MailboxAddress};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lane {
    pub tenant: TenantName,
    /// The header From: it decides which mailbox posts the message.
    pub author: MailboxAddress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

/// The lanes in use, both ways round.
#[derive(Default)]
pub(super) struct Lanes {
    by_id: HashMap<LaneId, Arc<Lane>>,
    by_lane: HashMap<Arc<Lane>, LaneId>,
    last: u32,
}

impl Lanes {
    pub(super) fn lane(&self, id: LaneId) -> Option<Arc<Lane>> {
        self.by_id.get(&id).cloned()
    }

    pub(super) fn add(&mut self, id: LaneId, lane: Arc<Lane>) {
        self.last = self.last.max(id.0);
        self.by_lane.insert(lane.clone(), id);
        self.by_id.insert(id, lane);
    }

    /// The number of a lane, and the change that stores it if it is new.
    pub(super) fn intern(&mut self, lane: Lane, changes: &mut Vec<Change>) -> (LaneId, Arc<Lane>) {
        if let Some((lane, id)) = self.by_lane.get_key_value(&lane) {
            return (*id, lane.clone());
        }
        let (id, lane) = (LaneId(self.last + 1), Arc::new(lane));
        self.add(id, lane.clone());
        changes.push(Change::AddLane { id, lane: lane.clone() });
        (id, lane)
    }

    /// At the start: forgets lanes that no message has, so that they do not gather over the years.
    pub(super) fn drop_unused(&mut self, used: &HashSet<LaneId>) -> Vec<Change> {
        let unused: Vec<_> = self.by_id.keys().copied().filter(|id| !used.contains(id)).collect();
        for id in &unused {
            if let Some(lane) = self.by_id.remove(id) {
                self.by_lane.remove(&lane);
            }
        }
        unused.into_iter().map(Change::DropLane).collect()
    }
}
