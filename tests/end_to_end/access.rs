//! Files that others can write to are not trusted: by no command, not at the start, and not by a reload.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use relay_sandbox::Directory;

use crate::harness::{Lab, Setup, TenantSetup, message, run, wait_until};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A configuration in a folder `etc`, with a secret and a tenant in files of their own.
fn lab() -> Lab {
    let lab = Lab::without_relay(|_: &mut Setup| {});
    let etc = lab.folder().join("etc");
    fs::create_dir_all(etc.join("tenants.d")).unwrap();
    fs::create_dir(etc.join("secrets")).unwrap();
    fs::write(etc.join("secrets/contoso"), TenantSetup::secret("contoso")).unwrap();
    let text = fs::read_to_string(lab.config_file()).unwrap();
    let secret = format!("'{}'", TenantSetup::secret("contoso"));
    let (main, fabrikam) = text.split_once("[tenants.fabrikam]").unwrap();
    fs::write(etc.join("config.toml"), main.replace(&secret, "{ file = 'secrets/contoso' }")).unwrap();
    fs::write(etc.join("tenants.d/fabrikam.toml"), format!("[tenants.fabrikam]{fabrikam}")).unwrap();
    lab
}

/// Exit code, and standard output and error.
fn said(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let config = lab.folder().join("etc/config.toml");
    let arguments = [arguments, &["--config", config.to_str().unwrap()]].concat();
    let output = lab.run(&arguments);
    let text = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    (output.status.code(), text.concat())
}

/// What can be wrong: name, mode before and after, the command that fixes it, and the tenant that it concerns
/// if it does not concern everybody.
const WRONG: [(&str, u32, u32, &str, Option<&str>); 10] = [
    ("etc/config.toml", 0o640, 0o660, "chmod g-w", None),
    ("etc/config.toml", 0o640, 0o642, "chmod o-w", None),
    ("etc", 0o755, 0o775, "chmod g-w", None),
    ("etc", 0o755, 0o777, "chmod go-w", None),
    ("etc/tenants.d", 0o755, 0o777, "chmod go-w", None),
    ("etc/tenants.d/fabrikam.toml", 0o640, 0o664, "chmod g-w", Some("fabrikam")),
    ("etc/secrets", 0o750, 0o770, "chmod g-w", Some("contoso")),
    ("etc/secrets", 0o750, 0o757, "chmod o-w", Some("contoso")),
    ("etc/secrets/contoso", 0o640, 0o660, "chmod g-w", Some("contoso")),
    ("etc/secrets/contoso", 0o640, 0o666, "chmod go-w", Some("contoso")),
];

#[test]
fn what_others_can_write_to_is_not_believed() {
    let lab = lab();
    for (name, good, bad, typed, whose) in WRONG {
        let path = lab.folder().join(name);
        chmod(&path, good);
        assert_eq!(said(&lab, &["check-config"]).0, Some(0), "{name}");
        chmod(&path, bad);
        let expected = format!("{typed} {}\n", path.display());
        let serve = whose.is_none().then_some(&["serve"][..]);
        let check = ["tenant", "check", whose.unwrap_or("contoso")];
        for command in [&["check-config"][..], &check].into_iter().chain(serve) {
            let (code, text) = said(&lab, command);
            assert!(code == Some(1) && text.contains(&expected), "{name} {bad:o} {command:?}: {text}");
        }
        chmod(&path, good);
    }
    // The fix that `check-config` names can be typed, and helps.
    let secret = lab.folder().join("etc/secrets/contoso");
    chmod(&secret, 0o660);
    let (_, text) = said(&lab, &["check-config"]);
    let typed = text.lines().find_map(|line| line.split_once(": chmod ")).unwrap().1;
    assert!(run(Command::new("chmod").args(typed.split(' '))).status.success());
    assert_eq!(said(&lab, &["check-config"]).0, Some(0));
}

