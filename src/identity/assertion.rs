//! Assertions: JWTs that an application signs with its certificate's key.
//!
//! Microsoft, "Microsoft identity platform application authentication certificate credentials".

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use relay_mail::Timestamp;
use ring::{
    digest,
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding},
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::config::{AssertionAlgorithm, SigningCertificate};

/// In seconds. Entra ID wants five to ten minutes.
const LIFETIME: u64 = 600;

#[derive(Debug, thiserror::Error)]
#[error("the private key cannot sign")]
pub(super) struct CannotSign;

/// Signs an assertion for `audience`, which is the token URL, by the application `client_id`. It is dated by
/// the system's clock as it is now: once the clock has been corrected, its old time must not be used here.
pub(super) fn sign(
    certificate: &SigningCertificate,
    algorithm: AssertionAlgorithm,
    client_id: &str,
    audience: &str,
) -> Result<Zeroizing<String>, CannotSign> {
    let thumbprint = |by| BASE64_URL_SAFE_NO_PAD.encode(digest::digest(by, &certificate.certificate));
    let (header, padding): (_, &'static dyn RsaEncoding) = match algorithm {
        AssertionAlgorithm::Ps256 => {
            (json!({"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint(&digest::SHA256)}), &RSA_PSS_SHA256)
        }
        AssertionAlgorithm::Rs256 => (
            json!({"alg": "RS256", "typ": "JWT", "x5t": thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY)}),
            &RSA_PKCS1_SHA256,
        ),
    };
    let now = Timestamp::wall().as_millis() / 1000;
    let claims = json!({
        "aud": audience,
        "iss": client_id,
        "sub": client_id,
        "jti": uuid::Uuid::new_v4().to_string(),
        "iat": now,
        "nbf": now,
        "exp": now + LIFETIME,
    });
    let encoded = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encoded(&header), encoded(&claims));
    let mut signature = vec![0; certificate.key.public().modulus_len()];
    certificate
        .key
        .sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|_| CannotSign)?;
    Ok(Zeroizing::new(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))))
}
