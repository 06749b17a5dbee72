//! The device code flow (RFC 8628): a code that a person types in elsewhere, and a client that asks whether
//! that has happened. Here, a test or a call of `/_sandbox/device` plays the person.

use std::sync::Arc;

use axum::response::Response;
use serde_json::json;

use super::{
    super::errors::LoginError,
    device_codes::interval,
    refusals::unknown_application,
    request::{Request, success},
};

pub(super) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// `POST /{directory}/oauth2/v2.0/devicecode`.
pub(super) fn begin(request: &Request<'_>) -> Result<Response, LoginError> {
    let world = request.world;
    let rules = &world.options.logins;
    let id = request.client_id()?;
    let scope = request.required("scope")?;
    let tenant = request.directory()?;
    let mut may_be_meant =
        world.tenants.iter().filter(|one| tenant.is_none_or(|tenant| Arc::ptr_eq(tenant, one)));
    if !may_be_meant.any(|tenant| tenant.directory.is_application(id)) {
        return Err(unknown_application(id, request.name));
    }
    let (device_code, user_code) = world.logins.devices.begin(tenant.cloned(), id, scope, rules);
    let page = "https://microsoft.com/devicelogin";
    Ok(success(&json!({
        "user_code": user_code,
        "device_code": device_code,
        "verification_uri": page,
        "expires_in": rules.device_code_lifetime.as_secs(),
        "interval": interval(rules),
        "message": format!(
            "To sign in, use a web browser to open the page {page} and enter the code {user_code} to authenticate."
        ),
    })))
}
