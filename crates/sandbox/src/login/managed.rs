//! Tokens for the identities of the machine, without any secret of the application: the endpoints of a
//! virtual machine (IMDS), of App Service and of an Azure Arc agent, all at once.
//!
//! They use another protocol than the login service: by GET, with `resource` in place of `scope`, and with
//! numbers in quotes.

use std::{collections::HashMap, sync::Arc};

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::{
    super::{
        errors::json_response,
        exchange::{Exchange, Outcome},
        fault_answers::with_faults,
        faults::On,
        identities::ManagedIdentity,
        store::GrantKind,
        tenant::Tenant,
        token::{Audience, Bearer, Wish},
        urlencoded::pairs,
        world::World,
    },
    arc_secrets::NoProof,
    request::success,
};
use crate::clock;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    VirtualMachine,
    AppService,
    Arc,
}

struct Refusal {
    status: StatusCode,
    error: &'static str,
    message: String,
    /// For `WWW-Authenticate`.
    challenge: Option<String>,
}

pub(crate) async fn answer(world: &World, exchange: &mut Exchange) -> Outcome {
    let query: HashMap<String, String> = pairs(exchange.uri.query().unwrap_or_default()).collect();
    let host = match exchange.uri.path() {
        "/msi/token" => Host::AppService,
        _ if world.options.logins.arc_secrets.is_some() && version(&query) == Some("2020-06-01") => Host::Arc,
        _ => Host::VirtualMachine,
    };
    with_faults(world, On::ManagedIdentity, None, exchange, |exchange| {
        token(world, exchange, &query, host).unwrap_or_else(|refusal| refusal.into_response(host, exchange))
    })
    .await
}

fn token(
    world: &World,
    exchange: &mut Exchange,
    query: &HashMap<String, String>,
    host: Host,
) -> Result<Response, Refusal> {
    let field = |name: &str| query.get(name).map(String::as_str).filter(|value| !value.is_empty());
    admit(world, exchange, query, host)?;
    let resource = field("resource")
        .ok_or_else(|| Refusal::bad("invalid_request", "Required query variable 'resource' is missing"))?;
    let by_resource_id = if host == Host::AppService { "mi_res_id" } else { "msi_res_id" };
    let named: Vec<(&str, &str)> = ["client_id", "object_id", by_resource_id]
        .into_iter()
        .filter_map(|name| field(name).map(|value| (name, value)))
        .collect();
    let (tenant, identity) = match named.as_slice() {
        [] => default_identity(world),
        [(name, value)] => identities(world).find(|(_, identity)| {
            let id = match *name {
                "client_id" => &identity.client_id,
                "object_id" => &identity.object_id,
                _ => &identity.resource_id,
            };
            id.eq_ignore_ascii_case(value)
        }),
        _ => return Err(Refusal::bad("invalid_request", "Only one identity can be asked for")),
    }
    .ok_or_else(|| Refusal::bad("invalid_request", "Identity not found"))?;
    exchange.directory = Some(tenant.directory.name().to_owned());
    let audience = Audience::of(resource, &world.url).ok_or_else(|| {
        let text =
            format!("AADSTS500011: The resource principal named {resource} was not found in the tenant.");
        Refusal::bad("invalid_resource", text)
    })?;
    let lifetime = world.options.token_lifetime;
    let token = world.tokens.issue(Wish {
        tenant,
        client_id: &identity.client_id,
        audience,
        resource,
        bearer: Bearer::Application,
        lifetime,
    });
    world.store.count_token(GrantKind::ManagedIdentity);
    let now = clock::now().as_millis() / 1000;
    let expires = (now + lifetime.as_secs()).to_string();
    let mut body = json!({
        "access_token": token,
        "client_id": identity.client_id,
        "expires_on": expires,
        "resource": resource,
        "token_type": "Bearer",
    });
    if host != Host::AppService {
        let seconds = lifetime.as_secs().to_string();
        body["refresh_token"] = "".into();
        body["expires_in"] = seconds.clone().into();
        body["ext_expires_in"] = seconds.into();
        body["not_before"] = now.to_string().into();
    }
    if host == Host::Arc {
        // Agents that know user-assigned identities say which one it is.
        body["object_id"] = identity.object_id.clone().into();
        body["msi_res_id"] = identity.resource_id.clone().into();
    }
    Ok(success(&body))
}

