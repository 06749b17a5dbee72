//! Access tokens: opaque text that this service remembers the meaning of.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use tokio::time::Instant;

use super::{errors::GraphError, world::Tenant};

/// An expired token is remembered this long, so that it is told from a forged one.
const REMEMBER_EXPIRED: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub(super) struct Grant {
    pub(super) tenant: Arc<Tenant>,
    audience: Audience,
    expires: Instant,
}

/// The service that a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    Graph,
    /// Exchange Online's SMTP, IMAP and EWS. Graph refuses its tokens.
    Exchange,
}

#[derive(Default)]
pub(super) struct Tokens(RwLock<HashMap<String, Grant>>);

impl Audience {
    /// From a scope without its `/.default`. `own` is this service's URL, which stands for Graph.
    pub(super) fn of(resource: &str, own: &str) -> Option<Self> {
        let resource = resource.trim_end_matches('/').to_ascii_lowercase();
        let own_by_name = own.replace("//127.0.0.1:", "//localhost:");
        match resource.as_str() {
            "https://graph.microsoft.com" | "00000003-0000-0000-c000-000000000000" => Some(Self::Graph),
            "https://outlook.office365.com" | "https://outlook.office.com" => Some(Self::Exchange),
            other if other == own || other == own_by_name => Some(Self::Graph),
            _ => None,
        }
    }
}

impl Grant {
    /// Whether its holder may submit mail by SMTP as `mailbox`.
    pub(super) fn may_submit_as(&self, mailbox: &str) -> bool {
        self.has_role(&["SMTP.SendAsApp"]) && self.tenant.directory.mailboxes.has(mailbox)
    }

    pub(super) fn has_role(&self, any_of: &[&str]) -> bool {
        self.tenant.directory.roles.iter().any(|role| any_of.contains(&role.as_str()))
    }
}

impl Tokens {
    pub(super) fn issue(&self, tenant: Arc<Tenant>, audience: Audience, lifetime: Duration) -> String {
        let token = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 48]>());
        let now = Instant::now();
        let grant = Grant { tenant, audience, expires: now + lifetime };
        let mut tokens = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= 1024 && tokens.len().is_power_of_two() {
            tokens.retain(|_, grant| grant.expires + REMEMBER_EXPIRED > now);
        }
        tokens.insert(token.clone(), grant);
        token
    }

    /// The grant behind an `Authorization` header, if it opens Graph now.
    pub(super) fn check(&self, authorization: Option<&str>) -> Result<Grant, GraphError> {
        let token = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("Bearer") && !token.trim().is_empty())
            .map(|(_, token)| token.trim())
            .ok_or(GraphError::token("Access token is empty."))?;
        self.open(token, Audience::Graph)
    }

    /// The grant behind a token, if it opens Exchange Online now.
    pub(super) fn check_exchange(&self, token: &str) -> Result<Grant, GraphError> {
        self.open(token, Audience::Exchange)
    }

    fn open(&self, token: &str, audience: Audience) -> Result<Grant, GraphError> {
        let tokens = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let grant = tokens
            .get(token)
            .ok_or(GraphError::token("IDX14100: JWT is not well formed, or its signature is not ours."))?;
        if grant.audience != audience {
            return Err(GraphError::token("Access token validation failure. Invalid audience."));
        }
        if grant.expires <= Instant::now() {
            return Err(GraphError::token("Lifetime validation failed, the token is expired."));
        }
        Ok(grant.clone())
    }
}
