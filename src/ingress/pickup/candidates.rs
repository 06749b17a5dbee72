//! Which files of a folder are whole, and which is next. No I/O: the caller says what there is.
//!
//! A file is whole when the system reports that it was closed or moved in. Without such a hint (a network
//! file system, a hint that was lost, a file from before the start), it is whole when two looks at least
//! [`QUIET`] apart find it with the same size and time. A file that is known to be open, that is empty, or
//! whose header does not end, gets [`PATIENCE`]: a writer may be slow, and half a message must not go out.
//! The relay's clock is not compared with the times of files: they may be another machine's.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    ffi::{OsStr, OsString},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

pub(super) const QUIET: Duration = Duration::from_secs(1);
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A plain file, as a look found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: OsString,
    pub(super) stamp: Stamp,
}

/// Changes when somebody writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) modified: SystemTime,
}

/// A file to take now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) name: OsString,
    /// It was waited for long enough: if its header does not end, it never will.
    pub(super) last_chance: bool,
}

/// What to do with a file that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It is no longer there.
    Forget,
    /// It was claimed and has its name back, as good as before: take it again.
    Retry,
    /// It is not whole, or cannot be read: take it when it has been quiet for longer. `released`: it was
    /// claimed and has its name back.
    Wait { found: Option<Stamp>, released: bool },
    /// It is there under another name and must not be touched again.
    Never,
}

#[derive(Debug, Default)]
pub(super) struct Candidates {
    ready: VecDeque<Ready>,
    /// The names in `ready`.
    queued: HashSet<OsString>,
    /// Files in progress; `true` if there was news of one in the meantime.
    busy: HashMap<OsString, bool>,
    looks: HashMap<OsString, Look>,
    /// Files that a writer has open, as far as is known.
    open: HashMap<OsString, Instant>,
    /// Files that got their names back a moment ago. The system reports these as moved in, which does not
    /// make them whole.
    released: HashMap<OsString, Instant>,
}

#[derive(Debug)]
struct Look {
    stamp: Stamp,
    since: Instant,
    patience: Duration,
}

impl Candidates {
    /// A writer made this file and has not closed it.
    pub(super) fn created(&mut self, name: OsString, now: Instant) {
        // A look before this news took it for a file that nobody writes to.
        self.looks.remove(&name);
        self.open.insert(name, now);
    }

    /// This file is whole.
    pub(super) fn completed(&mut self, name: OsString, now: Instant) {
        if self.released.remove(&name).is_some_and(|at| now < at + QUIET) {
            return;
        }
        self.open.remove(&name);
        self.looks.remove(&name);
        if let Some(news) = self.busy.get_mut(&name) {
            *news = true;
            return;
        }
        self.enqueue(name, false);
    }

    /// All that is in the folder now, preferably in order of age.
    pub(super) fn listed(&mut self, files: Vec<Listed>, now: Instant) {
        let names: HashSet<OsString> = files.iter().map(|file| file.name.clone()).collect();
        self.looks.retain(|name, _| names.contains(name));
        // The list may be a moment older than the hint.
        self.open.retain(|name, since| names.contains(name) || now < *since + PATIENCE);
        self.released.retain(|_, at| now < *at + QUIET);
        for Listed { name, stamp } in files {
            if self.queued.contains(&name) || self.busy.contains_key(&name) {
                continue;
            }
            if let Some(last_chance) = self.look(&name, stamp, now) {
                self.open.remove(&name);
                self.looks.remove(&name);
                self.enqueue(name, last_chance);
            }
        }
    }

    /// When a file that is not ready now may be ready.
    pub(super) fn look_again(&self) -> Option<Instant> {
        self.looks.values().map(|look| look.since + look.patience).min()
    }

    /// The next file to take. It is busy until [`Candidates::done`].
    pub(super) fn next(&mut self) -> Option<Ready> {
        let ready = self.ready.pop_front()?;
        self.queued.remove(&ready.name);
        self.busy.insert(ready.name.clone(), false);
        Some(ready)
    }

