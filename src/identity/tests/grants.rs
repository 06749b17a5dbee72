//! Each way of proving an application's identity, against a service that is strict about it.

use std::fs;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::*;
use relay_sandbox::{FederatedIdentity, RegisteredCertificate, User, UserState};

pub(super) const CERTIFICATE: &str = include_str!("../../../tests/made_up_keys/app.pem");
pub(super) const KEY: &str = include_str!("../../../tests/made_up_keys/app.key");
const OTHER_CERTIFICATE: &str = include_str!("../../../tests/made_up_keys/other.pem");
const OTHER_KEY: &str = include_str!("../../../tests/made_up_keys/other.key");
const ISSUER: &str = "https://issuer.example";
const SUBJECT: &str = "system:serviceaccount:mail:relay";

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

/// A SubjectPublicKeyInfo.
fn public_key_of(pem: &str) -> Vec<u8> {
    let der = der(pem);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    certificate.public_key().raw.to_vec()
}

fn directory(name: &str) -> Directory {
    let user = |user: &str, state| User { state, ..User::new(format!("{user}@{name}.example"), "pass word") };
    Directory {
        certificates: vec![RegisteredCertificate { der: der(CERTIFICATE) }],
        federated: vec![FederatedIdentity::new(ISSUER, SUBJECT, public_key_of(OTHER_CERTIFICATE))],
        public_client_id: Some("public".into()),
        users: vec![
            user("relay", UserState::Fine),
            user("mfa", UserState::MfaRequired),
            user("blocked", UserState::Blocked),
            user("disabled", UserState::Disabled),
            user("old", UserState::PasswordExpired),
            user("locked", UserState::Locked),
        ],
        ..Directory::new(format!("{name}.example"), "app", "right-secret")
    }
}

pub(super) fn options() -> Options {
    Options { directories: NAMES.map(directory).into(), ..Options::default() }
}

pub(super) fn certificate_lines() -> String {
    format!("client_id = 'app'\ncertificate = '''{CERTIFICATE}'''\nprivate_key = '''{KEY}'''")
}

/// As an outside provider would write it.
fn federated_token(subject: &str) -> String {
    let now = relay_mail::Timestamp::wall().as_millis() / 1000;
    let claims = json!({
        "aud": ["api://AzureADTokenExchange"], "iss": ISSUER, "sub": subject, "iat": now, "exp": now + 3600,
    });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "RS256", "kid": "1"})), part(&claims));
    let key = PrivatePkcs8KeyDer::from_pem_slice(OTHER_KEY.as_bytes()).unwrap();
    let key = KeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_certificate_signs_an_assertion_of_its_own_for_each_request() {
    let bench = Bench::of(options(), &certificate_lines()).await;
    for audience in [Audience::Graph, Audience::Exchange] {
        assert!(bench.identity.token(bench.tenant("contoso"), audience).await.is_ok());
    }
    let assertions = bench.service.assertions();
    assert_eq!(assertions.len(), 2);
    for assertion in assertions {
        let header = ["alg", "typ", "x5t#S256"].map(String::from);
        assert_eq!((&*assertion.alg, &assertion.header[..]), ("PS256", &header[..]));
        assert_eq!((assertion.lifetime_seconds, assertion.reused, assertion.federated), (600, false, false));
    }
    let counts = bench.service.counts().tokens_by_grant;
    assert_eq!((counts.certificate, counts.client_secret), (2, 0));
    let shown = bench.metrics.render().unwrap();
    // 2120-01-01T00:00:00Z
    assert!(shown.contains(r#"credential_expiry_timestamp_seconds{tenant="contoso"} 4733510400"#), "{shown}");
}

#[tokio::test]
async fn ad_fs_gets_the_older_form() {
    let lines = certificate_lines() + "\nassertion_algorithm = 'RS256'";
    let bench = Bench::of(options(), &lines).await;
    assert!(bench.token("contoso").await.is_ok());
    let [assertion] = &bench.service.assertions()[..] else { panic!("not one") };
    let header = ["alg", "typ", "x5t"].map(String::from);
    assert_eq!((&*assertion.alg, &assertion.header[..]), ("RS256", &header[..]));
}

#[tokio::test]
async fn a_certificate_that_is_not_registered_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("c.pem", OTHER_CERTIFICATE), ("c.key", OTHER_KEY)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let place = folder.path().display();
    let lines = format!(
        "client_id = 'app'\ncertificate = {{ file = '{place}/c.pem' }}\nprivate_key = {{ file = '{place}/c.key' }}"
    );
    let bench = Bench::of(options(), &lines).await;
    let error = bench.token("contoso").await.unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Blocked);
    assert!(error.why.contains("upload the certificate to the app registration (AADSTS700027)"), "{error}");
    fs::remove_file(folder.path().join("c.key")).unwrap();
    let error = bench.token("fabrikam").await.unwrap_err();
    assert!(error.why.starts_with("certificate: ") && error.why.contains("c.key"), "{error}");
}

