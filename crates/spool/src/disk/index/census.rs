//! Everything in the index, as it is: for inspecting a spool that no relay has open.

use std::collections::HashMap;

use super::{
    Index, LANE, Lane, LaneId, MessageId, Parts, REMEMBERED, Remembered, STATE, SUM, Seen, State, StoreError,
    split,
};

/// What the index contains, readable or not.
#[derive(Default)]
pub(crate) struct Census {
    pub(crate) lanes: HashMap<LaneId, Lane>,
    pub(crate) unreadable_lanes: usize,
    /// Oldest message first; `None` where the record is not a state.
    pub(crate) states: Vec<(MessageId, Option<State>)>,
    pub(crate) remembered: HashMap<MessageId, Remembered>,
    /// Records of no kind that this version knows.
    pub(crate) unknown: usize,
    /// Damage that nothing else shows: records are missing or have come back.
    pub(crate) damage: Option<String>,
}

impl Index {
    pub(in crate::disk) fn census(&self) -> Result<Census, StoreError> {
        let mut census = Census::default();
        let mut seen = Seen::default();
        for entry in self.tree.iter() {
            let (key, value) = entry?;
            if key == SUM {
                continue;
            }
            let (Some((kind, rest)), Parts { state, stamp, .. }) = (key.split_first(), split(&value)) else {
                census.unknown += 1;
                continue;
            };
            match (*kind, rest.try_into().ok().map(MessageId::from_bytes)) {
                (LANE, _) => {
                    seen.sum.add(&key, &value);
                    match (rest.try_into(), postcard::from_bytes(&value)) {
                        (Ok(id), Ok(lane)) => drop(census.lanes.insert(LaneId(u32::from_be_bytes(id)), lane)),
                        _ => census.unreadable_lanes += 1,
                    }
                }
                (STATE, Some(id)) => {
                    seen.sum.add(&key, state);
                    seen.latest = seen.latest.later(stamp);
                    census.states.push((id, State::decode(state)));
                }
                (REMEMBERED, Some(id)) => {
                    seen.sum.add(&key, &value);
                    census.remembered.extend(Remembered::decode(&value).map(|found| (id, found)));
                }
                _ => census.unknown += 1,
            }
        }
        if let Err(StoreError::Damaged(why)) = self.compare(seen) {
            census.damage = Some(why);
        }
        Ok(census)
    }
}
