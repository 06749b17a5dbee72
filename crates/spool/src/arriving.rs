//! Bodies on their way in.
//!
//! A [`BodyWriter`] keeps a body in memory as long as there is room for it: always up to [`SMALL_BODY`], and
//! up to [`SEGMENT_BODY`] while there is memory for that. Each tenant has its share of that memory. Such a
//! body is appended to a segment, together with others'. A larger one goes to a file of its own as it comes,
//! so that it is never in memory as a whole. Both are the same record on disk (see [`RecordHeader`]).
//!
//! A writer or a body that is dropped before the spool accepted it takes its file along.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{Message, SEGMENT_BODY, SMALL_BODY, SpoolError, body_record::RecordHeader};
use relay_mail::{
    MessageId, TenantName,
    share::{Place, Places, Share},
};

/// Octets written to a file at a time.
const CHUNK: usize = 256 * 1024;
/// Bodies over [`SMALL_BODY`] that may be in memory at once; further ones go to files.
const IN_MEMORY: u64 = 128;

/// Where bodies too large for memory go.
#[derive(Debug, Clone)]
pub enum Spill {
    Folder(Arc<Path>),
    /// Nowhere: they stay in memory. For tests.
    Never,
}

/// Room for bodies on their way in.
#[derive(Debug, Clone)]
pub(super) struct Room {
    spill: Spill,
    memory: Places<Option<TenantName>>,
}

impl Room {
    pub(super) fn new(spill: Spill) -> Self {
        Self { spill, memory: Places::new(IN_MEMORY, Share::BRIEF) }
    }
}

/// A complete body that the spool does not have yet.
#[derive(Debug)]
pub enum Body {
    Memory(InMemory),
    File(LargeBody),
}

#[derive(Debug)]
pub struct InMemory {
    pub(super) bytes: Bytes,
    /// Given back when the body is stored or dropped.
    _room: Option<Place<Option<TenantName>>>,
}

#[derive(Debug)]
pub struct LargeBody {
    file: Arc<File>,
    path: Unlink,
    len: u64,
    crc: u32,
}

/// A file that is removed unless it is [kept](Unlink::keep).
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

/// Takes one body in, in pieces.
#[derive(Debug)]
pub struct BodyWriter {
    id: MessageId,
    room: Room,
    in_memory: Option<Place<Option<TenantName>>>,
    /// The tenant whose share of the memory is used; `None`: that of the relay itself.
    tenant: Option<TenantName>,
    buffer: Vec<u8>,
    large: Option<LargeBody>,
}

impl BodyWriter {
    pub(super) fn new(id: MessageId, tenant: Option<TenantName>, room: Room) -> Self {
        Self { id, room, in_memory: None, tenant, buffer: Vec::new(), large: None }
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
        if self.fits_in_memory() {
            return Ok(());
        }
        match &self.room.spill {
            Spill::Folder(folder) => {
                let folder = folder.clone();
                self.flush(folder).await
            }
            Spill::Never => Ok(()),
        }
    }

    /// Whether the contents of the buffer may stay there.
    fn fits_in_memory(&mut self) -> bool {
        match self.buffer.len() {
            len if self.large.is_some() => len <= CHUNK,
            len if len <= SMALL_BODY => true,
            len if len > SEGMENT_BODY => false,
            _ => {
                if self.in_memory.is_none() {
                    self.in_memory = self.room.memory.take(self.tenant.clone()).ok();
                }
                self.in_memory.is_some()
            }
        }
    }

    pub async fn finish(mut self) -> Result<Body, SpoolError> {
        if let (Spill::Folder(folder), true) = (&self.room.spill, self.large.is_some()) {
            let folder = folder.clone();
            self.flush(folder).await?;
        }
        Ok(match self.large {
            Some(large) => Body::File(large),
            None => Body::Memory(InMemory { bytes: self.buffer.into(), _room: self.in_memory }),
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
        buffer.shrink_to(CHUNK);
        self.buffer = buffer;
        self.large = Some(large);
        self.in_memory = None;
        Ok(())
    }
}

impl LargeBody {
    fn create(folder: &Path, id: MessageId) -> io::Result<Self> {
        let path = folder.join(id.to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let path = Unlink(Some(path));
        // The header comes last, when length and checksum are known: until then the record is recognisably
        // unfinished.
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

/// Completes a record with the message that it belongs to, and syncs the file. The thread that stores bodies
/// syncs its directory together with others.
fn seal_record(file: &File, id: MessageId, len: u64, crc: u32, meta: &[u8]) -> io::Result<()> {
    file.write_all_at(meta, RecordHeader::LEN as u64 + len)?;
    let header = RecordHeader::new(id, len, crc, meta);
    file.write_all_at(&header.encode(), 0)?;
    file.sync_data()
}

impl Body {
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(body) => body.bytes.len() as u64,
            Self::File(large) => large.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Syncs a body that has a file of its own, in the task that has it: nobody else waits for its octets.
    pub(super) async fn seal(&mut self, id: MessageId, message: &Message) -> Result<(), SpoolError> {
        let Self::File(large) = self else { return Ok(()) };
        let file = large.file.clone();
        let len = large.len;
        let crc = large.crc;
        let meta = message.encode();
        let sealed = blocking(move || seal_record(&file, id, len, crc, &meta)).await;
        sealed.map_err(|e| SpoolError::Body(Arc::new(e)))
    }

    /// The store has it now: the file stays.
    pub(super) fn keep(&mut self) {
        if let Self::File(large) = self {
            large.path.keep();
        }
    }
}

/// Runs file work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `count` bodies of 100,000 octets. Returns them, and how many of them went to a file.
    async fn come(room: &Room, tenant: &str, count: u64) -> (Vec<BodyWriter>, usize) {
        let mut writers = Vec::new();
        for n in 0..count {
            let id = MessageId::from_bytes((n + u64::from(crc32fast::hash(tenant.as_bytes()))).to_be_bytes());
            let mut writer = BodyWriter::new(id, Some(tenant.parse().unwrap()), room.clone());
            writer.write(&[b'x'; 100_000]).await.unwrap();
            writers.push(writer);
        }
        let in_files = writers.iter().filter(|writer| writer.large.is_some()).count();
        (writers, in_files)
    }

    #[tokio::test]
    async fn no_tenants_bodies_have_all_of_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::new(Spill::Folder(folder.path().into()));
        let (many, in_files) = come(&room, "contoso", IN_MEMORY).await;
        assert_eq!(in_files, 14, "one alone has eight ninths of 128");
        let (few, in_files) = come(&room, "fabrikam", 10).await;
        assert_eq!(in_files, 0);
        drop((many, few));
        let (_all, in_files) = come(&room, "fabrikam", IN_MEMORY).await;
        assert_eq!(in_files, 14, "all of it has come back");
    }
}
