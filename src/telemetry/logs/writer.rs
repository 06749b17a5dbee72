//! The thread that writes to standard error, and waits for it where other threads must not.

use std::{
    io::{self, Stderr},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, write},
};

use super::queue::Queue;
use crate::{faults::Turns, vital::Vital};

/// How long one wait for a full pipe takes.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

pub(super) fn start(queue: Arc<Queue>, vital: &Vital) -> io::Result<()> {
    queue.attend();
    let deserted = Deserted(queue.clone());
    vital.spawn("log", "the log", move || {
        let mut output = Output::new();
        let mut turns = Turns::of("log");
        while let Some(batch) = deserted.0.next() {
            let written = output.write(&batch.octets);
            deserted.0.wrote(&batch, written);
            turns.turn();
        }
    })
}

/// Writes the lines that wait, in this time at most: by the thread, or in its place if it has died.
pub(super) fn finish(queue: &Arc<Queue>, within: Duration) {
    if !queue.end(within) {
        return;
    }
    let queue = queue.clone();
    let (done, all_done) = mpsc::channel::<()>();
    // By a thread, since standard error may take its time.
    let last = thread::Builder::new().name("log-end".into()).spawn(move || {
        let mut output = Output::new();
        let _done = done;
        while let Some(batch) = queue.rest() {
            let written = output.write(&batch.octets);
            queue.wrote(&batch, written);
        }
    });
    if last.is_ok() {
        // It ends with an error in any case, as nothing is sent.
        let _ = all_done.recv_timeout(within);
    }
}

/// Tells those who wait for the thread that it has gone, however it went.
struct Deserted(Arc<Queue>);

impl Drop for Deserted {
    fn drop(&mut self) {
        self.0.desert();
    }
}

struct Output {
    stderr: Stderr,
    /// A write was interrupted within a line.
    is_within_line: bool,
}

impl Output {
    fn new() -> Self {
        Self { stderr: io::stderr(), is_within_line: false }
    }

    /// Returns how many octets were written: all of them, if standard error works.
    fn write(&mut self, octets: &[u8]) -> usize {
        if self.is_within_line && self.push(b"\n") == 0 {
            return 0;
        }
        let written = self.push(octets);
        self.is_within_line = written > 0 && octets[written - 1] != b'\n';
        written
    }

    fn push(&self, octets: &[u8]) -> usize {
        let mut written = 0;
        while written < octets.len() {
            match write(&self.stderr, &octets[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // Somebody has made the pipe non-blocking, and it is full.
                Err(Errno::AGAIN) => {
                    let mut ready = [PollFd::new(&self.stderr, PollFlags::OUT)];
                    if poll(&mut ready, Some(&LOOK)).is_err_and(|error| error != Errno::INTR) {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        written
    }
}
