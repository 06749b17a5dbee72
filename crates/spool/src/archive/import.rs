//! Takes exported messages back into a spool, which may be a new one.
//!
//! Works in groups. When a group is durable in the spool, its files are moved to `imported/`, and that is
//! synced: whatever is left in the folder must still be imported. If the process dies in between, the next
//! run finds the messages in the spool.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{
    ArchiveError, Step,
    entry::{Entry, ExportedState},
    folder::{Folder, refuse_inside},
    refuse_root,
};
use crate::{
    Arriving, Bodies, Body, BodyPlace, BodyWriter, Change, DiskStore, Floor, FreeSpace, Lane, Phase,
    Remembered, SpoolError, State, Store,
    arriving::Room,
    clock,
    disk::inspection::{self, Damage},
    lane::Lanes,
};
use relay_mail::{ByteSize, MessageId, Timestamp};

/// The most messages made durable together, and the most octets of their bodies.
const GROUP: usize = 256;
const GROUP_OCTETS: u64 = 4 * 1024 * 1024;
/// Octets read at a time.
const CHUNK: usize = 256 * 1024;
/// No JSON file of ours is larger: a thousand recipients are some 50 KB.
const LARGEST_ENTRY: ByteSize = ByteSize::mib(16);
/// An id contains the time of acceptance, and later ids follow the latest one: one far ahead is a mistake.
const FAR_AHEAD: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Where to import to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The folder of the spool.
    pub spool: PathBuf,
    /// What must stay free on its disk: a full disk would fail the index in the middle of its work.
    pub floor: Floor,
}

#[derive(Debug, Default, Serialize)]
pub struct Imported {
    /// Whether there was no spool before.
    pub new_spool: bool,
    pub imported: usize,
    /// Octets of the bodies of the imported messages.
    pub octets: u64,
    /// Messages that the spool already had.
    pub already_there: usize,
    /// Damaged messages of the spool itself that were quarantined when it was opened.
    pub put_aside: usize,
    /// Files that were left where they are.
    pub problems: Vec<Problem>,
}

/// A file that could not be imported, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: PathBuf,
    pub reason: String,
}

impl Imported {
    /// Whether everything in the folder is in the spool, and the spool is whole.
    pub fn is_complete(&self) -> bool {
        self.problems.is_empty() && self.put_aside == 0
    }
}

/// Takes every message of `folder` into the spool, which is made if it is missing.
pub fn import(
    target: &Target,
    folder: &Path,
    progress: &mut dyn FnMut(Step),
) -> Result<Imported, ArchiveError> {
    let spool = &target.spool;
    let folder = Folder::existing(folder)?;
    refuse_inside(folder.path(), spool)?;
    let names = folder.names().map_err(ArchiveError::io(folder.path()))?;
    let new_spool = !spool.join("VERSION").is_file();
    let mut import = Import::open(target, folder)?;
    import.imported.new_spool = new_spool;

    let stems = |ending| names.iter().filter_map(move |name| name.strip_suffix(ending));
    let mut step = Step { total: stems(".json").count(), ..Step::default() };
    for stem in stems(".json") {
        match import.message(stem) {
            Ok(()) => {}
            Err(Fault::Problem(problem)) => import.imported.problems.push(problem),
            Err(Fault::Failed(error)) => return Err(error),
        }
        step.done += 1;
        step.octets = import.imported.octets;
        progress(step);
    }
    import.complete_group()?;
    let with_json: BTreeSet<_> = stems(".json").collect();
    import.lone_bodies(stems(".eml").filter(|stem| !with_json.contains(stem)))?;
    Ok(import.imported)
}

struct Import {
    spool: PathBuf,
    store: DiskStore,
    bodies: Box<dyn Bodies>,
    room: Room,
    lanes: Lanes,
    free_space: FreeSpace,
    /// Bodies are written by tasks.
    runtime: tokio::runtime::Runtime,
    folder: Folder,
    /// Where the files of imported messages are moved.
    done: Folder,
    group: Group,
    imported: Imported,
}

#[derive(Default)]
struct Group {
    /// New lanes.
    changes: Vec<Change>,
    arriving: Vec<Arriving>,
    /// The states of these, in the same order. The places of their bodies are set when they are stored.
    states: Vec<State>,
    /// Names of files, without the dot and the ending, to move away once the group is durable.
    stems: Vec<String>,
    octets: u64,
}

enum Fault {
    /// A problem with this file: the others go on.
    Problem(Problem),
    Failed(ArchiveError),
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        Self::Failed(error)
    }
}

