//! What a dead process has left: files that it had claimed.
//!
//! The name of a claimed file has the id of the message that it was about to become. A message is announced after its file has
//! been unlinked, so nothing has been delivered whose file is still there, and the spool has it if and only if it was accepted.
//! That is true until the scheduler begins. So this is done before.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{error, info, warn};

use super::{
    blocking,
    claim::{self, Claim},
    names,
};
use crate::{config::TenantName, message::MessageId, spool::Spool};

/// A claimed file.
struct Leftover {
    folder: Arc<Path>,
    name: OsString,
    id: MessageId,
}

/// Unlinks claimed files that are in the spool already, and gives the others their names back. `path` holds a folder for each
/// tenant.
///
/// Called once, after the spool has been opened and before anything is delivered out of it. What cannot be done is logged; the
/// file stays as it is.
pub async fn settle_leftovers(path: &Path, tenants: impl IntoIterator<Item = TenantName>, spool: &Spool) {
    let folders: Vec<PathBuf> = tenants.into_iter().map(|tenant| path.join(tenant.as_str())).collect();
    let leftovers = blocking(move || Ok(folders.into_iter().flat_map(find).collect::<Vec<_>>())).await;
    let leftovers = leftovers.unwrap_or_default();
    if leftovers.is_empty() {
        return;
    }
    let found = match spool.find(leftovers.iter().map(|leftover| leftover.id).collect()).await {
        Ok(found) => found,
        Err(error) => {
            return error!(%error, "cannot tell which claimed files are in the spool: they are left");
        }
    };
    let settled = blocking(move || Ok(settle(leftovers, &found))).await;
    let Settled { removed, given_back, stuck } = settled.unwrap_or_default();
    info!(removed, given_back, "a process ended while it picked up files: those in the spool are removed");
    for claim in stuck {
        // As if its file had been left in the first place: the file is what stays.
        let (id, file) = (claim.id(), claim.claimed_path());
        let file = file.display();
        match spool.remove(id).await {
            Ok(()) => {
                warn!(%id, %file, "cannot be removed: its message is taken out of the spool, and the file is left")
            }
            Err(error) => error!(%id, %file, %error, "cannot be removed, and its message cannot either"),
        }
    }
}

fn find(folder: PathBuf) -> Vec<Leftover> {
    let folder: Arc<Path> = folder.into();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                error!(folder = %folder.display(), %error, "cannot look for claimed files in a pickup folder");
            }
            return Vec::new();
        }
    };
    let claims = entries.filter_map(Result::ok).filter_map(|entry| names::claim_of(&entry.file_name()));
    claims.map(|(name, id)| Leftover { folder: folder.clone(), name, id }).collect()
}

#[derive(Default)]
struct Settled {
    removed: usize,
    given_back: usize,
    /// In the spool, and cannot be unlinked.
    stuck: Vec<Claim>,
}

fn settle(leftovers: Vec<Leftover>, in_spool: &HashSet<MessageId>) -> Settled {
    let mut settled = Settled::default();
    for Leftover { folder, name, id } in leftovers {
        let claim = match claim::take_over(&folder, name.clone(), id) {
            Ok(Some(claim)) => claim,
            // Another relay's, which lives.
            Ok(None) => continue,
            Err(error) => {
                warn!(folder = %folder.display(), file = %name.display(), %error, "cannot open a claimed file");
                continue;
            }
        };
        let done = if in_spool.contains(&id) {
            // Not `Claim::remove`, which asks whether it has changed: the spool has it as it was.
            let removed = fs::remove_file(claim.claimed_path());
            removed.map(|()| settled.removed += 1)
        } else {
            claim.release().map(|()| settled.given_back += 1)
        };
        if let Err(error) = done {
            let file = claim.claimed_path();
            warn!(file = %file.display(), %error, "cannot settle a claimed file");
            if in_spool.contains(&id) {
                settled.stuck.push(claim);
            }
        }
    }
    settled
}
