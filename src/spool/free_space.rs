//! How much the disk under the spool has left.
//!
//! Measured once a second by whoever runs [`FreeSpace::measure`]; everybody else reads the last figure, so that asking
//! costs nothing. A floor is kept free, because a full disk would fail the index in the middle of its work.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::config::ByteSize;

#[derive(Debug, Clone)]
pub struct FreeSpace(Arc<Figures>);

#[derive(Debug)]
struct Figures {
    path: Box<Path>,
    floor: u64,
    free: AtomicU64,
}

impl FreeSpace {
    /// Measures for the first time.
    pub fn of(path: &Path, floor: ByteSize) -> io::Result<Self> {
        let figures = Figures { path: path.into(), floor: floor.0, free: AtomicU64::new(0) };
        let space = Self(Arc::new(figures));
        space.measure()?;
        Ok(space)
    }

    /// Asks the file system. Without free inodes, no space is free either.
    pub fn measure(&self) -> io::Result<()> {
        let stat = rustix::fs::statvfs(&*self.0.path)?;
        // File systems that make inodes as they go say 0 of 0.
        let out_of_inodes = stat.f_files > 0 && stat.f_favail == 0;
        let free = if out_of_inodes { 0 } else { stat.f_bavail.saturating_mul(stat.f_frsize) };
        self.0.free.store(free, Ordering::Relaxed);
        Ok(())
    }

    /// Octets free, the floor included.
    pub fn bytes(&self) -> u64 {
        self.0.free.load(Ordering::Relaxed)
    }

    /// Whether `size` more octets would go below the floor.
    pub fn is_short_of(&self, size: u64) -> bool {
        self.bytes() < self.0.floor.saturating_add(size)
    }
}
