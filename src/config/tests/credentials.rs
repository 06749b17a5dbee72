//! The keys of a tenant that say how it logs in.

use super::*;
use crate::config::{
    AssertionAlgorithm, ClientProof, Credential, ManagedIdentity, TokenSource, UserAssigned, UserGrant,
};

const CERTIFICATE: &str = include_str!("../../../tests/made_up_keys/app.pem");
const KEY: &str = include_str!("../../../tests/made_up_keys/app.key");

/// Any file with text in it that nobody can write to.
const TOKEN_FILE: &str = "/proc/version";

/// A tenant with these lines for its credential.
fn tenant(lines: &str) -> Result<Config, ConfigErrors> {
    let lines =
        lines.replace("CERTIFICATE", &format!("'''{CERTIFICATE}'''")).replace("KEY", &format!("'''{KEY}'''"));
    let lines = lines.replace("TOKEN_FILE", TOKEN_FILE);
    parse(&format!("{MINIMAL}{}", TENANT.replace("client_secret = \"s3cret\"", &lines)))
}

fn credential(lines: &str) -> Credential {
    let config = tenant(lines).unwrap_or_else(|errors| panic!("{lines}: {errors}"));
    config.tenants["contoso"].credential.clone()
}

/// The same without `client_id`.
fn managed(lines: &str) -> Result<Config, ConfigErrors> {
    let id = "client_id = \"11111111-2222-3333-4444-555555555555\"\n";
    parse(&format!("{MINIMAL}{}", TENANT.replace(id, "").replace("client_secret = \"s3cret\"", lines)))
}

#[test]
fn each_credential_is_read() {
    assert!(matches!(credential("client_secret = 's'"), Credential::App(ClientProof::Secret(_))));
    let app = credential("grant = 'client_credentials'\nclient_secret = 's'");
    assert!(matches!(app, Credential::App(ClientProof::Secret(_))));
    let Credential::App(ClientProof::Certificate(certificate)) =
        credential("certificate = CERTIFICATE\nprivate_key = KEY")
    else {
        panic!("not a certificate")
    };
    assert_eq!((certificate.algorithm, certificate.password), (AssertionAlgorithm::Ps256, None));
    let lines = "certificate = CERTIFICATE\nprivate_key = KEY\nassertion_algorithm = 'RS256'";
    assert_eq!(credential(lines).certificate().map(|c| c.algorithm), Some(AssertionAlgorithm::Rs256));
    let federated = credential("federated_token_file = 'TOKEN_FILE'");
    assert_eq!(federated, Credential::App(ClientProof::Federated(TOKEN_FILE.into())));

    let Credential::User { grant: UserGrant::Password { username, .. }, proof: None } =
        credential("grant = 'password'\nusername = 'u@contoso.com'\npassword = 'p'")
    else {
        panic!("not a password")
    };
    assert_eq!(username, "u@contoso.com");
    let lines = "grant = 'password'\nusername = 'u@contoso.com'\npassword = 'p'\nclient_secret = 's'";
    assert!(matches!(credential(lines), Credential::User { proof: Some(ClientProof::Secret(_)), .. }));
    let stored = Credential::User { grant: UserGrant::RefreshToken { first: None }, proof: None };
    assert_eq!(credential("grant = 'refresh_token'"), stored);
    let first = credential("grant = 'refresh_token'\nrefresh_token = 't'");
    assert!(matches!(first, Credential::User { grant: UserGrant::RefreshToken { first: Some(_) }, .. }));
}

