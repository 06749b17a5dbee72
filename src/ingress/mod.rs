//! The ways in: the SMTP server and the pickup folders, and the door that both go through.
//!
//! ```text
//! smtp/  ──┐
//!          ├─> door (who, may they, is there room) ─> submission (header, body) ─> spool
//! pickup ──┘
//! ```
//!
//! An SMTP client may log in first: [`login`] says who it is, and the door what that means.
//!
//! A client's transaction asks the [`Door`] for a [`Grant`], then streams the content into a [`Submission`],
//! which checks the author, edits the header and hands the message to the spool. Nothing is acknowledged
//! before the spool has it.

mod door;
pub mod login;
pub(crate) mod newlines;
mod party;
pub mod pickup;
mod refusal;
pub mod smtp;
mod submission;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "some are for tests only"))]
#[allow(clippy::unwrap_used, reason = "a panic is how a check fails")]
mod testing;

pub use door::{Door, Grant};
pub use party::Party;
pub use refusal::Refusal;
pub use submission::{Client, Origin, Submission};
