//! What clients ask before they log in: where the endpoints of a directory are, and which kind of user this
//! is.
//!
//! Microsoft's libraries accept `https` only, so the URLs in here are those of the proxy that stands before
//! this service and terminates TLS for it. They are taken from `X-Forwarded-Proto`, or else from the name in
//! `Host`, which is then not this service's own.

use axum::response::Response;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::{
    super::{
        errors::{LoginError, json_response},
        exchange::{Exchange, Outcome},
        urlencoded::{decode_percent, pairs},
        world::World,
    },
    refusals::{bad, missing, unknown_directory},
    request::{directory_name, is_shared},
};

pub(crate) fn answer(world: &World, exchange: &mut Exchange) -> Outcome {
    let path = exchange.uri.path().to_owned();
    let answered = match path.as_str() {
        "/common/discovery/instance" => instance(world, exchange),
        _ if path.starts_with("/common/userrealm/") => {
            Ok(json_response(StatusCode::OK, &realm(world, &path)))
        }
        // No client outside knows the key, so none is published: clients must not look into a token that they
        // cannot check.
        _ if path.ends_with("/keys") => Ok(json_response(StatusCode::OK, &json!({ "keys": [] }))),
        _ => configuration(world, exchange),
    };
    Outcome::Answer(answered.unwrap_or_else(|error| error.into_response(exchange)))
}

/// OpenID Connect Discovery.
fn configuration(world: &World, exchange: &mut Exchange) -> Result<Response, LoginError> {
    let name = directory_name(exchange);
    let tenant = world.tenant(&name);
    exchange.directory = tenant.map(|tenant| tenant.directory.name().to_owned());
    // With the GUID whatever the URL names, as the real service does.
    let (directory, issuer) = match tenant {
        Some(tenant) => (tenant.directory.id().to_string(), tenant.directory.id().to_string()),
        None if is_shared(&name) => (name.to_ascii_lowercase(), "{tenantid}".to_owned()),
        None => return Err(unknown_directory(&name)),
    };
    let base = base(world, exchange);
    let url = |what: &str| format!("{base}/{directory}/{what}");
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "issuer": format!("{base}/{issuer}/v2.0"),
            "authorization_endpoint": url("oauth2/v2.0/authorize"),
            "token_endpoint": url("oauth2/v2.0/token"),
            "device_authorization_endpoint": url("oauth2/v2.0/devicecode"),
            "jwks_uri": url("discovery/v2.0/keys"),
            "token_endpoint_auth_methods_supported":
                ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
        }),
    ))
}

/// Lists the known login services, and confirms the one in the request.
fn instance(world: &World, exchange: &Exchange) -> Result<Response, LoginError> {
    let query: Vec<(String, String)> = pairs(exchange.uri.query().unwrap_or_default()).collect();
    let endpoint = query.iter().find(|(name, _)| name == "authorization_endpoint").map(|(_, value)| value);
    let endpoint = endpoint.ok_or_else(|| missing("authorization_endpoint"))?;
    let path = endpoint.strip_prefix("https://").and_then(|rest| rest.split_once('/'));
    let base = base(world, exchange);
    let own = base.split_once("://").map_or("", |(_, host)| host);
    // MSAL for Python leaves ports out here.
    let is_known = |host: &str| host == own || Some(host) == own.split(':').next() || is_login_service(host);
    let Some((host, path)) = path.filter(|(host, _)| is_known(host)) else {
        return Err(bad("invalid_instance", 50049, "Unknown or invalid instance."));
    };
    let directory = path.split('/').next().unwrap_or_default();
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "tenant_discovery_endpoint": format!("https://{host}/{directory}/v2.0/.well-known/openid-configuration"),
            "api-version": "1.1",
            "metadata": [{
                "preferred_network": own,
                "preferred_cache": own,
                "aliases": [own],
            }],
        }),
    ))
}

/// MSAL asks before it sends a password: whether to send it here, or to a server of the organisation's own.
fn realm(world: &World, path: &str) -> Value {
    let user = decode_percent(path.rsplit('/').next().unwrap_or_default(), false);
    let domain = user.rsplit_once('@').map_or("", |(_, domain)| domain);
    match world.tenant(domain) {
        Some(_) => json!({
            "ver": "1.0",
            "account_type": "Managed",
            "domain_name": domain,
            "cloud_instance_name": "microsoftonline.com",
            "cloud_audience_urn": "urn:federation:MicrosoftOnline",
        }),
        None => json!({ "ver": "1.0", "account_type": "Unknown" }),
    }
}

/// `https://HOST` as the client sees this service.
pub(super) fn base(world: &World, exchange: &Exchange) -> String {
    let Some(host) = exchange.header(header::HOST.as_str()) else { return world.url.clone() };
    let plain = format!("http://{host}");
    let scheme = match exchange.header("x-forwarded-proto") {
        Some("https") => "https",
        Some("http") => "http",
        _ if own_bases(&world.url).contains(&plain) => "http",
        _ => "https",
    };
    format!("{scheme}://{host}")
}

/// The hosts of the login services.
pub(super) const LOGIN_SERVICES: [&str; 4] = [
    "https://login.microsoftonline.com",
    "https://login.microsoftonline.us",
    "https://login.partner.microsoftonline.cn",
    "https://login.chinacloudapi.cn",
];

fn is_login_service(host: &str) -> bool {
    LOGIN_SERVICES.iter().any(|base| base.strip_prefix("https://") == Some(host))
}

/// The bases by which this service calls itself.
pub(super) fn own_bases(url: &str) -> [String; 2] {
    [url.to_owned(), url.replace("//127.0.0.1:", "//localhost:")]
}
