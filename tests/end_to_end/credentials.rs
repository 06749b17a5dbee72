//! How tenants log in: each grant delivers mail, and no login trouble costs a message or an attempt.

use std::{fs, path::Path, time::Duration};

use relay_sandbox::{
    Action, Directory, Fault, LoginRules, ManagedIdentity, On, Options, RegisteredCertificate, StatusFault,
    User,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::{
    APP, APP_KEY, Lab, Setup, TenantSetup, certificate_der, federated_token, federates, first_token, message,
    private_umask,
};

const TO: &str = "b@example.net";
const PFX: &[u8] = include_bytes!("../made_up_keys/app.pfx");

fn sender(tenant: &str) -> String {
    format!("relay@{tenant}.example")
}

fn send(lab: &Lab, tenant: &str, subject: &str) {
    let from = sender(tenant);
    lab.send(&from, &[TO], &message(&from, TO, subject));
}

/// Accepts everything that a test logs in with.
fn open(options: &mut Options) {
    for directory in &mut options.directories {
        let name = directory.name().to_owned();
        directory.certificates = vec![RegisteredCertificate { der: certificate_der(APP) }];
        directory.federated = vec![federates()];
        directory.users = vec![User::new(format!("relay@{name}"), "pass word")];
    }
}

fn directory<'a>(options: &'a mut Options, tenant: &str) -> &'a mut Directory {
    let name = format!("{tenant}.example");
    options.directories.iter_mut().find(|directory| directory.name() == name).unwrap()
}

/// Makes the tenant's application a public client, for logins of users.
fn public(options: &mut Options, tenant: &str) {
    let directory = directory(options, tenant);
    directory.public_client_id = Some(directory.client_id.clone());
}

fn tenants(setup: &mut Setup, credentials: &[(&str, String)]) {
    setup.tenants = credentials
        .iter()
        .map(|(name, credential)| TenantSetup { credential: credential.clone(), ..TenantSetup::new(name) })
        .collect();
}

