//! Lanes: the pairs of tenant and author that messages belong to.
//!
//! A waiting message costs a small fixed record; whose it is would be the largest part of it. So each pair is stored
//! once and messages refer to it by number. The scheduler makes its queues from lanes: the tenant and the mailbox that the
//! tenant's configuration gives for the author.

use serde::{Deserialize, Serialize};

use crate::{config::TenantName, message::MailboxAddress};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lane {
    pub tenant: TenantName,
    /// The header From: it decides which mailbox posts the message.
    pub author: MailboxAddress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);
