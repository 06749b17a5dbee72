//! The day's recipients on disk, so that a restart does not give each mailbox a new day.
//!
//! A folder of files, one for six hours, to which records of 32 octets are appended. A file is removed when
//! nothing in it counts any more, so the folder has records of a day and a half at most: a million messages a
//! day are 48 MB.
//!
//! # Crashes
//!
//! * The kernel has a record before the call that it stands for is made: [`Ledger::note`] writes it itself.
//!   So the end of the process, of any kind, loses none. Handing it to another thread would lose what that
//!   thread had not reached yet.
//! * A separate thread syncs the file once a minute. A power failure may lose the last minute's records: the
//!   mailbox may then send that many more, and the service is the judge.
//! * What a crash left unfinished at the end of a file is cut off, and a damaged record is skipped.
//!
//! # Damage
//!
//! All tenants are in the same files, so no fault in one of them may stop the start: a file that cannot be
//! read is put aside, a relay that can have no ledger runs without one, and the log and `spool_quarantined`
//! say so.
//!
//! Writing on the calling thread, which runs tasks, is allowed here, since it is a plain append of 32 octets
//! to the page cache. It takes 1.6 µs on average and 4 ms at most over a million of them, while a delivery
//! takes a tenth of a second.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, mpsc},
    time::Duration,
};

use tracing::{error, info, warn};

use super::record::{Hour, Key, Record};
use crate::{faults::Turns, vital::Vital};

/// Hours of one file.
const HOURS: Hour = 6;
/// Records of an hour count for this long after it.
pub(super) const DAY: Hour = 24;
const SYNC_EVERY: Duration = Duration::from_secs(60);

/// What each mailbox took, by hour. No count is zero.
pub(super) type Remembered = HashMap<Key, BTreeMap<Hour, u64>>;

#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub(super) struct LedgerError {
    path: PathBuf,
    source: io::Error,
}

pub(super) struct Ledger {
    files: Arc<Files>,
    /// Ends the thread when it is dropped.
    _stop: mpsc::Sender<()>,
}

struct Files {
    folder: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    /// The file is named by its first hour.
    from: Hour,
    file: Arc<File>,
    len: u64,
    /// Written to, or made, and not synced since.
    unsynced: Vec<Arc<File>>,
    /// So that a full disk is logged once.
    fails: bool,
}

impl Ledger {
    /// Opens the ledger in `folder`, or makes one there, and reads what still counts. `damaged` is told of
    /// each file that cannot be read to its end: what could be read counts, and the file is put aside.
    ///
    /// An error means that there can be no ledger here. Mail is sent without one: see
    /// [`Allowances::new`](super::Allowances::new).
    pub(super) fn open(
        folder: &Path,
        now: Hour,
        vital: &Vital,
        damaged: &dyn Fn(),
    ) -> Result<(Self, Remembered), LedgerError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| LedgerError { path, source }
        };
        let put_aside = |path: &Path, error: &io::Error| {
            damaged();
            put_aside(path, error);
        };
        if let Err(error) = make(folder) {
            put_aside(folder, &error);
            make(folder).map_err(at(folder))?;
        }
        let mut sums: HashMap<Key, BTreeMap<Hour, i64>> = HashMap::new();
        let mut ahead = Vec::new();
        for (from, path) in files_in(folder).map_err(at(folder))? {
            if is_past(from, now) {
                if let Err(error) = fs::remove_file(&path) {
                    put_aside(&path, &error);
                }
                continue;
            }
            let read = read_file(&path, &mut |Record { key, hour, count }| {
                // The clock was wrong then, or is now. So it counts from now on, not from that later hour.
                let hour = hour.min(now);
                if hour + DAY >= now {
                    *sums.entry(key).or_default().entry(hour).or_default() += i64::from(count);
                }
            });
            if let Err(error) = read {
                put_aside(&path, &error);
            } else if from > now {
                ahead.push((from, path));
            }
        }
        let mut current = Current::open(folder, now).map_err(at(folder))?;
        for (from, path) in ahead {
            if let Err(error) = current.bring_back(from, &path) {
                put_aside(&path, &error);
            }
        }
        let files = Arc::new(Files { folder: folder.to_owned(), current: Mutex::new(current) });
        let (stop, stopped) = mpsc::channel();
        let to_thread = files.clone();
        let run = move || to_thread.keep_synced(&stopped);
        vital.spawn("recipients-ledger", "the ledger of the day's recipients", run).map_err(at(folder))?;
        Ok((Self { files, _stop: stop }, whole(sums)))
    }

    /// Writes down that `count` recipients were taken in `hour`, or given back if it is less than zero.
    ///
    /// A disk that cannot take it stops no mail: the count is then in memory only, and the log says so once.
    pub(super) fn note(&self, key: Key, hour: Hour, count: i32, now: Hour) {
        let mut current = self.files.current();
        let written = current
            .roll(&self.files.folder, now)
            .and_then(|()| current.append(&Record { key, hour, count }.to_bytes()));
        match written {
            Ok(()) => current.fails = false,
            Err(error) if !std::mem::replace(&mut current.fails, true) => {
                warn!(%error, "daily recipients not recorded: a restart will forget them");
            }
            Err(_) => {}
        }
    }
}

