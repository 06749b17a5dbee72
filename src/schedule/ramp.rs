//! After the service has stopped a mailbox or a tenant, its traffic begins again with one call and grows: a
//! backlog that is released at once would be stopped again.

use std::num::NonZeroU32;

/// Calls at a time where nothing else sets the number: at this many, the ramp is over.
const TOP: u32 = 32;

/// How many calls at a time, while that is less than usual.
#[derive(Debug, Default)]
pub(super) struct Ramp(Option<u32>);

impl Ramp {
    pub(super) fn begin(&mut self) {
        self.0 = Some(1);
    }

    pub(super) fn allows(&self, in_flight: u32) -> bool {
        self.0.is_none_or(|most| in_flight < most)
    }

    /// A call has ended well. `limit`: the usual number.
    pub(super) fn climb(&mut self, limit: Option<NonZeroU32>) {
        let top = limit.map_or(TOP, NonZeroU32::get);
        self.0 = self.0.map(|most| most.saturating_mul(2)).filter(|most| *most < top);
    }
}