#[test]
fn a_managed_identity_needs_no_application() {
    let of = |lines: &str| {
        let config = managed(lines).unwrap_or_else(|errors| panic!("{lines}: {errors}"));
        let tenant = config.tenants["contoso"].clone();
        let Credential::ManagedIdentity(identity) = &tenant.credential else {
            panic!("{:?}", tenant.credential)
        };
        (tenant.client_id.clone(), identity.clone())
    };
    let vm = |url: &str| TokenSource::Vm { url: url.into() };
    let (id, identity) = of("managed_identity = { kind = 'vm' }");
    let imds = vm("http://169.254.169.254/metadata/identity/oauth2/token");
    assert_eq!((&*id, identity), ("", ManagedIdentity { source: imds, user_assigned: None }));
    let (id, identity) =
        of("managed_identity = { kind = 'vm', client_id = 'abc', endpoint = 'http://127.0.0.1:1/' }");
    let source = vm("http://127.0.0.1:1/metadata/identity/oauth2/token");
    let user_assigned = Some(UserAssigned::ClientId("abc".into()));
    assert_eq!((&*id, identity), ("abc", ManagedIdentity { source, user_assigned }));
    let (_, identity) =
        of("managed_identity = { kind = 'arc', arc_token_folder = '/a', endpoint = 'http://localhost:1/t' }");
    assert_eq!(identity.source, TokenSource::Arc { url: "http://localhost:1/t".into(), folder: "/a".into() });
    assert!(matches!(credential("managed_identity = false\nclient_secret = 's'"), Credential::App(_)));

    for (lines, key, part) in [
        ("managed_identity = 'vm'", "managed_identity", "write true"),
        ("managed_identity = { kind = 'azure' }", "managed_identity.kind", "not known here"),
        ("managed_identity = { kind = 'app-service' }", "managed_identity", "IDENTITY_ENDPOINT is not set"),
        (
            "managed_identity = { endpoint = 'http://identity.example' }",
            "managed_identity.endpoint",
            "write https",
        ),
        ("managed_identity = { kind = 'vm', client_id = 'a', object_id = 'b' }", "managed_identity", "twice"),
        ("managed_identity = { kind = 'arc', object_id = 'b' }", "managed_identity", "its own identity only"),
        ("managed_identity = { king = 'arc' }", "managed_identity.king", "did you mean kind?"),
        ("managed_identity = true\nclient_secret = 's'", "client_secret", "conflicts with managed_identity"),
        ("managed_identity = true\ngrant = 'password'", "grant", "conflicts with managed_identity"),
    ] {
        assert_error(managed(lines), &format!("tenants.contoso.{key}"), part);
    }
    assert_error(tenant("managed_identity = true"), "tenants.contoso.client_id", "user-assigned");
}

#[test]
fn a_tenant_has_exactly_one_credential() {
    for (lines, key, part) in [
        ("", "client_secret", "missing: write client_secret = "),
        (
            "grant = 'client_credentials'",
            "client_secret",
            "certificate, federated_token_file or managed_identity",
        ),
        (
            "certificate = CERTIFICATE\nprivate_key = KEY\nclient_secret = 's'",
            "certificate",
            "there is client_secret too",
        ),
        (
            "client_secret = 's'\nfederated_token_file = 'TOKEN_FILE'",
            "federated_token_file",
            "there is client_secret",
        ),
        ("client_secret = 's'\nprivate_key = KEY", "private_key", "has no effect without certificate"),
        (
            "client_secret = 's'\nassertion_algorithm = 'PS256'",
            "assertion_algorithm",
            "has no effect without certificate",
        ),
        ("client_secret = 's'\nusername = 'u'", "username", "is only for grant = \"password\""),
        (
            "client_secret = 's'\nrefresh_token = 't'",
            "refresh_token",
            "is only for grant = \"refresh_token\"",
        ),
        ("grant = 'refresh_token'\npassword = 't'", "password", "is only for grant = \"password\""),
        ("grant = 'password'\nusername = 'u'", "password", "missing: write password = "),
        ("grant = 'password'\npassword = 'u'", "username", "missing: write username = "),
        ("grant = 'pasword'\nclient_secret = 's'", "grant", "did you mean \"password\"?"),
        ("certificate = CERTIFICATE", "certificate", "has no private key"),
        (
            "certificate = CERTIFICATE\nprivate_key = { file = '/no/key' }",
            "private_key",
            "/no/key cannot be read",
        ),
        (
            "certificate = CERTIFICATE\nprivate_key = KEY\ncertificate_password = 'x'",
            "certificate_password",
            "remove",
        ),
        (
            "certificate = CERTIFICATE\nprivate_key = KEY\nassertion_algorithm = 'ES256'",
            "assertion_algorithm",
            "PS256",
        ),
        ("federated_token_file = '/no/token'", "federated_token_file", "/no/token cannot be read"),
        (
            "client_secret = { credential = '../x' }",
            "client_secret.credential",
            "not the name of a systemd credential",
        ),
        ("client_secret = { credential = 'x', env = 'Y' }", "client_secret", "must name exactly one source"),
        ("client_secret = { credential = 'contoso' }", "client_secret", "LoadCredential=contoso:PATH"),
    ] {
        assert_error(tenant(lines), &format!("tenants.contoso.{key}"), part);
    }
}

