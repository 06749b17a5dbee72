//! `POST /{directory}/oauth2/v2.0/token`: the client-credentials grant with a secret.
//!
//! Checks in the order of what is missing, then who asks, then what for. Answers in Entra's JSON.

use std::{collections::HashMap, sync::Arc};

use axum::{body::Body, response::Response};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::{
    errors::{LoginError, json_response},
    faults::On,
    server::{BodyError, Exchange, Outcome, is_media_type, with_faults},
    token::Audience,
    urlencoded::{decode_percent, pairs},
    world::{Tenant, World},
};

/// Larger than any credential.
const MAX_FORM: usize = 64 << 10;

pub(super) async fn answer(world: &World, exchange: &mut Exchange, body: Body) -> Outcome {
    let name = exchange.uri.path().trim_start_matches('/').split('/').next().unwrap_or_default();
    let name = decode_percent(name, false);
    let tenant = world.tenant(&name).cloned();
    exchange.directory =
        Some(tenant.as_ref().map_or_else(|| name.clone(), |t| t.directory.name().to_owned()));
    let form = match exchange.read(body, MAX_FORM).await {
        Ok(form) => form,
        Err(BodyError::TooLarge) => Default::default(),
        Err(BodyError::Broken) => return Outcome::Cut,
    };
    let directory = tenant.as_ref().map(|t| &t.directory);
    with_faults(world, On::Token, directory, exchange, |exchange| {
        match grant(world, exchange, &form, &name, tenant.as_ref()) {
            Ok(response) => response,
            Err(error) => error.into_response(exchange),
        }
    })
    .await
}

fn grant(
    world: &World,
    exchange: &Exchange,
    form: &[u8],
    name: &str,
    tenant: Option<&Arc<Tenant>>,
) -> Result<Response, LoginError> {
    let form = match std::str::from_utf8(form) {
        Ok(text) if is_media_type(exchange, "application/x-www-form-urlencoded") => pairs(text).collect(),
        _ => HashMap::new(),
    };
    let basic = basic_credentials(exchange);
    let field = |name: &str| form.get(name).map(String::as_str).filter(|value| !value.is_empty());

    let grant_type = field("grant_type").ok_or_else(|| missing("grant_type"))?;
    if grant_type != "client_credentials" {
        let message = format!("The app requested an unsupported grant type '{grant_type}'.");
        return Err(LoginError::new(StatusCode::BAD_REQUEST, "unsupported_grant_type", 70003, message));
    }
    let id = basic.as_ref().map(|(id, _)| id.as_str()).or(field("client_id"));
    let id = id.ok_or_else(|| missing("client_id"))?;
    let scope = field("scope").ok_or_else(|| missing("scope"))?;
    let Some(tenant) = tenant else {
        let message = format!(
            "Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are signing into the \
             correct cloud. Check with your subscription administrator, this may happen if there are no active \
             subscriptions for the tenant."
        );
        return Err(LoginError::new(StatusCode::BAD_REQUEST, "invalid_request", 90002, message));
    };
    let directory = &tenant.directory;
    if !id.eq_ignore_ascii_case(&directory.client_id) {
        let message = format!(
            "Application with identifier '{id}' was not found in the directory '{}'. This can happen if the \
             application has not been installed by the administrator of the tenant or consented to by any user in the \
             tenant. You may have sent your authentication request to the wrong tenant.",
            directory.name()
        );
        return Err(LoginError::new(StatusCode::BAD_REQUEST, "unauthorized_client", 700016, message));
    }
    let secret = basic.as_ref().map(|(_, secret)| secret.as_str()).or(field("client_secret"));
    let Some(secret) = secret else {
        let message =
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
        return Err(LoginError::new(StatusCode::UNAUTHORIZED, "invalid_client", 7000218, message));
    };
    if secret != directory.client_secret {
        let message = format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, \
             not the client secret ID, for a secret added to app '{id}'."
        );
        return Err(LoginError::new(StatusCode::UNAUTHORIZED, "invalid_client", 7000215, message));
    }
    let token =
        world.tokens.issue(tenant.clone(), audience(scope, &world.url)?, world.options.token_lifetime);
    world.store.count_token();
    let lifetime = world.options.token_lifetime.as_secs();
    let body = json!({
        "token_type": "Bearer",
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
        "access_token": token,
    });
    let mut response = json_response(StatusCode::OK, &body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-cache"));
    Ok(response)
}

fn audience(scope: &str, own: &str) -> Result<Audience, LoginError> {
    let Some(resource) = scope.strip_suffix("/.default").filter(|r| !r.contains(' ')) else {
        let message = format!(
            "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with \
             /.default suffixed to the resource identifier (application ID URI)."
        );
        return Err(LoginError::new(StatusCode::BAD_REQUEST, "invalid_scope", 1002012, message));
    };
    Audience::of(resource, own).ok_or_else(|| {
        let message = format!(
            "The resource principal named {resource} was not found in the tenant. This can happen if the application \
             has not been installed by the administrator of the tenant or consented to by any user in the tenant."
        );
        LoginError::new(StatusCode::BAD_REQUEST, "invalid_resource", 500011, message)
    })
}

fn missing(parameter: &str) -> LoginError {
    let message = format!("The request body must contain the following parameter: '{parameter}'.");
    LoginError::new(StatusCode::BAD_REQUEST, "invalid_request", 900144, message)
}

/// RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
fn basic_credentials(exchange: &Exchange) -> Option<(String, String)> {
    let (scheme, encoded) = exchange.header("authorization")?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((decode_percent(id, true), decode_percent(secret, true)))
}
