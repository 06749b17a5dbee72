//! The made-up keys, what an outside identity provider signs with one of them, and the login of another
//! program.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use relay_sandbox::FederatedIdentity;
use ring::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::Lab;

pub const APP: &str = include_str!("../made_up_keys/app.pem");
pub const APP_KEY: &str = include_str!("../made_up_keys/app.key");
/// The provider's certificate.
pub const OTHER: &str = include_str!("../made_up_keys/other.pem");
const OTHER_KEY: &str = include_str!("../made_up_keys/other.key");

const ISSUER: &str = "https://issuer.example";
const SUBJECT: &str = "system:serviceaccount:mail:relay";

pub fn certificate_der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

/// Makes the provider's tokens stand for the application.
pub fn federates() -> FederatedIdentity {
    let der = certificate_der(OTHER);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    FederatedIdentity::new(ISSUER, SUBJECT, certificate.public_key().raw.to_vec())
}

/// Returns the provider's token, valid for an hour.
pub fn federated_token() -> String {
    let now = relay_mail::Timestamp::wall().as_millis() / 1000;
    let claims = json!({
        "aud": ["api://AzureADTokenExchange"], "iss": ISSUER, "sub": SUBJECT, "iat": now, "exp": now + 3600,
    });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "RS256", "kid": "1"})), part(&claims));
    let key = PrivatePkcs8KeyDer::from_pem_slice(OTHER_KEY.as_bytes()).unwrap();
    let key = KeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// Returns a refresh token of `user` at that tenant, as another program would have obtained it. The tenant's
/// application is a public one.
pub fn first_token(lab: &Lab, tenant: &str, user: &str, password: &str) -> String {
    let scope = "https%3A%2F%2Fgraph.microsoft.com%2F.default+offline_access";
    let password = password.replace(' ', "+");
    let form = format!(
        "grant_type=password&client_id={tenant}-app&username={user}@{tenant}.example&password={password}&scope={scope}"
    );
    let mut stream = TcpStream::connect(lab.service.address()).unwrap();
    write!(
        stream,
        "POST /{tenant}.example/oauth2/v2.0/token HTTP/1.1\r\nHost: login\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["refresh_token"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
}