#[test]
fn warnings_of_credentials() {
    umask_for_tests();
    let warnings = |lines: &str| -> Vec<String> {
        tenant(lines)
            .unwrap()
            .warnings
            .iter()
            .map(|warning| format!("{}: {}", warning.key, warning.message))
            .collect()
    };
    let password = warnings("grant = 'password'\nusername = 'u@contoso.com'\npassword = 'p'");
    assert!(
        password[0].starts_with("tenants.contoso.grant: a user's password works only until multi-factor"),
        "{password:?}"
    );
    assert!(password[0].contains("weeks"), "{password:?}");
    assert_eq!(warnings("client_secret = 's'"), [""; 0]);

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let open = file("open.key", KEY, 0o644);
    let closed = file("closed.key", KEY, 0o640);
    let certificate = file("c.pem", CERTIFICATE, 0o644);
    let both = file("both.pem", &format!("{CERTIFICATE}{KEY}"), 0o644);
    let pair = |key: &str| {
        warnings(&format!("certificate = {{ file = '{certificate}' }}\nprivate_key = {{ file = '{key}' }}"))
    };
    // A certificate alone is no secret.
    assert_eq!(pair(&closed), [""; 0]);
    assert!(pair(&open)[0].contains("open.key: chmod o-r"), "{:?}", pair(&open));
    let both = warnings(&format!("certificate = {{ file = '{both}' }}"));
    assert!(both[0].contains("both.pem: chmod o-r"), "{both:?}");

    let expired = include_str!("../../../tests/made_up_keys/app-expired.pem");
    let expired = file("expired.pem", expired, 0o644);
    let ended =
        warnings(&format!("certificate = {{ file = '{expired}' }}\nprivate_key = {{ file = '{closed}' }}"));
    assert!(ended[0].starts_with("tenants.contoso.certificate: the certificate has ended at "), "{ended:?}");
}

#[test]
fn tenants_can_be_compared() {
    let tenant_of = |lines: &str| tenant(lines).unwrap().tenants["contoso"].clone();
    assert_eq!(tenant_of("client_secret = 's'"), tenant_of("client_secret = 's'"));
    assert_ne!(tenant_of("client_secret = 's'"), tenant_of("client_secret = 't'"));
    assert_ne!(tenant_of("client_secret = 's'"), tenant_of("client_secret = 's'\nmax_queued = 7"));
}

#[test]
fn no_secret_is_shown_by_debug() {
    for lines in [
        "client_secret = 'T0p~Secret'",
        "certificate = CERTIFICATE\nprivate_key = KEY",
        "grant = 'password'\nusername = 'u@contoso.com'\npassword = 'T0p~Secret'",
        "grant = 'refresh_token'\nrefresh_token = 'T0p~Secret'",
    ] {
        let shown = format!("{:?}", tenant(lines).unwrap());
        assert!(!shown.contains("T0p~Secret") && !shown.contains("PRIVATE KEY"), "{shown}");
    }
}
