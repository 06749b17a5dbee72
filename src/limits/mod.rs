//! What Microsoft allows, and how the relay keeps to it before the service has to say so.
//!
//! | file        | what it does                                                                                    |
//! |-------------|-------------------------------------------------------------------------------------------------|
//! | `mailbox`   | messages a minute and calls at a time of one mailbox: asked by the scheduler before it hands out |
//! | `allowance` | the rest, of mailboxes and of the application: charged by the routes before each call            |

pub mod allowance;
mod mailbox;

pub use mailbox::{MailboxLimits, TokioClock, quota};
