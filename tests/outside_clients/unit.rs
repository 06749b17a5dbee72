//! systemd-analyze and strace: whether the unit in `packaging/` allows every system call that the relay
//! makes.
//!
//! A denied call fails with EPERM, and what it was for is missing from then on: nothing ends.

use std::{collections::BTreeSet, fs};

use crate::{
    FROM, TO,
    harness::{Lab, base64_mail, message, run},
    installed, shown,
};

#[test]
fn the_unit_allows_every_system_call() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("denied");
    let allowed = allowed_by_the_unit();
    // The user who runs the tests may already have low priority; then the relay does not make the call.
    assert!(allowed.contains("setpriority"), "{allowed:?}");
    let allowed: Vec<_> = allowed.into_iter().map(|call| format!("?{call}")).collect();
    let mut lab = Lab::with(|setup| {
        // With -D, the relay is this process's child, and receives its signals.
        let options = ["-D", "-f", "-qq", "-e", "signal=none", "-e"].map(String::from);
        let strace = installed("strace", "strace").get_program().to_str().unwrap().to_owned();
        setup.wrapper = vec![strace];
        setup.wrapper.extend(options);
        setup.wrapper.push(format!("trace=!{}", allowed.join(",")));
        setup.wrapper.extend(["-o".into(), file.display().to_string()]);
    });
    lab.send(FROM, &[TO], &message(FROM, TO, "small"));
    lab.send(FROM, &[TO], &base64_mail(FROM, TO, "with a file of its own", 3_500_000));
    fs::write(lab.pickup("contoso").join("picked-up.eml"), message(FROM, TO, "picked up")).unwrap();
    lab.wait_for(3);
    lab.hang_up();
    lab.wait_for_metric("m365_relay_config_reloads_total", &[("result", "ok")], 1.0);
    assert_eq!(lab.api("GET", "/api/v1/messages/nonsense").0, 400);
    lab.wait_until_empty();
    assert_eq!(lab.terminate(), Some(0));
    let denied = fs::read_to_string(&file).unwrap();
    assert!(denied.is_empty(), "the unit denies what the relay calls:\n{denied}");
}

/// Applies `SystemCallFilter=` (systemd.exec(5)): the first line says whether calls are allowed or denied,
/// each further one adds to that or takes away.
fn allowed_by_the_unit() -> BTreeSet<String> {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/m365-relay.service");
    let unit = fs::read_to_string(unit).unwrap();
    let lines: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")).collect();
    assert!(!lines[0].starts_with('~'), "the first line is to allow: {lines:?}");
    let mut allowed = calls_of("@default");
    for line in lines {
        let (is_denied, names) = line.strip_prefix('~').map_or((false, line), |names| (true, names));
        for call in names.split_whitespace().flat_map(calls_of) {
            if is_denied {
                allowed.remove(&call);
            } else {
                allowed.insert(call);
            }
        }
    }
    allowed
}

/// The call, or the calls of a group.
fn calls_of(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let output = run(installed("systemd-analyze", "systemd").args(["--no-pager", "syscall-filter", name]));
    assert!(output.status.success(), "{}", shown(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let members =
        text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    members.flat_map(calls_of).collect()
}
