//! The lines that wait for the log's thread.
//!
//! Bounded by octets and lines. The last part of it is for errors alone. A busy relay does not wake the
//! thread for each line: the first line wakes it, and it gathers for a moment whatever else comes.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use prometheus::IntCounter;
use tokio::time::Instant;
use tracing::{Level, Metadata, warn};
use tracing_subscriber::fmt::MakeWriter;

use super::{LostLine, attribution::Source, shares::Shares};
use crate::telemetry::Metrics;

const MOST_OCTETS: usize = 4 * 1024 * 1024;
const MOST_LINES: usize = 16 * 1024;
/// One source's part of the octets, and the errors' part of everything.
const SHARE: usize = 4;
const ERRORS: usize = 8;
/// How long the thread gathers lines.
const GATHER: Duration = Duration::from_millis(2);
/// Octets written at a time.
const AT_A_TIME: usize = 64 * 1024;
/// How often the log says that lines were lost.
const SAY_EVERY: Duration = Duration::from_secs(2);

pub(super) struct Queue {
    state: Mutex<State>,
    /// The thread waits for lines, or for the end.
    wake: Condvar,
    /// The end waits for the thread.
    done: Condvar,
    counters: [(LostLine, IntCounter); 3],
}

struct State {
    lines: VecDeque<Line>,
    /// Of lines that wait or are being written.
    octets: usize,
    count: usize,
    shares: Shares,
    is_asleep: bool,
    is_finishing: bool,
    /// No thread writes, because it has not begun or has ended.
    is_deserted: bool,
    /// Not reported yet.
    lost: [u64; 3],
    last_said: Option<Instant>,
    /// How the last write went.
    flows: bool,
}

struct Line {
    source: Source,
    octets: Vec<u8>,
}

/// Lines that are written together, one after the other.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) octets: Vec<u8>,
    lines: Vec<(Source, usize)>,
}

impl Batch {
    /// Number of lines that are not wholly within the first `written` octets.
    fn beyond(&self, written: usize) -> u64 {
        let mut end = 0;
        let is_beyond = |(_, len): &&(Source, usize)| {
            end += len;
            end > written
        };
        self.lines.iter().filter(is_beyond).count() as u64
    }
}

impl Queue {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let state = State {
            lines: VecDeque::new(),
            octets: 0,
            count: 0,
            shares: Shares::new(MOST_OCTETS / SHARE),
            is_asleep: false,
            is_finishing: false,
            is_deserted: true,
            lost: [0; 3],
            last_said: None,
            flows: true,
        };
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            done: Condvar::new(),
            counters: LostLine::ALL.map(|reason| (reason, metrics.log_lines_lost(reason))),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Code under this lock only counts and moves, which does not panic.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits no longer than it takes to put in other lines.
    fn put(&self, formatted: &[u8], is_error: bool) {
        let (source, line) = Source::split(formatted);
        let mut state = self.state();
        let part = |most: usize| if is_error { most } else { most - most / ERRORS };
        let lost = if state.octets + line.len() > part(MOST_OCTETS) || state.count >= part(MOST_LINES) {
            LostLine::Full
        } else if !state.shares.take(source, line.len(), is_error, Instant::now()) {
            LostLine::Share
        } else {
            state.octets += line.len();
            state.count += 1;
            state.lines.push_back(Line { source, octets: line.to_vec() });
            if std::mem::take(&mut state.is_asleep) {
                self.wake.notify_one();
            }
            return;
        };
        self.lose(&mut state, lost, 1);
    }

    fn lose(&self, state: &mut State, why: LostLine, count: u64) {
        for ((reason, counter), unsaid) in self.counters.iter().zip(&mut state.lost) {
            if *reason == why {
                counter.inc_by(count);
                *unsaid += count;
            }
        }
    }

    // === for the thread ===

    /// Waits for lines. `None` at the end.
    pub(super) fn next(&self) -> Option<Batch> {
        self.say_what_was_lost();
        let mut state = self.state();
        while state.lines.is_empty() {
            if state.is_finishing {
                return None;
            }
            state.is_asleep = true;
            if state.flows && state.lost != [0; 3] {
                state = self.wake.wait_timeout(state, SAY_EVERY).unwrap_or_else(|e| e.into_inner()).0;
                drop(state);
                self.say_what_was_lost();
                state = self.state();
            } else {
                state = self.wake.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            state.is_asleep = false;
        }
        if !state.is_finishing && state.octets < AT_A_TIME {
            let goes_on = |state: &mut State| !state.is_finishing;
            let gathered = self.wake.wait_timeout_while(state, GATHER, goes_on);
            state = gathered.unwrap_or_else(|e| e.into_inner()).0;
        }
        state.batch()
    }

    /// Reports them in a line like any other, once lines flow again.
    fn say_what_was_lost(&self) {
        let mut state = self.state();
        let is_due = state.last_said.is_none_or(|said| said.elapsed() >= SAY_EVERY);
        if !state.flows || !is_due || state.lost == [0; 3] {
            return;
        }
        let [full, failed, share] = std::mem::take(&mut state.lost);
        state.last_said = Some(Instant::now());
        // The report goes through the same queue.
        drop(state);
        warn!(full, failed, share, "log lines lost");
    }

    /// Returns the lines that wait, without waiting for any.
    pub(super) fn rest(&self) -> Option<Batch> {
        self.state().batch()
    }

    /// `written` octets of the batch have been written, and the rest is lost.
    pub(super) fn wrote(&self, batch: &Batch, written: usize) {
        let mut state = self.state();
        for (source, len) in &batch.lines {
            state.octets -= len;
            state.count -= 1;
            state.shares.give_back(*source, *len);
        }
        state.flows = written == batch.octets.len();
        let failed = batch.beyond(written);
        if failed > 0 {
            self.lose(&mut state, LostLine::Failed, failed);
        }
    }

    /// A thread is about to write.
    pub(super) fn attend(&self) {
        self.state().is_deserted = false;
    }

    /// The thread writes no more.
    pub(super) fn desert(&self) {
        self.state().is_deserted = true;
        self.done.notify_all();
    }

    // === for the end ===

    /// Whether the thread has ended in this time.
    pub(super) fn end(&self, within: Duration) -> bool {
        let mut state = self.state();
        state.is_finishing = true;
        self.wake.notify_all();
        let waited = self.done.wait_timeout_while(state, within, |state| !state.is_deserted);
        waited.unwrap_or_else(|e| e.into_inner()).0.is_deserted
    }
}

impl State {
    fn batch(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        while batch.octets.len() < AT_A_TIME
            && let Some(line) = self.lines.pop_front()
        {
            batch.octets.extend_from_slice(&line.octets);
            batch.lines.push((line.source, line.octets.len()));
        }
        (!batch.lines.is_empty()).then_some(batch)
    }
}

/// Where the subscriber puts its lines.
pub(super) struct Entrance(pub(super) Arc<Queue>);

pub(super) struct OneLine<'a> {
    queue: &'a Queue,
    is_error: bool,
}

impl<'a> MakeWriter<'a> for Entrance {
    type Writer = OneLine<'a>;

    fn make_writer(&'a self) -> OneLine<'a> {
        OneLine { queue: &self.0, is_error: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> OneLine<'a> {
        OneLine { queue: &self.0, is_error: *metadata.level() == Level::ERROR }
    }
}

impl io::Write for OneLine<'_> {
    /// The subscriber writes one whole line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.put(line, self.is_error);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
