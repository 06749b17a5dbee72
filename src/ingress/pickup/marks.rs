//! Which claims are this relay's own: a mark in the name of each claimed file.
//!
//! Anybody who may write to a tenant's folder can name a file as a claimed one is named, with the id of any
//! message. So a name proves nothing; the mark in it does. It is a keyed hash over the tenant, the id and the
//! file's inode, under a key that is the spool's secret: only the relay with this spool can have written it,
//! and it fits this one file only.
//!
//! The inode is used without its device. Device numbers may change from one start of the machine to the next,
//! and a folder is on one file system.
//!
//! The key is in `pickup.key` of the spool's folder: 32 random octets, made once, with mode 0600, durable
//! before it is used. A spool that has lost it makes a new one; claims under the old one are then left as
//! they are (see `leftovers`).

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    str::FromStr,
};

use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use tracing::error;

use relay_mail::{MessageId, TenantName};

const FILE: &str = "pickup.key";
const KEY_LEN: usize = 32;
/// As in ids: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Makes marks and recognises them. Cheap to clone.
#[derive(Clone)]
pub struct Marks {
    key: hmac::Key,
}

/// A mark as it appears in a name: 80 bits, which nobody can guess, since each try takes a start of the
/// relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark([u8; Mark::LEN]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoMark;

impl Marks {
    /// Returns the marks of the spool in the folder `spool`, which this process has open. Blocks.
    pub fn of_spool(spool: &Path) -> io::Result<Self> {
        let path = spool.join(FILE);
        let mut octets = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(KEY_LEN as u64 + 1).read_to_end(&mut octets)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if octets.len() != KEY_LEN {
            if !octets.is_empty() {
                let file = path.display();
                error!(%file, "invalid key replaced with a new one; files claimed earlier are left unchanged");
            }
            octets = new_key(spool)?;
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &octets) })
    }

    /// The mark of the file with this inode, which is to become that message of that tenant.
    pub(super) fn mark(&self, tenant: &TenantName, id: MessageId, inode: u64) -> Mark {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&id.to_bytes());
        context.update(&inode.to_be_bytes());
        // Last, since it is the only part whose length differs.
        context.update(tenant.as_str().as_bytes());
        let mut octets = [0; 16];
        octets[6..].copy_from_slice(&context.sign().as_ref()[..10]);
        let mut rest = u128::from_be_bytes(octets);
        let mut text = [0; Mark::LEN];
        for digit in text.iter_mut().rev() {
            *digit = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        Mark(text)
    }
}

/// Puts a new key into its file, whole or not at all.
fn new_key(spool: &Path) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; KEY_LEN];
    SystemRandom::new()
        .fill(&mut octets)
        .map_err(|_| io::Error::other("the system provides no random octets"))?;
    let new = spool.join(format!("{FILE}.new"));
    // Perhaps left by a process that died while writing it.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&octets)?;
    file.sync_all()?;
    fs::rename(&new, spool.join(FILE))?;
    File::open(spool)?.sync_all()?;
    Ok(octets)
}

impl Mark {
    pub(super) const LEN: usize = 16;

    #[cfg(test)]
    pub(super) fn sample(number: u8) -> Self {
        Self([ALPHABET[usize::from(number % 32)]; Self::LEN])
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Mark {
    type Err = NoMark;

    fn from_str(text: &str) -> Result<Self, NoMark> {
        let octets: [u8; Self::LEN] = text.as_bytes().try_into().map_err(|_| NoMark)?;
        if octets.iter().all(|octet| ALPHABET.contains(octet)) { Ok(Self(octets)) } else { Err(NoMark) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mark(marks: &Marks, tenant: &str, id: u8, inode: u64) -> String {
        marks.mark(&tenant.parse().unwrap(), MessageId::from_bytes([id; 8]), inode).to_string()
    }

    #[test]
    fn the_key_is_made_once_and_for_nobody_else() {
        let spool = tempfile::tempdir().unwrap();
        let first = mark(&Marks::of_spool(spool.path()).unwrap(), "contoso", 1, 2);
        assert_eq!(first.len(), Mark::LEN);
        assert_eq!(mark(&Marks::of_spool(spool.path()).unwrap(), "contoso", 1, 2), first);
        let metadata = spool.path().join(FILE).metadata().unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o600, KEY_LEN as u64));
        // Another spool's marks differ, and so do those made after the key was lost or damaged.
        let other = tempfile::tempdir().unwrap();
        assert_ne!(mark(&Marks::of_spool(other.path()).unwrap(), "contoso", 1, 2), first);
        fs::write(spool.path().join(FILE), "half").unwrap();
        fs::write(spool.path().join("pickup.key.new"), "of a dead process").unwrap();
        let second = mark(&Marks::of_spool(spool.path()).unwrap(), "contoso", 1, 2);
        assert_ne!(second, first);
        assert_eq!(mark(&Marks::of_spool(spool.path()).unwrap(), "contoso", 1, 2), second);
        assert!(!spool.path().join("pickup.key.new").exists());
    }

    #[test]
    fn a_mark_fits_one_file_of_one_message_of_one_tenant() {
        let spool = tempfile::tempdir().unwrap();
        let marks = Marks::of_spool(spool.path()).unwrap();
        let first = mark(&marks, "contoso", 1, 2);
        assert_eq!(first.parse::<Mark>().unwrap().to_string(), first);
        for other in
            [mark(&marks, "contosp", 1, 2), mark(&marks, "contoso", 2, 2), mark(&marks, "contoso", 1, 3)]
        {
            assert_ne!(other, first);
        }
    }
}
