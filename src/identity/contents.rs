//! What files hold, compared without being kept.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use ring::hmac;
use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;

/// A trace of what some files hold that does not reveal it. Files that are only touched, or replaced by
/// others that hold the same, have not changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    seen: Vec<Seen>,
    /// A new random key for each, so that a tag reveals nothing. `None`: there are no files.
    key: Option<hmac::Key>,
}

#[derive(Debug, Clone)]
struct Seen {
    path: PathBuf,
    /// Saves reading the file as long as nothing has happened to it.
    fingerprint: Option<Fingerprint>,
    /// The tag of what the file holds. `None`: it could not be read.
    tag: Option<hmac::Tag>,
}

/// In octets, of each file: no credential is longer.
const LONGEST: u64 = 1024 * 1024;

impl Contents {
    /// Blocks.
    pub(super) fn at(paths: Vec<PathBuf>) -> Self {
        if paths.is_empty() {
            return Self::default();
        }
        let key: [u8; 32] = rand::random();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let seen = |path: PathBuf| Seen { fingerprint: Fingerprint::of(&path), tag: tag(&key, &path), path };
        Self { seen: paths.into_iter().map(seen).collect(), key: Some(key) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Blocks.
    pub(super) fn have_changed(&self) -> bool {
        let Some(key) = &self.key else { return false };
        let octets = |tag: &Option<hmac::Tag>| tag.as_ref().map(|tag| tag.as_ref().to_vec());
        self.seen.iter().any(|Seen { path, fingerprint: before, tag: held }| {
            Fingerprint::of(path) != *before && octets(&tag(key, path)) != octets(held)
        })
    }
}

fn tag(key: &hmac::Key, path: &Path) -> Option<hmac::Tag> {
    let mut context = hmac::Context::with_key(key);
    let mut file = File::open(path).ok()?.take(LONGEST);
    let mut octets = Zeroizing::new([0; 4096]);
    loop {
        match file.read(octets.as_mut_slice()).ok()? {
            0 => return Some(context.sign()),
            read => context.update(&octets[..read]),
        }
    }
}
