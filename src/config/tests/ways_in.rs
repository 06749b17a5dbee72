//! Listeners, TLS, proxies, users.

use super::*;

#[test]
fn one_listener_an_address() {
    let again = "[[smtp.listener]]\naddress = \"127.0.0.1:2525\"\n";
    assert_error(with(again), "smtp.listener[1]", "listed twice");
    assert_eq!(with(&again.repeat(2).replace("2525", "0")).unwrap().smtp.listeners.len(), 3);
}

#[test]
fn tls_of_a_listener() {
    umask_for_tests();
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    let chain = folder.path().join("relay.pem");
    let key = folder.path().join("relay.key");
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let load = |more: &str| Config::parse(&with_listener(more), &folder.path().join("config.toml"));
    let tls = |more: &str| load(more).unwrap().smtp.listeners[0].tls.clone();
    let pair = Certificate { chain, key };
    let files = "certificate = \"relay.pem\"\nkey = \"relay.key\"";
    assert_eq!(tls(""), ListenerTls::Off);
    assert_eq!(tls("tls = \"off\""), ListenerTls::Off);
    assert_eq!(tls(&format!("tls = \"starttls\"\n{files}")), ListenerTls::StartTls(pair.clone()));
    assert_eq!(tls(&format!("tls = \"implicit\"\n{files}")), ListenerTls::Implicit(pair));

    let certificate = "smtp.listener[0].certificate";
    let key = "smtp.listener[0].key";
    for (more, at, part) in [
        ("certificate = \"relay.pem\"", certificate, "has no effect without TLS"),
        ("tls = \"off\"\nkey = \"relay.key\"", key, "has no effect without TLS"),
        ("tls = \"starttls\"\nkey = \"relay.key\"", certificate, "missing: write certificate = "),
        ("tls = \"implicit\"\ncertificate = \"relay.pem\"", key, "missing: write key = "),
        (
            "tls = \"implicit\"\ncertificate = \"relay.key\"\nkey = \"relay.key\"",
            certificate,
            "relay.key has no",
        ),
        ("tls = \"implicit\"\ncertificate = \"relay.pem\"\nkey = \"no.key\"", key, "no.key cannot be read"),
        (
            "tls = \"implict\"\ncertificate = \"relay.pem\"",
            "smtp.listener[0].tls",
            "did you mean \"implicit\"?",
        ),
    ] {
        assert_error(load(more), at, part);
    }
}

#[test]
fn proxies_of_a_listener() {
    let load = |more: &str| parse(&with_listener(more));
    let config = load("proxies = [\"10.0.0.0/8\", \"2001:db8::1\"]").unwrap();
    for (address, is_proxy) in
        [("10.1.2.3", true), ("2001:db8::1", true), ("11.0.0.1", false), ("2001:db8::2", false)]
    {
        assert_eq!(config.smtp.listeners[0].is_proxy(address.parse().unwrap()), is_proxy, "{address}");
    }
    let at = "smtp.listener[0].proxies[0]";
    assert_error(load("proxies = [\"0.0.0.0/0\"]"), at, "anybody could claim");
    assert_error(load("proxies = [\"::/0\"]"), at, "anybody could claim");
    assert_error(load("proxies = [\"lb.example\"]"), at, "is not an IP network");
    // What a proxy on this machine passes on comes from anywhere.
    let open = TENANT.replace("@contoso.com", "*").replace("127.0.0.1", "0.0.0.0/0");
    let proxied = with_listener("proxies = [\"127.0.0.1\"]");
    assert_error(parse(&format!("{proxied}{open}")), "tenants.contoso.networks[0]", "open relay");
}

const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";

#[test]
fn users_have_names_and_hashes() {
    let config = with(&format!("users = {{ Scanner = '{HASH}', app = '{HASH}' }}")).unwrap();
    let users = &config.tenants["contoso"].users;
    assert_eq!(users.keys().map(UserName::as_str).collect::<Vec<_>>(), ["app", "scanner"]);
    assert!(!format!("{config:?}").contains("aGFza"));

    for (users, key, part) in [
        (
            "users = { scanner = 's3~cret' }",
            "tenants.contoso.users.scanner",
            "`m365-relay hash-password` makes one",
        ),
        (
            "users = { scanner = '$argon2id$v=19$m=2000000,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaGhhc2g' }",
            "tenants.contoso.users.scanner",
            "more than 1 GiB",
        ),
        ("users = { scanner = 5325325 }", "tenants.contoso.users.scanner", "is a number: write text"),
        ("users = 's3~cret'", "tenants.contoso.users", "write a table"),
        (&format!("users = {{ 'a@b' = '{HASH}' }}"), "tenants.contoso.users.\"a@b\"", "a login name is"),
        (&format!("users = {{ a = '{HASH}', A = '{HASH}' }}"), "tenants.contoso.users.A", "listed twice"),
    ] {
        assert_error(with(users), key, part);
        let shown = errors(with(users)).concat();
        assert!(
            !shown.contains("s3~cret") && !shown.contains("5325325") && !shown.contains("aGFza"),
            "{shown}"
        );
    }
}

