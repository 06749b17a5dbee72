//! What Microsoft allows, and how the relay keeps to it before the service must say so.
//!
//! | file        | what it does                                                                             |
//! |-------------|------------------------------------------------------------------------------------------|
//! | `mailbox`   | messages a minute and calls at a time of a mailbox: asked before the scheduler hands out |
//! | `allowance` | the rest, of mailboxes and of the application: charged by the routes before each call    |

pub mod allowance;
mod mailbox;

pub use mailbox::{MailboxLimits, TokioClock, quota};
