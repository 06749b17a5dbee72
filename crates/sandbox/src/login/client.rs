//! Whether the application is the one that it claims to be.

use std::sync::Arc;

use http::StatusCode;

use super::{
    super::{errors::LoginError, tenant::Tenant},
    assertion::{Addressee, KIND},
    discovery,
    refusals::{bad, missing},
    request::Request,
};

/// For whom a token is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Application,
    User,
}

/// How the application proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// A public client has no proof.
    Nothing,
    Secret,
    Certificate,
    Federated,
}

/// Returns [`Proof::Nothing`] for user flows of a public client, and never otherwise.
pub(super) fn authenticate(
    request: &Request<'_>,
    tenant: &Arc<Tenant>,
    id: &str,
    flow: Flow,
) -> Result<Proof, LoginError> {
    let directory = &tenant.directory;
    let confidential = id.eq_ignore_ascii_case(&directory.client_id);
    let public = directory.public_client_id.as_ref().is_some_and(|public| id.eq_ignore_ascii_case(public));
    let takes_none = public && (flow == Flow::User || !confidential);
    let secret = request.basic.as_ref().map(|(_, secret)| secret.as_str()).or(request.field("client_secret"));
    let assertion = request.field("client_assertion");
    match (assertion, secret) {
        (None, None) if takes_none && flow == Flow::User => Ok(Proof::Nothing),
        (None, None) => {
            let text = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
            Err(invalid_client(7000218, text))
        }
        _ if takes_none => {
            let text =
                "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.";
            Err(invalid_client(700025, text))
        }
        (Some(assertion), _) => {
            let kind =
                request.field("client_assertion_type").ok_or_else(|| missing("client_assertion_type"))?;
            if kind != KIND {
                let text = "Invalid request. Request is malformed or invalid.";
                return Err(bad("invalid_request", 9002313, text));
            }
            let world = request.world;
            // It may be meant for a real login service although it was sent to a simulated one.
            let mut bases: Vec<String> = discovery::LOGIN_SERVICES.iter().map(ToString::to_string).collect();
            bases.extend(discovery::own_bases(&world.url));
            bases.push(discovery::base(world, request.exchange));
            let to = Addressee { directory, name: request.name, bases };
            let accepted = world.logins.assertions.check(assertion, id, &to, &world.options.logins)?;
            Ok(if accepted.federated { Proof::Federated } else { Proof::Certificate })
        }
        (None, Some(secret)) if directory.takes_secret(secret) => Ok(Proof::Secret),
        (None, Some(secret)) if directory.expired_secrets.iter().any(|expired| expired == secret) => {
            let text = format!(
                "The provided client secret keys for app '{id}' are expired. Visit the Azure portal to create new keys \
                 for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added \
                 security: https://aka.ms/certCreds."
            );
            Err(invalid_client(7000222, text))
        }
        (None, Some(_)) => {
            let text = format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
                 value, not the client secret ID, for a secret added to app '{id}'."
            );
            Err(invalid_client(7000215, text))
        }
    }
}

fn invalid_client(number: u32, message: impl Into<std::borrow::Cow<'static, str>>) -> LoginError {
    LoginError::new(StatusCode::UNAUTHORIZED, "invalid_client", number, message)
}