#[test]
fn each_credential_delivers_mail() {
    private_umask();
    // The folders that systemd and Azure Arc would have.
    let systemd = tempfile::tempdir().unwrap();
    let arc = tempfile::tempdir().unwrap();
    fs::write(systemd.path().join("by-systemd"), TenantSetup::secret("by-systemd")).unwrap();
    let arc_folder = arc.path().display().to_string();
    let credentials = [
        ("by-environment", "client_secret = { env = 'SECRET_OF_A_TENANT' }".into()),
        ("by-systemd", "client_secret = { credential = 'by-systemd' }".into()),
        ("certificate", "certificate = { file = 'app.pem' }\nprivate_key = { file = 'app.key' }".into()),
        ("pfx", "certificate = { file = 'app.pfx' }\ncertificate_password = 'pfx-password'".into()),
        ("federated", "federated_token_file = 'token'".into()),
        ("vm", "managed_identity = { kind = 'vm', endpoint = 'URL', client_id = 'of-vm' }".into()),
        ("app-service", "managed_identity = { endpoint = 'URL/msi/token', client_id = 'of-app' }".into()),
        (
            "arc",
            format!(
                "managed_identity = {{ kind = 'arc', endpoint = 'URL/metadata/identity/oauth2/token', \
                 arc_token_folder = '{arc_folder}' }}"
            ),
        ),
        (
            "password",
            "grant = 'password'\nusername = 'relay@password.example'\npassword = 'pass word'".into(),
        ),
        ("refresh-token", "grant = 'refresh_token'\nrefresh_token = { file = 'first' }".into()),
    ];
    let rules = LoginRules { arc_secrets: Some(arc.path().into()), ..LoginRules::default() };
    let identity_header = rules.identity_header.clone();
    let mut lab = Lab::without_relay(|setup| {
        tenants(setup, &credentials);
        setup.wrapper = vec![
            "env".into(),
            format!("SECRET_OF_A_TENANT={}", TenantSetup::secret("by-environment")),
            format!("CREDENTIALS_DIRECTORY={}", systemd.path().display()),
            "IDENTITY_ENDPOINT=http://127.0.0.1:1/".into(),
            format!("IDENTITY_HEADER={identity_header}"),
        ];
        setup.service = Box::new(move |options| {
            open(options);
            ["password", "refresh-token"].iter().for_each(|tenant| public(options, tenant));
            directory(options, "vm").managed_identities = vec![ManagedIdentity::user_assigned("of-vm")];
            directory(options, "app-service").managed_identities =
                vec![ManagedIdentity::user_assigned("of-app")];
            directory(options, "arc").managed_identities = vec![ManagedIdentity::system("of-arc")];
            options.logins = rules.clone();
        });
    });
    let write = |name: &str, octets: &[u8]| fs::write(lab.folder().join(name), octets).unwrap();
    write("app.pem", APP.as_bytes());
    write("app.key", APP_KEY.as_bytes());
    write("app.pfx", PFX);
    write("token", federated_token().as_bytes());
    write("first", first_token(&lab, "refresh-token", "relay", "pass word").as_bytes());
    lab.restart();
    for (tenant, _) in &credentials {
        send(&lab, tenant, tenant);
    }

    let mut delivered: Vec<_> = lab.wait_for(credentials.len()).iter().map(|m| m.subject.clone()).collect();
    delivered.sort();
    let mut expected = credentials.map(|(tenant, _)| tenant.to_owned());
    expected.sort();
    assert_eq!(delivered, expected);
    let by = lab.service.counts().tokens_by_grant;
    assert_eq!((by.client_secret, by.certificate, by.federated, by.managed_identity), (2, 2, 1, 3));
    // One of the passwords belongs to the test itself.
    assert_eq!((by.password, by.refresh_token), (2, 1));
    lab.wait_until_empty();
    let delivered = lab.wait_for_logs("message delivered", expected.len());
    assert!(delivered.iter().all(|entry| entry["attempt"] == 1));
    for tenant in ["certificate", "pfx"] {
        let ends = lab.metric("m365_relay_credential_expiry_timestamp_seconds", &[("tenant", tenant)]);
        // 2120-01-01T00:00:00Z
        assert_eq!(ends, 4_733_510_400.0, "{tenant}");
    }
    let warnings: Vec<_> = lab.log().into_iter().filter(|line| line.contains("multi-factor")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn tokens_that_end_again_and_again_cost_no_delivery() {
    let lab = Lab::with(|setup| setup.token_lifetime = Some(Duration::from_secs(3)));
    let mut smtp = lab.smtp();
    let begun = Instant::now();
    let from = "relay@contoso.example";
    let mut sent = 0;
    // Some four lives of a token.
    while begun.elapsed() < Duration::from_secs(12) {
        smtp.send(from, &[TO], &message(from, TO, &format!("{sent}")));
        sent += 1;
        lab.wait_for(sent);
    }
    lab.wait_until_empty();
    let outcomes = |labels: &[(&str, &str)]| lab.metric("m365_relay_deliveries_total", labels);
    assert_eq!((outcomes(&[]), outcomes(&[("outcome", "delivered")])), (sent as f64, sent as f64));
    let refreshed = lab.metric("m365_relay_token_refreshes_total", &[("result", "ok")]);
    assert!(refreshed >= 4.0, "{refreshed} of {sent}");
    assert_eq!(lab.metric("m365_relay_token_refreshes_total", &[]), refreshed);
    assert_eq!(lab.metric("m365_relay_tenant_blocked", &[]), 0.0);
}

#[test]
fn a_login_service_that_names_a_time_is_left_alone_until_then() {
    let lab = Lab::start();
    let busy = StatusFault::new(429, "temporarily_unavailable").retry_after("3");
    lab.inject(Fault::new(On::Token, Action::Status(busy)).for_directory("contoso.example").times(1));
    send(&lab, "contoso", "later");
    send(&lab, "fabrikam", "now");
    let subjects: Vec<_> = lab.wait_for(2).iter().map(|message| message.subject.clone()).collect();
    assert_eq!(subjects, ["now", "later"]);
    let calls = lab.service.calls();
    let asked: Vec<_> = calls
        .iter()
        .filter(|call| call.path.ends_with("/token") && call.directory.as_deref() == Some("contoso.example"))
        .map(|call| call.received_at_ms)
        .collect();
    assert!(asked.len() == 2 && asked[1] - asked[0] >= 3000, "{asked:?}");
    lab.wait_until_empty();
    assert!(lab.wait_for_logs("message delivered", 2).iter().all(|entry| entry["attempt"] == 1));
}

/// The service accepts none of them twice, and the process is killed after each delivery.
#[test]
fn refresh_tokens_outlive_the_process() {
    let credential = "grant = 'refresh_token'\nrefresh_token = { file = 'first' }";
    let mut lab = Lab::without_relay(|setup| {
        tenants(setup, &[("contoso", credential.into())]);
        setup.service = Box::new(|options| {
            open(options);
            public(options, "contoso");
        });
    });
    fs::write(lab.folder().join("first"), first_token(&lab, "contoso", "relay", "pass word")).unwrap();
    for n in 1..=4 {
        lab.restart();
        send(&lab, "contoso", &format!("{n}"));
        lab.wait_for(n);
        lab.wait_until_settled();
        lab.kill9();
    }
    assert_eq!(lab.service.counts().tokens_by_grant.refresh_token, 4);
    let stored = lab.folder().join("spool/credentials/contoso.json");
    let stored: Value = serde_json::from_slice(&fs::read(stored).unwrap()).unwrap();
    assert_ne!(stored["refresh_token"], fs::read_to_string(lab.folder().join("first")).unwrap());
}

/// A fix by the administrator while the relay runs is noticed within seconds, though a refusal holds for
/// minutes.
#[test]
fn a_certificate_that_is_replaced_is_used_at_once() {
    let other = |folder: &Path, name: &str, text: &str| {
        fs::write(folder.join("new"), text).unwrap();
        fs::rename(folder.join("new"), folder.join(name)).unwrap();
    };
    let both = |name: &str| {
        let read = |kind: &str| {
            let path =
                Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/made_up_keys/{name}.{kind}"));
            fs::read_to_string(path).unwrap()
        };
        read("pem") + &read("key")
    };
    private_umask();
    let folder: TempDir = tempfile::tempdir().unwrap();
    other(folder.path(), "both.pem", &both("other"));
    let credential = format!("certificate = {{ file = '{}' }}", folder.path().join("both.pem").display());
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").credential = credential;
        setup.service = Box::new(open);
    });
    send(&lab, "contoso", "waits");
    let blocked = [("tenant", "contoso"), ("reason", "credential")];
    lab.wait_for_metric("m365_relay_tenant_blocked", &blocked, 1.0);
    let said = lab.wait_for_log("tenant blocked");
    assert!(said["why"].as_str().unwrap().contains("AADSTS700027"), "{said:#?}");
    send(&lab, "fabrikam", "unhurt");
    assert_eq!(lab.wait_for(1)[0].subject, "unhurt");

    other(folder.path(), "both.pem", &both("app"));
    lab.wait_for(2);
    lab.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_tenant_blocked", &[]), 0.0);
    assert_eq!(lab.service.counts().tokens_by_grant.certificate, 1);
}

#[test]
fn three_hundred_tenants_that_wake_up_together_do_not_stampede() {
    const TENANTS: usize = 300;
    let names: Vec<String> = (0..TENANTS).map(|n| format!("t{n}")).collect();
    let lab = Lab::with(|setup| {
        setup.tenants = names.iter().map(|name| TenantSetup::new(name)).collect();
        setup.service = Box::new(|options| options.login_latency = Duration::from_millis(100));
    });
    let mut smtp = lab.smtp();
    for name in &names {
        let from = sender(name);
        smtp.send(&from, &[TO], &message(&from, TO, name));
    }
    lab.wait_for(TENANTS);
    let peak = lab.service.peak_logins();
    assert!((2..=64).contains(&peak), "{peak} logins at a time");
    assert_eq!(lab.service.counts().tokens, TENANTS as u64);
}
