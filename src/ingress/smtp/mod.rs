//! The SMTP server: mail from printers, programs and mail servers (RFC 5321).
//!
//! # Contract
//!
//! * `250` to the content of a message means that the message is on stable storage. Whatever else happens to a connection,
//!   the message is not accepted, and nothing is left of it.
//! * Only CR LF `.` CR LF ends a message. One with a bare CR or LF is refused, after its real end.
//! * Each message of a connection is a transaction of its own: nothing of one is left when the next begins.
//! * What EHLO announces works, and nothing else is announced.
//! * A client may do what it likes: it costs one small task, bounded buffers and bounded time, and other clients
//!   nothing. A panic ends the one connection.
//! * Replies say what to mend and no more; the reason with its details is in the log, with the session's number.
//!
//! ```text
//! server (listeners) ─> session (conversation) ─> content (DATA) ─> Submission
//!                         wire: lines in, replies out   data: dots, end
//!                         command: a line's meaning
//! ```
//!
//! Called by the relay, once.

mod command;
mod content;
mod data;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "a panic is how a check fails")]
pub(crate) mod fuzz;
mod path;
mod reply;
mod server;
mod session;
mod wire;

#[cfg(test)]
mod tests;

pub use server::{BindError, Server};
