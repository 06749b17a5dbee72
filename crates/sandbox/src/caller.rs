//! The caller of Graph, once the call is allowed.

use std::sync::Arc;

use super::{
    limits::Permit,
    tenant::{Mailbox, Tenant},
    world::World,
};

/// A caller that may do what it asks, for as long as the call lasts.
pub(super) struct Caller<'a> {
    pub(super) world: &'a World,
    pub(super) tenant: Arc<Tenant>,
    pub(super) mailbox: Arc<Mailbox>,
    /// Whether its token may see more of a message than `Mail.ReadBasic` shows.
    pub(super) reads_bodies: bool,
    pub(super) _permit: Permit,
}
