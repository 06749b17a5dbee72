//! Bodies on their way out: found by their place, checked by their checksums before a single octet is
//! delivered.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{BodyPlace, Message, SMALL_BODY, arriving::blocking, body_record::RecordHeader};
use relay_mail::MessageId;

/// Octets read at a time.
const CHUNK: usize = 256 * 1024;
/// Most records are followed by fewer octets about their message than this, so one read gets all of a small
/// one.
const USUAL_META: usize = 512;

/// A file that bodies are in. While this is held, it stays where it is.
pub trait RecordFile: std::fmt::Debug + Send + Sync {
    fn open(&self) -> io::Result<File>;
}

/// A stored record, known by its place and not read yet.
#[derive(Debug, Clone)]
pub enum StoredRecord {
    Memory { id: MessageId, place: BodyPlace, content: Option<(Arc<Message>, Bytes)> },
    File { id: MessageId, place: BodyPlace, file: Arc<dyn RecordFile> },
}

/// The body of a message under lease: it can be read once for each attempt.
#[derive(Debug, Clone)]
pub struct BodyReader {
    id: MessageId,
    len: u64,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// In memory, with the checksum that it should have.
    Whole(Bytes, u32),
    File {
        file: Arc<dyn RecordFile>,
        offset: u64,
        crc: u32,
    },
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

impl StoredRecord {
    /// Reads whose body it is and gets ready to read the body. Blocks.
    pub(super) fn read(self) -> Result<(Arc<Message>, BodyReader), DamagedBody> {
        match self {
            Self::Memory { id, place, content } => {
                let (message, body) =
                    content.ok_or_else(|| DamagedBody::Io(id, io::ErrorKind::NotFound.into()))?;
                let crc = crc32fast::hash(&body);
                Ok((message, BodyReader { id, len: place.len, source: Source::Whole(body, crc) }))
            }
            Self::File { id, place, file } => read_record(id, place, file),
        }
    }
}

fn read_record(
    id: MessageId,
    place: BodyPlace,
    stored: Arc<dyn RecordFile>,
) -> Result<(Arc<Message>, BodyReader), DamagedBody> {
    let io = |e| DamagedBody::Io(id, e);
    let damaged = |why| DamagedBody::Checksum(id, why);
    let file = stored.open().map_err(io)?;
    let is_small = place.len <= SMALL_BODY as u64;
    let inline = if is_small { place.len as usize } else { 0 };
    let mut buffer = vec![0; RecordHeader::LEN + inline + if is_small { USUAL_META } else { 0 }];
    let got = read_up_to(&file, &mut buffer, place.offset).map_err(io)?;
    buffer.truncate(got);
    let header = buffer
        .first_chunk()
        .and_then(RecordHeader::decode)
        .ok_or_else(|| damaged("no record begins there"))?;
    if header.id != id || header.body_len != place.len {
        return Err(damaged("the record there is another's"));
    }
    let meta_at = RecordHeader::LEN + inline;
    let message = match buffer.get(meta_at..meta_at + header.meta_len as usize) {
        Some(meta) if is_small => header.message(meta),
        _ => header.read_message(&file, place.offset).map_err(io)?,
    };
    let message = message.ok_or_else(|| damaged("its envelope is unreadable"))?;
    let source = if is_small {
        if buffer.len() < meta_at {
            return Err(io(io::ErrorKind::UnexpectedEof.into()));
        }
        Source::Whole(Bytes::from(buffer).slice(RecordHeader::LEN..meta_at), header.body_crc)
    } else {
        Source::File { file: stored, offset: place.offset, crc: header.body_crc }
    };
    Ok((Arc::new(message), BodyReader { id, len: place.len, source }))
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// A body that was checked and is being read. A clone reads on from the same place.
#[derive(Debug, Clone)]
pub enum OpenBody {
    Whole(Bytes),
    Parts { file: Arc<File>, at: u64, end: u64 },
}

impl BodyReader {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The checksum that the body should have (CRC-32).
    pub fn crc32(&self) -> u32 {
        match &self.source {
            Source::Whole(_, crc) | Source::File { crc, .. } => *crc,
        }
    }

    /// An error met while reading on, as damage of this body.
    pub fn damaged(&self, error: io::Error) -> DamagedBody {
        DamagedBody::Io(self.id, error)
    }

    /// Opens the body and checks it against its checksum: what is read afterwards is what was stored.
    pub async fn open(&self) -> Result<OpenBody, DamagedBody> {
        match &self.source {
            Source::Whole(bytes, crc) => {
                check(self.id, crc32fast::hash(bytes), *crc)?;
                Ok(OpenBody::Whole(bytes.clone()))
            }
            Source::File { file, offset, crc } => {
                let id = self.id;
                let len = self.len;
                let file = file.clone();
                let offset = *offset;
                let crc = *crc;
                match spawn_blocking(move || open_parts(id, len, &*file, offset, crc)).await {
                    Ok(opened) => opened,
                    Err(e) => Err(DamagedBody::Io(id, io::Error::other(e))),
                }
            }
        }
    }
}

fn check(id: MessageId, found: u32, stored: u32) -> Result<(), DamagedBody> {
    if found == stored { Ok(()) } else { Err(DamagedBody::Checksum(id, "its checksum differs")) }
}

fn open_parts(
    id: MessageId,
    len: u64,
    file: &dyn RecordFile,
    offset: u64,
    crc: u32,
) -> Result<OpenBody, DamagedBody> {
    let io = |e| DamagedBody::Io(id, e);
    let file = file.open().map_err(io)?;
    let start = offset + RecordHeader::LEN as u64;
    check(id, checksum(&file, start, len).map_err(io)?, crc)?;
    Ok(OpenBody::Parts { file: Arc::new(file), at: start, end: start + len })
}

/// The checksum of `len` octets from `start`, computed in bounded memory.
pub(super) fn checksum(file: &File, start: u64, len: u64) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; CHUNK.min(len as usize)];
    let mut at = start;
    let end = start + len;
    while at < end {
        let want = CHUNK.min((end - at) as usize);
        file.read_exact_at(&mut buffer[..want], at)?;
        hasher.update(&buffer[..want]);
        at += want as u64;
    }
    Ok(hasher.finalize())
}

impl OpenBody {
    /// Octets that [`OpenBody::next`] has yet to give.
    pub fn remaining(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Parts { at, end, .. } => end - at,
        }
    }

    /// Another reader, for `len` of the octets left here, after `skip` of them. `None`: there are not that
    /// many.
    pub fn part(&self, skip: u64, len: u64) -> Option<Self> {
        if skip.checked_add(len)? > self.remaining() {
            return None;
        }
        Some(match self {
            // It is in memory, so its length is a usize.
            Self::Whole(bytes) => Self::Whole(bytes.slice(skip as usize..(skip + len) as usize)),
            Self::Parts { file, at, .. } => {
                Self::Parts { file: file.clone(), at: at + skip, end: at + skip + len }
            }
        })
    }

    /// The next part, at most 256 KiB; `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Ok(None),
            Self::Whole(bytes) => Ok(Some(std::mem::take(bytes))),
            Self::Parts { at, end, .. } if at == end => Ok(None),
            Self::Parts { file, at, end } => {
                let file = file.clone();
                let from = *at;
                let mut buffer = vec![0; CHUNK.min((*end - from) as usize)];
                let buffer = blocking(move || file.read_exact_at(&mut buffer, from).map(|()| buffer)).await?;
                *at += buffer.len() as u64;
                Ok(Some(buffer.into()))
            }
        }
    }
}
