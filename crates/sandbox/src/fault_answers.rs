//! A call over HTTP as faults leave it: done or not, with the requested answer, or with none.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use super::{
    errors::{GraphError, LoginError, with_retry_after},
    exchange::{Exchange, Outcome},
    faults::{Action, FaultBody, On, StatusFault},
    options::Directory,
    world::World,
};

/// Applies the faults first, and does `act` unless they forbid it. `directory` is the caller's, as far as
/// known.
pub(super) async fn with_faults(
    world: &World,
    on: On,
    directory: Option<&Directory>,
    exchange: &mut Exchange,
    act: impl FnOnce(&mut Exchange) -> Response,
) -> Outcome {
    let struck = world.faults.strike(on, directory, exchange.mailbox.as_deref());
    let latency = match on {
        On::Token => world.options.login_latency,
        On::ManagedIdentity => Duration::ZERO,
        _ => world.options.latency,
    };
    let wait = struck.delay + latency;
    if !wait.is_zero() {
        // What `act` holds, such as a place among the concurrent calls, it also holds during this wait.
        tokio::time::sleep(wait).await;
    }
    match struck.then {
        // The last two are for SMTP, and are not accepted for a call.
        None | Some(Action::Delay(_) | Action::Reply(_) | Action::ReplyAfter(_)) => {
            Outcome::Answer(act(exchange))
        }
        Some(Action::Recipients(misreading)) => {
            exchange.misreading = Some(misreading);
            Outcome::Answer(act(exchange))
        }
        Some(Action::Status(fault)) => Outcome::Answer(respond(fault, on, exchange)),
        Some(Action::StatusAfter(fault)) => {
            act(exchange);
            Outcome::Answer(respond(fault, on, exchange))
        }
        Some(Action::CutBefore) => Outcome::Cut,
        Some(Action::CutAfter) => {
            act(exchange);
            Outcome::Cut
        }
    }
}

fn respond(mut fault: StatusFault, on: On, exchange: &Exchange) -> Response {
    let scope = fault.throttle_scope.take();
    let mut response = answer(fault, on, exchange);
    if let Some(scope) = scope.and_then(|scope| HeaderValue::from_str(&scope).ok()) {
        response.headers_mut().insert("x-ms-throttle-scope", scope);
    }
    response
}

fn answer(fault: StatusFault, on: On, exchange: &Exchange) -> Response {
    let status = StatusCode::from_u16(fault.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match fault.body {
        FaultBody::Empty => with_retry_after(status.into_response(), fault.retry_after),
        FaultBody::Html => {
            let page =
                format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>");
            let response = (status, [(header::CONTENT_TYPE, "text/html")], page).into_response();
            with_retry_after(response, fault.retry_after)
        }
        FaultBody::Service if matches!(on, On::Token | On::ManagedIdentity) => {
            let numbered = fault.message.strip_prefix("AADSTS").and_then(|rest| rest.split_once(": "));
            let (number, message) = match numbered {
                Some((number, text)) if number.parse::<u32>().is_ok() => {
                    (number.parse().ok(), text.to_owned())
                }
                _ => (None, fault.message.clone()),
            };
            LoginError {
                status,
                error: fault.error.into(),
                number,
                message: message.into(),
                retry_after: fault.retry_after,
            }
            .into_response(exchange)
        }
        FaultBody::Service => GraphError {
            retry_after: fault.retry_after,
            ..GraphError::new(status, fault.error, fault.message)
        }
        .into_response(exchange),
    }
}