impl Files {
    fn current(&self) -> MutexGuard<'_, Current> {
        // Each change of it is whole in itself.
        self.current.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn keep_synced(&self, stopped: &mpsc::Receiver<()>) {
        let mut turns = Turns::of("recipients-ledger");
        loop {
            let is_last =
                stopped.recv_timeout(turns.every(SYNC_EVERY)) != Err(mpsc::RecvTimeoutError::Timeout);
            let (unsynced, from) = {
                let mut current = self.current();
                (std::mem::take(&mut current.unsynced), current.from)
            };
            if let Err(error) = self.sync(&unsynced, from) {
                warn!(%error, "daily recipients not synced to disk");
            }
            if is_last {
                return;
            }
            turns.turn();
        }
    }

    fn sync(&self, unsynced: &[Arc<File>], from: Hour) -> io::Result<()> {
        for file in unsynced {
            file.sync_data()?;
        }
        if unsynced.is_empty() {
            return Ok(());
        }
        for (old, path) in files_in(&self.folder)? {
            if is_past(old, from) {
                fs::remove_file(path)?;
            }
        }
        File::open(&self.folder)?.sync_all()
    }
}

impl Current {
    fn open(folder: &Path, now: Hour) -> io::Result<Self> {
        let from = now - now % HOURS;
        let path = folder.join(from.to_string());
        let file = File::options().create(true).append(true).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        let whole = len - len % Record::LEN as u64;
        if whole < len {
            file.set_len(whole)?;
        }
        let file = Arc::new(file);
        Ok(Self { from, len: whole, unsynced: vec![file.clone()], file, fails: false })
    }

    /// Continues in a new file if it is time.
    fn roll(&mut self, folder: &Path, now: Hour) -> io::Result<()> {
        if now < self.from + HOURS {
            return Ok(());
        }
        let next = Self::open(folder, now)?;
        self.unsynced.extend(next.unsynced);
        (self.from, self.file, self.len) = (next.from, next.file, next.len);
        Ok(())
    }

    /// Takes over what was written when the clock was ahead, as taken now: otherwise each start would count
    /// it again from then on.
    fn bring_back(&mut self, from: Hour, path: &Path) -> io::Result<()> {
        let mut records = Vec::new();
        read_file(path, &mut |record| records.push(record))?;
        for record in records {
            self.append(&Record { hour: self.from, ..record }.to_bytes())?;
        }
        warn!(from, "daily recipients recorded with a clock that was ahead: they count as of now");
        fs::remove_file(path)
    }

    fn append(&mut self, record: &[u8; Record::LEN]) -> io::Result<()> {
        let mut file = &*self.file;
        if let Err(error) = file.write_all(record) {
            // Half a record would put all records behind it out of step.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += Record::LEN as u64;
        if !self.unsynced.iter().any(|file| Arc::ptr_eq(file, &self.file)) {
            self.unsynced.push(self.file.clone());
        }
        Ok(())
    }
}

fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Moves the file out of the way, for a person to look at. What could not be read in it counts for nothing:
/// the mailboxes may send more today than they should, and the service is the judge.
fn put_aside(path: &Path, error: &io::Error) {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    let aside = PathBuf::from(name);
    // A file that an earlier start put aside makes room.
    let _ = fs::remove_file(&aside).or_else(|_| fs::remove_dir(&aside));
    let moved = fs::rename(path, &aside);
    error!(
        path = %path.display(), %error, is_aside = moved.is_ok(),
        "daily recipients unreadable: what could be read counts, and the file is moved aside as NAME.damaged"
    );
}

/// Whether nothing in the file that begins with this hour counts any more.
fn is_past(from: Hour, now: Hour) -> bool {
    from + HOURS + DAY < now
}

/// The ledger's files by their first hours. Nothing else in the folder is looked at.
fn files_in(folder: &Path) -> io::Result<Vec<(Hour, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(from) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            files.push((from, entry.path()));
        }
    }
    Ok(files)
}

fn read_file(path: &Path, found: &mut dyn FnMut(Record)) -> io::Result<()> {
    let mut file = io::BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut bytes = [0; Record::LEN];
    let mut damaged = 0;
    loop {
        match file.read_exact(&mut bytes) {
            Ok(()) => match Record::from_bytes(&bytes) {
                Some(record) => found(record),
                None => damaged += 1,
            },
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    if damaged > 0 {
        info!(path = %path.display(), damaged, "daily recipient records damaged, as after a power failure");
    }
    Ok(())
}

/// What was given back counts for nothing if the record of its taking is lost.
fn whole(sums: HashMap<Key, BTreeMap<Hour, i64>>) -> Remembered {
    let hours = |hours: BTreeMap<Hour, i64>| -> BTreeMap<Hour, u64> {
        let taken = hours.into_iter().map(|(hour, count)| (hour, u64::try_from(count).unwrap_or(0)));
        taken.filter(|(_, count)| *count > 0).collect()
    };
    sums.into_iter().map(|(key, sums)| (key, hours(sums))).filter(|(_, hours)| !hours.is_empty()).collect()
}

#[cfg(test)]
mod tests;
