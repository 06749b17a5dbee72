//! How a try that sends nothing ended.

/// For `tenant check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    Works,
    /// The app may not do this with this mailbox, in the service's words.
    Denied(String),
    /// There is no such mailbox, in the service's words.
    NoMailbox(String),
    /// Nobody can tell.
    Failed(String),
}
