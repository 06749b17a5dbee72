//! MSAL for Python, Microsoft's own library for logins, against the simulated login service: it must accept
//! what MSAL sends as it is, or the service is stricter than the real one.
//!
//! The relay has no part in this.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use relay_sandbox::{
    Directory, FederatedIdentity, Limits, LoginRules, ManagedIdentity, Options, RegisteredCertificate,
    Service, User,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::harness::TlsFront;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside_clients/msal/acquire.py");
const APP_KEY: &str = include_str!("../made_up_keys/app.key");
const APP: &str = include_str!("../made_up_keys/app.pem");
const OTHER_KEY: &str = include_str!("../made_up_keys/other.key");
const OTHER: &str = include_str!("../made_up_keys/other.pem");

const SECRET: &str = "s3cret~+&";
const USER: &str = "scanner@contoso.example";
const PASSWORD: &str = "pass wörd";
const ISSUER: &str = "https://cluster.example/oidc";
const SUBJECT: &str = "system:serviceaccount:mail:relay";
const MAIL_SEND: &str = "https://graph.microsoft.com/Mail.Send";
const SMTP_SEND: &str = "https://outlook.office.com/SMTP.Send";

/// The simulated service, behind TLS with the real service's name.
struct Login {
    service: Service,
    front: TlsFront,
    folder: TempDir,
    _runtime: Runtime,
}

impl Login {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let directory = Directory {
            certificates: vec![RegisteredCertificate { der: der(APP) }],
            federated: vec![FederatedIdentity::new(ISSUER, SUBJECT, public_key(OTHER))],
            public_client_id: Some("public-1".into()),
            managed_identities: vec![
                ManagedIdentity::system("machine"),
                ManagedIdentity::user_assigned("assigned"),
            ],
            users: vec![User::new(USER, PASSWORD)],
            roles: ["Mail.Send", "SMTP.SendAsApp"].map(Into::into).to_vec(),
            ..Directory::new("contoso.example", "app-1", SECRET)
        };
        let logins = LoginRules {
            device_interval: 1,
            arc_secrets: Some(folder.path().into()),
            ..LoginRules::default()
        };
        let limits = Limits::unthrottled();
        let options = Options { directories: vec![directory], logins, limits, ..Options::default() };
        let service = runtime.block_on(Service::start(options)).unwrap();
        let front = TlsFront::start(&["login.microsoftonline.com", "localhost"], service.address());
        std::fs::write(folder.path().join("ca.pem"), &front.ca).unwrap();
        Self { service, front, folder, _runtime: runtime }
    }

    fn python(&self, how: &str, mut options: Value) -> Command {
        options["how"] = how.into();
        options["front"] = self.front.address.port().into();
        options["ca"] = self.folder.path().join("ca.pem").to_str().unwrap().into();
        let mut command = Command::new(python());
        // No settings of the user who runs the tests: neither proxies nor the identities of a machine in the
        // cloud.
        command.env_clear().args(["-I", SCRIPT, &options.to_string()]);
        command
    }

    fn msal(&self, how: &str, options: Value) -> Vec<Value> {
        lines(self.python(how, options))
    }

    fn msal_with(&self, options: Value, environment: &[(&str, String)]) -> Value {
        let mut command = self.python("managed", options);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        lines(command).remove(0)
    }

    /// The requested paths, and how often each was requested.
    fn asked(&self) -> HashMap<String, usize> {
        let mut asked = HashMap::new();
        for call in self.service.calls() {
            let path = call.path.split('?').next().unwrap().to_owned();
            *asked.entry(path).or_default() += 1;
        }
        asked
    }
}

