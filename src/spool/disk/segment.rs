//! Segments: files that small bodies are appended to, one group at a time.
//!
//! Appending a group and syncing once is what a disk does fastest; a file a message costs a directory entry and a journal
//! commit each. A segment is removed when no message in it is left. The current one is never taken up again after a start:
//! its tail may be torn, and what is in the index lies before the tear.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::super::{
    Body, BodyPlace, Change, StoreError, body::write_all_vectored, body_record::RecordHeader,
};

use crate::message::MessageId;

/// A segment that has grown to this size is followed by the next.
const FULL: u64 = 64 * 1024 * 1024;

pub(super) struct Segments {
    dir: PathBuf,
    dir_handle: File,
    /// Every segment on disk.
    live: BTreeMap<u32, Live>,
    current: Option<Current>,
    last: u32,
}

struct Live {
    messages: u64,
    len: u64,
    path: Arc<Path>,
}

struct Current {
    number: u32,
    file: File,
    len: u64,
}

impl Segments {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { what: "cannot read the segments", source };
        let mut live = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|n| n.parse().ok());
            if let Some(number) = number {
                let len = entry.metadata().map_err(io)?.len();
                live.insert(number, Live { messages: 0, len, path: entry.path().into() });
            }
        }
        let last = live.keys().next_back().copied().unwrap_or(0);
        let dir_handle = File::open(dir).map_err(io)?;
        Ok(Self { dir: dir.to_path_buf(), dir_handle, live, current: None, last })
    }

    /// Whether a record of this body can lie where `place` says.
    pub(super) fn holds(&self, segment: u32, place: BodyPlace) -> bool {
        let end = place.offset.saturating_add(RecordHeader::LEN as u64).saturating_add(place.len);
        self.live.get(&segment).is_some_and(|live| end <= live.len)
    }

    /// At the start: one more message lives there.
    pub(super) fn count(&mut self, segment: u32) {
        if let Some(live) = self.live.get_mut(&segment) {
            live.messages += 1;
        }
    }

    /// After the start's count: removes segments in which nothing lives. Answers how many.
    pub(super) fn sweep(&mut self) -> io::Result<usize> {
        let empty: Vec<_> =
            self.live.iter().filter(|(_, live)| live.messages == 0).map(|(n, _)| *n).collect();
        for number in &empty {
            if let Some(live) = self.live.remove(number) {
                fs::remove_file(&live.path)?;
            }
        }
        Ok(empty.len())
    }

    /// Looks through all segments for the record of a message whose place nobody knows any more. Slow: for damage only.
    pub(super) fn find(&self, id: MessageId) -> io::Result<Option<BodyPlace>> {
        for (number, live) in &self.live {
            let file = File::open(&live.path)?;
            let mut offset = 0;
            while offset + RecordHeader::LEN as u64 <= live.len
                && let Some(header) = RecordHeader::read(&file, offset)?
            {
                if header.id == id {
                    return Ok(Some(BodyPlace { segment: Some(*number), offset, len: header.body_len }));
                }
                offset = offset.saturating_add(header.record_len());
            }
        }
        Ok(None)
    }

    /// Every segment on disk: number, path and length.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Path, u64)> {
        self.live.iter().map(|(number, live)| (*number, &*live.path, live.len))
    }

    pub(super) fn path(&self, segment: u32) -> Arc<Path> {
        match self.live.get(&segment) {
            Some(live) => live.path.clone(),
            None => self.path_of(segment).into(),
        }
    }

    /// Makes sure that there is a segment to append the small bodies among `changes` to. After an error nothing has
    /// changed, and it may work the next time: there may be too many open files just now.
    pub(super) fn prepare(&mut self, changes: &[Change]) -> io::Result<()> {
        let is_full = self.current.as_ref().is_none_or(|current| current.len >= FULL);
        if is_full
            && changes.iter().any(|change| matches!(change, Change::Insert { body: Body::Memory(_), .. }))
        {
            self.current = Some(self.next_segment()?);
        }
        Ok(())
    }

    /// Appends the small bodies among `changes` to the segment that [`prepare`](Self::prepare) has seen to, syncs, and
    /// notes in each change where its body is.
    pub(super) fn append(&mut self, changes: &mut [Change]) -> io::Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        let mut records = Vec::new();
        let mut at = current.len;
        for change in &mut *changes {
            let Change::Insert { id, message, state, body: Body::Memory(body) } = change else { continue };
            let meta = message.encode();
            let header = RecordHeader::of(*id, body, &meta).encode();
            state.body = BodyPlace { segment: Some(current.number), offset: at, len: body.len() as u64 };
            at += (header.len() + body.len() + meta.len()) as u64;
            records.push((header, body.clone(), meta));
        }
        if !records.is_empty() {
            let mut parts: Vec<_> = records
                .iter()
                .flat_map(|(h, b, m)| [IoSlice::new(h), IoSlice::new(b), IoSlice::new(m)])
                .collect();
            write_all_vectored(&current.file, &mut parts)?;
            current.file.sync_data()?;
            current.len = at;
            if let Some(live) = self.live.get_mut(&current.number) {
                live.messages += records.len() as u64;
                live.len = at;
            }
        }
        self.current = Some(current);
        Ok(())
    }

    /// One message of this segment is gone. The last one takes the segment along, unless it is still written to.
    pub(super) fn release(&mut self, segment: u32) -> io::Result<()> {
        let is_current = self.current.as_ref().is_some_and(|current| current.number == segment);
        let Some(live) = self.live.get_mut(&segment) else { return Ok(()) };
        live.messages = live.messages.saturating_sub(1);
        if live.messages > 0 {
            return Ok(());
        }
        if is_current {
            // An empty segment that has grown is ended here, so that its space comes back.
            if live.len < FULL / 4 {
                return Ok(());
            }
            self.current = None;
        }
        let path = live.path.clone();
        self.live.remove(&segment);
        fs::remove_file(path)
    }

    fn next_segment(&mut self) -> io::Result<Current> {
        let path = self.path_of(self.last + 1);
        let file = File::options().append(true).create_new(true).open(&path)?;
        self.dir_handle.sync_all()?;
        if let Some(ended) = self.live.get(&self.last).filter(|live| live.messages == 0) {
            fs::remove_file(&ended.path)?;
            self.live.remove(&self.last);
        }
        self.last += 1;
        self.live.insert(self.last, Live { messages: 0, len: 0, path: path.into() });
        Ok(Current { number: self.last, file, len: 0 })
    }

    fn path_of(&self, segment: u32) -> PathBuf {
        self.dir.join(format!("{segment:08}.seg"))
    }
}
