//! How a try ended that sends nothing.

/// For `tenant check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    Works,
    /// The app may not do this with this mailbox. In the service's words.
    Denied(String),
    /// There is no such mailbox. In the service's words.
    NoMailbox(String),
    /// Nobody can tell.
    Failed(String),
}
