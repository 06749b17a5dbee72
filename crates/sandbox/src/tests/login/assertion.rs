//! Certificates and outside issuers in place of a secret.

use ring::{
    digest,
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair},
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

const ISSUER: &str = "https://cluster.example/oidc";
const SUBJECT: &str = "system:serviceaccount:mail:relay";

const APP_KEY: &[u8] = include_bytes!("../../../../../tests/made_up_keys/app.key");
const APP: &[u8] = include_bytes!("../../../../../tests/made_up_keys/app.pem");
const EXPIRED: &[u8] = include_bytes!("../../../../../tests/made_up_keys/app-expired.pem");
const OTHER_KEY: &[u8] = include_bytes!("../../../../../tests/made_up_keys/other.key");
const OTHER: &[u8] = include_bytes!("../../../../../tests/made_up_keys/other.pem");

fn der(pem: &[u8]) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem).expect("a certificate").to_vec()
}

fn public_key(pem: &[u8]) -> Vec<u8> {
    let der = der(pem);
    X509Certificate::from_der(&der).expect("a certificate").1.public_key().raw.to_vec()
}

fn thumbprint(algorithm: &'static digest::Algorithm, pem: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &der(pem)))
}

fn directory() -> Directory {
    let registered = [APP, EXPIRED].map(|pem| RegisteredCertificate { der: der(pem) }).to_vec();
    let federated = vec![FederatedIdentity::new(ISSUER, SUBJECT, public_key(OTHER))];
    Directory { certificates: registered, federated, ..Directory::new(DOMAIN, "app-1", "s3cret+&") }
}

async fn lab() -> Lab {
    Lab::start(Options { directories: vec![directory()], ..options() }).await
}

/// A JSON Web Token under construction.
struct Token {
    header: Value,
    claims: Value,
    key: &'static [u8],
    padding: &'static dyn RsaEncoding,
}

impl Token {
    /// As Microsoft's document describes it.
    fn of_certificate(lab: &Lab) -> Self {
        let now = crate::clock::now().as_millis() / 1000;
        Self {
            header: json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint(&digest::SHA256, APP) }),
            claims: json!({
                "aud": format!("{}/{DOMAIN}/oauth2/v2.0/token", lab.service.url()),
                "iss": "app-1",
                "sub": "app-1",
                "jti": uuid::Uuid::new_v4().to_string(),
                "nbf": now,
                "iat": now,
                "exp": now + 600,
            }),
            key: APP_KEY,
            padding: &RSA_PSS_SHA256,
        }
    }

    fn of_issuer() -> Self {
        let now = crate::clock::now().as_millis() / 1000;
        Self {
            header: json!({ "alg": "RS256", "kid": "1" }),
            claims: json!({
                "aud": ["api://AzureADTokenExchange"],
                "iss": ISSUER,
                "sub": SUBJECT,
                "iat": now,
                "exp": now + 3600,
            }),
            key: OTHER_KEY,
            padding: &RSA_PKCS1_SHA256,
        }
    }

    fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    fn without(mut self, claim: &str) -> Self {
        self.claims.as_object_mut().expect("an object").remove(claim);
        self
    }

    /// Moves all times.
    fn later(mut self, seconds: i64) -> Self {
        for name in ["nbf", "iat", "exp"] {
            if let Some(time) = self.claims[name].as_i64() {
                self.claims[name] = (time + seconds).into();
            }
        }
        self
    }

    fn with_sha1(self) -> Self {
        let thumbprint = thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY, APP);
        let header = json!({ "alg": "RS256", "x5t": thumbprint });
        Self { header, padding: &RSA_PKCS1_SHA256, ..self }
    }

    fn text(&self) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&self.header), part(&self.claims));
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.key).expect("a key");
        let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).expect("an RSA key");
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(self.padding, &SystemRandom::new(), signed.as_bytes(), &mut signature).expect("a signature");
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    async fn send(&self, lab: &Lab) -> Answer {
        send(lab, &self.text()).await
    }
}

async fn send(lab: &Lab, assertion: &str) -> Answer {
    let form = format!(
        "grant_type=client_credentials&client_id=app-1&scope=https://graph.microsoft.com/.default\
         &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
         &client_assertion={assertion}"
    );
    lab.ask_token(DOMAIN, &form).await
}

