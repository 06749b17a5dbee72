//! Access tokens: JSON Web Tokens that clients may read, and whose meaning this service remembers.
//!
//! The contents are for people and for diagnostics; only what is remembered counts, so a changed token is a
//! forged token.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    errors::GraphError,
    ids::{random_uuid, uuid_of},
    tenant::Tenant,
};
use crate::clock;

/// An expired token is remembered this long, so that it can be distinguished from a forged one.
const REMEMBER_EXPIRED: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub(super) struct Grant {
    pub(super) tenant: Arc<Tenant>,
    audience: Audience,
    /// Roles of an application, scopes of a user: those of the audience.
    permissions: Arc<[String]>,
    /// The user principal name, in lower case. `None`: the application itself.
    user: Option<String>,
    expires: Instant,
}

/// What a requested token should open, and for whom.
pub(super) struct Wish<'a> {
    pub(super) tenant: &'a Arc<Tenant>,
    pub(super) client_id: &'a str,
    pub(super) audience: Audience,
    /// The audience as it was requested.
    pub(super) resource: &'a str,
    pub(super) bearer: Bearer<'a>,
    pub(super) lifetime: Duration,
}

pub(super) enum Bearer<'a> {
    /// With all roles of the directory that belong to the audience.
    Application,
    User {
        name: &'a str,
        scopes: Vec<String>,
    },
}

/// The service that a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Audience {
    Graph,
    /// Exchange Online's SMTP, IMAP and EWS. Graph refuses its tokens.
    Exchange,
}

pub(super) struct Tokens {
    issued: RwLock<HashMap<String, Grant>>,
    key: hmac::Key,
}

impl Audience {
    /// From a scope without its `/.default`. `own` is this service's URL, which stands for Graph. The names
    /// of all national clouds are known, though no real cloud knows those of another.
    pub(super) fn of(resource: &str, own: &str) -> Option<Self> {
        let resource = resource.trim_end_matches('/').to_ascii_lowercase();
        let own_by_name = own.replace("//127.0.0.1:", "//localhost:");
        match resource.as_str() {
            "https://graph.microsoft.com"
            | "https://graph.microsoft.us"
            | "https://dod-graph.microsoft.us"
            | "https://microsoftgraph.chinacloudapi.cn"
            | "00000003-0000-0000-c000-000000000000" => Some(Self::Graph),
            "https://outlook.office365.com"
            | "https://outlook.office.com"
            | "https://outlook.office365.us"
            | "https://outlook-dod.office365.us"
            | "https://partner.outlook.cn"
            | "00000002-0000-0ff1-ce00-000000000000" => Some(Self::Exchange),
            other if other == own || other == own_by_name => Some(Self::Graph),
            _ => None,
        }
    }

    /// Whether that permission belongs to this service.
    pub(super) fn has(self, permission: &str) -> bool {
        let of_exchange = ["SMTP.", "IMAP.", "POP.", "EWS.", "Exchange.", "full_access_as_app"]
            .iter()
            .any(|family| permission.starts_with(family));
        of_exchange == (self == Self::Exchange)
    }
}

impl Grant {
    pub(super) fn has_role(&self, any_of: &[&str]) -> bool {
        self.permissions.iter().any(|role| any_of.contains(&role.as_str()))
    }

    /// Whether its holder may submit mail by SMTP as `mailbox`.
    pub(super) fn may_submit_as(&self, mailbox: &str) -> bool {
        let role = if self.user.is_some() { "SMTP.Send" } else { "SMTP.SendAsApp" };
        self.has_role(&[role]) && self.may_use(mailbox) && self.tenant.directory.mailboxes.has(mailbox)
    }

    /// A user's token is for the user's own mailbox: `Mail.Send.Shared` and the like do not exist here.
    pub(super) fn may_use(&self, mailbox: &str) -> bool {
        self.user.as_ref().is_none_or(|user| *user == mailbox.to_lowercase())
    }
}

impl Default for Tokens {
    fn default() -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        Self { issued: RwLock::default(), key }
    }
}

impl Tokens {
    pub(super) fn issue(&self, wish: Wish<'_>) -> String {
        let Wish { tenant, client_id, audience, resource, bearer, lifetime } = wish;
        let directory = &tenant.directory;
        let issued = clock::now().as_millis() / 1000;
        let id = directory.id();
        let mut claims = json!({
            "aud": resource,
            "iss": format!("https://sts.windows.net/{id}/"),
            "tid": id.to_string(),
            "appid": client_id,
            "iat": issued,
            "nbf": issued,
            "exp": issued + lifetime.as_secs(),
            "jti": random_uuid().to_string(),
            "ver": "1.0",
        });
        let (permissions, user) = match bearer {
            Bearer::Application => {
                let roles: Vec<String> =
                    tenant.roles().into_iter().filter(|role| audience.has(role)).collect();
                // An application without roles gets a token without the claim, and is refused where it
                // presents it.
                if !roles.is_empty() {
                    claims["roles"] = roles.clone().into();
                }
                claims["idtyp"] = "app".into();
                claims["oid"] = uuid_of(client_id).to_string().into();
                (roles, None)
            }
            Bearer::User { name, scopes } => {
                claims["scp"] = scopes.join(" ").into();
                claims["upn"] = name.into();
                claims["oid"] = uuid_of(name).to_string().into();
                (scopes, Some(name.to_lowercase()))
            }
        };
        let token = self.sign(&claims);
        let now = Instant::now();
        let grant = Grant {
            tenant: tenant.clone(),
            audience,
            permissions: permissions.into(),
            user,
            expires: now + lifetime,
        };
        let mut tokens = self.issued.write().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= 1024 && tokens.len().is_power_of_two() {
            tokens.retain(|_, grant| grant.expires + REMEMBER_EXPIRED > now);
        }
        tokens.insert(token.clone(), grant);
        token
    }

    /// Signs the claims as a JSON Web Token, with a key that dies with the service.
    pub(super) fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "typ": "JWT", "alg": "HS256" })), part(claims));
        let signature = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
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
        let tokens = self.issued.read().unwrap_or_else(PoisonError::into_inner);
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