#[test]
fn users_without_a_way_to_log_in_are_a_warning() {
    let warnings = |top: &str, networks: &str| -> Vec<String> {
        let text = format!("{MINIMAL}{top}{TENANT}users = {{ a = '{HASH}' }}")
            .replace("networks = [\"127.0.0.1\"]", networks);
        parse(&text).unwrap().warnings.iter().map(|problem| problem.message.clone()).collect()
    };
    for networks in ["", "networks = ['127.0.0.1']"] {
        let [warning] = &warnings("", networks)[..] else { panic!("not one warning") };
        assert!(warning.starts_with("has users, but none can log in"), "{warning}");
        // Users are a way in.
        assert_eq!(warnings("trusted_networks = ['10.0.0.0/8']", networks), [""; 0]);
    }
    let trusted = format!("{MINIMAL}{TENANT}users = {{ a = '{HASH}' }}")
        .replace("127.0.0.1:2525\"", "127.0.0.1:2525\"\ntrusted = true");
    let config = parse(&trusted).unwrap();
    assert!(config.warnings.is_empty() && config.smtp.listeners[0].trusted);
    let [warning] = &warnings("trusted_networks = ['::/0']", "")[..] else { panic!("not one warning") };
    assert!(warning.contains("passwords unencrypted"), "{warning}");
}

#[test]
fn clients_and_what_they_may_hold() {
    let with_smtp = |lines: &str| parse(&format!("{MINIMAL}{lines}{TENANT}"));
    let whole = |lines: &str| {
        let config = with_smtp(lines).unwrap();
        config.smtp.client_prefix.whole_network("2001:db8:1:2ff::1".parse().unwrap()).to_string()
    };
    assert_eq!(whole(""), "2001:db8:1:2ff::");
    assert_eq!(whole("ipv6_client_prefix = 56"), "2001:db8:1:200::");
    assert_eq!(whole("ipv6_client_prefix = 128"), "2001:db8:1:2ff::1");
    for length in [47, 129] {
        let lines = format!("ipv6_client_prefix = {length}");
        assert_error(with_smtp(&lines), "smtp.ipv6_client_prefix", "from 48 to 128");
    }
    assert_eq!(with_smtp("header_memory = '1MiB'").unwrap().smtp.header_memory, ByteSize::mib(1));
    assert_error(with_smtp("header_memory = '1023KiB'"), "smtp.header_memory", "1MiB");
}

#[test]
fn trusted_networks_and_lockout() {
    let with_smtp = |lines: &str| parse(&format!("{MINIMAL}{lines}{TENANT}"));
    let config =
        with_smtp("trusted_networks = ['10.0.0.0/8']\nlockout = { failures = 0, for = '1h' }").unwrap();
    assert!(
        config.smtp.trusts("::ffff:10.1.2.3".parse().unwrap())
            && !config.smtp.trusts("11.0.0.1".parse().unwrap())
    );
    let hour = Duration::from_secs(3600);
    let expected = LockoutConfig { failures: None, duration: hour, ..LockoutConfig::default() };
    assert_eq!(config.smtp.lockout, expected);

    assert_error(
        with_smtp("trusted_networks = ['10.0.0.1/8']"),
        "smtp.trusted_networks[0]",
        "write \"10.0.0.0/8\"",
    );
    assert_error(with_smtp("lockout = { failures = -1 }"), "smtp.lockout.failures", "from 0 to");
    assert_error(with_smtp("lockout = { within = 5 }"), "smtp.lockout.within", "a unit in quotes");
    assert_error(
        with_smtp("[[smtp.listener]]\naddress='127.0.0.1:1'\ntrusted = 'yes'"),
        "smtp.listener[1].trusted",
        "true or false",
    );
}
