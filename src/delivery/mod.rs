//! Carries one message to Microsoft 365, says how it went, and settles it.
//!
//! | file         | what it does                                                                          |
//! |--------------|---------------------------------------------------------------------------------------|
//! | `worker`     | claims, has a route deliver, settles                                                   |
//! | `route`      | which route a message takes; what an earlier attempt has left open is settled before it |
//! | `graph`      | by Microsoft Graph                                                                     |
//! | `smtp`       | by SMTP submission                                                                     |
//! | `letter`     | a claimed message, opened                                                              |
//! | `split`      | one message becomes several                                                            |
//! | `notice`     | what the sender is told                                                                |
//! | `tried`      | how a try that sends nothing ends                                                      |
//! | `allowance`  | what a mailbox may still send                                                          |
//!
//! The one seam between "how it went" and "what next" is [`Disposition`]: decided by the route, where the
//! knowledge is, and acted on by the [`Worker`], in one place. Knows no SMTP ingress.

mod disposition;
pub mod graph;
mod letter;
mod notice;
mod route;
pub mod smtp;
mod split;
mod tried;
mod worker;

pub use disposition::{Attempted, Disposition, Division, Reason, Receipt};
use disposition::{NO_CREDENTIAL, put_off};
pub use route::Routes;
pub use tried::Tried;
pub use worker::{Worker, WorkerSettings};
