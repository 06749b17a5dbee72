//! Whole configurations: what is returned for a good one, and what is said about a bad one.

mod credentials;
mod mistakes;
mod network;
mod senders;
mod ways_in;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use proptest::prelude::*;

use super::*;

const MINIMAL: &str = r#"
[spool]
path = "spool"
[[smtp.listener]]
address = "127.0.0.1:2525"
[smtp]
hostname = "relay.example.net"
"#;

const TENANT: &str = r#"
[tenants.contoso]
directory = "contoso.onmicrosoft.com"
client_id = "11111111-2222-3333-4444-555555555555"
client_secret = "s3cret"
senders = ["@contoso.com"]
networks = ["127.0.0.1"]
"#;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("/etc/relay/config.toml"))
}

/// The minimal configuration, and the tenant with `lines` after it.
fn with(lines: &str) -> Result<Config, ConfigErrors> {
    parse(&format!("{MINIMAL}{TENANT}{lines}"))
}

/// The minimal configuration, with `lines` in its listener.
fn with_listener(lines: &str) -> String {
    MINIMAL.replace("2525\"\n", &format!("2525\"\n{lines}\n"))
}

/// The errors, without file and line.
fn errors(result: Result<Config, ConfigErrors>) -> Vec<String> {
    let errors = result.expect_err("an error");
    errors.problems().iter().map(|p| format!("{}: {}", p.key, p.message)).collect()
}

#[track_caller]
fn assert_error(result: Result<Config, ConfigErrors>, key: &str, part: &str) {
    let errors = errors(result);
    let [error] = &errors[..] else { panic!("not one error: {errors:#?}") };
    assert!(error.starts_with(&format!("{key}: ")) && error.contains(part), "{error}");
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let config = with("").unwrap();

    assert_eq!(config.spool.path, Path::new("/etc/relay/spool"));
    assert_eq!(config.spool.min_free, ByteSize(1 << 30));
    assert_eq!(config.smtp.max_message, ByteSize(150_000_000));
    assert!(config.pickup.is_none());
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:8025");
    assert_eq!(config.delivery.retry, RetryConfig::default());
    let tenant = &config.tenants["contoso"];
    assert_eq!(tenant.limits, Limits::default());
    assert_eq!(tenant.cloud.graph, "https://graph.microsoft.com");
    assert_eq!(tenant.mailbox, MailboxRule::From);
    assert!(tenant.mailboxes.is_empty());
    assert_eq!((tenant.confirm, tenant.envelope_mismatch), (Confirm::Auto, EnvelopeMismatch::Auto));
    assert_eq!(config.graph.max_mime, "2.2MiB".parse().unwrap());
    assert_eq!((config.graph.max_recipients, config.graph.keep_headers), (500, false));
    assert_eq!(tenant.bounces, BouncesConfig { mailbox: None, to: BounceTo::Mailbox });
    assert_eq!(tenant.networks, ["127.0.0.1/32".parse().unwrap()]);
    assert!(config.warnings.is_empty());
}

#[test]
fn a_tenant_changes_single_limits() {
    let config = with("limits = { messages_per_minute = 0 }\n[limits]\nconcurrent_requests = 2").unwrap();

    let limits = config.tenants["contoso"].limits;
    assert_eq!(limits.messages_per_minute, None);
    assert_eq!(limits.concurrent_requests.map(u32::from), Some(2));
}

#[test]
fn limits_of_zero_are_none_and_the_application_has_one_of_its_own() {
    let config = with(
        "limits = { upload_per_5_minutes = 0, recipients_per_day = 5 }\n\
                       [limits]\nrequests_per_10_minutes = 0\napp_requests_per_10_seconds = 0",
    )
    .unwrap();

    let limits = config.tenants["contoso"].limits;
    assert_eq!((limits.upload_per_5_minutes, limits.requests_per_10_minutes), (None, None));
    assert_eq!(limits.recipients_per_day.map(u32::from), Some(5));
    assert_eq!(config.app_limit, AppLimit(None));
    let limits = with("").unwrap().tenants["contoso"].limits;
    assert_eq!(limits.upload_per_5_minutes, Some(ByteSize(150_000_000)));
    assert_error(
        with("limits = { app_requests_per_10_seconds = 1 }"),
        "tenants.contoso.limits.app_requests_per_10_seconds",
        "unknown key",
    );
}

