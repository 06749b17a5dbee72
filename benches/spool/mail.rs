//! What a client and a worker do with the spool.

use std::{fs::File, path::Path};

use m365_relay::clock;
use relay_mail::{BodyKind, Envelope, Ingress, MailboxAddress, MessageId};
use relay_spool::{DiskStore, Event, Lease, Message, NewMessage, Settlement, Spool};
use tokio::sync::mpsc;

pub(crate) const TENANT: &str = "contoso";
const PART: usize = 16 * 1024;

/// Opens the spool there, or creates one.
pub(crate) fn open(dir: &Path) -> (Spool, mpsc::UnboundedReceiver<Event>) {
    Spool::start(DiskStore::open(dir).unwrap(), ()).unwrap()
}

/// Like [`open`], for a caller that does not care what waits.
pub(crate) fn open_only(dir: &Path) -> Spool {
    open(dir).0
}

/// Returns when the last of it is gone from the folder's files. `spool` must be the last clone.
pub(crate) fn close(spool: Spool, dir: &Path) {
    drop(spool);
    // The committer releases the lock when it has ended.
    let lock = File::open(dir.join("LOCK")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
}

fn message(author: usize) -> Message {
    let sender: MailboxAddress = format!("scanner{author}@{TENANT}.example").parse().unwrap();
    let recipient = "somebody@example.net".parse().unwrap();
    Message {
        tenant: TENANT.parse().unwrap(),
        ingress: Ingress::Smtp,
        envelope: Envelope::new(Some(sender.clone()), [recipient], BodyKind::SevenBit).unwrap(),
        author: sender,
        bounce_of: None,
    }
}

pub(crate) async fn accept(spool: &Spool, content: &[u8]) -> MessageId {
    accept_from(spool, 0, content).await
}

/// With the mailbox of that number as the author.
pub(crate) async fn accept_from(spool: &Spool, author: usize, content: &[u8]) -> MessageId {
    accept_parts(spool, author, content.chunks(PART)).await
}

/// Accepts a body of that many octets, which is never held whole.
pub(crate) async fn accept_long(spool: &Spool, octets: usize) -> MessageId {
    let part = [7; PART];
    let parts = (0..octets).step_by(PART).map(|at| &part[..PART.min(octets - at)]);
    accept_parts(spool, 0, parts).await
}

async fn accept_parts(spool: &Spool, author: usize, parts: impl Iterator<Item = &[u8]>) -> MessageId {
    let (id, mut body) = spool.begin();
    for part in parts {
        body.write(part).await.unwrap();
    }
    let body = body.finish().await.unwrap();
    spool.accept(NewMessage { id, message: message(author), body }).await.unwrap().announce();
    id
}

pub(crate) async fn claim_and_end(spool: &Spool, id: MessageId) {
    let lease = spool.claim(id).await.unwrap().lease;
    spool.settle(lease, Settlement::End { bounce: None }).await.unwrap();
}

pub(crate) async fn wait_again(spool: &Spool, lease: Lease) {
    let settlement = Settlement::Wait { due: clock::now(), counted: false, doubt: None, attempt: None };
    spool.settle(lease, settlement).await.unwrap();
}
