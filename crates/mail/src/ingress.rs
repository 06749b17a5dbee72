//! The way by which a message came in.

use serde::{Deserialize, Serialize};

/// How a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ingress {
    Smtp,
    Pickup,
    /// Made here: a delivery status notification.
    Bounce,
}

impl Ingress {
    /// As a metric label and in an exported spool.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Pickup => "pickup",
            Self::Bounce => "bounce",
        }
    }
}
