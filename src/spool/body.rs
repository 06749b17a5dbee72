//! Bodies on their way in and out.
//!
//! A [`BodyWriter`] holds up to [`SMALL_BODY`] octets in memory; the committer appends those to a segment together with
//! others'. A larger body goes to a file of its own as it comes, so that it never sits whole in memory. Both are the same
//! record on disk (see [`RecordHeader`]), checked by its checksums before a single octet of it is delivered.
//!
//! A writer or a body that is dropped before the spool accepted it takes its file along.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{BodyPlace, Message, SMALL_BODY, SpoolError, body_record::RecordHeader};
use crate::message::MessageId;

/// Octets read or written at a time.
const CHUNK: usize = 256 * 1024;

/// Where bodies too large for memory go.
#[derive(Debug, Clone)]
pub enum Spill {
    Folder(Arc<Path>),
    /// They stay in memory: for tests.
    Never,
}

/// A complete body that the spool does not have yet.
#[derive(Debug)]
pub enum Body {
    Memory(Bytes),
    File(LargeBody),
}

#[derive(Debug)]
pub struct LargeBody {
    file: Arc<File>,
    path: Unlink,
    len: u64,
    crc: u32,
}

/// A file that goes away unless it is [kept](Unlink::keep).
#[derive(Debug)]
struct Unlink(Option<PathBuf>);

impl Unlink {
    fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Unlink {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // If this fails, the start-up sweep finds a body without a record.
            let _ = std::fs::remove_file(path);
        }
    }
}

// === writing ===

/// Takes one body in, in pieces.
#[derive(Debug)]
pub struct BodyWriter {
    id: MessageId,
    spill: Spill,
    buffer: Vec<u8>,
    large: Option<LargeBody>,
}

impl BodyWriter {
    pub(super) fn new(id: MessageId, spill: Spill) -> Self {
        Self { id, spill, buffer: Vec::new(), large: None }
    }

