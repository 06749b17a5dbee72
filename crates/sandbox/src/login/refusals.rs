//! Refusals that several grants have in common.

use std::borrow::Cow;

use http::StatusCode;

use super::super::errors::LoginError;

pub(super) fn bad(error: &'static str, number: u32, message: impl Into<Cow<'static, str>>) -> LoginError {
    LoginError::new(StatusCode::BAD_REQUEST, error, number, message)
}

pub(super) fn invalid_grant(number: u32, message: impl Into<Cow<'static, str>>) -> LoginError {
    bad("invalid_grant", number, message)
}

pub(super) fn missing(parameter: &str) -> LoginError {
    let message = format!("The request body must contain the following parameter: '{parameter}'.");
    bad("invalid_request", 900144, message)
}

pub(super) fn unknown_directory(name: &str) -> LoginError {
    let message = format!(
        "Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are signing into the correct \
         cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for \
         the tenant."
    );
    bad("invalid_request", 90002, message)
}

pub(super) fn unknown_application(id: &str, directory: &str) -> LoginError {
    let message = format!(
        "Application with identifier '{id}' was not found in the directory '{directory}'. This can happen if the \
         application has not been installed by the administrator of the tenant or consented to by any user in the \
         tenant. You may have sent your authentication request to the wrong tenant."
    );
    bad("unauthorized_client", 700016, message)
}
