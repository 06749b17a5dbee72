//! Mail as this relay sees it: an envelope, a header block that it may edit, and a body that it never
//! touches; and the few terms that every other package uses: tenants' names, times, sizes, shares.
//!
//! Pure: no I/O except a look at the clock, no thread, no knowledge of any other package.
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
//! | `mime`         | what a message consists of, where it must be taken apart                         |
//! | `clock`        | wall-clock time                                                                  |
//! | `ingress`      | the way by which a message came in                                               |
//! | `outside`      | text from outside, cleaned for display                                           |
//! | `share`        | how much one may take of what all tenants have together                          |
//! | `size`         | sizes in bytes, as they are written down                                         |
//! | `tenant`       | the name of an organisation                                                      |

#![forbid(unsafe_code)]

mod address;
mod address_list;
mod author;
mod charset;
mod clock;
mod envelope;
mod from_repair;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod header;
mod id;
mod ingress;
mod injected;
mod loose;
mod mended;
mod mime;
mod notification;
pub mod outside;
mod recipients;
pub mod share;
mod size;
mod tenant;
#[cfg(test)]
mod tests;
mod trace;
mod words;

pub use address::{InvalidAddress, MailboxAddress};
pub use address_list::{BrokenAddress, addresses};
pub use author::{Author, InvalidAuthor, Twist, author, sender};
pub use charset::decode_text;
pub use clock::Timestamp;
pub use envelope::{BodyKind, EmptyEnvelope, Envelope, MailParameters};
pub use from_repair::{RepairedFrom, repaired_from};
pub use header::{
    Field, HeaderBlock, HeaderScanner, InvalidHeader, MAX_HEADER, MAX_STORED_HEADER, SplitMessage,
};
pub use id::{InvalidMessageId, MessageId};
pub use ingress::Ingress;
pub use injected::{InvalidParameter, InvalidPickup, injected_envelope, pickup_envelope};
pub use mended::{MAX_HOPS, Mending, NewFrom, from_field, hops, mend};
pub use mime::{
    Attachment, BodyText, Decoder, Importance, Mailbox, NotCarriable, Outline, Properties, StructureScanner,
    TransferEncoding, Unreadable, outline,
};
pub use notification::{
    EnvelopeId, InvalidNotification, Notify, OriginalRecipient, Recipient, RecipientWish, Return,
};
pub use recipients::{Addressed, Visible, address_to, recipients_of, without_bcc};
pub use size::{ByteSize, InvalidSize};
pub use tenant::{InvalidTenantName, TenantName};
pub use trace::{Encryption, Origin, Received, date};

use address_list::{AddressList, Entry};
