//! What a message consists of, found while it is read past: nothing of its content is held.
//!
//! For mail that is too large to be sent as it is and has to be taken apart. [`StructureScanner`] finds the
//! parts and where they are, [`outline()`] says which is the body and which are attachments, or why the
//! message cannot be taken apart, and [`Decoder`] takes the transfer encoding off the octets when they are
//! read again.

mod decode;
mod outline;
mod parameters;
mod part;
mod properties;
mod structure;
mod uuencode;

pub use decode::{Decoder, TransferEncoding};
pub use outline::{Attachment, BodyText, NotCarriable, Outline, outline};
pub use properties::{Importance, Mailbox, Properties};
pub use structure::{StructureScanner, Unreadable};