    /// Octets so far.
    pub fn len(&self) -> u64 {
        self.buffer.len() as u64 + self.large.as_ref().map_or(0, |large| large.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), SpoolError> {
        self.buffer.extend_from_slice(chunk);
        let limit = if self.large.is_some() { CHUNK } else { SMALL_BODY };
        match &self.spill {
            Spill::Folder(folder) if self.buffer.len() > limit => {
                let folder = folder.clone();
                self.flush(folder).await
            }
            _ => Ok(()),
        }
    }

    pub async fn finish(mut self) -> Result<Body, SpoolError> {
        if let (Spill::Folder(folder), true) = (&self.spill, self.large.is_some()) {
            let folder = folder.clone();
            self.flush(folder).await?;
        }
        Ok(match self.large {
            Some(large) => Body::File(large),
            None => Body::Memory(self.buffer.into()),
        })
    }

    async fn flush(&mut self, folder: Arc<Path>) -> Result<(), SpoolError> {
        let buffer = std::mem::take(&mut self.buffer);
        let large = self.large.take();
        let id = self.id;
        let written = blocking(move || {
            let mut large = match large {
                Some(large) => large,
                None => LargeBody::create(&folder, id)?,
            };
            large.append(&buffer)?;
            Ok((large, buffer))
        })
        .await;
        let (large, mut buffer) = written.map_err(|e| SpoolError::Body(Arc::new(e)))?;
        buffer.clear();
        self.buffer = buffer;
        self.large = Some(large);
        Ok(())
    }
}

impl LargeBody {
    fn create(folder: &Path, id: MessageId) -> io::Result<Self> {
        let path = folder.join(id.to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let path = Unlink(Some(path));
        // The header comes last, when length and checksum are known: until then the record is recognisably unfinished.
        file.write_all_at(&[0; RecordHeader::LEN], 0)?;
        Ok(Self { file: Arc::new(file), path, len: 0, crc: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, RecordHeader::LEN as u64 + self.len)?;
        self.len += bytes.len() as u64;
        let mut hasher = crc32fast::Hasher::new_with_initial(self.crc);
        hasher.update(bytes);
        self.crc = hasher.finalize();
        Ok(())
    }
}

/// Completes a record with what it belongs to, and syncs the file. Its directory is the committer's to sync.
fn seal_record(file: &File, id: MessageId, len: u64, crc: u32, meta: &[u8]) -> io::Result<()> {
    file.write_all_at(meta, RecordHeader::LEN as u64 + len)?;
    let header = RecordHeader::new(id, len, crc, meta);
    file.write_all_at(&header.encode(), 0)?;
    file.sync_data()
}

impl Body {
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(large) => large.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Syncs a body that has a file of its own, so that the committer need not wait for its octets.
    pub(super) async fn seal(&mut self, id: MessageId, message: &Message) -> Result<(), SpoolError> {
        let Self::File(large) = self else { return Ok(()) };
        let (file, len, crc, meta) = (large.file.clone(), large.len, large.crc, message.encode());
        let sealed = blocking(move || seal_record(&file, id, len, crc, &meta)).await;
        sealed.map_err(|e| SpoolError::Body(Arc::new(e)))
    }

    /// The index has the message now: the file stays.
    pub(super) fn keep(&mut self) {
        if let Self::File(large) = self {
            large.path.keep();
        }
    }
}

// === reading ===

/// The body of a message under lease: can be read as often as there are attempts.
#[derive(Debug, Clone)]
pub struct BodyReader {
    id: MessageId,
    len: u64,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Memory(Bytes),
    File { path: Arc<Path>, offset: u64 },
}

#[derive(Debug, thiserror::Error)]
pub enum DamagedBody {
    #[error("the body of {0} cannot be read: {1}")]
    Io(MessageId, io::Error),
    #[error("the body of {0} is not the one that was stored: {1}")]
    Checksum(MessageId, &'static str),
}

impl DamagedBody {
    /// Whether the body itself is damaged, and not merely out of reach for now (too many open files, say).
    pub fn is_certain(&self) -> bool {
        use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
        match self {
            Self::Checksum(..) => true,
            Self::Io(_, error) => matches!(error.kind(), NotFound | UnexpectedEof | InvalidData),
        }
    }
}

/// A body that was checked and is being read.
#[derive(Debug)]
pub enum OpenBody {
    Whole(Bytes),
    Parts { file: Arc<File>, at: u64, end: u64 },
}

impl BodyReader {
    pub(super) fn memory(id: MessageId, bytes: Bytes) -> Self {
        Self { id, len: bytes.len() as u64, source: Source::Memory(bytes) }
    }

    pub(super) fn file(id: MessageId, place: BodyPlace, path: Arc<Path>) -> Self {
        Self { id, len: place.len, source: Source::File { path, offset: place.offset } }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// An error met while reading on, as damage of this body.
    pub fn damaged(&self, error: io::Error) -> DamagedBody {
        DamagedBody::Io(self.id, error)
    }

    /// Opens the body and checks it against its checksum: what comes out afterwards is what was stored.
    pub async fn open(&self) -> Result<OpenBody, DamagedBody> {
        match &self.source {
            Source::Memory(bytes) => Ok(OpenBody::Whole(bytes.clone())),
            Source::File { path, offset } => {
                let (id, len, path, offset) = (self.id, self.len, path.clone(), *offset);
                match spawn_blocking(move || open_record(id, len, &path, offset)).await {
                    Ok(opened) => opened,
                    Err(e) => Err(DamagedBody::Io(id, io::Error::other(e))),
                }
            }
        }
    }
}

fn open_record(id: MessageId, len: u64, path: &Path, offset: u64) -> Result<OpenBody, DamagedBody> {
    let io = |e| DamagedBody::Io(id, e);
    let file = File::open(path).map_err(io)?;
    let header = RecordHeader::read(&file, offset)
        .map_err(io)?
        .ok_or(DamagedBody::Checksum(id, "no record begins there"))?;
    if header.id != id || header.body_len != len {
        return Err(DamagedBody::Checksum(id, "the record there is another's"));
    }
    let start = offset + RecordHeader::LEN as u64;
    let wrong = || DamagedBody::Checksum(id, "its checksum differs");
    if len <= SMALL_BODY as u64 {
        let mut body = vec![0; len as usize];
        file.read_exact_at(&mut body, start).map_err(io)?;
        return if crc32fast::hash(&body) == header.body_crc {
            Ok(OpenBody::Whole(body.into()))
        } else {
            Err(wrong())
        };
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let (mut at, end) = (start, start + len);
    while at < end {
        let want = CHUNK.min((end - at) as usize);
        file.read_exact_at(&mut buffer[..want], at).map_err(io)?;
        hasher.update(&buffer[..want]);
        at += want as u64;
    }
    if hasher.finalize() != header.body_crc {
        return Err(wrong());
    }
    Ok(OpenBody::Parts { file: Arc::new(file), at: start, end })
}

impl OpenBody {
    /// Octets that [`OpenBody::next`] has yet to give.
    pub fn remaining(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Parts { at, end, .. } => end - at,
        }
    }

    /// The next part, at most 256 KiB; `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Ok(None),
            Self::Whole(bytes) => Ok(Some(std::mem::take(bytes))),
            Self::Parts { at, end, .. } if at == end => Ok(None),
            Self::Parts { file, at, end } => {
                let (file, from) = (file.clone(), *at);
                let mut buffer = vec![0; CHUNK.min((*end - from) as usize)];
                let buffer = blocking(move || file.read_exact_at(&mut buffer, from).map(|()| buffer)).await?;
                *at += buffer.len() as u64;
                Ok(Some(buffer.into()))
            }
        }
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// Writes `parts` at the end of `file`, in as few calls as the system allows.
pub(super) fn write_all_vectored(mut file: &File, parts: &mut [io::IoSlice<'_>]) -> io::Result<()> {
    /// Linux's IOV_MAX.
    const PARTS_A_CALL: usize = 1024;
    let mut rest = parts;
    while !rest.is_empty() {
        let now = rest.len().min(PARTS_A_CALL);
        let written = match file.write_vectored(&rest[..now]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        io::IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}
