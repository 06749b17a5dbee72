//! The token endpoint: chooses the grant, and serves the one of an application for itself.

use axum::{body::Body, response::Response};
use serde_json::json;

use super::{
    super::{
        errors::LoginError,
        exchange::{BodyError, Exchange, Outcome},
        fault_answers::with_faults,
        faults::On,
        store::GrantKind,
        token::{Bearer, Wish},
        world::World,
    },
    client::{Flow, Proof, authenticate},
    device,
    refusals::{bad, unknown_application},
    request::{Request, directory_name, success},
    scopes::Resource,
    user_flows,
};

/// Larger than any credential.
const MAX_FORM: usize = 64 << 10;

pub(crate) async fn answer(world: &World, exchange: &mut Exchange, body: Body) -> Outcome {
    let _busy = world.logins.load.enter();
    let name = directory_name(exchange);
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
        let request = Request::read(world, exchange, &form, &name, tenant.as_ref());
        let begins_device_flow = exchange.uri.path().ends_with("/devicecode");
        let answered = if begins_device_flow { device::begin(&request) } else { token(&request) };
        answered.unwrap_or_else(|error| error.into_response(exchange))
    })
    .await
}

fn token(request: &Request<'_>) -> Result<Response, LoginError> {
    match request.required("grant_type")? {
        "client_credentials" => application(request),
        "password" => user_flows::password(request),
        "refresh_token" => user_flows::refresh(request),
        device::GRANT_TYPE => user_flows::device_code(request),
        other => {
            let message = format!("The app requested an unsupported grant type '{other}'.");
            Err(bad("unsupported_grant_type", 70003, message))
        }
    }
}

fn application(request: &Request<'_>) -> Result<Response, LoginError> {
    let world = request.world;
    let id = request.client_id()?;
    let scope = request.required("scope")?;
    let tenant = request.directory()?.ok_or_else(|| {
        bad(
            "invalid_request",
            50059,
            "No tenant-identifying information found in either the request or implied by any provided credentials.",
        )
    })?;
    if !tenant.directory.is_application(id) || !tenant.accounts.consented() {
        return Err(unknown_application(id, tenant.directory.name()));
    }
    let proof = authenticate(request, tenant, id, Flow::Application)?;
    let resource = Resource::of_application(scope, &world.url)?;
    let token = world.tokens.issue(Wish {
        tenant,
        client_id: id,
        audience: resource.audience,
        resource: &resource.name,
        bearer: Bearer::Application,
        lifetime: world.options.token_lifetime,
    });
    world.store.count_token(match proof {
        Proof::Nothing | Proof::Secret => GrantKind::Secret,
        Proof::Certificate => GrantKind::Certificate,
        Proof::Federated => GrantKind::Federated,
    });
    let lifetime = world.options.token_lifetime.as_secs();
    Ok(success(&json!({
        "token_type": "Bearer",
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
        "access_token": token,
    })))
}
