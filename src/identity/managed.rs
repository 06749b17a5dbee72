//! Managed identities: the machine's host gives out the tokens.
//!
//! Microsoft, "How to use managed identities for Azure resources on an Azure VM to acquire an access token",
//! "How to use managed identities for App Service and Azure Functions", "Authenticate against Azure resources
//! with Azure Arc-enabled servers". Never through the proxy.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use http::{
    HeaderValue,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use reqwest::Url;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};
use tracing::debug;
use zeroize::Zeroizing;

use super::{
    AccessToken, TokenError,
    endpoint::{self, Response, TIMEOUT},
};
use crate::config::{ManagedIdentity, TokenSource, UserAssigned};
use relay_mail::outside::one_line;

/// The waits before the host is asked again after 404, 410, 429 and 5xx: "exponential back-off, five tries",
/// all within the time allowed for a login.
const WAITS: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8), Duration::from_secs(14)];
/// The file of a challenge has some 100 octets; Microsoft's libraries read no more than this either.
const LARGEST_SECRET: u64 = 4096;

const SERVICE: &str = "of managed identities";

pub(super) async fn token(
    http: &reqwest::Client,
    identity: &ManagedIdentity,
    resource: &str,
) -> Result<AccessToken, TokenError> {
    let deadline = Instant::now() + TIMEOUT;
    let mut waits = WAITS.into_iter();
    loop {
        let asked = timeout_at(deadline, ask(http, identity, resource)).await;
        let response = asked.unwrap_or_else(|_| Err(late()))?;
        let error = match response.head.status.as_u16() {
            200..300 => return Ok(response.tokens(SERVICE)?.token),
            404 | 410 | 429 | 500.. => explain(&response, true),
            _ => return Err(explain(&response, false)),
        };
        let wait = waits.next().map(|wait| wait.max(error.retry_after));
        match wait.filter(|wait| Instant::now() + *wait < deadline) {
            None => return Err(error),
            Some(wait) => {
                debug!(
                    error = error.why,
                    wait = wait.as_secs_f64(),
                    "managed identity token not available yet"
                );
                sleep(wait).await;
            }
        }
    }
}

/// Makes one request, or two with Azure Arc.
async fn ask(
    http: &reqwest::Client,
    identity: &ManagedIdentity,
    resource: &str,
) -> Result<Response, TokenError> {
    let (url, version) = match &identity.source {
        TokenSource::Vm { url } => (url, "2018-02-01"),
        TokenSource::AppService { url, .. } => (url, "2019-08-01"),
        TokenSource::Arc { url, .. } => (url, "2020-06-01"),
    };
    let mut query = vec![("api-version", version), ("resource", resource)];
    let is_vm = matches!(identity.source, TokenSource::Vm { .. });
    query.extend(identity.user_assigned.as_ref().map(|user_assigned| match user_assigned {
        UserAssigned::ClientId(id) => ("client_id", &**id),
        UserAssigned::ObjectId(id) => ("object_id", &**id),
        UserAssigned::ResourceId(id) => (if is_vm { "msi_res_id" } else { "mi_res_id" }, &**id),
    }));
    let url = Url::parse_with_params(url, query)
        .map_err(|e| TokenError::blocked(format!("managed_identity: the endpoint is no URL: {e}")))?;
    let request = || http.get(url.clone()).header("Metadata", "true");
    match &identity.source {
        TokenSource::Vm { .. } => endpoint::send(request(), SERVICE).await,
        TokenSource::AppService { header, .. } => {
            let header = header.read().map_err(|e| TokenError::blocked(format!("managed_identity: {e}")))?;
            let header = sensitive(header.expose())?;
            endpoint::send(request().header("X-IDENTITY-HEADER", header), SERVICE).await
        }
        TokenSource::Arc { folder, .. } => {
            let challenge = endpoint::send(request(), SERVICE).await?;
            if challenge.head.status != 401 {
                return Ok(challenge);
            }
            let file = secret_file(&challenge, folder)?;
            let secret = spawn_blocking(move || read_secret(&file).map_err(|e| (file, e))).await;
            let secret =
                secret.map_err(|e| TokenError::defect(format!("the token request was interrupted: {e}")))?;
            let secret = secret.map_err(|(file, error)| {
                TokenError::blocked(format!(
                    "the secret of Azure Arc, {}, cannot be read: {error}; let the relay's user be in the group himds",
                    file.display()
                ))
            })?;
            let basic = sensitive(&Zeroizing::new(format!("Basic {}", secret.as_str())))?;
            endpoint::send(request().header(AUTHORIZATION, basic), SERVICE).await
        }
    }
}

/// The file that a challenge names: `Basic realm=/var/opt/azcmagent/tokens/….key`. A program that answers in
/// the agent's place must not get any other file sent to it.
fn secret_file(challenge: &Response, folder: &Path) -> Result<PathBuf, TokenError> {
    let refused = |why: &str| TokenError::blocked(format!("Azure Arc: the challenge {why}"));
    let header = challenge.head.headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
    let realm =
        header.and_then(|value| value.split_once("realm=")).map(|(_, realm)| realm.trim().trim_matches('"'));
    let file = PathBuf::from(realm.ok_or_else(|| refused("names no file"))?);
    if file.parent() != Some(folder) || file.extension().is_none_or(|extension| extension != "key") {
        return Err(refused(&format!("names a file that is not one of {}/*.key", folder.display())));
    }
    Ok(file)
}

fn read_secret(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(LARGEST_SECRET as usize + 1));
    // A link could lead out of the folder.
    if !path.symlink_metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    File::open(path)?.take(LARGEST_SECRET + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_SECRET {
        return Err(io::Error::other(format!("over {LARGEST_SECRET} bytes long")));
    }
    Ok(text)
}

fn sensitive(text: &str) -> Result<HeaderValue, TokenError> {
    let value = HeaderValue::from_str(text.trim_end());
    let mut value =
        value.map_err(|_| TokenError::blocked("managed_identity: the secret is no text for a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn explain(response: &Response, may_pass: bool) -> TokenError {
    let status = response.head.status.as_u16();
    let said = response.json::<serde_json::Value>().unwrap_or_default();
    let text = |key: &str| said.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    // App Service says `message`, the others do as OAuth does.
    let words = [text("error"), text("error_description"), text("message")];
    let words: Vec<_> = words.iter().filter(|word| !word.is_empty()).map(String::as_str).collect();
    let words = one_line(&words.join(": "), 300);
    let why = format!(
        "managed_identity: the host answers {status} ({words}): is an identity assigned to this machine, and the right one?"
    );
    let waits = response.refused(SERVICE).retry_after;
    let error = if may_pass { TokenError::transient(why) } else { TokenError::blocked(why) };
    TokenError { retry_after: waits, ..error }
}

fn late() -> TokenError {
    TokenError::transient("managed_identity: the host has not answered in time")
}