#[track_caller]
fn assert_accepted(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test]
async fn a_certificate_logs_in_with_either_algorithm() {
    let lab = lab().await;
    let answer = Token::of_certificate(&lab).send(&lab).await;
    assert_accepted(&answer);
    assert_accepted(&Token::of_certificate(&lab).with_sha1().send(&lab).await);
    // Microsoft's own libraries pad the thumbprint, leave nbf out, and write fractions of seconds.
    let padded = format!("{}=", thumbprint(&digest::SHA256, APP));
    let now = crate::clock::now().as_millis() as f64 / 1000.0;
    let of_msal = Token::of_certificate(&lab).header("x5t#S256", padded).without("nbf");
    assert_accepted(&of_msal.claim("iat", now).claim("exp", now + 600.0).send(&lab).await);

    let assertions = lab.service.assertions();
    assert_eq!(assertions.len(), 3);
    assert_eq!((assertions[0].alg.as_str(), assertions[0].lifetime_seconds), ("PS256", 600));
    assert_eq!(assertions[0].header, ["alg", "typ", "x5t#S256"]);
    assert_eq!(assertions[1].header, ["alg", "x5t"]);
    assert!(assertions.iter().all(|one| !one.federated && !one.reused && one.directory == DOMAIN));
    assert_eq!(lab.service.counts().tokens_by_grant.certificate, 3);
}

#[tokio::test]
async fn an_assertion_is_for_this_directory_by_any_of_its_urls() {
    let lab = lab().await;
    let id = lab.service.0.world.tenants[0].directory.id();
    let port = lab.service.address().port();
    for accepted in [
        format!("{}/{id}/oauth2/v2.0/token", lab.service.url()),
        format!("http://localhost:{port}/{DOMAIN}/oauth2/v2.0/token"),
        format!("https://login.microsoftonline.com/{DOMAIN}/oauth2/v2.0/token"),
    ] {
        assert_accepted(&Token::of_certificate(&lab).claim("aud", accepted).send(&lab).await);
    }
    for refused in [
        format!("{}/fabrikam.example/oauth2/v2.0/token", lab.service.url()),
        format!("{}/{DOMAIN}/oauth2/token", lab.service.url()),
        format!("https://login.example/{DOMAIN}/oauth2/v2.0/token"),
        lab.service.url(),
    ] {
        let answer = Token::of_certificate(&lab).claim("aud", refused).send(&lab).await;
        assert_refused(&answer, 401, "invalid_client", 700023);
    }
}

#[tokio::test]
async fn each_way_to_get_a_certificates_assertion_wrong_has_its_number() {
    let lab = lab().await;
    let good = || Token::of_certificate(&lab);
    let sha256 = |pem| thumbprint(&digest::SHA256, pem);
    let cases = [
        ("another key", Token { key: OTHER_KEY, ..good() }, 700027),
        ("unregistered", Token { key: OTHER_KEY, ..good().header("x5t#S256", sha256(OTHER)) }, 700027),
        ("expired certificate", good().header("x5t#S256", sha256(EXPIRED)), 700027),
        ("the padding of RS256", Token { padding: &RSA_PKCS1_SHA256, ..good() }, 700027),
        ("the thumbprint of RS256", good().header("x5t#S256", Value::Null).header("x5t", sha256(APP)), 50027),
        ("no thumbprint", good().header("x5t#S256", Value::Null), 50027),
        ("no signature", good().header("alg", "none"), 5002730),
        ("a secret for a key", good().header("alg", "HS256"), 5002730),
        ("another type", good().header("typ", "at+jwt"), 50027),
        ("another application", good().claim("iss", "app-2").claim("sub", "app-2"), 700021),
        ("no subject", good().without("sub"), 50027),
        ("no issuer", good().without("iss"), 50027),
        ("no id", good().without("jti"), 50027),
        ("no end", good().without("exp"), 50027),
        ("no audience", good().without("aud"), 700023),
        ("expired", good().later(-600 - 301), 700024),
        ("not yet", good().later(300 + 60), 700024),
        ("too long", good().claim("exp", crate::clock::now().as_millis() / 1000 + 660), 700024),
    ];
    for (what, token, number) in cases {
        let answer = token.send(&lab).await;
        println!("{what}: {}", answer.body);
        assert_refused(&answer, 401, "invalid_client", number);
    }
    // Five minutes either way allow for the clocks.
    assert_accepted(&good().later(-600 - 240).send(&lab).await);
    assert_accepted(&good().later(299).send(&lab).await);
    assert_eq!(lab.service.assertions().len(), 2);
}

