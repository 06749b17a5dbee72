//! The windows of one mailbox.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Exhausted, hour_of,
    ledger::DAY,
    record::Hour,
    window::{Step, Window},
};
use crate::{clock, config::Limits, telemetry::LimitKind};
use relay_mail::Timestamp;

/// Each of the short windows has this many steps: a wait is one step longer than it must be, at most.
const STEPS: u64 = 30;
/// A thirtieth of ten minutes, and of five.
const REQUEST_STEP: Duration = Duration::from_secs(20);
const UPLOAD_STEP: Duration = Duration::from_secs(10);

pub(super) struct Windows {
    limits: Limits,
    /// By hour of the wall clock, which continues over a restart.
    pub(super) recipients: Option<Window>,
    requests: Option<Window>,
    upload: Option<Window>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) hour: Hour,
    since_start: Duration,
}

impl Now {
    pub(super) fn since(started: Instant) -> Self {
        Self { hour: hour_of(clock::now()), since_start: started.elapsed() }
    }

    fn step(&self, of: Duration) -> Step {
        self.since_start.as_secs() / of.as_secs()
    }
}

impl Windows {
    pub(super) fn new(limits: &Limits) -> Self {
        let mut windows = Self { limits: Limits::NONE, recipients: None, requests: None, upload: None };
        windows.follow(limits);
        windows
    }

    /// Applies these limits from now on. What was counted still counts; while there was no limit, nothing was
    /// counted.
    pub(super) fn follow(&mut self, limits: &Limits) {
        if self.limits == *limits {
            return;
        }
        self.limits = *limits;
        let follow = |window: &mut Option<Window>, limit: Option<u64>, steps| match (window, limit) {
            (window, None) => *window = None,
            (Some(window), Some(limit)) => window.set_limit(limit),
            (window, Some(limit)) => *window = Some(Window::new(limit, steps)),
        };
        follow(&mut self.recipients, limits.recipients_per_day.map(|limit| limit.get().into()), DAY);
        follow(&mut self.requests, limits.requests_per_10_minutes.map(|limit| limit.get().into()), STEPS);
        follow(&mut self.upload, limits.upload_per_5_minutes.map(|limit| limit.0), STEPS);
    }

    pub(super) fn take_recipients(&mut self, count: u64, now: Now) -> Result<(), Exhausted> {
        let Some(window) = &mut self.recipients else { return Ok(()) };
        window.room(count, now.hour).map_err(|hour| {
            let until = clock::instant_of(Timestamp::from_millis(hour * 3_600_000));
            Exhausted { limit: LimitKind::RecipientsPerDay, until }
        })?;
        window.add(count, now.hour);
        Ok(())
    }

    pub(super) fn give_back_recipients(&mut self, count: u64, hour: Hour) {
        if let Some(window) = &mut self.recipients {
            window.give_back(count, hour);
        }
    }

    /// Whether one more call with a body of this size has room; if not, the limit that takes longest.
    pub(super) fn room_for_call(&mut self, octets: u64, now: Now, started: Instant) -> Result<(), Exhausted> {
        let requests = (&mut self.requests, 1, REQUEST_STEP, LimitKind::RequestsPer10Minutes);
        let upload = (&mut self.upload, octets, UPLOAD_STEP, LimitKind::UploadPer5Minutes);
        let exhausted = [requests, upload].into_iter().filter_map(|(window, amount, step, limit)| {
            let later = window.as_mut()?.room(amount, now.step(step)).err()?;
            let until = started + Duration::from_secs(later.saturating_mul(step.as_secs()));
            Some(Exhausted { limit, until })
        });
        exhausted.max_by_key(|exhausted| exhausted.until).map_or(Ok(()), Err)
    }

    pub(super) fn add_call(&mut self, octets: u64, now: Now) {
        self.requests.iter_mut().for_each(|window| window.add(1, now.step(REQUEST_STEP)));
        self.upload.iter_mut().for_each(|window| window.add(octets, now.step(UPLOAD_STEP)));
    }

    pub(super) fn is_empty(&mut self, now: Now) -> bool {
        let is_empty = |window: &mut Option<Window>, step| window.as_mut().is_none_or(|w| w.is_empty(step));
        is_empty(&mut self.recipients, now.hour)
            && is_empty(&mut self.requests, now.step(REQUEST_STEP))
            && is_empty(&mut self.upload, now.step(UPLOAD_STEP))
    }
}
