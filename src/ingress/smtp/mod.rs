//! The SMTP server: mail from printers, programs and mail servers (RFC 5321).
//!
//! # Contract
//!
//! * `250` to the content of a message means that the message is on stable storage. If anything else happens
//!   to the connection, the message is not accepted, and nothing is left of it.
//! * Only CR LF `.` CR LF ends a message. One with a bare CR or LF is refused, after its real end.
//! * Each message of a connection is a transaction of its own: nothing of one is left when the next begins.
//! * What EHLO announces works, and nothing else is announced.
//! * Nothing that came unencrypted counts after STARTTLS, and no octet after that command is read as a
//!   command.
//! * A client is identified by its address. PROXY headers are believed from a listener's `proxies`, and read
//!   from nobody else.
//! * A client may do what it likes: it costs one small task, bounded buffers and bounded time, and costs
//!   other clients nothing. A panic ends that one connection.
//! * Replies say what to fix and no more; the reason with its details is in the log, with the session's
//!   number.
//!
//! ```text
//! server (listeners) ─> connection ─> session (conversation) ─> content (DATA) ─> Submission
//!   addresses: limit      proxy: who    wire: lines in, replies out   data: dots, end
//!   memory: shares of it
//!   certificate: reload   tls           command, path: a line's meaning
//!                                       auth, exchange: who it is
//! ```
//!
//! Called by the relay, once.

mod addresses;
mod auth;
mod certificate;
pub(crate) mod command;
mod connection;
mod content;
mod conversation;
pub(crate) mod data;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "a panic is how a check fails")]
pub(crate) mod fuzz;
mod memory;
mod outdated;
pub(crate) mod path;
mod proxy;
pub(crate) mod reply;
mod seats;
mod server;
mod session;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

pub use server::{BindError, Server};