#[tokio::test]
async fn what_is_no_token_is_malformed() {
    let lab = lab().await;
    let text = Token::of_certificate(&lab).text();
    let (signed, _) = text.rsplit_once('.').expect("a signature");
    for malformed in ["x", "a.b.c", signed, &format!("{signed}."), &format!("{text}=")] {
        assert_refused(&send(&lab, malformed).await, 401, "invalid_client", 50027);
    }
    let form = format!(
        "grant_type=client_credentials&client_id=app-1&scope=https://graph.microsoft.com/.default&client_assertion={text}"
    );
    assert_refused(&lab.ask_token(DOMAIN, &form).await, 400, "invalid_request", 900144);
    let other =
        format!("{form}&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer");
    assert_refused(&lab.ask_token(DOMAIN, &other).await, 400, "invalid_request", 9002313);
}

#[tokio::test]
async fn an_id_stands_for_one_assertion() {
    let mut lab = lab().await;
    let first = Token::of_certificate(&lab);
    assert_accepted(&first.send(&lab).await);
    let id = first.claims["jti"].clone();
    let second = Token::of_certificate(&lab).claim("jti", id);
    assert_refused(&second.send(&lab).await, 401, "invalid_client", 50027);

    // PSS signs differently each time: the very same octets are needed.
    let same = Token::of_certificate(&lab).text();
    assert_accepted(&send(&lab, &same).await);
    assert_accepted(&send(&lab, &same).await);
    let reused: Vec<bool> = lab.service.assertions().iter().map(|one| one.reused).collect();
    assert_eq!(reused, [false, false, true]);

    let logins = LoginRules { assertions_once: true, ..LoginRules::default() };
    lab = Lab::start(Options { directories: vec![directory()], logins, ..options() }).await;
    let once = Token::of_certificate(&lab).text();
    assert_accepted(&send(&lab, &once).await);
    assert_refused(&send(&lab, &once).await, 401, "invalid_client", 50027);
}

#[tokio::test]
async fn a_long_life_can_be_allowed() {
    let logins = LoginRules { assertion_lifetime: None, ..LoginRules::default() };
    let lab = Lab::start(Options { directories: vec![directory()], logins, ..options() }).await;
    let day = crate::clock::now().as_millis() / 1000 + 86_400;
    assert_accepted(&Token::of_certificate(&lab).claim("exp", day).send(&lab).await);
}

#[tokio::test]
async fn an_outside_issuer_speaks_for_the_application() {
    let lab = lab().await;
    let answer = Token::of_issuer().send(&lab).await;
    assert_accepted(&answer);
    assert_accepted(&Token::of_issuer().claim("aud", "api://AzureADTokenExchange").send(&lab).await);
    // It is used until the issuer issues another one.
    let same = Token::of_issuer().text();
    assert_accepted(&send(&lab, &same).await);
    assert_accepted(&send(&lab, &same).await);
    assert!(lab.service.assertions().iter().all(|one| one.federated && one.alg == "RS256"));
    assert_eq!(lab.service.counts().tokens_by_grant.federated, 4);
}

#[tokio::test]
async fn each_way_to_get_an_outside_issuers_assertion_wrong_has_its_number() {
    let lab = lab().await;
    let good = Token::of_issuer;
    let cases = [
        ("another issuer", good().claim("iss", format!("{ISSUER}/")), 700211),
        ("another subject", good().claim("sub", "system:serviceaccount:mail:other"), 700213),
        ("another audience", good().claim("aud", "https://kubernetes.default.svc"), 700212),
        ("another key", Token { key: APP_KEY, ..good() }, 700027),
        ("another padding", Token { padding: &RSA_PSS_SHA256, ..good().header("alg", "PS256") }, 700027),
        ("expired", good().later(-3600 - 301), 700024),
        ("no end", good().without("exp"), 50027),
    ];
    for (what, token, number) in cases {
        let answer = token.send(&lab).await;
        println!("{what}: {}", answer.body);
        assert_refused(&answer, 401, "invalid_client", number);
    }
    let nobody = Directory { federated: Vec::new(), ..directory() };
    let lab = Lab::start(Options { directories: vec![nobody], ..options() }).await;
    assert_refused(&good().send(&lab).await, 401, "invalid_client", 70021);
}
