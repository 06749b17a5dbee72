//! Messages as this relay sees them: an envelope, a header block that it may edit, and a body that it never touches.
//!
//! Pure: no I/O, no clock, no knowledge of any other room.
//!
//! | file           | what it does                                                                    |
//! |----------------|---------------------------------------------------------------------------------|
//! | `header`       | divides a message into header and body, fields into name and value               |
//! | `address_list` | mailboxes in fields: the author, the recipients                                  |
//! | `recipients`   | makes To, Cc and Bcc say what the envelope says                                  |
//! | `injected`     | envelopes of picked-up files: X-Sender and X-Receiver lines, or plain headers    |
//! | `dsn_request`  | the parameters of such lines                                                    |
//! | `trace`        | the Received field                                                               |
//! | `missing`      | Message-ID and Date for messages that lack them                                  |

mod address;
mod address_list;
mod dsn_request;
mod envelope;
mod header;
mod id;
mod injected;
mod missing;
mod recipients;
#[cfg(test)]
mod tests;
mod trace;

pub use address::{InvalidAddress, MailboxAddress};
pub use address_list::{Author, BrokenAddress, InvalidAuthor, addresses, author};
pub use dsn_request::{DsnRequest, InvalidParameter, Notify, RecipientRequest, Ret};
pub use envelope::{BodyKind, EmptyEnvelope, Envelope};
pub use header::{
    Field, HeaderBlock, HeaderScanner, InvalidHeader, MAX_HEADER, MAX_STORED_HEADER, SplitMessage,
};
pub use id::{InvalidMessageId, MessageId};
pub use injected::{Injected, InvalidPickup, injected_envelope, pickup_envelope};
pub use missing::complete;
pub use recipients::{Addressed, Visible, address_to, recipients_of, without_bcc};
pub use trace::{Origin, Received, date};

use address_list::{AddressList, Entry, single_sender};
