//! m365-relay: a persistent queueing mail relay that delivers through the senders' own Microsoft 365.
//!
//! This package is the relay. Beside it are `relay_mail`, which depends on no other, `relay_spool`, which
//! depends on mail only, and `relay_sandbox`, the simulated Microsoft 365. One room is one noun. Data flows
//! one way:
//!
//! ```text
//! ingress → spool → schedule → delivery → (settle) spool
//! ```
//!
//! | room          | what it does                                                             |
//! |---------------|--------------------------------------------------------------------------|
//! | [`config`]    | the configuration file, parsed once into values that cannot hold nonsense |
//! | [`ingress`]   | who is this for, may they, is there room; SMTP server, pickup folders     |
//! | [`schedule`]  | which message next: tenant and mailbox queues, retry times, limits       |
//! | [`delivery`]  | carries one message to Microsoft 365 and says how it went                |
//! | [`limits`]    | what Microsoft allows, and how the relay keeps to it                      |
//! | [`identity`]  | tenant credentials become access tokens                                  |
//! | [`network`]   | HTTP clients to the clouds: TLS, timeouts                                |
//! | [`bounce`]    | delivery status notifications                                            |
//! | [`admin`]     | metrics and health over HTTP                                             |
//! | [`telemetry`] | metric families with typed labels                                        |
//! | [`relay`]     | puts the rooms together and takes them apart again                       |
//! | [`background`] | threads of lower priority, for what delivers                           |
//! | [`vital`]     | what the relay cannot do without, and hears of when it ends              |
//! | [`cli`]       | one file a subcommand                                                    |

#![forbid(unsafe_code)]

pub mod admin;
pub mod background;
pub mod bounce;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod faults;
pub mod fingerprint;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod identity;
pub mod ingress;
pub mod limits;
pub mod network;
pub mod relay;
pub mod schedule;
pub mod telemetry;
pub mod vital;
