//! A parsed request to the login service: its form, its directory, and who it claims to be.

use std::{collections::HashMap, sync::Arc};

use axum::response::Response;
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use super::{
    super::{
        errors::{LoginError, json_response},
        exchange::{Exchange, is_media_type},
        tenant::Tenant,
        urlencoded::{decode_percent, pairs},
        world::World,
    },
    refusals::{missing, unknown_directory},
};

/// A form that was posted to the login service.
pub(super) struct Request<'a> {
    pub(super) world: &'a World,
    pub(super) exchange: &'a Exchange,
    pub(super) form: HashMap<String, String>,
    pub(super) basic: Option<(String, String)>,
    /// The directory, as the URL names it.
    pub(super) name: &'a str,
    pub(super) tenant: Option<&'a Arc<Tenant>>,
}

impl<'a> Request<'a> {
    pub(super) fn read(
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

    /// An empty field counts as missing.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.form.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, LoginError> {
        self.field(name).ok_or_else(|| missing(name))
    }

    pub(super) fn client_id(&self) -> Result<&str, LoginError> {
        let basic = self.basic.as_ref().map(|(id, _)| id.as_str());
        basic.or(self.field("client_id")).ok_or_else(|| missing("client_id"))
    }

    /// The directory of the URL. `None`: the URL leaves it open.
    pub(super) fn directory(&self) -> Result<Option<&'a Arc<Tenant>>, LoginError> {
        if self.tenant.is_none() && !is_shared(self.name) {
            return Err(unknown_directory(self.name));
        }
        Ok(self.tenant)
    }
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

/// The first part of the path.
pub(super) fn directory_name(exchange: &Exchange) -> String {
    let name = exchange.uri.path().trim_start_matches('/').split('/').next().unwrap_or_default();
    decode_percent(name, false)
}

/// Names that are not a directory: the user decides, or the application.
pub(super) fn is_shared(name: &str) -> bool {
    ["common", "organizations", "consumers"].iter().any(|shared| name.eq_ignore_ascii_case(shared))
}

pub(super) fn success(body: &Value) -> Response {
    let mut response = json_response(StatusCode::OK, body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-cache"));
    response
}
