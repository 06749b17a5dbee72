//! What the scheduler's parts call a queue, and a message that has been chosen from one.

use relay_mail::{MailboxAddress, MessageId};

/// No two queues have the same number, not even in two pools of one tenant: a timer may be left over from a
/// pool that is gone.
pub(super) type QueueId = u32;

/// A message whose turn it is.
pub(super) struct Turn {
    pub(super) id: MessageId,
    pub(super) queue: QueueId,
    pub(super) mailbox: MailboxAddress,
}
