//! What the relay tells about itself: metric families and logs.

mod build;
mod clean;
mod families;
mod labels;
mod logs;
mod metrics;
mod pseudonyms;
mod series;
#[cfg(test)]
pub(crate) mod testing;
mod values;

pub use labels::{
    AdminRefused, ErrorClass, LimitKind, LoginResult, Outcome, RecipientMismatch, Refused, Resolved, Route,
    TokenResult,
};
pub use logs::{Logs, LostLine, start as start_logs};
pub use metrics::Metrics;
pub use values::{List, seconds};
