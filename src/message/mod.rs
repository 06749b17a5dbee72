//! Messages as this relay sees them: an envelope, a header block that it may edit, and a body that it never touches.
//!
//! Pure: no I/O, no clock, no knowledge of any other room.
//!
//! | file           | what it does                                                                    |
//! |----------------|---------------------------------------------------------------------------------|
//! | `header`       | divides a message into header and body, fields into name and value               |
//! | `address_list` | mailboxes in fields                                                              |
//! | `author`       | who is believed to have written a message: From and Sender                       |
//! | `recipients`   | makes To, Cc and Bcc say what the envelope says                                  |
//! | `injected`     | envelopes of picked-up files: X-Sender and X-Receiver lines, or plain headers    |
//! | `notification` | what the sender wants to be told: NOTIFY, ORCPT, RET, ENVID                       |
//! | `trace`        | the Received field                                                               |
//! | `mended`       | what a submission server adds to a header and takes out of it                    |
//! | `mime`         | what a message consists of, where it has to be taken apart                       |

mod address;
mod address_list;
mod author;
mod envelope;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod header;
mod id;
mod injected;
mod mended;
mod mime;
mod notification;
mod recipients;
#[cfg(test)]
mod tests;
mod trace;

pub use address::{InvalidAddress, MailboxAddress};
pub use address_list::{BrokenAddress, addresses};
pub use author::{Author, InvalidAuthor, Twist, author, sender};
pub use envelope::{BodyKind, EmptyEnvelope, Envelope, MailParameters};
pub use header::{
    Field, HeaderBlock, HeaderScanner, InvalidHeader, MAX_HEADER, MAX_STORED_HEADER, SplitMessage,
};
pub use id::{InvalidMessageId, MessageId};
pub use injected::{InvalidParameter, InvalidPickup, injected_envelope, pickup_envelope};
pub use mended::{MAX_HOPS, Mending, from_field, hops, mend};
pub use mime::{
    Attachment, BodyText, Decoder, Importance, Mailbox, NotCarriable, Outline, Properties, StructureScanner,
    TransferEncoding, Unreadable, decode_text, outline,
};
pub use notification::{
    EnvelopeId, InvalidNotification, Notify, OriginalRecipient, Recipient, RecipientWish, Return,
};
pub use recipients::{Addressed, Visible, address_to, recipients_of, without_bcc};
pub use trace::{Encryption, Origin, Received, date};

use address_list::{AddressList, Entry};