fn lines(mut command: Command) -> Vec<Value> {
    let output = command.output().unwrap();
    crate::assert_success(&output);
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Where scripts/test puts it: beside the folder that cargo gives to tests.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("msal/bin/python");
    assert!(python.is_file(), "MSAL is not in {}: scripts/test puts it there", python.display());
    python
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

fn public_key(pem: &str) -> Vec<u8> {
    X509Certificate::from_der(&der(pem)).unwrap().1.public_key().raw.to_vec()
}

/// The claims of the access token in an answer.
#[track_caller]
fn claims(answer: &Value) -> Value {
    let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let json = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// Tokens of the application for Graph and for Exchange, and the first one again.
#[track_caller]
fn assert_application_tokens(login: &Login, answers: &[Value]) {
    let [graph, exchange, again] = answers else { panic!("{answers:?}") };
    assert_eq!(claims(graph)["roles"], json!(["Mail.Send"]));
    assert_eq!(claims(exchange)["roles"], json!(["SMTP.SendAsApp"]));
    assert!(login.service.opens_smtp(exchange["access_token"].as_str().unwrap(), USER));
    assert_eq!((&again["token_source"], &again["access_token"]), (&"cache".into(), &graph["access_token"]));
}

#[test]
fn msal_logs_in_with_a_secret() {
    let login = Login::start();
    let answers = login.msal("application", json!({ "client_id": "app-1", "credential": SECRET }));
    assert_application_tokens(&login, &answers);
    assert_eq!(login.service.counts().tokens_by_grant.client_secret, 2);

    let wrong = login.msal("application", json!({ "client_id": "app-1", "credential": "wrong" })).remove(0);
    assert_eq!((&wrong["error"], &wrong["error_codes"]), (&"invalid_client".into(), &json!([7000215])));
}

#[test]
fn msal_logs_in_with_a_certificate() {
    let login = Login::start();
    let certificate = json!({ "private_key": APP_KEY, "public_certificate": APP });
    let answers = login.msal("application", json!({ "client_id": "app-1", "credential": certificate }));
    assert_application_tokens(&login, &answers);

    // One assertion for both tokens: that is why a used one is accepted again.
    let assertions = login.service.assertions();
    assert_eq!(assertions.iter().map(|one| one.reused).collect::<Vec<_>>(), [false, true]);
    assert_eq!((assertions[0].alg.as_str(), assertions[0].lifetime_seconds), ("PS256", 600));
    assert_eq!(assertions[0].header, ["alg", "typ", "x5c", "x5t#S256"]);

    let wrong = json!({ "private_key": OTHER_KEY, "public_certificate": OTHER });
    let wrong = login.msal("application", json!({ "client_id": "app-1", "credential": wrong })).remove(0);
    assert_eq!((&wrong["error"], &wrong["error_codes"]), (&"invalid_client".into(), &json!([700027])));
}

#[test]
fn msal_logs_in_with_a_thumbprint() {
    let login = Login::start();
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &der(APP));
    let thumbprint: String = hash.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
    let certificate = json!({ "private_key": APP_KEY, "thumbprint": thumbprint });
    let answers = login.msal("application", json!({ "client_id": "app-1", "credential": certificate }));
    assert_application_tokens(&login, &answers);
    assert_eq!(login.service.assertions()[0].header, ["alg", "typ", "x5t"]);
}

#[test]
fn msal_logs_in_at_a_port() {
    let login = Login::start();
    let certificate = json!({ "private_key": APP_KEY, "public_certificate": APP });
    let options = json!({ "client_id": "app-1", "credential": certificate });
    let answer = login.msal("application_at_a_port", options).remove(0);
    assert_eq!(claims(&answer)["appid"], "app-1");
}

#[test]
fn msal_logs_in_with_an_outside_issuers_token() {
    let login = Login::start();
    let issuer =
        |subject| json!({ "client_id": "app-1", "issuer": ISSUER, "subject": subject, "key": OTHER_KEY });
    assert_application_tokens(&login, &login.msal("application", issuer(SUBJECT)));
    assert_eq!(login.service.counts().tokens_by_grant.federated, 2);
    let wrong = login.msal("application", issuer("repo:contoso/mail")).remove(0);
    assert_eq!((&wrong["error"], &wrong["error_codes"]), (&"invalid_client".into(), &json!([700213])));
}

#[test]
fn msal_logs_a_user_in_and_keeps_the_login() {
    let login = Login::start();
    for directory in ["contoso.example", "organizations"] {
        let options = json!({
            "client_id": "public-1", "user": USER, "password": PASSWORD, "scopes": [SMTP_SEND], "directory": directory,
        });
        let answers = login.msal("password", options);
        let [wrong, first, second, third] = answers.as_slice() else { panic!("{answers:?}") };
        assert_eq!((&wrong["error"], &wrong["error_codes"]), (&"invalid_grant".into(), &json!([50126])));
        for answer in [first, second, third] {
            let shown = claims(answer);
            assert_eq!((&shown["scp"], &shown["upn"]), (&"SMTP.Send".into(), &USER.into()));
            assert!(login.service.opens_smtp(answer["access_token"].as_str().unwrap(), USER));
        }
        assert_eq!(first["id_token_claims"]["preferred_username"], USER);
    }
    let counts = login.service.counts().tokens_by_grant;
    assert_eq!((counts.password, counts.refresh_token), (2, 4));
    // It does ask first whether the password is sent elsewhere.
    assert!(login.asked().contains_key(&format!("/common/userrealm/{USER}")), "{:?}", login.asked());
}

#[test]
fn msal_is_told_that_a_refresh_token_is_used_up() {
    let login = Login::start();
    let options =
        json!({ "client_id": "public-1", "user": USER, "password": PASSWORD, "scopes": [MAIL_SEND] });
    let answers = login.msal("refresh", options);
    assert_eq!(claims(&answers[0])["scp"], "Mail.Send");
    assert_eq!(
        (&answers[1]["error"], &answers[1]["error_codes"]),
        (&"invalid_grant".into(), &json!([70008]))
    );
}

#[test]
fn msal_waits_for_a_user_elsewhere() {
    let login = Login::start();
    for (approve, directory) in [(true, "contoso.example"), (false, "contoso.example"), (true, "common")] {
        let options = json!({ "client_id": "public-1", "scopes": [MAIL_SEND], "directory": directory });
        let mut child = login.python("device", options).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let flow: Value = serde_json::from_str(&line).unwrap();
        let user_code = flow["user_code"].as_str().unwrap_or_else(|| panic!("{flow}"));
        let heard = if approve {
            login.service.approve_device(user_code, USER)
        } else {
            login.service.decline_device(user_code)
        };
        assert!(heard, "{flow}");
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().success(), "{rest}");
        let answer: Value = serde_json::from_str(&rest).unwrap();
        if approve {
            assert_eq!(
                (&claims(&answer)["scp"], &claims(&answer)["upn"]),
                (&"Mail.Send".into(), &USER.into())
            )
        } else {
            assert_eq!(answer["error"], "authorization_declined")
        }
    }
}