fn problem(file: &Path, reason: impl Into<String>) -> Fault {
    Fault::Problem(Problem { file: file.to_path_buf(), reason: reason.into() })
}

impl Import {
    fn open(target: &Target, folder: Folder) -> Result<Self, ArchiveError> {
        let spool = &target.spool;
        let nearest = spool.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
        refuse_root(nearest)?;
        let mut store = DiskStore::open(spool)?;
        let mut lanes = Lanes::default();
        let mut imported = Imported::default();
        for (id, lane) in store.lanes().map_err(ArchiveError::store(spool))? {
            lanes.add(id, lane.into());
        }
        // As at each start, what belongs to nobody is swept, and the store learns which segments are in use.
        imported.put_aside =
            store.load(&mut |_, state| lanes.enter(state.lane)).map_err(ArchiveError::store(spool))?;
        store.sweep().map_err(ArchiveError::store(spool))?;
        let bodies = store.bodies().map_err(ArchiveError::io(spool))?;
        let room = Room::new(store.spill());
        let free_space = FreeSpace::of(spool, target.floor).map_err(ArchiveError::io(spool))?;
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(ArchiveError::io(spool))?;
        let done = Folder::make(&folder.path().join("imported"))?;
        let spool = spool.clone();
        let group = Group::default();
        Ok(Self { spool, store, bodies, room, lanes, free_space, runtime, folder, done, group, imported })
    }

    fn message(&mut self, stem: &str) -> Result<(), Fault> {
        let json = self.folder.json(stem);
        let eml = self.folder.eml(stem);
        let entry = read_entry(&json, stem)?;
        let found = fs::metadata(&eml).map_err(|error| problem(&eml, error.to_string()))?;
        if !found.is_file() || found.len() != entry.size {
            let reason = format!("is {} octets long, and {stem}.json says {}", found.len(), entry.size);
            return Err(problem(&eml, reason));
        }
        match self.store.state(entry.id).map_err(ArchiveError::store(&self.spool))? {
            Some(state) => self.is_the_same(&entry, &state, &json)?,
            None => self.enter(entry, &eml)?,
        }
        self.group.stems.push(stem.to_owned());
        if self.group.stems.len() >= GROUP || self.group.octets >= GROUP_OCTETS {
            self.complete_group()?;
        }
        Ok(())
    }

    /// Checks a message whose id the spool already has. As a rule it is this message, from an interrupted
    /// run.
    fn is_the_same(&mut self, entry: &Entry, state: &State, json: &Path) -> Result<(), Fault> {
        let no_lanes = HashMap::new();
        let damaged = |damage: Damage| problem(json, format!("the spool has it, but {}", damage.reason));
        let known = self.store.inspector(&no_lanes).record(entry.id, state.body).map_err(damaged)?;
        if known.message != entry.message || known.body_crc != entry.crc32 || known.body_len != entry.size {
            return Err(problem(
                json,
                "the spool has another message of this id: give this one a free id, in both file names and in \"id\"",
            ));
        }
        // The copy in the folder is given up for the one in the spool, so that one is read.
        match known.copy(&mut |_| Ok(())) {
            Err(inspection::Fault::Damage(found)) => Err(damaged(found)),
            Ok(()) | Err(inspection::Fault::Sink(_)) => {
                self.imported.already_there += 1;
                Ok(())
            }
        }
    }

    fn enter(&mut self, entry: Entry, eml: &Path) -> Result<(), Fault> {
        let spool = self.spool.clone();
        self.free_space.measure().map_err(ArchiveError::io(&spool))?;
        if self.free_space.is_short_of(self.group.octets.saturating_add(entry.size)) {
            return Err(Fault::Failed(ArchiveError::Full { path: spool }));
        }
        let Entry { id, message, standing, attempts, in_doubt, size, crc32 } = entry;
        let writer = BodyWriter::new(id, None, self.room.clone());
        let mut body =
            self.runtime.block_on(read_body(eml, writer, size, crc32)).map_err(|fault| match fault {
                BodyFault::Eml(reason) => problem(eml, reason),
                BodyFault::Spool(error) => Fault::Failed(ArchiveError::io(&spool)(io::Error::other(error))),
            })?;
        self.runtime
            .block_on(body.seal(id, &message))
            .map_err(|error| ArchiveError::io(&spool)(io::Error::other(error)))?;

        let lane = Lane { tenant: message.tenant.clone(), author: message.author.clone() };
        let (lane, _) = self.lanes.enter_new(&lane, &mut self.group.changes);
        let place = BodyPlace { segment: None, offset: 0, len: size };
        let phase = match standing {
            ExportedState::Waiting { due } => {
                Phase::Waiting { due: due.unwrap_or_else(|| id.accepted().min(clock::now())) }
            }
            ExportedState::Held { reason } => {
                if reason.is_some() {
                    let now = Remembered { note: None, held: reason };
                    self.group.changes.push(Change::Remember { id, was: Remembered::default(), now });
                }
                Phase::Held
            }
        };
        // The time since when it is in doubt is not exported; this one is long enough ago.
        let doubt = in_doubt.then(Timestamp::default);
        self.group.states.push(State { lane, phase, epoch: 0, attempts, doubt, body: place });
        self.group.arriving.push(Arriving { id, message, body, place });
        self.group.octets += size;
        Ok(())
    }

