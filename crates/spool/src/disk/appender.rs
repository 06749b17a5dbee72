//! Writing bodies: the half of the store on disk that takes them in.
//!
//! A synced append to a file has to change the file's length on the disk, too, which takes a journal commit;
//! a synced write to octets that the file already has does not, and takes half the time. So when little is
//! written at a time, the segment is filled with zeros a bit ahead ([`AHEAD`]).

use std::{
    fs::{self, File},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use tracing::warn;

use super::{
    segments::{FULL, Segments, UNIT, used_by},
    walk::Walk,
};
use crate::{
    Body, BodyPlace, StoreError,
    body_record::RecordHeader,
    store::{Arriving, Bodies, Compacted, Moved},
};
use relay_mail::MessageId;

/// Zeros written ahead of a small group.
const AHEAD: u64 = UNIT / 4;
/// A group of this size is not small.
const MUCH: u64 = 64 * 1024;
/// Octets that one step of compaction copies.
const STEP: u64 = 512 * 1024;

pub(super) struct Appender {
    segments: Arc<Segments>,
    dir: File,
    large_dir: File,
    current: Option<Current>,
    sparse: Option<Sparse>,
}

struct Current {
    number: u32,
    file: File,
    /// Where the next record begins.
    end: u64,
    /// The file has octets up to here.
    len: u64,
}

/// The segment that is being compacted.
struct Sparse {
    number: u32,
    file: File,
    /// How far it has been searched.
    at: u64,
    ended: std::collections::HashSet<MessageId>,
}

/// A record in the parts in which it is written.
struct Record {
    header: [u8; RecordHeader::LEN],
    body: Bytes,
    meta: Bytes,
}

impl Record {
    fn len(&self) -> u64 {
        (self.header.len() + self.body.len() + self.meta.len()) as u64
    }
}

impl Bodies for Appender {
    fn store(&mut self, group: &mut [Arriving]) -> Result<(), StoreError> {
        let mut records = Vec::with_capacity(group.len());
        let mut has_large = false;
        for arriving in &*group {
            match &arriving.body {
                Body::Memory(body) => {
                    let meta = Bytes::from(arriving.message.encode());
                    let header = RecordHeader::of(arriving.id, &body.bytes, &meta).encode();
                    records.push(Record { header, body: body.bytes.clone(), meta });
                }
                Body::File(_) => has_large = true,
            }
        }
        let places = self.append(&records)?;
        if has_large && let Err(source) = self.large_dir.sync_all() {
            let small = group.iter().filter(|arriving| matches!(arriving.body, Body::Memory(_)));
            for (arriving, place) in small.zip(places) {
                if let Some(segment) = place.segment {
                    self.segments.release(arriving.id, segment, place, true);
                }
            }
            return Err(cannot_write(source));
        }
        let mut places = places.into_iter();
        for arriving in group {
            arriving.place = match &mut arriving.body {
                // As many places as records, in their order.
                Body::Memory(_) => places.next().ok_or(StoreError::Closed)?,
                large @ Body::File(_) => {
                    large.keep();
                    BodyPlace { segment: None, offset: 0, len: large.len() }
                }
            };
        }
        Ok(())
    }

    fn compact(&mut self, number: u32) -> Result<Compacted, StoreError> {
        let compacted = self.copy_a_step(number);
        match &compacted {
            Ok(_) => {}
            Err(StoreError::Unwritten { .. }) => self.segments.put_off(number),
            Err(_) => self.segments.take_back(number),
        }
        compacted
    }
}

impl Appender {
    pub(super) fn new(segments: Arc<Segments>, dir: &Path, large: &Path) -> io::Result<Self> {
        let dir = File::open(dir)?;
        let large_dir = File::open(large)?;
        Ok(Self { segments, dir, large_dir, current: None, sparse: None })
    }

    /// Appends, syncs, and returns where the bodies are. After an error the segment is no longer used, since
    /// it is unknown what is at its end.
    fn append(&mut self, records: &[Record]) -> Result<Vec<BodyPlace>, StoreError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let mut current = match self.current.take() {
            Some(current) if current.end < FULL => current,
            _ => self
                .begin()
                .map_err(|source| StoreError::Unwritten { what: "cannot begin a segment", source })?,
        };
        let mut places = Vec::with_capacity(records.len());
        let mut at = current.end;
        for record in records {
            let len = record.body.len() as u64;
            places.push(BodyPlace { segment: Some(current.number), offset: at, len });
            at += record.len();
        }
        if let Err(source) = current.write(records, at) {
            self.segments.end_current();
            return Err(cannot_write(source));
        }
        let used = places.iter().map(|place| used_by(*place)).sum();
        self.segments.appended(current.number, records.len() as u64, used, at - current.end);
        current.end = at;
        self.current = Some(current);
        Ok(places)
    }

    fn copy_a_step(&mut self, number: u32) -> Result<Compacted, StoreError> {
        let cannot_read = |source| StoreError::Unwritten { what: "cannot read a sparse segment", source };
        let mut sparse = match self.sparse.take() {
            Some(sparse) if sparse.number == number => sparse,
            _ => self.open_sparse(number).map_err(cannot_read)?,
        };
        let Step { records, from } = sparse.step().map_err(cannot_read)?;
        if records.is_empty() {
            return Ok(Compacted { moved: Vec::new(), is_more: false });
        }
        let places = self.append(&records)?;
        self.sparse = Some(sparse);
        let moved = from.into_iter().zip(places).map(|((id, from), to)| Moved { id, from, to });
        Ok(Compacted { moved: moved.collect(), is_more: true })
    }

    fn begin(&self) -> io::Result<Current> {
        let number = self.segments.take_number();
        let path = self.segments.path_of(number);
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = self.dir.sync_all() {
            // Nothing is in it. If it cannot be removed either, the next start sweeps it.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        self.segments.begin(number);
        Ok(Current { number, file, end: 0, len: 0 })
    }

    fn open_sparse(&self, number: u32) -> io::Result<Sparse> {
        let file = File::open(self.segments.path_of(number))?;
        Ok(Sparse { number, file, at: 0, ended: self.segments.ended_in(number)? })
    }
}

impl Current {
    /// Writes `records`, which end at `at`, and syncs them.
    fn write(&mut self, records: &[Record], at: u64) -> io::Result<()> {
        static ZEROS: [u8; AHEAD as usize] = [0; AHEAD as usize];
        let is_little = at - self.end < MUCH;
        let ahead = if at > self.len && is_little { &ZEROS[..] } else { &[] };
        let mut parts: Vec<_> = records
            .iter()
            .flat_map(|r| [IoSlice::new(&r.header), IoSlice::new(&r.body), IoSlice::new(&r.meta)])
            .chain((!ahead.is_empty()).then(|| IoSlice::new(ahead)))
            .collect();
        write_all_vectored_at(&self.file, &mut parts, self.end)?;
        self.file.sync_data()?;
        self.len = self.len.max(at + ahead.len() as u64);
        Ok(())
    }
}

/// A few live records of a sparse segment, with the message and the place of each.
#[derive(Default)]
struct Step {
    records: Vec<Record>,
    from: Vec<(MessageId, BodyPlace)>,
}

impl Sparse {
    /// The next records; none at the end.
    fn step(&mut self) -> io::Result<Step> {
        let mut step = Step::default();
        let mut octets = 0;
        let mut walk = Walk::from(&self.file, Some(self.number), self.at)?;
        while octets < STEP
            && let Some(found) = walk.next()
        {
            let found = found?;
            if self.ended.contains(&found.id) {
                continue;
            }
            let mut whole = vec![0; found.header.record_len() as usize];
            self.file.read_exact_at(&mut whole, found.place.offset)?;
            let whole = Bytes::from(whole);
            let body = whole.slice(RecordHeader::LEN..RecordHeader::LEN + found.place.len as usize);
            if crc32fast::hash(&body) != found.header.body_crc {
                // It stays where it is, and so does its segment: the worker that delivers it quarantines it.
                warn!(id = %found.id, segment = self.number, "damaged body left in place");
                continue;
            }
            octets += whole.len() as u64;
            let meta = whole.slice(RecordHeader::LEN + body.len()..);
            step.records.push(Record { header: found.header.encode(), body, meta });
            step.from.push((found.id, found.place));
        }
        self.at = walk.at();
        Ok(step)
    }
}

fn cannot_write(source: io::Error) -> StoreError {
    StoreError::Io { what: "cannot write bodies", source }
}

/// Writes `parts` at `offset`, in as few calls as the system allows.
fn write_all_vectored_at(file: &File, parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    /// Linux's IOV_MAX.
    const PARTS_A_CALL: usize = 1024;
    let mut rest = parts;
    while !rest.is_empty() {
        let now = rest.len().min(PARTS_A_CALL);
        let written = match rustix::io::pwritev(file, &rest[..now], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        offset += written as u64;
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}
