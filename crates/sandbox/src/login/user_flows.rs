//! Logins of users: with a password (ROPC), with a device code, and continued with a refresh token.
//!
//! They get delegated permissions: those that both the user and the application have.

use std::sync::Arc;

use axum::response::Response;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::{
    super::{
        errors::LoginError,
        ids::uuid_of,
        store::GrantKind,
        tenant::Tenant,
        token::{Bearer, Wish},
    },
    client::{Flow, authenticate},
    discovery,
    refresh::Session,
    refusals::{bad, invalid_grant, unknown_application},
    request::{Request, is_shared, success},
    scopes::{Scopes, no_consent},
};
use crate::clock;

/// The resource owner password credentials grant.
pub(super) fn password(request: &Request<'_>) -> Result<Response, LoginError> {
    let id = request.client_id()?;
    let user = request.required("username")?;
    let password = request.required("password")?;
    let scope = request.required("scope")?;
    if is_shared(request.name) && !request.name.eq_ignore_ascii_case("organizations") {
        return Err(bad(
            "invalid_request",
            9001023,
            "The grant type is not supported over the /common or /consumers endpoints. Please use the /organizations or \
             tenant-specific endpoint.",
        ));
    }
    let tenant = match request.directory()? {
        Some(tenant) => tenant,
        None => request.world.tenants.iter().find(|tenant| tenant.accounts.has(user)).ok_or_else(|| {
            invalid_grant(50034, "The user account {EUII Hidden} does not exist in any directory.")
        })?,
    };
    admit(request, tenant, id)?;
    let threshold = request.world.options.logins.lockout_threshold;
    let user = tenant.accounts.check_password(user, password, &tenant.directory, threshold)?;
    let scopes = Scopes::of_user(scope, &request.world.url, &tenant.directory)?;
    let session = Session::begin(tenant.clone(), id, &user, scope);
    let refreshes = scopes.offline;
    Ok(respond(request, session, &scopes, refreshes, GrantKind::Password))
}

/// A poll of the device code flow.
pub(super) fn device_code(request: &Request<'_>) -> Result<Response, LoginError> {
    let id = request.client_id()?;
    let device_code = request.required("device_code")?;
    let world = request.world;
    let home = match request.directory()? {
        Some(tenant) => Some(tenant),
        None => world.tenants.iter().find(|tenant| tenant.directory.is_application(id)),
    };
    let home = home.ok_or_else(|| unknown_application(id, request.name))?;
    admit(request, home, id)?;
    let approval = world.logins.devices.poll(device_code, id)?;
    let tenant = approval.tenant;
    let scopes = Scopes::of_user(&approval.scope, &world.url, &tenant.directory)?;
    let session = Session::begin(tenant, id, &approval.user, &approval.scope);
    let refreshes = scopes.offline;
    Ok(respond(request, session, &scopes, refreshes, GrantKind::DeviceCode))
}

pub(super) fn refresh(request: &Request<'_>) -> Result<Response, LoginError> {
    let id = request.client_id()?;
    let token = request.required("refresh_token")?;
    let world = request.world;
    let rules = &world.options.logins;
    let asked = request.directory()?;
    if let Some(tenant) = asked {
        admit(request, tenant, id)?;
    }
    let tokens = &world.logins.refresh_tokens;
    let session = tokens.look(token, id, rules)?;
    let tenant = session.tenant.clone();
    match asked {
        None => admit(request, &tenant, id)?,
        Some(asked) if Arc::ptr_eq(asked, &tenant) => {}
        Some(_) => {
            let text = "Provided grant is invalid or malformed. It was issued for another directory.";
            return Err(invalid_grant(70000, text));
        }
    }
    tenant.accounts.check_session(&session.user, session.logged_in)?;
    // One refresh token serves all resources that were consented to.
    let scope = request.field("scope").unwrap_or(&session.scope).to_owned();
    let scopes = Scopes::of_user(&scope, &world.url, &tenant.directory)?;
    tokens.redeem(token, rules)?;
    Ok(respond(request, session, &scopes, true, GrantKind::RefreshToken))
}

/// Whether the application is known there, has been consented to, and is who it claims to be.
fn admit(request: &Request<'_>, tenant: &Arc<Tenant>, id: &str) -> Result<(), LoginError> {
    if !tenant.directory.is_application(id) {
        return Err(unknown_application(id, tenant.directory.name()));
    }
    authenticate(request, tenant, id, Flow::User)?;
    if tenant.accounts.consented() { Ok(()) } else { Err(no_consent(id)) }
}

fn respond(
    request: &Request<'_>,
    session: Session,
    scopes: &Scopes,
    refreshes: bool,
    kind: GrantKind,
) -> Response {
    let world = request.world;
    let lifetime = world.options.token_lifetime;
    let tenant = &session.tenant;
    let token = world.tokens.issue(Wish {
        tenant,
        client_id: &session.client_id,
        audience: scopes.audience,
        resource: &scopes.resource,
        bearer: Bearer::User { name: &session.user, scopes: scopes.permissions.clone() },
        lifetime,
    });
    world.store.count_token(kind);
    let mut body = json!({
        "token_type": "Bearer",
        "scope": scopes.granted.join(" "),
        "expires_in": lifetime.as_secs(),
        "ext_expires_in": lifetime.as_secs(),
        "access_token": token,
    });
    let directory = tenant.directory.id().to_string();
    let user = uuid_of(&session.user).to_string();
    if scopes.open_id {
        let now = clock::now().as_millis() / 1000;
        body["id_token"] = world
            .tokens
            .sign(&json!({
                "aud": session.client_id,
                "iss": format!("{}/{directory}/v2.0", discovery::base(world, request.exchange)),
                "iat": now,
                "nbf": now,
                "exp": now + lifetime.as_secs(),
                "name": session.user,
                "preferred_username": session.user,
                "oid": user,
                "sub": user,
                "tid": directory,
                "ver": "2.0",
            }))
            .into();
    }
    // Not documented; MSAL asks for it and tells accounts apart by it.
    if request.field("client_info") == Some("1") {
        let info = json!({ "uid": user, "utid": directory }).to_string();
        body["client_info"] = BASE64_URL_SAFE_NO_PAD.encode(info).into();
    }
    if refreshes {
        body["refresh_token"] = world.logins.refresh_tokens.issue(session, &world.options.logins).into();
    }
    success(&body)
}