    pub(super) fn has_next(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Files waiting to be taken.
    pub(super) fn backlog(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn done(&mut self, name: OsString, then: Then, now: Instant) {
        if then == Then::Never {
            return;
        }
        let news = self.busy.remove(&name).unwrap_or(false);
        let released = matches!(then, Then::Retry | Then::Wait { released: true, .. });
        if released && !news {
            self.released.insert(name.clone(), now);
        }
        match then {
            Then::Retry => self.enqueue(name, false),
            Then::Forget | Then::Wait { released: false, .. } if news => self.enqueue(name, false),
            Then::Wait { found: Some(stamp), .. } => {
                self.looks.insert(name, Look { stamp, since: now, patience: PATIENCE });
            }
            Then::Wait { found: None, .. } | Then::Forget | Then::Never => {}
        }
    }

    /// Whether the file is being taken, or may not be touched.
    pub(super) fn is_busy(&self, name: &OsStr) -> bool {
        self.busy.contains_key(name)
    }

    /// Takes note of the file; if it is ready, whether this is its last chance.
    fn look(&mut self, name: &OsStr, stamp: Stamp, now: Instant) -> Option<bool> {
        let in_doubt = stamp.size == 0 || self.open.contains_key(name);
        let patience = if in_doubt { PATIENCE } else { QUIET };
        match self.looks.entry(name.to_owned()) {
            Entry::Occupied(look) if look.get().stamp == stamp => {
                let look = look.get();
                (now >= look.since + look.patience).then_some(look.patience == PATIENCE)
            }
            entry => {
                entry.insert_entry(Look { stamp, since: now, patience });
                None
            }
        }
    }

    fn enqueue(&mut self, name: OsString, last_chance: bool) {
        if self.queued.insert(name.clone()) {
            self.ready.push_back(Ready { name, last_chance });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn file(name: &str, size: u64) -> Listed {
        Listed { name: name.into(), stamp: Stamp { size, modified: SystemTime::UNIX_EPOCH } }
    }

    fn next(candidates: &mut Candidates) -> Option<(String, bool)> {
        let ready = candidates.next()?;
        Some((ready.name.into_string().unwrap(), ready.last_chance))
    }

    #[test]
    fn a_file_is_ready_when_two_looks_find_it_the_same() {
        let mut candidates = Candidates::default();
        let now = Instant::now();
        candidates.listed(vec![file("a.eml", 10)], now);
        assert_eq!(candidates.look_again(), Some(now + QUIET));
        candidates.listed(vec![file("a.eml", 10)], now + QUIET / 2);
        assert_eq!(next(&mut candidates), None);
        candidates.listed(vec![file("a.eml", 11)], now + SECOND);
        candidates.listed(vec![file("a.eml", 11)], now + SECOND * 3 / 2);
        assert_eq!(next(&mut candidates), None);
        candidates.listed(vec![file("a.eml", 11)], now + SECOND * 2);
        candidates.listed(vec![file("a.eml", 11)], now + SECOND * 3);
        assert_eq!(next(&mut candidates), Some(("a.eml".into(), false)));
        assert_eq!(next(&mut candidates), None);
        assert_eq!(candidates.look_again(), None);
    }

    #[test]
    fn a_file_that_is_open_is_given_time_until_it_is_closed() {
        let mut candidates = Candidates::default();
        let now = Instant::now();
        candidates.created("a.eml".into(), now);
        candidates.created("b.eml".into(), now);
        for second in 0..30 {
            candidates.listed(vec![file("a.eml", 10), file("b.eml", 0)], now + SECOND * second);
        }
        assert_eq!(next(&mut candidates), None);
        candidates.completed("a.eml".into(), now);
        assert_eq!(next(&mut candidates), Some(("a.eml".into(), false)));
        candidates.listed(vec![file("b.eml", 0)], now + PATIENCE);
        assert_eq!(next(&mut candidates), Some(("b.eml".into(), true)));
    }

    #[test]
    fn a_look_before_the_news_that_a_file_is_open_does_not_count() {
        let mut candidates = Candidates::default();
        let now = Instant::now();
        candidates.listed(vec![file("a.eml", 10)], now);
        candidates.created("a.eml".into(), now);
        candidates.listed(vec![file("a.eml", 10)], now + QUIET);
        candidates.listed(vec![file("a.eml", 10)], now + QUIET * 2);
        assert_eq!(next(&mut candidates), None);
        candidates.completed("a.eml".into(), now + QUIET * 3);
        assert_eq!(next(&mut candidates), Some(("a.eml".into(), false)));
    }

    #[test]
    fn a_file_without_end_of_header_gets_a_last_chance() {
        let mut candidates = Candidates::default();
        let now = Instant::now();
        candidates.completed("a.eml".into(), now);
        assert_eq!(next(&mut candidates), Some(("a.eml".into(), false)));
        let found = Some(file("a.eml", 5).stamp);
        candidates.done("a.eml".into(), Then::Wait { found, released: false }, now);
        candidates.listed(vec![file("a.eml", 5)], now + PATIENCE - SECOND);
        assert_eq!(next(&mut candidates), None);
        candidates.listed(vec![file("a.eml", 5)], now + PATIENCE);
        assert_eq!(next(&mut candidates), Some(("a.eml".into(), true)));
    }

    #[test]
    fn nothing_is_taken_twice_at_a_time() {
        let mut candidates = Candidates::default();
        let now = Instant::now();
        candidates.completed("a.eml".into(), now);
        candidates.completed("a.eml".into(), now);
        assert!(next(&mut candidates).is_some());
        assert_eq!(next(&mut candidates), None);
        candidates.listed(vec![file("a.eml", 5)], now);
        candidates.listed(vec![file("a.eml", 5)], now + PATIENCE);
        assert_eq!(next(&mut candidates), None);
        // Another file of that name, while the first is in progress.
        candidates.completed("a.eml".into(), now);
        assert_eq!(next(&mut candidates), None);
        candidates.done("a.eml".into(), Then::Forget, now);
        assert!(next(&mut candidates).is_some());
        candidates.done("a.eml".into(), Then::Never, now);
        candidates.completed("a.eml".into(), now);
        assert_eq!(next(&mut candidates), None);
        assert!(candidates.is_busy("a.eml".as_ref()));
    }

    #[test]
    fn a_name_given_back_is_no_news() {
        let mut candidates = Candidates::default();
        let now = Instant::now();
        let found = Some(file("a.eml", 5).stamp);
        for hint_comes_first in [true, false] {
            candidates.completed("a.eml".into(), now);
            assert!(next(&mut candidates).is_some());
            if hint_comes_first {
                candidates.completed("a.eml".into(), now);
            }
            candidates.done("a.eml".into(), Then::Wait { found, released: true }, now);
            if !hint_comes_first {
                candidates.completed("a.eml".into(), now);
            }
            assert_eq!(next(&mut candidates), None);
        }
        // Now its writer closes it.
        candidates.completed("a.eml".into(), now);
        assert_eq!(next(&mut candidates), Some(("a.eml".into(), false)));
    }
}
