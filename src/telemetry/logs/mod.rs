//! Logs: one line per event on standard error, as text or JSON, cleaned ([`super::clean`]).
//!
//! # Contract
//!
//! * The caller hands over one line, and never waits, fails or panics for it, even if the reader of standard
//!   error has gone, its disk is full, or nobody reads the pipe. A thread of its own, `log`, writes
//!   ([`writer`]) what waits in a bounded queue ([`queue`]).
//! * A line that is not written is counted in `m365_relay_log_lines_lost_total`, and once lines flow again
//!   one line says how many were lost.
//! * The lines of one tenant, or of a client that belongs to nobody, fill a share of the queue and of a
//!   second's lines, and no more ([`shares`]): a flood from one source hides no other's lines.
//! * A panic anywhere is one line like any other ([`panics`]).
//! * [`Logs::finish`] writes what waits, within [`LAST_WORDS`], even when the thread has died.

mod attribution;
mod panics;
mod queue;
mod shares;
mod writer;

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use tracing_subscriber::{
    EnvFilter, Layer, fmt, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt,
};

use super::{
    Metrics,
    clean::{CleanFields, CleanLines},
};
use crate::{
    config::{LogConfig, LogFormat},
    vital::Vital,
};
use attribution::{Attributed, Attribution};
use queue::Queue;

/// How long the end of the process waits for standard error to take the last lines.
const LAST_WORDS: Duration = Duration::from_millis(1500);

/// Why a line was not written: the label `reason` of `m365_relay_log_lines_lost_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostLine {
    /// Standard error takes lines more slowly than they come.
    Full,
    /// Standard error did not take it: its reader has gone, or its disk is full.
    Failed,
    /// The tenant, or the client, had used up its share.
    Share,
}

impl LostLine {
    pub const ALL: [Self; 3] = [Self::Full, Self::Failed, Self::Share];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Failed => "failed",
            Self::Share => "share",
        }
    }
}

/// The log of this process. What waits is written when it is dropped.
pub struct Logs(Arc<Queue>);

/// Starts logging. A second call in one process changes nothing. The log's thread is [vital](crate::vital).
pub fn start(config: &LogConfig, metrics: &Metrics, vital: &Vital) -> io::Result<Logs> {
    let queue = Arc::new(Queue::new(metrics));
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::registry().with(filter).with(Attribution);
    // An error means that a subscriber is already set, which is then the one that was asked for first.
    let is_first = subscriber.with(lines(config, queue.clone())).try_init().is_ok();
    if is_first {
        writer::start(queue.clone(), vital)?;
        panics::log_them();
    }
    Ok(Logs(queue))
}

fn lines<S>(config: &LogConfig, queue: Arc<Queue>) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let colours = io::stderr().is_terminal();
    let entrance = CleanLines::new(queue::Entrance(queue), config, colours);
    let lines = fmt::layer().with_ansi(colours).log_internal_errors(false).with_writer(entrance);
    match config.format {
        LogFormat::Text => {
            lines.with_target(false).fmt_fields(CleanFields).map_event_format(Attributed).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).map_event_format(Attributed).boxed(),
    }
}

impl Logs {
    /// Writes the lines that wait, as far as standard error takes them in time.
    pub fn finish(&self) {
        writer::finish(&self.0, LAST_WORDS);
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.finish();
    }
}
