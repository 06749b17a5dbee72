//! How much the disk under the spool has left.
//!
//! One caller runs [`FreeSpace::measure`] once a second. All others read the last figure, less what has been
//! [taken](FreeSpace::take) since. So asking costs nothing, and a busy second does not fill the disk. A floor
//! is kept free, because a full disk would fail the index in the middle of its work.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use relay_mail::ByteSize;

/// What is kept free on the disk, of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    pub octets: u64,
    pub inodes: u64,
}

/// Less is free than must be kept free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    #[error("{} are free on the disk under the spool, and spool.min_free is {floor}", free.rounded())]
    Octets { free: ByteSize, floor: ByteSize },
    #[error("{free} inodes are free on the disk under the spool, and spool.min_free_inodes is {floor}")]
    Inodes { free: u64, floor: u64 },
}

#[derive(Debug, Clone)]
pub struct FreeSpace(Arc<Figures>);

#[derive(Debug)]
struct Figures {
    path: Box<Path>,
    floor: Floor,
    free: AtomicU64,
    taken: AtomicU64,
    inodes: AtomicU64,
}

impl FreeSpace {
    /// The free space of the disk under the spool at `path`. Takes the first measurement.
    pub fn of(path: &Path, floor: Floor) -> io::Result<Self> {
        let figures = Figures {
            path: path.into(),
            floor,
            free: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
        };
        let space = Self(Arc::new(figures));
        space.measure()?;
        Ok(space)
    }

    /// Asks the file system.
    pub fn measure(&self) -> io::Result<()> {
        // The file system's figure does not include what is taken from here on.
        self.0.taken.store(0, Ordering::Relaxed);
        let stat = rustix::fs::statvfs(&*self.0.path)?;
        self.0.free.store(stat.f_bavail.saturating_mul(stat.f_frsize), Ordering::Relaxed);
        // File systems that make inodes as needed report 0 of 0.
        let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
        self.0.inodes.store(inodes, Ordering::Relaxed);
        Ok(())
    }

    /// Notes that this many octets are about to be written.
    pub fn take(&self, octets: u64) {
        self.0.taken.fetch_add(octets, Ordering::Relaxed);
    }

    /// Octets free, the floor included.
    pub fn bytes(&self) -> u64 {
        self.0.free.load(Ordering::Relaxed).saturating_sub(self.0.taken.load(Ordering::Relaxed))
    }

    /// Octets free beyond the floor.
    pub fn beyond_the_floor(&self) -> u64 {
        self.bytes().saturating_sub(self.0.floor.octets)
    }

    /// What keeps the disk from taking even a message without octets, if anything does.
    pub fn shortage(&self) -> Option<Shortage> {
        let Floor { octets, inodes } = self.0.floor;
        let free = self.bytes();
        let free_inodes = self.0.inodes.load(Ordering::Relaxed);
        if free < octets {
            Some(Shortage::Octets { free: ByteSize(free), floor: ByteSize(octets) })
        } else if free_inodes < inodes {
            Some(Shortage::Inodes { free: free_inodes, floor: inodes })
        } else {
            None
        }
    }

    /// Whether `size` more octets, or one more file, would go below the floor.
    pub fn is_short_of(&self, size: u64) -> bool {
        self.bytes() < self.0.floor.octets.saturating_add(size)
            || self.0.inodes.load(Ordering::Relaxed) < self.0.floor.inodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(octets: u64, inodes: u64) -> FreeSpace {
        FreeSpace::of(&std::env::temp_dir(), Floor { octets, inodes }).unwrap()
    }

    #[test]
    fn what_is_taken_counts_until_it_is_measured() {
        let space = space(1000, 0);
        let free = space.bytes();
        assert!(!space.is_short_of(free / 2));
        space.take(free - 999);
        assert!(space.is_short_of(0));
        assert!(matches!(space.shortage(), Some(Shortage::Octets { floor: ByteSize(1000), .. })));
        space.measure().unwrap();
        assert!(!space.is_short_of(0));
        assert_eq!(space.shortage(), None);
    }

    #[test]
    fn inodes_have_a_floor_of_their_own() {
        assert!(!space(0, 1).is_short_of(0));
        let no_disk_has_so_many = space(0, u64::MAX);
        // Except file systems that make inodes as needed.
        let makes_them = no_disk_has_so_many.0.inodes.load(Ordering::Relaxed) == u64::MAX;
        assert_eq!(no_disk_has_so_many.is_short_of(0), !makes_them);
        assert_eq!(no_disk_has_so_many.shortage().is_some(), !makes_them);
    }
}
