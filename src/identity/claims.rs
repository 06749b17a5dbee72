//! What an access token says about itself.
//!
//! Microsoft wants the sender of a token to treat it as opaque, and nothing here decides anything: it only
//! serves to advise people.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::AccessToken;

/// Not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClaims {
    /// Application permissions, such as `Mail.Send`.
    pub roles: Vec<String>,
    /// Delegated permissions.
    pub scopes: Vec<String>,
    /// The user's name, in a token on behalf of a user.
    pub user: Option<String>,
    pub app_id: Option<String>,
    pub tenant_id: Option<String>,
    pub audience: Option<String>,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    scp: String,
    upn: Option<String>,
    unique_name: Option<String>,
    preferred_username: Option<String>,
    appid: Option<String>,
    azp: Option<String>,
    tid: Option<String>,
    aud: Option<String>,
}

/// `None`: the token is not a JWT, or an encrypted one.
pub fn claims(token: &AccessToken) -> Option<TokenClaims> {
    let mut parts = token.expose().split('.');
    let _ = parts.next()?;
    let payload = parts.next()?;
    let _ = parts.next()?;
    if parts.next().is_some() {
        return None;
    }
    let payload = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?);
    let payload: Payload = serde_json::from_slice(&payload).ok()?;
    Some(TokenClaims {
        roles: payload.roles,
        scopes: payload.scp.split_ascii_whitespace().map(str::to_owned).collect(),
        user: payload.upn.or(payload.preferred_username).or(payload.unique_name),
        app_id: payload.appid.or(payload.azp),
        tenant_id: payload.tid,
        audience: payload.aud,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(payload: &str) -> Option<TokenClaims> {
        let jwt = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload));
        claims(&AccessToken::new(jwt, Duration::from_secs(60)))
    }

    #[test]
    fn an_applications_token_and_a_users() {
        let app = of(
            r#"{"aud":"https://graph.microsoft.com","appid":"a","tid":"t","roles":["Mail.Send","Mail.Read"]}"#,
        );
        let app = app.unwrap();
        assert_eq!((&app.roles[..], app.user), (&["Mail.Send".to_owned(), "Mail.Read".into()][..], None));
        assert_eq!((app.app_id.as_deref(), app.tenant_id.as_deref()), (Some("a"), Some("t")));
        let user = of(r#"{"aud":"x","azp":"a","scp":"Mail.Send SMTP.Send","upn":"u@contoso.com"}"#).unwrap();
        assert_eq!(
            (&user.scopes[..], user.roles.len()),
            (&["Mail.Send".to_owned(), "SMTP.Send".into()][..], 0)
        );
        assert_eq!((user.user.as_deref(), user.app_id.as_deref()), (Some("u@contoso.com"), Some("a")));
    }

    #[test]
    fn what_is_no_token_of_that_kind_has_none() {
        assert_eq!(of("not JSON"), None);
        for opaque in ["", "opaque", "a.b.c", "e30.e30", "e30.e30.a.b.c"] {
            assert_eq!(
                claims(&AccessToken::new(opaque.to_owned(), Duration::from_secs(60))),
                None,
                "{opaque}"
            );
        }
    }
}
