//! Carries one message to Microsoft 365, says how it went, and settles it.
//!
//! The one seam between "how it went" and "what next" is [`Disposition`]: decided by the route, where the knowledge is,
//! and acted on by the [`Worker`], in one place. Knows no SMTP ingress.

pub mod allowance;
mod disposition;
pub mod graph;
mod notice;
mod split;
mod worker;

pub use disposition::{Attempted, Disposition, Reason, Receipt};
pub use worker::{Worker, WorkerSettings};
