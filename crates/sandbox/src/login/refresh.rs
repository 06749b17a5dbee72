//! Refresh tokens. Each use of one gives another in its place.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use tokio::time::Instant;

use super::{
    super::{errors::LoginError, identities::LoginRules, store::lock, tenant::Tenant},
    refusals::{bad, invalid_grant},
};

#[derive(Default)]
pub(super) struct RefreshTokens(Mutex<HashMap<String, Session>>);

/// The login of a user that a refresh token continues.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) tenant: Arc<Tenant>,
    pub(super) client_id: String,
    pub(super) user: String,
    /// As it was first requested.
    pub(super) scope: String,
    pub(super) logged_in: Instant,
    issued: Instant,
    used: Option<Instant>,
}

impl Session {
    pub(super) fn begin(tenant: Arc<Tenant>, client_id: &str, user: &str, scope: &str) -> Self {
        let now = Instant::now();
        let client_id = client_id.to_owned();
        let user = user.to_owned();
        let scope = scope.to_owned();
        Self { tenant, client_id, user, scope, logged_in: now, issued: now, used: None }
    }
}

impl RefreshTokens {
    pub(super) fn issue(&self, session: Session, rules: &LoginRules) -> String {
        let token = format!("1.{}", BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 96]>()));
        let now = Instant::now();
        let mut sessions = lock(&self.0);
        if sessions.len() >= 1024 && sessions.len().is_power_of_two() {
            // Forgotten tokens are answered like unknown ones; the real service forgets too.
            sessions.retain(|_, session| session.issued + rules.refresh_lifetime > now);
        }
        sessions.insert(token.clone(), Session { issued: now, used: None, ..session });
        token
    }

    /// Returns the session, if the token still works for this application. The token continues to work.
    pub(super) fn look(
        &self,
        token: &str,
        client_id: &str,
        rules: &LoginRules,
    ) -> Result<Session, LoginError> {
        let sessions = lock(&self.0);
        let session = usable(sessions.get(token), rules)?;
        if !session.client_id.eq_ignore_ascii_case(client_id) {
            let text = "Provided grant is invalid or malformed. It was issued to another application.";
            return Err(invalid_grant(70000, text));
        }
        Ok(session.clone())
    }

    /// Uses the token up, unless another request did so meanwhile.
    pub(super) fn redeem(&self, token: &str, rules: &LoginRules) -> Result<(), LoginError> {
        let mut sessions = lock(&self.0);
        usable(sessions.get(token), rules)?;
        if let Some(session) = sessions.get_mut(token) {
            session.used.get_or_insert_with(Instant::now);
        }
        Ok(())
    }
}

fn usable<'a>(session: Option<&'a Session>, rules: &LoginRules) -> Result<&'a Session, LoginError> {
    let session = session
        .ok_or_else(|| bad("invalid_grant", 9002313, "Invalid request. Request is malformed or invalid."))?;
    let now = Instant::now();
    if session.issued + rules.refresh_lifetime <= now {
        return Err(invalid_grant(
            700082,
            "The refresh token has expired due to inactivity. The token was inactive for longer than it is kept.",
        ));
    }
    // It is not known what the real service answers about a token that it no longer accepts after its use.
    if session.used.is_some_and(|used| used + rules.refresh_grace <= now) {
        return Err(invalid_grant(
            70008,
            "The provided authorization code or refresh token has expired due to inactivity. Send a new interactive \
             authorization request for this user and resource.",
        ));
    }
    Ok(session)
}