#[tokio::test]
async fn a_token_of_another_provider_is_read_at_each_login() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, federated_token(SUBJECT) + "\n").unwrap();
    let lines = format!("client_id = 'app'\nfederated_token_file = '{}'", file.display());
    let bench = Bench::of(options(), &lines).await;
    assert!(bench.token("contoso").await.is_ok());
    assert!(bench.service.assertions()[0].federated);
    fs::write(&file, federated_token("somebody-else")).unwrap();
    let error = bench.token("fabrikam").await.unwrap_err();
    assert!(error.why.contains("subject") && error.why.contains("federated_token_file"), "{error}");
}

#[tokio::test]
async fn a_users_password_opens_what_the_user_may() {
    let lines = "client_id = 'public'\ngrant = 'password'\nusername = 'relay@contoso.example'\npassword = 'pass word'";
    let bench = Bench::of(options(), lines).await;
    let token = bench.token("contoso").await.unwrap();
    let claims = claims(&token).unwrap();
    assert_eq!(claims.user.as_deref(), Some("relay@contoso.example"));
    assert!(claims.scopes.iter().any(|scope| scope == "Mail.Send"), "{claims:?}");
    assert_eq!(bench.service.counts().tokens_by_grant.password, 1);
    // Nothing is left behind that would open anything.
    assert!(!bench.folder.path().join("credentials").exists());
}

#[tokio::test]
async fn a_password_that_does_not_do_is_not_tried_again_soon() {
    for (user, minutes, part) in [
        ("relay", 60, "the username or the password is wrong (AADSTS50126)"),
        ("nobody", 60, "not in this directory"),
        ("locked", 60, "locked out"),
        ("old", 60, "password has expired"),
        ("disabled", 60, "disabled"),
        ("mfa", 1, "multi-factor"),
        ("blocked", 1, "Conditional Access"),
    ] {
        let password = if user == "relay" { "wrong" } else { "pass word" };
        let lines = format!(
            "client_id = 'public'\ngrant = 'password'\nusername = '{user}@contoso.example'\npassword = '{password}'"
        );
        let bench = Bench::of(options(), &lines).await;
        let error = bench.token("contoso").await.unwrap_err();
        assert_eq!(
            (error.kind, error.retry_after.as_secs()),
            (TokenErrorKind::Blocked, minutes * 60),
            "{user}: {error}"
        );
        assert!(error.why.contains(part), "{user}: {error}");
        bench.token("contoso").await.unwrap_err();
        assert_eq!(bench.requests(), 1, "{user}");
    }
}

#[tokio::test]
async fn whether_the_app_proves_itself_has_to_fit_its_registration() {
    let user = "grant = 'password'\nusername = 'relay@contoso.example'\npassword = 'pass word'";
    for (lines, expected) in [
        ("client_id = 'app'\nclient_secret = 'right-secret'", None),
        ("client_id = 'app'", Some("must authenticate")),
        ("client_id = 'public'\nclient_secret = 'right-secret'", Some("must not authenticate")),
    ] {
        let bench = Bench::of(options(), &format!("{lines}\n{user}")).await;
        let error = bench.token("contoso").await.err().map(|error| error.why);
        assert_eq!(error.is_some(), expected.is_some(), "{lines}: {error:?}");
        assert!(expected.is_none_or(|part| error.unwrap().contains(part)), "{lines}");
    }
}
