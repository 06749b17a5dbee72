//! `GET /{directory}/v2.0/adminconsent`: an administrator agrees that the application may do what it is
//! registered for.
//!
//! Anybody who opens the URL is the administrator here, and agrees by opening it.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    super::{
        errors::LoginError,
        exchange::{Exchange, Outcome},
        page::Escaped,
        token::Audience,
        urlencoded::pairs,
        world::World,
    },
    refusals::{bad, missing, unknown_application, unknown_directory},
    request::{directory_name, is_shared},
};

pub(crate) fn ask(world: &World, exchange: &mut Exchange) -> Outcome {
    let answered = answer(world, exchange);
    Outcome::Answer(answered.unwrap_or_else(|error| {
        let number = error.number.map(|number| format!("AADSTS{number}: ")).unwrap_or_default();
        page(
            error.status,
            "Sorry, but we’re having trouble signing you in.",
            &format!("{number}{}", error.message),
        )
    }))
}

/// An error is shown in the browser; the application is told by the redirect.
fn answer(world: &World, exchange: &mut Exchange) -> Result<Response, LoginError> {
    let query: Vec<(String, String)> = pairs(exchange.uri.query().unwrap_or_default()).collect();
    let field = |name: &str| {
        let found = query.iter().find(|(field, value)| field == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    };
    let required = |name: &str| field(name).ok_or_else(|| missing(name));
    let name = directory_name(exchange);
    let id = required("client_id")?;
    let tenant = match world.tenant(&name) {
        Some(tenant) => tenant,
        // "Don't use common": it does not say whose consent it would be.
        None if name.eq_ignore_ascii_case("organizations") => world
            .tenants
            .iter()
            .find(|tenant| tenant.directory.is_application(id))
            .ok_or_else(|| unknown_application(id, &name))?,
        None if is_shared(&name) => {
            let text = "Admin consent needs the name of a directory, or 'organizations'.";
            return Err(bad("invalid_request", 90014, text));
        }
        None => return Err(unknown_directory(&name)),
    };
    let directory = &tenant.directory;
    exchange.directory = Some(directory.name().to_owned());
    if !directory.is_application(id) {
        return Err(unknown_application(id, directory.name()));
    }
    let redirect = required("redirect_uri")?;
    let registered = &directory.redirect_uris;
    let is_url =
        ["https://", "http://localhost", "http://127.0.0.1"].iter().any(|start| redirect.starts_with(start));
    if !is_url || !(registered.is_empty() || registered.iter().any(|known| known == redirect)) {
        let text = format!(
            "The redirect URI '{redirect}' specified in the request does not match the redirect URIs configured for the \
             application '{id}'."
        );
        return Err(bad("invalid_request", 50011, text));
    }
    let scope = required("scope")?;
    let known = scope.split_ascii_whitespace().all(|one| {
        one.rsplit_once('/').is_some_and(|(resource, _)| Audience::of(resource, &world.url).is_some())
    });
    let directory_id = directory.id().to_string();
    let mut reply = vec![("admin_consent", "True"), ("tenant", directory_id.as_str())];
    if known {
        tenant.accounts.consent();
        reply.push(("scope", scope));
    } else {
        reply.push(("error", "invalid_scope"));
        reply.push((
            "error_description",
            "AADSTS70011: The provided value for the input parameter 'scope' is not valid.",
        ));
    }
    reply.extend(field("state").map(|state| ("state", state)));
    let reply: Vec<String> = reply
        .into_iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    let joint = if redirect.contains('?') { '&' } else { '?' };
    let target = HeaderValue::from_str(&format!("{redirect}{joint}{}", reply.join("&")))
        .map_err(|_| bad("invalid_request", 90014, "The redirect URI is not a URI."))?;
    let said = if known {
        "The application may now do what it asked for."
    } else {
        "The application asked for too much."
    };
    let mut response = page(StatusCode::FOUND, "Permissions requested", said);
    response.headers_mut().insert(header::LOCATION, target);
    Ok(response)
}

fn page(status: StatusCode, title: &str, text: &str) -> Response {
    let title = Escaped(title);
    let text = Escaped(text);
    let html = format!("<!doctype html><title>{title}</title><h1>{title}</h1><p>{text}</p>\n");
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
    ];
    (status, headers, html).into_response()
}
