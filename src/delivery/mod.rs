//! Carries one message to Microsoft 365, says how it went, and settles it.
//!
//! | file         | what it does                                                                          |
//! |--------------|---------------------------------------------------------------------------------------|
//! | `worker`     | claims, has a route deliver, settles                                                   |
//! | `route`      | which route a message takes; what an earlier attempt has left open is settled before it |
//! | `graph`      | by Microsoft Graph                                                                     |
//! | `smtp`       | by SMTP submission                                                                     |
//! | `letter`     | a claimed message, opened                                                              |
//! | `by_hand`    | what an operator does to a message by its content                                      |
//! | `split`      | one message becomes several                                                            |
//! | `notice`     | what the sender is told                                                                |
//! | `tried`      | how a try that sends nothing ends                                                      |
//! | `trouble`    | what stopped an attempt                                                                |
//! | `allowance`  | what a mailbox may still send                                                          |
//!
//! The one seam between "how it went" and "what next" is [`Disposition`]: decided by the route, where the
//! knowledge is, and acted on by the [`Worker`], in one place. Knows no SMTP ingress.

mod by_hand;
mod disposition;
pub mod graph;
mod letter;
mod notice;
mod route;
pub mod smtp;
mod split;
mod tried;
mod trouble;
mod worker;

pub use by_hand::{ByHand, ByHandError};
pub use disposition::{Attempted, Disposition, Division, Reason, Receipt};
use disposition::{NO_CREDENTIAL, put_off};
pub use letter::stored_message_id;
pub use route::Routes;
pub use tried::Tried;
pub use trouble::Trouble;
pub use worker::{Worker, WorkerSettings};