    fn complete_group(&mut self) -> Result<(), ArchiveError> {
        let Group { mut changes, mut arriving, states, stems, octets } = std::mem::take(&mut self.group);
        let messages = arriving.len();
        if messages > 0 {
            self.bodies.store(&mut arriving).map_err(ArchiveError::store(&self.spool))?;
            let insert = |(arrived, state): (&Arriving, State)| Change::Insert {
                id: arrived.id,
                state: State { body: arrived.place, ..state },
            };
            changes.extend(arriving.iter().zip(states).map(insert));
            self.store.commit(&changes).map_err(ArchiveError::store(&self.spool))?;
        }
        self.imported.imported += messages;
        self.imported.octets += octets;
        if stems.is_empty() {
            return Ok(());
        }
        stems.iter().try_for_each(|stem| {
            // The JSON first: a body without one is not taken for a message to import.
            rename(&self.folder.json(stem), &self.done.json(stem))?;
            rename(&self.folder.eml(stem), &self.done.eml(stem))
        })?;
        self.sync_folders()
    }

    /// Handles bodies without a JSON file: what an export left that was interrupted, or an import that was
    /// interrupted while it moved files away.
    fn lone_bodies<'n>(&mut self, stems: impl Iterator<Item = &'n str>) -> Result<(), ArchiveError> {
        let mut moved = false;
        for stem in stems {
            let eml = self.folder.eml(stem);
            if self.done.json(stem).exists() {
                rename(&eml, &self.done.eml(stem))?;
                moved = true;
                continue;
            }
            let reason = format!("there is no {stem}.json beside it: its export is not complete");
            self.imported.problems.push(Problem { file: eml, reason });
        }
        if moved { self.sync_folders() } else { Ok(()) }
    }

    fn sync_folders(&self) -> Result<(), ArchiveError> {
        // The destination first: after a crash, a file should be in both folders rather than in neither.
        for folder in [&self.done, &self.folder] {
            folder.sync().map_err(ArchiveError::io(folder.path()))?;
        }
        Ok(())
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), ArchiveError> {
    fs::rename(from, to).map_err(ArchiveError::io(from))
}

fn read_entry(json: &Path, stem: &str) -> Result<Entry, Fault> {
    let read = || {
        let metadata = fs::metadata(json)?;
        if !metadata.is_file() || metadata.len() > LARGEST_ENTRY.0 {
            return Err(io::Error::other(format!("not a file, or one over {LARGEST_ENTRY}")));
        }
        fs::read(json)
    };
    let text = read().map_err(|error| problem(json, error.to_string()))?;
    let entry = Entry::parse(&text).map_err(|error| problem(json, error.to_string()))?;
    if entry.id.to_string() != stem {
        return Err(problem(json, format!("id: is \"{}\", and the file's name says \"{stem}\"", entry.id)));
    }
    if entry.id > MessageId::first_at(clock::now() + FAR_AHEAD) {
        return Err(problem(json, "id: the time in it is more than ten years ahead"));
    }
    Ok(entry)
}

enum BodyFault {
    /// The file is not what was exported.
    Eml(String),
    /// The spool cannot take it.
    Spool(SpoolError),
}

/// Reads the octets of `eml` into the spool, where nothing refers to them yet, if they are those of `crc32`.
async fn read_body(eml: &Path, mut writer: BodyWriter, size: u64, crc32: u32) -> Result<Body, BodyFault> {
    let unreadable = |error: io::Error| BodyFault::Eml(error.to_string());
    let mut file = File::open(eml).map_err(unreadable)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK).max(1))];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        hasher.update(&buffer[..count]);
        writer.write(&buffer[..count]).await.map_err(BodyFault::Spool)?;
    }
    let found = hasher.finalize();
    if found != crc32 {
        return Err(BodyFault::Eml(format!(
            "has the CRC-32 {found:08x}, and its JSON file says {crc32:08x}"
        )));
    }
    writer.finish().await.map_err(BodyFault::Spool)
}
