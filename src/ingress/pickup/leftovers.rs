//! What a dead process left behind: files that it had claimed.
//!
//! The name of a claimed file has the id of the message that it was about to become. A message is announced
//! after its file has been unlinked. So a message whose file is still there has not been delivered, and the
//! spool has it if and only if it was accepted. That is true until the scheduler begins, so this is done
//! before.
//!
//! But anybody who may write to the folder can make such a name, with the id of another tenant's message or
//! of one that came by SMTP. So nothing but the file itself depends on a name alone:
//!
//! | the message of the id                       | the mark in the name  | what is done                                      |
//! |---------------------------------------------|-----------------------|---------------------------------------------------|
//! | is not in the spool                         | any or none           | the file gets its name back, and is taken         |
//! | is this tenant's, and came by pickup        | fits this very file   | the file is unlinked; if it cannot be, the message is taken out of the spool, and the file stays |
//! | is this tenant's, and came by pickup        | none: an earlier version's claim | the file is unlinked; if it cannot be, it stays, and the message too |
//! | is this tenant's, and came by pickup        | does not fit          | file and message stay                             |
//! | is another's, came otherwise, or is damaged | any or none           | file and message stay                             |
//!
//! A user who can make a file look like a leftover could have removed that file, so unlinking it gives nobody
//! a new right. A file that stays is reported in the log, for a person to decide about.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{error, info, warn};

use super::{
    blocking,
    claim::{self, FileClaim},
    marks::Marks,
    names::ClaimName,
    place::OpenFolder,
};
use relay_mail::{Ingress, MessageId, TenantName};
use relay_spool::{Found, Message, Spool};

/// A file named as a claimed file is.
struct Leftover {
    place: Arc<OpenFolder>,
    tenant: TenantName,
    name: ClaimName,
}

/// What the spool has of the ids that leftovers name; `None` for a message that cannot be read.
type Kept = HashMap<MessageId, Option<Arc<Message>>>;

/// Unlinks claimed files that are in the spool already, and gives the others their names back. `path` holds a
/// folder for each tenant.
///
/// Called once, after the spool has been opened and before anything is delivered out of it. What cannot be
/// done is logged; the file stays as it is.
pub async fn settle_leftovers(
    path: &Path,
    tenants: impl IntoIterator<Item = TenantName>,
    spool: &Spool,
    marks: &Marks,
) {
    let folders: Vec<_> = tenants.into_iter().map(|tenant| (path.join(tenant.as_str()), tenant)).collect();
    let leftovers = blocking(move || Ok(folders.into_iter().flat_map(find).collect::<Vec<_>>())).await;
    let leftovers = leftovers.unwrap_or_default();
    if leftovers.is_empty() {
        return;
    }
    let found = match spool.find(leftovers.iter().map(|leftover| leftover.name.id).collect()).await {
        Ok(found) => found,
        Err(error) => {
            return error!(%error, "claimed file lookup failed: the files are left in place");
        }
    };
    let marks = marks.clone();
    let settled = blocking(move || {
        let read = |(id, found): (_, Found)| (id, found.read().ok().map(|(message, _)| message));
        Ok(settle(leftovers, &found.into_iter().map(read).collect(), &marks))
    })
    .await;
    let Settled { removed, given_back, stuck } = settled.unwrap_or_default();
    if removed + given_back + stuck.len() > 0 {
        info!(removed, given_back, "interrupted pickup settled: files already in the spool removed");
    }
    for claim in stuck {
        // As if the file had been left alone in the first place: the file is what stays.
        let id = claim.id();
        let file = claim.claimed_path();
        let file = file.display();
        match spool.remove(id).await {
            Ok(()) => {
                warn!(%id, %file, "claimed file not removed: its message is withdrawn from the spool, and the file is left")
            }
            Err(error) => {
                error!(%id, %file, %error, "neither the claimed file nor its message could be removed")
            }
        }
    }
}

fn find((folder, tenant): (PathBuf, TenantName)) -> Vec<Leftover> {
    let place = match OpenFolder::find(&folder) {
        Err(barrier) if barrier.is_missing() => return Vec::new(),
        found => found,
    };
    let listed = place.map_err(|barrier| barrier.to_string()).and_then(|place| {
        let listing = place.list().map_err(|error| error.to_string())?;
        Ok((place, listing.claimed))
    });
    match listed {
        Ok((place, claimed)) => {
            let leftover = |name| Leftover { place: place.clone(), tenant: tenant.clone(), name };
            claimed.into_iter().map(leftover).collect()
        }
        Err(why) => {
            error!(folder = %folder.display(), why, "search for claimed files failed");
            Vec::new()
        }
    }
}

#[derive(Default)]
struct Settled {
    removed: usize,
    given_back: usize,
    /// Files whose messages are in the spool and which cannot be unlinked.
    stuck: Vec<FileClaim>,
}

/// What a leftover is. The table is at the top.
enum Verdict {
    GiveBack,
    Unlink {
        /// It is certain whose message this is.
        is_marked: bool,
    },
    Leave(&'static str),
}

fn settle(leftovers: Vec<Leftover>, found: &Kept, marks: &Marks) -> Settled {
    let mut settled = Settled::default();
    for Leftover { place, tenant, name } in leftovers {
        let claim = match claim::take_over(&place, name.clone()) {
            Ok(Some(claim)) => claim,
            // Claimed by another relay, which is alive; or not a plain file.
            Ok(None) => continue,
            Err(error) => {
                let file = place.path_of(&name.file_name());
                warn!(file = %file.display(), %error, "claimed file not opened");
                continue;
            }
        };
        let file = claim.claimed_path();
        let file = file.display();
        let (done, is_marked) = match judge(&claim, &tenant, found, marks) {
            Ok(Verdict::GiveBack) => (claim.release().map(|()| settled.given_back += 1), false),
            // Not `FileClaim::remove`, which checks whether the file has changed: the spool has it as it was.
            Ok(Verdict::Unlink { is_marked }) => {
                let removed = claim.unlink();
                (removed.map(|()| settled.removed += 1), is_marked)
            }
            Ok(Verdict::Leave(why)) => {
                warn!(%tenant, id = %claim.id(), %file, why, "file has the name of a claimed file without proof: file and message left unchanged");
                continue;
            }
            Err(error) => (Err(error), false),
        };
        if let Err(error) = done {
            warn!(%file, %error, "claimed file not settled");
            if is_marked {
                settled.stuck.push(claim);
            }
        }
    }
    settled
}

fn judge(claim: &FileClaim, tenant: &TenantName, found: &Kept, marks: &Marks) -> io::Result<Verdict> {
    let message = match found.get(&claim.id()) {
        None => return Ok(Verdict::GiveBack),
        Some(None) => return Ok(Verdict::Leave("the message of this id is damaged")),
        Some(Some(message)) => message,
    };
    Ok(if message.tenant != *tenant || message.ingress != Ingress::Pickup {
        Verdict::Leave("the message of this id did not come out of this folder")
    } else {
        match claim.is_marked(tenant, marks)? {
            Some(true) => Verdict::Unlink { is_marked: true },
            None => Verdict::Unlink { is_marked: false },
            Some(false) => Verdict::Leave("this relay has not claimed this file for that message"),
        }
    })
}
