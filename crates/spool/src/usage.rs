//! How much of the disk the spool takes, by part.
//!
//! This is measured by walking its folders, which takes longer the more large bodies there are. So it is done
//! now and then, in the background, and not when somebody asks.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The folders of a spool, by their names in the metric.
const PARTS: [&str; 3] = ["index", "body", "quarantine"];

#[derive(Debug, Clone)]
pub struct Usage(Arc<Figures>);

#[derive(Debug)]
struct Figures {
    root: Box<Path>,
    bytes: [AtomicU64; PARTS.len()],
}

impl Usage {
    /// Nothing is measured yet.
    pub fn of(root: &Path) -> Self {
        Self(Arc::new(Figures { root: root.into(), bytes: Default::default() }))
    }

    /// Walks the folders. Blocks.
    pub fn measure(&self) -> io::Result<()> {
        for (part, bytes) in PARTS.iter().zip(&self.0.bytes) {
            bytes.store(occupied(&self.0.root.join(part))?, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Octets on disk as of the last measurement.
    pub fn bytes(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        PARTS.iter().zip(&self.0.bytes).map(|(part, bytes)| (*part, bytes.load(Ordering::Relaxed)))
    }
}

fn occupied(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Bodies come and go while we look.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        sum += if metadata.is_dir() { occupied(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_folders_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["index", "body/large", "quarantine"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        fs::write(dir.path().join("body/1.seg"), [1; 100_000]).unwrap();
        fs::write(dir.path().join("body/large/X"), [1; 300_000]).unwrap();
        let usage = Usage::of(dir.path());
        usage.measure().unwrap();
        let bytes: Vec<_> = usage.bytes().collect();
        assert_eq!((bytes[0], bytes[2]), (("index", 0), ("quarantine", 0)));
        assert!((400_000..500_000).contains(&bytes[1].1), "{bytes:?}");
    }
}
