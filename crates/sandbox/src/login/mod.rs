//! `POST /{directory}/oauth2/v2.0/token`: every grant of Entra ID that a mail program can use.
//!
//! Checks first what is missing, then who asks, then what for. Answers in Entra's JSON. Where the real
//! service has been seen to answer with a number that Microsoft's list lacks, that number is here; where
//! nothing is known, there is none.
//!
//! | file | what |
//! |---|---|
//! | `grants` | the token endpoint |
//! | `request`, `refusals` | a posted form; refusals that grants have in common |
//! | `client`, `assertion`, `jwt` | whether it is the application |
//! | `scopes` | what is asked for |
//! | `user_flows`, `accounts`, `refresh` | logins of users: password, device code, refresh token |
//! | `device`, `device_codes` | the device code flow; codes that wait for their user |
//! | `managed`, `arc_secrets` | identities of the machine: IMDS, App Service, Azure Arc |
//! | `discovery`, `consent` | what clients ask before they log in |
//! | `logins` | what is remembered between requests |

pub(crate) mod accounts;
mod arc_secrets;
mod assertion;
mod client;
mod consent;
mod device;
mod device_codes;
mod discovery;
mod grants;
mod jwt;
pub(crate) mod logins;
mod managed;
mod refresh;
mod refusals;
mod request;
mod scopes;
mod user_flows;

pub use self::assertion::Assertion;
pub(super) use self::{
    consent::ask as consent, discovery::answer as discovery, grants::answer, managed::answer as managed,
};