#[test]
fn msal_asks_a_virtual_machine() {
    let login = Login::start();
    let host = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", login.service.url())];
    let graph = json!({ "resource": "https://graph.microsoft.com" });
    let answer = login.msal_with(graph.clone(), &host);
    assert_eq!((&claims(&answer)["appid"], answer["expires_in"].as_u64()), (&"machine".into(), Some(3599)));

    let assigned = ManagedIdentity::user_assigned("assigned");
    for id in [
        json!({ "client_id": assigned.client_id }),
        json!({ "object_id": assigned.object_id }),
        json!({ "resource_id": assigned.resource_id }),
    ] {
        let mut options = graph.clone();
        options["assigned"] = id;
        assert_eq!(claims(&login.msal_with(options, &host))["appid"], "assigned");
    }
    let unknown = json!({ "resource": "https://graph.microsoft.com", "assigned": { "client_id": "nobody" } });
    assert_eq!(login.msal_with(unknown, &host)["error"], "invalid_request");
    assert_eq!(login.service.counts().tokens_by_grant.managed_identity, 4);
}

#[test]
fn msal_asks_app_service() {
    let login = Login::start();
    let endpoint = ("IDENTITY_ENDPOINT", format!("{}/msi/token", login.service.url()));
    let exchange = json!({ "resource": "https://outlook.office365.com" });
    let header = ("IDENTITY_HEADER", LoginRules::default().identity_header);
    let answer = login.msal_with(exchange.clone(), &[endpoint.clone(), header.clone()]);
    assert_eq!(claims(&answer)["roles"], json!(["SMTP.SendAsApp"]));
    let resource_id = ManagedIdentity::user_assigned("assigned").resource_id;
    let mut options = exchange.clone();
    options["assigned"] = json!({ "resource_id": resource_id });
    assert_eq!(claims(&login.msal_with(options, &[endpoint.clone(), header]))["appid"], "assigned");
    let refused = login.msal_with(exchange, &[endpoint, ("IDENTITY_HEADER", "wrong".into())]);
    assert!(refused["access_token"].is_null() && refused.to_string().contains("401"), "{refused}");
}

#[test]
fn msal_asks_an_arc_agent() {
    let login = Login::start();
    let endpoint = format!("{}/metadata/identity/oauth2/token", login.service.url());
    let environment = [("IDENTITY_ENDPOINT", endpoint), ("IMDS_ENDPOINT", login.service.url())];
    let folder = login.folder.path().to_str().unwrap();
    let graph = json!({ "resource": "https://graph.microsoft.com", "arc_secrets": folder });
    assert_eq!(claims(&login.msal_with(graph.clone(), &environment))["appid"], "machine");
    let mut assigned = graph;
    assigned["assigned"] = json!({ "client_id": "assigned" });
    assert_eq!(claims(&login.msal_with(assigned, &environment))["appid"], "assigned");
    // Each answered challenge removes its file.
    let left = std::fs::read_dir(folder).unwrap().filter(|entry| {
        entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "key")
    });
    assert_eq!(left.count(), 0);
}
