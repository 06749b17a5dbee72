//! `POST /{directory}/oauth2/v2.0/token`: every grant of Entra ID that a mail program can use.
//!
//! Checks in the order of what is missing, then who asks, then what for. Answers in Entra's JSON. Where the real service has
//! been seen to answer with a number that Microsoft's list lacks, that number is here; where nothing is known, there is none.
//!
//! | file | what |
//! |---|---|
//! | `client`, `assertion`, `jwt` | is it the application |
//! | `scopes` | what is asked for |
//! | `user_flows`, `accounts`, `refresh`, `device` | logins of users: password, device code, refresh token |
//! | `managed` | identities of the machine: IMDS, App Service, Azure Arc |
//! | `discovery`, `consent` | what clients ask before they log in |

mod accounts;
mod assertion;
mod client;
mod consent;
mod device;
mod discovery;
mod jwt;
mod managed;
mod refresh;
mod scopes;
mod user_flows;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

pub use self::assertion::Assertion;
pub(super) use self::{
    accounts::Accounts, consent::ask as consent, discovery::answer as discovery, managed::answer as managed,
};
use self::{
    assertion::Assertions,
    client::{Flow, Proof, authenticate, basic_credentials},
    device::Devices,
    managed::ArcSecrets,
    refresh::RefreshTokens,
    scopes::Resource,
};
use super::{
    errors::{LoginError, json_response},
    exchange::{BodyError, Exchange, Outcome, is_media_type},
    fault_answers::with_faults,
    faults::On,
    store::GrantKind,
    token::{Bearer, Wish},
    urlencoded::{decode_percent, pairs},
    world::{Tenant, World},
};

/// Larger than any credential.
const MAX_FORM: usize = 64 << 10;

/// What the login service remembers between requests, besides its tokens.
#[derive(Default)]
pub(super) struct Logins {
    pub(super) assertions: Assertions,
    pub(super) devices: Devices,
    refresh_tokens: RefreshTokens,
    arc_secrets: ArcSecrets,
    pub(super) load: Load,
}

/// How many token requests are worked on at a time.
#[derive(Default)]
pub(super) struct Load {
    now: AtomicU32,
    peak: AtomicU32,
}

struct Busy<'a>(&'a Load);

/// A form that was posted to the login service.
struct Request<'a> {
    world: &'a World,
    exchange: &'a Exchange,
    form: HashMap<String, String>,
    basic: Option<(String, String)>,
    /// The directory, as the URL names it.
    name: &'a str,
    tenant: Option<&'a Arc<Tenant>>,
}

pub(super) async fn answer(world: &World, exchange: &mut Exchange, body: Body) -> Outcome {
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

/// The first part of the path.
fn directory_name(exchange: &Exchange) -> String {
    let name = exchange.uri.path().trim_start_matches('/').split('/').next().unwrap_or_default();
    decode_percent(name, false)
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

impl<'a> Request<'a> {
    fn read(
        world: &'a World,
        exchange: &'a Exchange,
        form: &[u8],
        name: &'a str,
        tenant: Option<&'a Arc<Tenant>>,
    ) -> Self {
        let form = match std::str::from_utf8(form) {
            Ok(text) if is_media_type(exchange, "application/x-www-form-urlencoded") => pairs(text).collect(),
            _ => HashMap::new(),
        };
        Self { world, exchange, form, basic: basic_credentials(exchange), name, tenant }
    }

    /// An empty field is none.
    fn field(&self, name: &str) -> Option<&str> {
        self.form.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, LoginError> {
        self.field(name).ok_or_else(|| missing(name))
    }

    fn client_id(&self) -> Result<&str, LoginError> {
        let basic = self.basic.as_ref().map(|(id, _)| id.as_str());
        basic.or(self.field("client_id")).ok_or_else(|| missing("client_id"))
    }

    /// The directory of the URL. `None`: the URL leaves it open.
    fn directory(&self) -> Result<Option<&'a Arc<Tenant>>, LoginError> {
        if self.tenant.is_none() && !is_shared(self.name) {
            return Err(unknown_directory(self.name));
        }
        Ok(self.tenant)
    }
}

impl Load {
    fn enter(&self) -> Busy<'_> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Busy(self)
    }

    pub(super) fn peak(&self) -> u32 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Names of no directory: the user decides, or the application.
fn is_shared(name: &str) -> bool {
    ["common", "organizations", "consumers"].iter().any(|shared| name.eq_ignore_ascii_case(shared))
}

fn success(body: &Value) -> Response {
    let mut response = json_response(StatusCode::OK, body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-cache"));
    response
}

fn bad(error: &'static str, number: u32, message: impl Into<Cow<'static, str>>) -> LoginError {
    LoginError::new(StatusCode::BAD_REQUEST, error, number, message)
}

fn invalid_grant(number: u32, message: impl Into<Cow<'static, str>>) -> LoginError {
    bad("invalid_grant", number, message)
}

fn missing(parameter: &str) -> LoginError {
    let message = format!("The request body must contain the following parameter: '{parameter}'.");
    bad("invalid_request", 900144, message)
}

fn unknown_directory(name: &str) -> LoginError {
    let message = format!(
        "Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are signing into the correct \
         cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for \
         the tenant."
    );
    bad("invalid_request", 90002, message)
}

fn unknown_application(id: &str, directory: &str) -> LoginError {
    let message = format!(
        "Application with identifier '{id}' was not found in the directory '{directory}'. This can happen if the \
         application has not been installed by the administrator of the tenant or consented to by any user in the \
         tenant. You may have sent your authentication request to the wrong tenant."
    );
    bad("unauthorized_client", 700016, message)
}