#[test]
fn every_error_at_once_with_its_line() {
    let text = r#"[spool]
path = "spool"
min_free = "lots"
[[smtp.listener]]
address = "localhost:25"
tls = "starttls"
[smtp]
hostname = "relay.example.net"
max_recipient = 5
[tenants.contoso]
client_id = 7
client_secret = { file = "missing" }
senders = ["@contoso.com", "foo bar"]
"#;
    let shown = parse(text).unwrap_err().to_string();

    let places: Vec<_> =
        shown.lines().map(|line| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":")).collect();
    let file = "/etc/relay/config.toml";
    let expected = [
        ("3", "spool.min_free"),
        ("4", "smtp.listener[0].certificate"),
        ("4", "smtp.listener[0].key"),
        ("5", "smtp.listener[0].address"),
        ("9", "smtp.max_recipient"),
        ("10", "tenants.contoso.directory"),
        ("11", "tenants.contoso.client_id"),
        ("12", "tenants.contoso.client_secret"),
        ("13", "tenants.contoso.senders[1]"),
    ];
    assert_eq!(places, expected.map(|(line, key)| format!("{file}:{line}: {key}")), "{shown}");
    assert!(shown.contains("did you mean max_recipients?"), "{shown}");
    assert!(shown.contains("/etc/relay/missing cannot be read"), "{shown}");
    assert!(shown.contains(r#"missing: write directory = "contoso.onmicrosoft.com""#), "{shown}");
}

#[test]
fn an_empty_file_says_what_is_needed() {
    assert_eq!(
        errors(parse("")),
        [
            r#"spool.path: missing: write path = "/var/lib/m365-relay/spool""#,
            "smtp.listener: no mail can come in: add [[smtp.listener]] or [pickup]",
        ]
    );
}

#[test]
fn broken_toml_is_shown_by_line_without_the_value() {
    let errors = parse("[spool]\nclient_secret = s3cret\n").unwrap_err();

    assert_eq!(errors.problems()[0].line, Some(2));
    assert!(errors.to_string().contains("not TOML") && !errors.to_string().contains("s3cret"), "{errors}");
}

#[test]
fn a_secret_of_the_wrong_kind_is_not_shown() {
    let text = format!("{MINIMAL}{TENANT}").replace("\"s3cret\"", "5325325");

    assert_error(parse(&text), "tenants.contoso.client_secret", "is a number: write \"text\"");
    assert!(!errors(parse(&text))[0].contains("5325325"));
}

#[test]
fn a_secret_is_in_one_place() {
    for secret in ["{}", r#"{ file = "a", env = "B" }"#] {
        let text = format!("{MINIMAL}{TENANT}").replace("\"s3cret\"", secret);
        assert_error(parse(&text), "tenants.contoso.client_secret", "must name exactly one source");
    }
    let text = format!("{MINIMAL}{TENANT}").replace("\"s3cret\"", r#"{ env = "M365_RELAY_NO_SUCH" }"#);
    assert_error(parse(&text), "tenants.contoso.client_secret", "M365_RELAY_NO_SUCH is not set");
    let text = text.replace("M365_RELAY_NO_SUCH", "s3~cret");
    assert_error(
        parse(&text),
        "tenants.contoso.client_secret.env",
        "is not the name of an environment variable",
    );
    assert!(!errors(parse(&text))[0].contains("s3~cret"));
}

#[test]
fn single_values() {
    for (lines, key, part) in [
        ("[admin]\naddress = \"0.0.0.0:8025\"", "admin.address", "other machines can reach this"),
        ("[admin]\ntoken = \"0123456789abcde\"", "admin.token", "openssl rand -hex 32"),
        ("[admin]\nhosts = [\"relay.example:8025\"]", "admin.hosts[0]", "without a port"),
        ("[admin]\nhosts = \"relay.example\"", "admin.hosts", "a list such as"),
        ("[admin]\nsocket = \"\"", "admin.socket", "is not a path"),
        ("[log]\nformat = \"jsn\"", "log.format", "did you mean \"json\"?"),
        ("[log]\nfilter = \"a=b=c\"", "log.filter", "not a log filter"),
        ("[delivery]\nsettle_after = 300", "delivery.settle_after", "a unit in quotes"),
        ("[delivery]\nsettle_after = \"300\"", "delivery.settle_after", "is not a duration"),
        ("[delivery]\nmax_in_flight = 0", "delivery.max_in_flight", "from 1 to 100000"),
        ("[delivery.retry]\nfirst = \"2h\"\nlongest = \"1h\"", "delivery.retry.longest", "from 2h to"),
        ("[delivery.retry]\nfactor = 0.5", "delivery.retry.factor", "from 1 to 100"),
        ("[delivery.retry]\nfactor = nan", "delivery.retry.factor", "from 1 to 100"),
        ("[delivery.retry]\njitter = 1", "delivery.retry.jitter", "not including, 1"),
        ("[limits]\nmessages_per_minute = -1", "limits.messages_per_minute", "from 0 to"),
        ("[pickup]", "pickup.path", "missing"),
        ("cloud = \"globl\"", "tenants.contoso.cloud", "did you mean \"global\"?"),
        ("mailbox = \"form\"", "tenants.contoso.mailbox", "write \"from\""),
        ("max_queued = 0", "tenants.contoso.max_queued", "from 1 to"),
        ("bounces.to = \"directory\"", "tenants.contoso.bounces.to", "write \"mailbox\" or \"none\""),
        ("[clouds.Lab]", "clouds.Lab", "a cloud's name is"),
        ("[tenants.'A B']", "tenants.\"A B\"", "a tenant's name is"),
        ("[grap]", "grap", "did you mean graph?"),
        ("[graph]\nmax_mime = \"4MB\"", "graph.max_mime", "write \"3MiB\" at most"),
        ("[graph]\nmax_mime = 1000", "graph.max_mime", "write at least \"64KiB\""),
        ("[graph]\nmax_recipients = 1001", "graph.max_recipients", "from 1 to 1000"),
        ("[graph]\nkeep_headers = \"yes\"", "graph.keep_headers", "true or false"),
        ("[network]\nconnect_timeout = \"1m\"", "network.connect_timeout", "to 30s"),
        ("[network]\nanswer_timeout = \"0s\"", "network.answer_timeout", "from 1ms"),
        ("[network]\nslowest = 0", "network.slowest", "at least \"1KiB\""),
        ("confirm = \"sent\"", "tenants.contoso.confirm", "write \"auto\" or \"off\""),
        (
            "envelope_mismatch = \"smtp\"",
            "tenants.contoso.envelope_mismatch",
            "all mail of this tenant is sent by Graph",
        ),
        ("envelope_mismatch = \"refus\"", "tenants.contoso.envelope_mismatch", "did you mean \"refuse\"?"),
        ("mailboxes = \"from\"", "tenants.contoso.mailboxes", "is text: write a table"),
        ("mailboxes = { sales = \"a@b.c\" }", "tenants.contoso.mailboxes.sales", "\"alias@domain\" ="),
        (
            "mailboxes = { \"a@contoso.com\" = \"office\" }",
            "tenants.contoso.mailboxes.\"a@contoso.com\"",
            "is not an address",
        ),
    ] {
        let errors = errors(with(lines));
        let found = errors.iter().any(|e| e.starts_with(&format!("{key}: ")) && e.contains(part));
        assert!(found, "{lines}: {errors:#?}");
    }
}

#[test]
fn aliases_go_before_the_mailbox_and_after_that_of_bounces() {
    let config = with(
        r#"mailbox = "relay@contoso.com"
           bounces.mailbox = "bounces@contoso.com"
           [tenants.contoso.mailboxes]
           "sales@contoso.com" = "office@contoso.com"
           "bounces@contoso.com" = "office@contoso.com"
           "press@fabrikam.com" = "office@contoso.com""#,
    )
    .unwrap();
    let goes_out_of = |from: &str| config.tenants["contoso"].mailbox_for(&from.parse().unwrap()).to_string();

    assert_eq!(goes_out_of("Sales@Contoso.com"), "office@contoso.com");
    assert_eq!(goes_out_of("bounces@contoso.com"), "bounces@contoso.com");
    assert_eq!(goes_out_of("else@contoso.com"), "relay@contoso.com");
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert_eq!(warning.key, "tenants.contoso.mailboxes.\"press@fabrikam.com\"");
    assert!(warning.message.contains("not among this tenant's senders"), "{warning}");

    let twice = r#"mailboxes = { "a@contoso.com" = "b@contoso.com", "A@contoso.com" = "c@contoso.com" }"#;
    let errors = errors(with(twice));
    assert!(errors[0].contains("twice (case makes no difference)"), "{errors:?}");
}

#[test]
fn choices_of_a_tenant() {
    let tenant = |lines: &str| with(lines).unwrap().tenants["contoso"].clone();
    for (word, confirm) in [
        ("auto", Confirm::Auto),
        ("off", Confirm::Off),
        ("sent-items", Confirm::SentItems),
        ("draft", Confirm::Draft),
    ] {
        assert_eq!(tenant(&format!("confirm = \"{word}\"")).confirm, confirm);
    }
    for (word, mismatch) in [
        ("auto", EnvelopeMismatch::Auto),
        ("rewrite", EnvelopeMismatch::Rewrite),
        ("refuse", EnvelopeMismatch::Refuse),
    ] {
        assert_eq!(tenant(&format!("envelope_mismatch = \"{word}\"")).envelope_mismatch, mismatch);
    }
    for route in ["smtp", "auto"] {
        let tenant = tenant(&format!("route = \"{route}\"\nenvelope_mismatch = \"smtp\""));
        assert_eq!(tenant.envelope_mismatch, EnvelopeMismatch::Smtp, "{route}");
    }
}

#[test]
fn senders_and_networks_say_what_was_meant() {
    let text = format!("{MINIMAL}{TENANT}");
    for (senders, part) in [
        (r#"[]"#, "is empty"),
        (r#"["contoso.com"]"#, "write \"@contoso.com\""),
        (r#"["*@contoso.com"]"#, "write \"@contoso.com\""),
        (r#"["@@"]"#, "not an address"),
        (r#""@contoso.com""#, "write a list"),
    ] {
        let found = errors(parse(&text.replace(r#"["@contoso.com"]"#, senders)));
        assert!(found.len() == 1 && found[0].contains(part), "{senders}: {found:#?}");
    }
    for (networks, part) in [
        (r#"["10.1.2.3/16"]"#, "write \"10.1.0.0/16\" or \"10.1.2.3\""),
        (r#"["10.1.0.0/33"]"#, "not an IP network"),
        (r#"["::ffff:10.0.0.0/104"]"#, "written as IPv6"),
        (r#"["localhost"]"#, "not an IP network"),
    ] {
        let found = errors(parse(&text.replace(r#"["127.0.0.1"]"#, networks)));
        assert!(found.len() == 1 && found[0].contains(part), "{networks}: {found:#?}");
    }
}

#[test]
fn an_open_relay_is_refused() {
    let text =
        format!("{MINIMAL}{TENANT}").replace("@contoso.com", "*").replace("127.0.0.1\"]", "0.0.0.0/0\"]");
    assert!(parse(&text).is_ok(), "nobody else can reach loopback");
    let reachable = text.replace("127.0.0.1:2525", "[::]:2525");
    assert_error(parse(&reachable), "tenants.contoso.networks[0]", "open relay");
    let one_domain = reachable.replace('*', "@contoso.com");
    assert!(parse(&one_domain).unwrap().warnings[0].message.contains("narrow the networks"));
}

#[test]
fn clouds_can_be_added_and_changed() {
    let config = with(
        "cloud = \"lab\"\n[clouds.lab]\nlogin = \"http://127.0.0.1:1/\"\ngraph = \"https://g.example/a/\"",
    );
    let cloud = config.unwrap().tenants["contoso"].cloud.clone();
    assert_eq!((&*cloud.login, &*cloud.graph), ("http://127.0.0.1:1", "https://g.example/a"));

    let config = with("[clouds.global]\ngraph = \"http://[::1]:18080\"").unwrap();
    let cloud = &config.tenants["contoso"].cloud;
    assert_eq!((&*cloud.login, &*cloud.graph), ("https://login.microsoftonline.com", "http://[::1]:18080"));

    for (url, part) in [
        ("http://graph.example", "unencrypted"),
        ("graph.example", "not an http(s) address"),
        ("ftp://graph.example", "not an http(s) address"),
        ("https://a:b@graph.example", "more than a host"),
        ("https://graph.example/?a", "more than a host"),
    ] {
        assert_error(with(&format!("[clouds.global]\ngraph = \"{url}\"")), "clouds.global.graph", part);
    }
    assert_error(
        with("cloud = \"lab\"\n[clouds.lab]\nlogin = \"http://[::1]:1\""),
        "clouds.lab.graph",
        "missing",
    );
    let config = with("[clouds.global]\nupload_hosts = ['up.example', '*.Up.example']").unwrap();
    let hosts: Vec<_> =
        config.tenants["contoso"].cloud.upload_hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["up.example", "*.up.example"]);
    for host in ["*", "*.com", "10.0.0.1", "up.example:443", "https://up.example"] {
        assert_error(
            with(&format!("[clouds.global]\nupload_hosts = ['{host}']")),
            "clouds.global.upload_hosts[0]",
            "is not a host name",
        );
    }
    assert_error(with("[clouds.global]\nca_file = \"no.pem\""), "clouds.global.ca_file", "cannot be read");
}

#[test]
fn tenants_lie_beside_the_file_too() {
    umask_for_tests();
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("config.toml");
    fs::create_dir(folder.path().join("tenants.d")).unwrap();
    let beside =
        |name: &str, text: &str| fs::write(folder.path().join("tenants.d").join(name), text).unwrap();
    fs::write(&main, format!("{MINIMAL}{TENANT}[limits]\nmessages_per_minute = 7\n")).unwrap();
    beside("fabrikam.toml", &TENANT.replace("contoso", "fabrikam"));
    beside(".#fabrikam.toml", "not TOML");
    beside("README", "not TOML");

    let config = Config::load(&main).unwrap();
    assert_eq!(config.tenants.keys().map(TenantName::as_str).collect::<Vec<_>>(), ["contoso", "fabrikam"]);
    assert_eq!(config.tenants["fabrikam"].limits.messages_per_minute.map(u32::from), Some(7));

    beside("other.toml", &format!("[smtp]\nmax_connections = 1\n{TENANT}"));
    let errors = Config::load(&main).unwrap_err();
    let [smtp, twice] = errors.problems() else { panic!("{errors}") };
    assert_eq!(smtp.key, "smtp");
    assert!(twice.file.ends_with("other.toml") && twice.line == Some(4), "{twice}");
    assert!(twice.message.contains(&format!("also in {}:9", main.display())), "{twice}");
}

#[test]
fn ten_thousand_tenants() {
    let tenants: String = (0..10_000).map(|n| TENANT.replace("contoso", &format!("tenant-{n}"))).collect();

    assert_eq!(parse(&format!("{MINIMAL}{tenants}")).unwrap().tenants.len(), 10_000);
}

#[test]
fn a_missing_file_is_named() {
    let errors = Config::load(Path::new("/no/such/config.toml")).unwrap_err();
    assert!(errors.to_string().starts_with("/no/such/config.toml: cannot be read: "), "{errors}");
}

#[test]
fn warnings() {
    umask_for_tests();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let warnings = |path: &Path| -> Vec<String> {
        Config::load(path).unwrap().warnings.iter().map(Problem::to_string).collect()
    };
    let text = format!("{MINIMAL}{TENANT}");
    assert!(warnings(&write("a.toml", &text, 0o640)).is_empty());
    assert!(
        warnings(&write("b.toml", &text, 0o644))[0]
            .contains(":12: tenants.contoso.client_secret: every user")
    );

    write("secret", "s3cret", 0o604);
    let from_file = write("c.toml", &text.replace("\"s3cret\"", "{ file = \"secret\" }"), 0o644);
    assert!(warnings(&from_file)[0].contains("secret: chmod o-r"));
    let no_way_in = write("d.toml", &text.replace("networks", "#"), 0o600);
    assert!(warnings(&no_way_in)[0].contains("has no networks"));
    assert!(warnings(&write("e.toml", MINIMAL, 0o600))[0].contains("there is no tenant"));
}

/// TOML that is often near the real thing: known and unknown keys with values of any kind.
fn some_toml() -> impl Strategy<Value = String> {
    let keys = || {
        let known: Vec<String> =
            known_keys(&format!("{MINIMAL}{TENANT}[pickup]\n[clouds.lab]"), Path::new("c"))
                .iter()
                .map(|key| key.replace("NAME", "x"))
                .collect();
        proptest::sample::select(known)
    };
    let text = prop_oneof![
        Just("@contoso.com".to_owned()),
        Just("10.0.0.0/8".to_owned()),
        Just("http://[::1]/".to_owned()),
        "[0-9.]{1,20}[a-zA-Zé ]{0,4}",
        "\\PC{0,20}",
    ]
    .prop_map(|text| format!("{text:?}"));
    let scalar = prop_oneof![
        text,
        any::<i64>().prop_map(|n| n.to_string()),
        "[0-9]{1,30}\\.[0-9]",
        Just("inf".to_owned())
    ];
    let value = prop_oneof![
        scalar.clone(),
        proptest::collection::vec(scalar.clone(), 0..3).prop_map(|v| format!("[{}]", v.join(", "))),
        ("[a-z_]{1,5}", scalar).prop_map(|(key, value)| format!("{{ {key} = {value} }}")),
    ];
    let line = prop_oneof![
        6 => (keys(), value).prop_map(|(key, value)| format!("{key} = {value}\n")),
        1 => keys().prop_map(|key| format!("[{key}]\n")),
        1 => keys().prop_map(|key| format!("[[{key}]]\n")),
        1 => "\\PC{0,12}\n",
    ];
    proptest::collection::vec(line, 0..8).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn any_toml_is_answered(text in some_toml()) {
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.problems().is_empty());
        }
    }

    #[test]
    fn any_text_is_answered(text: String) {
        let _ = parse(&text);
    }

    #[test]
    fn durations_are_read_as_they_are_shown(millis in 1u64..366 * 24 * 3_600_000) {
        let duration = Duration::from_millis(millis);
        let text = humantime::format_duration(duration);
        let config = with(&format!("[delivery]\nsettle_after = \"{text}\"")).unwrap();
        prop_assert_eq!(config.delivery.settle_after, duration);
    }

    #[test]
    fn sizes_are_read_as_they_are_shown(bytes: u64) {
        let text = format!("[spool]\nmin_free = \"{}\"\npath = \"s\"\n[pickup]\npath = \"p\"", ByteSize(bytes));
        prop_assert_eq!(parse(&text).unwrap().spool.min_free, ByteSize(bytes));
    }
}