#[test]
fn sendmail_asks_nobody_else_either() {
    let lab = lab();
    for tenant in ["contoso", "fabrikam"] {
        fs::create_dir_all(lab.folder().join("pickup").join(tenant)).unwrap();
    }
    let sendmail = |lab: &Lab| {
        let config = lab.folder().join("etc/config.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_m365-relay"));
        let command = command.args(["sendmail", "-f", "a@contoso.example", "b@example.net"]);
        run(command.env("M365_RELAY_CONFIG", config).env_remove("M365_RELAY_PICKUP"))
    };
    for (name, mode) in [("etc/config.toml", 0o666), ("etc", 0o777)] {
        let path = lab.folder().join(name);
        let good = path.metadata().unwrap().permissions().mode();
        chmod(&path, mode);
        let output = sendmail(&lab);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(78) && said.contains("chmod go-w"), "{name}: {said}");
        chmod(&path, good);
    }
}

#[test]
fn an_access_control_list_counts() {
    let lab = lab();
    let path = lab.folder().join("etc/config.toml");
    let set = Command::new("setfacl").args(["-m", "u:nobody:rw"]).arg(&path).status();
    if !set.is_ok_and(|status| status.success()) {
        println!("NOT CHECKED: there is no setfacl here, or no list on this file system");
        return;
    }
    let (code, text) = said(&lab, &["check-config"]);
    assert!(code == Some(1) && text.contains(&format!("chmod g-w {}", path.display())), "{text}");
    chmod(&path, 0o640);
    assert_eq!(said(&lab, &["check-config"]).0, Some(0));
}

/// Only root can give a file away.
#[test]
fn a_strangers_file_is_not_believed() {
    if !rustix::process::geteuid().is_root() {
        println!("NOT CHECKED: only root can give files away");
        return;
    }
    let lab = lab();
    for (name, ..) in WRONG {
        let path = lab.folder().join(name);
        chown(&path, Some(4711), None).unwrap();
        let (code, text) = said(&lab, &["check-config"]);
        let expected = format!("chown root {}\n", path.display());
        assert!(code == Some(1) && text.contains(&expected), "{name}: {text}");
        chown(&path, Some(0), None).unwrap();
    }
    assert_eq!(said(&lab, &["check-config"]).0, Some(0));
}

/// Kubernetes mounts secrets this way (`kubelet`, atomic writer): a folder with the sticky bit, with links in
/// it, and files that root owns.
#[test]
fn a_mounted_secret_is_believed() {
    let lab = lab();
    let mount = lab.folder().join("etc/secrets");
    fs::remove_file(mount.join("contoso")).unwrap();
    let version: PathBuf = mount.join("..2026_01_01_00_00_00.1");
    fs::create_dir(&version).unwrap();
    fs::write(version.join("contoso"), TenantSetup::secret("contoso")).unwrap();
    symlink("..2026_01_01_00_00_00.1", mount.join("..data")).unwrap();
    symlink("..data/contoso", mount.join("contoso")).unwrap();
    chmod(&mount, 0o1777);
    let (code, text) = said(&lab, &["check-config"]);
    assert_eq!(code, Some(0), "{text}");
    chmod(&version.join("contoso"), 0o666);
    assert_eq!(said(&lab, &["check-config"]).0, Some(1));
}

#[test]
fn a_reload_of_such_files_changes_nothing() {
    let mut lab = Lab::without_relay(|setup| {
        let directory =
            Directory::new("northwind.example", "northwind-app", TenantSetup::secret("northwind"));
        setup.service = Box::new(move |options| options.directories.push(directory.clone()));
    });
    lab.restart();
    lab.setup.tenants.push(TenantSetup::new("northwind"));
    lab.write_config();
    chmod(&lab.config_file(), 0o664);
    lab.hang_up();
    let refused = |lab: &Lab| lab.log().iter().any(|line| line.contains("chmod g-w"));
    wait_until("the refusal", || refused(&lab));
    let mut smtp = lab.smtp();
    assert_eq!(smtp.command("MAIL FROM:<a@northwind.example>").code, 550);
    smtp.send(
        "a@contoso.example",
        &["b@example.net"],
        &message("a@contoso.example", "b@example.net", "goes on"),
    );
    lab.wait_for(1);

    chmod(&lab.config_file(), 0o644);
    lab.hang_up();
    wait_until("the tenant", || {
        let code = smtp.command("MAIL FROM:<a@northwind.example>").code;
        assert!(matches!(smtp.command("RSET").code, 250));
        code == 250
    });
}
