//! Mistakes in the configuration of single tenants.

use std::{net::IpAddr, path::PathBuf};

use super::*;

/// A configuration in a folder of its own.
struct Place(tempfile::TempDir);

impl Place {
    fn new(main: &str) -> Self {
        umask_for_tests();
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("tenants.d")).unwrap();
        fs::write(place.path("c.toml"), format!("{MINIMAL}{main}")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path("tenants.d").join(file), text).unwrap();
    }

    fn load(&self) -> Result<Config, ConfigErrors> {
        Config::load(&self.path("c.toml"))
    }

    fn load_to_run(&self) -> Config {
        Config::load_to_run(&self.path("c.toml")).unwrap()
    }
}

fn tenant(name: &str, more: &str) -> String {
    TENANT.replace("contoso]", &format!("{name}]")).replace("contoso.com", &format!("{name}.example")) + more
}

fn names(config: &Config) -> Vec<&str> {
    config.tenants.keys().map(TenantName::as_str).collect()
}

#[test]
fn the_others_run_and_every_mistake_is_listed() {
    let place = Place::new(&tenant("main", "colour = 'blue'\n"));
    place.write("good.toml", &tenant("good", ""));
    place.write("key.toml", &tenant("key", "rout = 'smtp'\n"));
    place.write("syntax.toml", "[tenants.syntax\n");
    place.write("stray.toml", &format!("suspended = true\n{}", tenant("stray", "")));
    place.write("name.toml", &tenant("name", "").replace("tenants.name", "tenants.'No Name'"));
    place.write("twice-a.toml", &tenant("twice", ""));
    place.write("twice-b.toml", &tenant("twice", ""));
    place.write("exposed.toml", &tenant("exposed", ""));
    fs::set_permissions(place.path("tenants.d/exposed.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::create_dir(place.path("tenants.d/folder.toml")).unwrap();

    let config = place.load_to_run();
    assert_eq!(names(&config), ["good"]);
    let invalid: Vec<&str> = config.invalid.tenants.keys().map(String::as_str).collect();
    assert_eq!(invalid, ["No Name", "key", "main", "stray", "twice"]);
    let mut files: Vec<&str> =
        config.invalid.files.keys().map(|file| file.rsplit('/').next().unwrap()).collect();
    files.sort_unstable();
    assert_eq!(files, ["exposed.toml", "folder.toml", "syntax.toml"]);
    assert_eq!(config.invalid.count(), 8);

    let errors = place.load().unwrap_err();
    let listed: Vec<String> = errors.problems().iter().map(ToString::to_string).collect();
    for part in [
        "c.toml:15: tenants.main.colour: unknown key",
        "key.toml:8: tenants.key.rout: unknown key; did you mean route?",
        "syntax.toml:1: not TOML",
        "stray.toml:1: suspended: unknown key",
        "tenants.\"No Name\"",
        "tenants.twice: this tenant is also in",
        "exposed.toml: every user of this machine can write",
        "folder.toml: cannot be read",
    ] {
        assert_eq!(listed.iter().filter(|line| line.contains(part)).count(), 1, "{part}: {listed:#?}");
    }
    assert_eq!(listed.len(), 8);
    assert!(listed[0].contains("c.toml"), "{listed:#?}");
}

#[test]
fn what_belongs_to_everybody_stops_the_start_and_names_all() {
    let place = Place::new("[delivery]\nmax_in_flight = 0\n");
    place.write("key.toml", &tenant("key", "rout = 'smtp'\n"));
    let errors = errors(Config::load_to_run(&place.path("c.toml")));
    assert_eq!(errors.len(), 2, "{errors:#?}");
    fs::set_permissions(place.path("tenants.d"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(place.path("c.toml"), MINIMAL).unwrap();
    // Anybody could add a tenant.
    assert!(Config::load_to_run(&place.path("c.toml")).is_err());
}

#[test]
fn a_tenant_that_runs_stays_as_it_was() {
    let place = Place::new("");
    for name in ["table", "file", "gone"] {
        place.write(&format!("{name}.toml"), &tenant(name, ""));
    }
    let running = place.load_to_run();
    place.write("table.toml", &tenant("table", "rout = 'smtp'\n"));
    place.write("file.toml", "[");
    place.write("new.toml", &tenant("new", "rout = 'smtp'\n"));
    fs::remove_file(place.path("tenants.d/gone.toml")).unwrap();
    let mut new = place.load_to_run();
    assert!(new.tenants.is_empty());
    new.keep_as_in(&running);
    assert_eq!(names(&new), ["file", "table"]);
    let changes = Changes::between(&running, &mut new);
    assert_eq!((changes.removed, changes.unchanged), (vec!["gone".to_owned()], 2));
    assert_eq!(changes.invalid.len(), 3);

    // And again, since it is still known whose file that is.
    let mut again = place.load_to_run();
    again.keep_as_in(&new);
    assert_eq!(names(&again), ["file", "table"]);
}

#[test]
fn what_can_be_read_says_whose_mail_it_is() {
    let meant = |config: &Config, peer: &str, sender: &str| {
        let sender = sender.parse().unwrap();
        config.invalid.may_be_meant(peer.parse::<IpAddr>().unwrap(), Some(&sender))
    };
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$CWnx6DCDBkUWaAJmlLX4ujLkCQHtTUpAOqYHHCJrKKk";
    let place = Place::new("");
    place.write("key.toml", &tenant("key", &format!("rout = 'smtp'\nusers = {{ scanner = '{hash}' }}\n")));
    let config = place.load_to_run();
    assert!(
        meant(&config, "127.0.0.1", "a@key.example") && meant(&config, "::ffff:127.0.0.1", "a@key.example")
    );
    assert!(!meant(&config, "127.0.0.1", "a@other.example") && !meant(&config, "127.0.0.2", "a@key.example"));
    assert!(config.invalid.may_be_meant("127.0.0.1".parse().unwrap(), None));
    for (login, may) in [
        ("scanner", true),
        ("Scanner@KEY", true),
        ("other", false),
        ("other@key", false),
        ("scanner@x", false),
    ] {
        assert_eq!(config.invalid.may_log_in(login), may, "{login}");
    }
    // Of what has the mistake, nothing is sure.
    for (wrong, peer, sender) in [
        ("senders = ['@key.example', 7]\nnetworks = ['127.0.0.1']", "127.0.0.1", "a@other.example"),
        ("senders = ['@key.example']\nnetworks = ['all']", "192.0.2.1", "a@key.example"),
    ] {
        let table = "[tenants.key]\ndirectory = 'd.example'\nclient_id = 'app'\nclient_secret = 's'\n";
        place.write("key.toml", &format!("{table}{wrong}\nusers = 7\n"));
        let config = place.load_to_run();
        assert!(meant(&config, peer, sender) && config.invalid.may_log_in("anybody"), "{wrong}");
        assert!(!meant(&config, "192.0.2.1", "a@other.example") && !config.invalid.may_log_in("a@other"));
    }
    place.write("key.toml", "[");
    let config = place.load_to_run();
    assert!(meant(&config, "192.0.2.1", "a@other.example") && config.invalid.may_log_in("a@other"));
    assert!(config.invalid.may_have_users());
}
