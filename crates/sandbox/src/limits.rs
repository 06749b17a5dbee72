//! Throttling of one application at one mailbox.
//!
//! Calls at a time, calls in ten minutes, octets in five minutes, messages in a minute: each has its own
//! count, and a mailbox over a limit does not affect any other mailbox. A place among the concurrent calls is
//! taken when the headers have arrived and given back before the answer is written, so a client that keeps to
//! the limit by its own count never meets it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{options::Limits, store::lock};

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Gate(Mutex<State>);

#[derive(Default)]
struct State {
    in_flight: u32,
    peak: u32,
    messages: VecDeque<Instant>,
    requests: Rolling<600>,
    uploaded: Rolling<300>,
    recipients: Rolling<86_400>,
}

/// Which limit, and the time until it is worth asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Throttled {
    pub(super) limit: Limit,
    pub(super) wait: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Messages,
    Concurrency,
    Requests,
    Upload,
}

/// A place among the concurrent calls, given back on drop.
pub(super) struct Permit(Arc<Gate>);

impl Permit {
    /// Counts a call, and admits it if the limits allow. A refused call counts as a request too ("requests
    /// made while throttled still accrue usage", Graph throttling guidance).
    pub(super) fn take(gate: &Arc<Gate>, limits: &Limits, now: Instant) -> Result<Self, Throttled> {
        gate.enter(limits, now)?;
        Ok(Self(gate.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.0.0).in_flight -= 1;
    }
}

impl Gate {
    fn enter(&self, limits: &Limits, now: Instant) -> Result<(), Throttled> {
        let mut state = lock(&self.0);
        if let Some(limit) = limits.requests_per_10_minutes {
            state.requests.add(now, 1);
            if let Some(wait) = state.requests.excess(now, limit) {
                return Err(Throttled { limit: Limit::Requests, wait });
            }
        }
        if limits.concurrency.is_some_and(|limit| state.in_flight >= limit) {
            // The end of a call cannot be predicted; a second is what a back-off would begin with.
            return Err(Throttled { limit: Limit::Concurrency, wait: Duration::from_secs(1) });
        }
        state.in_flight += 1;
        state.peak = state.peak.max(state.in_flight);
        Ok(())
    }

    /// Counts octets of a request's body.
    pub(super) fn upload(&self, bytes: usize, limits: &Limits, now: Instant) -> Result<(), Throttled> {
        let Some(limit) = limits.upload_per_5_minutes else { return Ok(()) };
        let mut state = lock(&self.0);
        state.uploaded.add(now, bytes as u64);
        match state.uploaded.excess(now, limit) {
            Some(wait) => Err(Throttled { limit: Limit::Upload, wait }),
            None => Ok(()),
        }
    }

    /// Counts one message, unless the last minute is already full.
    pub(super) fn message(&self, limits: &Limits, now: Instant) -> Result<(), Throttled> {
        let Some(limit) = limits.messages_per_minute else { return Ok(()) };
        let mut state = lock(&self.0);
        while state.messages.front().is_some_and(|sent| now.duration_since(*sent) >= MINUTE) {
            state.messages.pop_front();
        }
        if state.messages.len() >= limit as usize {
            let wait = state.messages.front().map_or(MINUTE, |oldest| (*oldest + MINUTE).duration_since(now));
            return Err(Throttled { limit: Limit::Messages, wait });
        }
        state.messages.push_back(now);
        Ok(())
    }

    /// Counts the recipients of one message, unless the day has no room for all of them.
    pub(super) fn recipients(&self, count: usize, limits: &Limits, now: Instant) -> bool {
        let Some(limit) = limits.recipients_per_day else { return true };
        let mut state = lock(&self.0);
        let room = u64::from(limit).checked_sub(count as u64);
        let fits = room.is_some_and(|room| state.recipients.excess(now, room).is_none());
        if fits {
            state.recipients.add(now, count as u64);
        }
        fits
    }

    /// The highest number of calls that were admitted at one time.
    pub(super) fn peak(&self) -> u32 {
        lock(&self.0).peak
    }
}

/// A sum over the last `SECONDS` seconds, in ten steps.
struct Rolling<const SECONDS: u64> {
    epoch: Option<Instant>,
    /// The step that `slots[step % SLOTS]` is for; the nine before it are in the other slots.
    step: u64,
    slots: [u64; SLOTS],
}

const SLOTS: usize = 10;

impl<const SECONDS: u64> Default for Rolling<SECONDS> {
    fn default() -> Self {
        Self { epoch: None, step: 0, slots: [0; SLOTS] }
    }
}

impl<const SECONDS: u64> Rolling<SECONDS> {
    const STEP: Duration = Duration::from_millis(SECONDS * 1000 / SLOTS as u64);

    fn add(&mut self, now: Instant, amount: u64) {
        self.advance(now);
        self.slots[Self::slot(self.step)] += amount;
    }

    /// `None` while the sum is within `limit`, otherwise the time until its oldest part is forgotten.
    fn excess(&mut self, now: Instant, limit: u64) -> Option<Duration> {
        self.advance(now);
        if self.slots.iter().sum::<u64>() <= limit {
            return None;
        }
        let age = (0..SLOTS as u64)
            .rev()
            .find(|age| *age <= self.step && self.slots[Self::slot(self.step - age)] > 0)?;
        let leaves = self.step - age + SLOTS as u64;
        let epoch = self.epoch?;
        Some((epoch + Self::STEP * u32::try_from(leaves).unwrap_or(u32::MAX)).duration_since(now))
    }

    fn advance(&mut self, now: Instant) {
        let epoch = *self.epoch.get_or_insert(now);
        let step = now.duration_since(epoch).as_millis() as u64 / Self::STEP.as_millis() as u64;
        let forgotten = step.saturating_sub(self.step).min(SLOTS as u64);
        for ahead in 1..=forgotten {
            self.slots[Self::slot(self.step + ahead)] = 0;
        }
        self.step = self.step.max(step);
    }

    fn slot(step: u64) -> usize {
        (step % SLOTS as u64) as usize
    }
}
