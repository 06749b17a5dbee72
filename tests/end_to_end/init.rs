//! From nothing to a configuration.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Output},
};

use crate::harness::run_with_input;

fn m365_relay(arguments: &[&str], config: &Path, input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_m365-relay"));
    command.args(arguments).arg("--config").arg(config);
    run_with_input(&mut command, input.as_bytes())
}

const ANSWERS: &str = "Contoso.com\n11111111-2222-3333-4444-555555555555\nv~ery \"secret\\\n127.0.0.1:0\n\n";

#[test]
fn five_answers_make_a_configuration_that_passes() {
    crate::harness::private_umask();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("etc/config.toml");
    let spool = folder.path().join("spool");
    let arguments = ["init", "--spool", spool.to_str().unwrap()];
    let output = m365_relay(&arguments, &config, ANSWERS);
    let (said, complained) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && complained.is_empty(), "{complained}");
    assert!(said.contains("m365-relay tenant check contoso") && !said.contains("v~ery"), "{said}");
    let checked = m365_relay(&["check-config"], &config, "");
    let said = String::from_utf8(checked.stderr).unwrap();
    // The port of the admin address may be in use here.
    assert!(checked.status.success() || said.contains("8025"), "{said}");
    let secret = folder.path().join("etc/contoso.secret");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "v~ery \"secret\\\n");
    assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o7, 0);
    assert_eq!(config.metadata().unwrap().mode() & 0o022, 0);
    let table = fs::read_to_string(folder.path().join("etc/tenants.d/contoso.toml")).unwrap();
    assert!(
        table.contains("senders = [\"@contoso.com\"]") && table.contains("\"127.0.0.0/8\", \"::1\""),
        "{table}"
    );

    let again = m365_relay(&arguments, &config, ANSWERS);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(again.status.code() == Some(1) && said.contains("exists already"), "{said}");
}

#[test]
fn a_wrong_answer_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("etc/config.toml");
    for (input, part) in [
        ("", "there is no answer"),
        ("con toso\n", "is not a domain"),
        ("contoso.com\napp\n\n", "the secret is empty"),
        ("contoso.com\napp\ns\nlocalhost\n", "is not an IP address with a port"),
        ("contoso.com\napp\ns\n\n10.0.0.1/8\n", "names one machine and a whole network"),
    ] {
        let output = m365_relay(&["init"], &config, input);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(part), "{input:?}: {said}");
        assert!(!folder.path().join("etc").exists());
    }
}
