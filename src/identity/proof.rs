//! How an application proves its identity in a request.

use zeroize::Zeroizing;

use super::{
    LoginContext, TokenError, assertion,
    endpoint::{self, Proved},
};
use crate::config::{ClientProof, SecretSource, Tenant};

/// Reads what the proof is made from, as it is now: secrets, certificates and tokens of other providers are
/// replaced while the relay runs.
pub(super) async fn prove(
    means: &LoginContext,
    tenant: &Tenant,
    proof: &ClientProof,
) -> Result<Proved, TokenError> {
    let proof = proof.clone();
    let client_id = tenant.client_id.clone();
    let audience = endpoint::url(tenant, "token");
    // Files are read here, and a file may be on a slow disk; signing takes a millisecond.
    let proved = tokio::task::spawn_blocking(move || prove_now(&proof, &client_id, &audience)).await;
    let (proved, not_after) = proved
        .map_err(|e| TokenError::defect(format!("the signing of the assertion was interrupted: {e}")))??;
    if let Some(not_after) = not_after {
        means.metrics.credential_expires(&tenant.name, not_after);
    }
    Ok(proved)
}

/// Returns the proof with the end of the certificate, in Unix time.
fn prove_now(
    proof: &ClientProof,
    client_id: &str,
    audience: &str,
) -> Result<(Proved, Option<i64>), TokenError> {
    match proof {
        ClientProof::Secret(source) => match source.read() {
            Ok(secret) => Ok((Proved::Secret(secret), None)),
            Err(error) => Err(TokenError::blocked(format!("client_secret: {error}"))),
        },
        ClientProof::Certificate(certificate) => {
            let read = certificate.read().map_err(|e| TokenError::blocked(format!("certificate: {e}")))?;
            let assertion = assertion::sign(&read, certificate.algorithm, client_id, audience)
                .map_err(|e| TokenError::blocked(format!("certificate: {e}")))?;
            Ok((Proved::Assertion(assertion), Some(read.not_after)))
        }
        ClientProof::Federated(path) => match SecretSource::File(path.clone()).read() {
            Ok(token) => Ok((Proved::Assertion(Zeroizing::new(token.expose().trim().to_owned())), None)),
            Err(error) => Err(TokenError::blocked(format!("federated_token_file: {error}"))),
        },
    }
}
