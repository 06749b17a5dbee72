//! Lanes: the pairs of tenant and author that messages belong to.
//!
//! A waiting message costs a small fixed record, of which its tenant and author would be the largest part. So
//! each pair is stored once, and messages refer to it by number. The scheduler makes its queues from lanes:
//! the tenant and the mailbox that the tenant's configuration gives for the author.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::Change;
use relay_mail::{MailboxAddress, TenantName};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lane {
    pub tenant: TenantName,
    /// The header From: it decides which mailbox posts the message.
    pub author: MailboxAddress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

/// Lanes that no message has are kept up to this number: programs that send one message at a time would
/// otherwise store and drop their lane with each. Beyond it they are removed, so that mail with a new From in
/// each message does not gather lanes for ever.
const IDLE: usize = 4096;

/// The lanes, both ways round, and how many messages each has.
#[derive(Default)]
pub(super) struct Lanes {
    by_id: HashMap<LaneId, Use>,
    by_lane: HashMap<Arc<Lane>, LaneId>,
    /// Lanes that were found without messages, longest ago first. Some may have messages again.
    idle: VecDeque<LaneId>,
    last: u32,
}

struct Use {
    lane: Arc<Lane>,
    messages: u64,
    is_in_idle: bool,
}

impl Lanes {
    pub(super) fn lane(&self, id: LaneId) -> Option<Arc<Lane>> {
        self.by_id.get(&id).map(|used| used.lane.clone())
    }

    /// Adds a lane from the store, at the start.
    pub(super) fn add(&mut self, id: LaneId, lane: Arc<Lane>) {
        self.last = self.last.max(id.0);
        self.by_lane.insert(lane.clone(), id);
        self.by_id.insert(id, Use { lane, messages: 0, is_in_idle: false });
    }

    /// Counts one more message of a lane that exists.
    pub(super) fn enter(&mut self, id: LaneId) {
        if let Some(used) = self.by_id.get_mut(&id) {
            used.messages += 1;
        }
    }

    /// Counts one more message of `lane`. Returns the lane's number, and adds the change that stores the lane
    /// if it is new.
    pub(super) fn enter_new(&mut self, lane: &Lane, changes: &mut Vec<Change>) -> (LaneId, Arc<Lane>) {
        let known = self.by_lane.get_key_value(lane).map(|(lane, id)| (*id, lane.clone()));
        let (id, lane) = known.unwrap_or_else(|| {
            let id = LaneId(self.last + 1);
            let lane = Arc::new(lane.clone());
            self.add(id, lane.clone());
            changes.push(Change::AddLane { id, lane: lane.clone() });
            (id, lane)
        });
        self.enter(id);
        (id, lane)
    }

    /// Counts one message less.
    pub(super) fn leave(&mut self, id: LaneId, changes: &mut Vec<Change>) {
        let Some(used) = self.by_id.get_mut(&id) else { return };
        used.messages -= 1;
        if used.messages > 0 || used.is_in_idle {
            return;
        }
        used.is_in_idle = true;
        self.idle.push_back(id);
        if self.idle.len() > IDLE
            && let Some(oldest) = self.idle.pop_front()
        {
            self.drop_if_idle(oldest, changes);
        }
    }

    /// Forgets lanes that no message has: at the start, when all messages have entered.
    pub(super) fn drop_unused(&mut self, changes: &mut Vec<Change>) {
        for id in self.by_id.keys().copied().collect::<Vec<_>>() {
            self.drop_if_idle(id, changes);
        }
    }

    fn drop_if_idle(&mut self, id: LaneId, changes: &mut Vec<Change>) {
        let Some(used) = self.by_id.get_mut(&id) else { return };
        used.is_in_idle = false;
        if used.messages == 0 {
            let lane = used.lane.clone();
            self.by_lane.remove(&lane);
            self.by_id.remove(&id);
            changes.push(Change::DropLane { id, lane });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(n: usize) -> Lane {
        Lane { tenant: "contoso".parse().unwrap(), author: format!("a{n}@contoso.example").parse().unwrap() }
    }

    #[test]
    fn one_author_a_message_gathers_no_lanes_for_ever() {
        let mut lanes = Lanes::default();
        let mut changes = Vec::new();
        let busy = lanes.enter_new(&lane(0), &mut changes).0;
        for n in 1..IDLE * 3 {
            let (id, _) = lanes.enter_new(&lane(n), &mut changes);
            lanes.leave(id, &mut changes);
        }
        assert!(lanes.by_id.len() <= IDLE + 2 && lanes.by_lane.len() == lanes.by_id.len());
        assert_eq!(lanes.lane(busy).as_deref(), Some(&lane(0)));
        let (added, dropped) =
            changes.iter().partition::<Vec<_>, _>(|change| matches!(change, Change::AddLane { .. }));
        assert_eq!(added.len() - dropped.len(), lanes.by_id.len());
    }

    #[test]
    fn a_lane_that_comes_and_goes_is_stored_once() {
        let mut lanes = Lanes::default();
        let mut changes = Vec::new();
        for _ in 0..IDLE * 2 {
            let (id, _) = lanes.enter_new(&lane(1), &mut changes);
            lanes.leave(id, &mut changes);
        }
        assert_eq!(changes.len(), 1);
    }
}