/// Refuses requests that a program was tricked into making.
fn admit(
    world: &World,
    exchange: &Exchange,
    query: &HashMap<String, String>,
    host: Host,
) -> Result<(), Refusal> {
    let rules = &world.options.logins;
    let versions: &[&str] = match host {
        Host::AppService => {
            if exchange.header("x-identity-header") != Some(rules.identity_header.as_str()) {
                return Err(Refusal::new(
                    StatusCode::UNAUTHORIZED,
                    "unauthorized",
                    "The X-IDENTITY-HEADER is wrong",
                ));
            }
            &["2019-08-01"]
        }
        Host::VirtualMachine => &["2018-02-01", "2019-08-01", "2020-06-01", "2021-02-01"],
        Host::Arc => &["2020-06-01"],
    };
    if host != Host::AppService {
        let forwarded =
            ["via", "forwarded", "x-forwarded-for"].iter().any(|name| exchange.header(name).is_some());
        if forwarded || exchange.uri.authority().is_some() {
            return Err(Refusal::bad("invalid_request", "The request came by a proxy"));
        }
        if !exchange.header("metadata").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(Refusal::bad("bad_request_102", "Required metadata header not specified"));
        }
    }
    match version(query) {
        None => {
            return Err(Refusal::bad("invalid_request", "Required query variable 'api-version' is missing"));
        }
        Some(version) if !versions.contains(&version) => {
            return Err(Refusal::bad(
                "invalid_request",
                format!("The api-version '{version}' is not supported"),
            ));
        }
        Some(_) => {}
    }
    match &rules.arc_secrets {
        Some(folder) if host == Host::Arc => {
            let secret = exchange.header("authorization").and_then(|value| value.strip_prefix("Basic "));
            world.logins.arc_secrets.check(secret, folder).map_err(Refusal::no_proof)
        }
        _ => Ok(()),
    }
}

fn version(query: &HashMap<String, String>) -> Option<&str> {
    query.get("api-version").map(String::as_str)
}

fn identities(world: &World) -> impl Iterator<Item = (&Arc<Tenant>, &ManagedIdentity)> {
    world
        .tenants
        .iter()
        .flat_map(|tenant| tenant.directory.managed_identities.iter().map(move |identity| (tenant, identity)))
}

/// The machine's own identity, or else the only one that it has.
fn default_identity(world: &World) -> Option<(&Arc<Tenant>, &ManagedIdentity)> {
    identities(world).find(|(_, identity)| identity.system_assigned).or_else(|| {
        let mut all = identities(world);
        all.next().filter(|_| all.next().is_none())
    })
}

impl Refusal {
    fn new(status: StatusCode, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, error, message: message.into(), challenge: None }
    }

    fn bad(error: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, message)
    }

    fn no_proof(why: NoProof) -> Self {
        match why {
            NoProof::Wanted(file) => {
                let text = "Unauthorized: the secret in the file is needed";
                let challenge = Some(format!("Basic realm={}", file.display()));
                Self { challenge, ..Self::new(StatusCode::UNAUTHORIZED, "unauthorized", text) }
            }
            NoProof::NotWritten(file, error) => {
                let text = format!("{}: {error}", file.display());
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "unknown", text)
            }
        }
    }

    fn into_response(self, host: Host, exchange: &Exchange) -> Response {
        let body = match host {
            Host::AppService => json!({
                "statusCode": self.status.as_u16(),
                "message": self.message,
                "correlationId": exchange.request_id.to_string(),
            }),
            Host::VirtualMachine | Host::Arc => {
                json!({ "error": self.error, "error_description": self.message })
            }
        };
        let mut response = json_response(self.status, &body);
        if let Some(challenge) = self.challenge.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
