//! Messages as this relay sees them: an envelope, a header block that it may edit, and a body that it never touches.
//!
//! Pure: no I/O, no clock, no knowledge of any other room.

mod address;
mod envelope;
mod id;

pub use address::{InvalidAddress, MailboxAddress};
pub use envelope::{BodyKind, EmptyEnvelope, Envelope};
pub use id::{InvalidMessageId, MessageId};
