//! Everything in the index, as it is: for looking into a spool that nobody works on.

use std::collections::HashMap;

use super::{Index, LANE, Lane, LaneId, MESSAGE, MessageId, STATE, State, StoreError};

/// What the index holds, readable or not.
#[derive(Default)]
pub(in crate::spool) struct Census {
    pub(in crate::spool) lanes: HashMap<LaneId, Lane>,
    pub(in crate::spool) unreadable_lanes: usize,
    /// Oldest message first; `None` where the record is no state.
    pub(in crate::spool) states: Vec<(MessageId, Option<State>)>,
    /// Messages of which there is an envelope and no state.
    pub(in crate::spool) without_state: Vec<MessageId>,
    /// Records of no kind that this version knows.
    pub(in crate::spool) unknown: usize,
}

impl Index {
    pub(in crate::spool::disk) fn census(&self) -> Result<Census, StoreError> {
        let (mut census, mut envelopes) = (Census::default(), Vec::new());
        for entry in self.tree.iter() {
            let (key, value) = entry?;
            let Some((kind, rest)) = key.split_first() else {
                census.unknown += 1;
                continue;
            };
            let id = rest.try_into().ok().map(MessageId::from_bytes);
            match (*kind, id) {
                (LANE, _) => match (rest.try_into(), postcard::from_bytes(&value)) {
                    (Ok(id), Ok(lane)) => drop(census.lanes.insert(LaneId(u32::from_be_bytes(id)), lane)),
                    _ => census.unreadable_lanes += 1,
                },
                (MESSAGE, Some(id)) => envelopes.push(id),
                (STATE, Some(id)) => census.states.push((id, State::decode(&value))),
                _ => census.unknown += 1,
            }
        }
        // Both are in the order of their keys.
        let has_state = |id: &MessageId| census.states.binary_search_by_key(id, |(id, _)| *id).is_ok();
        envelopes.retain(|id| !has_state(id));
        census.without_state = envelopes;
        Ok(census)
    }
}
