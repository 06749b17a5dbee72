//! Two tenants' programs and the relay, each with a user of its own, set up as docs/security.md says: what
//! one of the programs can try with the other's mail.
//!
//! Behind the feature `root`, since only root can act as other users. They are numbers without names, so that
//! nothing on the machine is changed.
#![cfg(feature = "root")]
// Test helpers are no test functions, which alone may unwrap by clippy's rules.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared by several test programs")]
mod harness;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::PathBuf,
    process::{Command, Output},
    thread,
};

use relay_sandbox::{Fault, On};

use harness::{Lab, message, run, run_with_input, wait_until};

/// The relay's user and group.
const RELAY: u32 = 61_000;
const TENANTS: [Program; 2] = [
    Program { tenant: "contoso", user: 61_001, group: 61_101 },
    Program { tenant: "fabrikam", user: 61_002, group: 61_102 },
];
const TO: &str = "b@example.net";

/// A tenant's program.
#[derive(Clone, Copy)]
struct Program {
    tenant: &'static str,
    user: u32,
    /// The group that may write to the tenant's folder.
    group: u32,
}

/// A machine that is set up as the documents say.
struct Machine {
    lab: Lab,
}

/// The commands in docs/security.md that make folders, for users and a tenant of this machine.
fn documented(pickup: &str, program: Program) -> Vec<String> {
    let document = include_str!("../docs/security.md");
    let section = document.split("## Pickup folders").nth(1).unwrap().split("\n## ").next().unwrap();
    let lines = section.lines().map(str::trim).filter(|line| line.starts_with("install -d "));
    let here = |line: &str| {
        let owner = format!("-o {RELAY}");
        let group = format!("-g {}", program.group);
        line.replace("/var/spool/m365-relay/pickup/contoso", &format!("{pickup}/{}", program.tenant))
            .replace("/var/spool/m365-relay/pickup", pickup)
            .replace(" /var/spool/m365-relay ", " ")
            .replace("-o m365-relay", &owner)
            .replace("-g m365-relay", &format!("-g {RELAY}"))
            .replace("-g mail-contoso", &group)
    };
    lines.map(here).collect()
}

impl Machine {
    fn start() -> Self {
        let mut lab = Lab::without_relay(|setup| {
            // Mail comes in only by a folder.
            for program in TENANTS {
                setup.tenant(program.tenant).networks = "[]".into();
            }
        });
        let folder = lab.folder().to_owned();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        // The relay's user may not be able to reach the original.
        // By a process of its own: what another test starts in this moment would inherit the open file, and a
        // program that is open for writing cannot be started ("Text file busy").
        let copied =
            run(Command::new("cp").arg(env!("CARGO_BIN_EXE_m365-relay")).arg(folder.join("m365-relay")));
        assert!(copied.status.success(), "{}", said(&copied));
        for name in ["config.toml", "service.pem"] {
            chown(folder.join(name), Some(0), Some(RELAY)).unwrap();
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o640)).unwrap();
        }
        let spool = folder.join("spool");
        fs::create_dir(&spool).unwrap();
        chown(&spool, Some(RELAY), Some(RELAY)).unwrap();
        fs::set_permissions(&spool, fs::Permissions::from_mode(0o700)).unwrap();
        let pickup = folder.join("pickup").display().to_string();
        let mut commands: Vec<String> =
            TENANTS.iter().flat_map(|program| documented(&pickup, *program)).collect();
        commands.dedup();
        assert!(commands.len() >= 3, "{commands:?}");
        for command in commands {
            let output = run(Command::new("sh").args(["-c", &command]));
            assert!(output.status.success(), "{command}: {}", said(&output));
        }
        let groups = TENANTS.map(|program| program.group.to_string()).join(",");
        let program = folder.join("m365-relay").display().to_string();
        let wrapper =
            format!("umask 077; shift; exec {} {program} \"$@\"", setpriv(RELAY, &groups).join(" "));
        lab.setup.wrapper = ["sh", "-c", &wrapper, "sh"].map(str::to_owned).into();
        lab.restart();
        Self { lab }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.lab.folder().join(name)
    }

    /// Runs a shell command as the program's user, in the folder that everything is in.
    fn shell(&self, program: Program, command: &str, input: &[u8]) -> Output {
        let setpriv = setpriv(program.user, &program.group.to_string());
        let mut shell = Command::new(&setpriv[0]);
        shell.args(&setpriv[1..]).args(["sh", "-c", command]).current_dir(self.lab.folder());
        for name in ["M365_RELAY_TENANT", "M365_RELAY_PICKUP", "M365_RELAY_CONFIG", "M365_RELAY_FROM"] {
            shell.env_remove(name);
        }
        run_with_input(&mut shell, input)
    }

    /// Runs a command that the program must not be able to run.
    fn fails(&self, program: Program, command: &str) {
        let output = self.shell(program, command, b"");
        assert!(!output.status.success(), "user {} could: {command}", program.user);
    }

    /// Leaves a file, as the documents describe.
    fn leaves(&self, program: Program, name: &str, content: &[u8]) {
        let folder = format!("pickup/{}", program.tenant);
        let command =
            format!("umask 027; cat >{folder}/.{name}.tmp && mv {folder}/.{name}.tmp {folder}/{name}.eml");
        let output = self.shell(program, &command, content);
        assert!(output.status.success(), "{}", said(&output));
    }

    /// The program's own mail goes through, by a file and by `sendmail`.
    fn sends(&self, program: Program, subject: &str) {
        let Program { tenant, .. } = program;
        let sender = format!("a@{tenant}.example");
        self.leaves(program, subject, &message(&sender, TO, subject));
        let command =
            format!("./m365-relay sendmail --pickup $PWD/pickup --tenant {tenant} -f {sender} {TO}");
        let output = self.shell(program, &command, &message(&sender, TO, &format!("{subject}-sendmail")));
        assert!(output.status.success(), "{}", said(&output));
    }

    /// How often each subject was delivered, and from which directory.
    fn delivered(&self) -> BTreeMap<(String, String), usize> {
        let mut times = BTreeMap::new();
        for message in self.lab.service.messages() {
            *times.entry((message.directory.clone(), message.subject.clone())).or_default() += 1;
        }
        times
    }

    fn refusals(&self) -> f64 {
        self.lab.metric("m365_relay_refused_total", &[("ingress", "pickup"), ("reason", "folder")])
    }

    fn check_config(&self) -> String {
        let setpriv = setpriv(RELAY, &RELAY.to_string());
        let mut command = Command::new(&setpriv[0]);
        command.args(&setpriv[1..]).arg(self.path("m365-relay")).args(["check-config", "--config"]);
        let output = run(command.arg(self.lab.config_file()));
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }
}

fn setpriv(user: u32, groups: &str) -> Vec<String> {
    let options =
        ["setpriv", &format!("--reuid={user}"), &format!("--regid={user}"), &format!("--groups={groups}")];
    options.map(str::to_owned).into()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_program_sends_as_its_own_tenant() {
    let machine = Machine::start();
    for program in TENANTS {
        machine.sends(program, "legit");
    }
    machine.lab.wait_for(4);
    for program in TENANTS {
        let directory = format!("{}.example", program.tenant);
        for subject in ["legit", "legit-sendmail"] {
            assert_eq!(machine.delivered()[&(directory.clone(), subject.to_owned())], 1);
        }
        // The program concerned can read why something was refused, although the relay's umask is 077.
        machine.leaves(program, "bad", b"From: nobody\n\nx\n");
        let folder = format!("pickup/{}", program.tenant);
        wait_until("the reason", || machine.path(&format!("{folder}/bad.bad")).exists());
        assert!(machine.shell(program, &format!("cat {folder}/bad.bad.txt"), b"").status.success());
    }
    assert!(!machine.check_config().contains("chmod"), "{}", machine.check_config());
}

#[test]
fn a_program_gets_nowhere_with_another_tenants_mail() {
    let mut machine = Machine::start();
    let [contoso, fabrikam] = TENANTS;
    // The other tenant's mail waits in its folder, hidden, and in the spool.
    machine.lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable"));
    let secret = message("a@fabrikam.example", TO, "secret");
    machine.leaves(fabrikam, "waiting", &message("a@fabrikam.example", TO, "waiting"));
    machine.lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "fabrikam")], 1.0);
    let output = machine.shell(fabrikam, "umask 022; cat >pickup/fabrikam/.secret", &secret);
    assert!(output.status.success());
    let forged = message("a@fabrikam.example", TO, "forged");
    assert!(machine.shell(contoso, "mkdir -m 777 /tmp/own.$$ && rmdir /tmp/own.$$", b"").status.success());
    fs::write(machine.path("forged"), &forged).unwrap();
    let before = fs::metadata(machine.path("pickup/fabrikam")).unwrap().ino();

    let attempts = [
        // Puts another folder in the place of the other tenant's, of its own, or of all.
        "mv pickup/fabrikam pickup/aside",
        "mv pickup/fabrikam pickup/contoso/theirs",
        "mv pickup/contoso pickup/mine",
        "mv pickup aside",
        "rmdir pickup/fabrikam",
        "rm -r pickup/fabrikam",
        "mkdir pickup/newcomer",
        "ln -s $PWD/pickup/contoso pickup/newcomer",
        "ln -sfn $PWD/pickup/contoso pickup/fabrikam",
        "mv -T --exchange pickup/contoso pickup/fabrikam",
        "mount --bind pickup/contoso pickup/fabrikam",
        // Files in the other's folder, or among the folders.
        "cp forged pickup/fabrikam/forged.eml",
        "ln forged pickup/fabrikam/forged.eml",
        "ln -s $PWD/forged pickup/fabrikam/forged.eml",
        "cp forged pickup/forged.eml",
        "mv pickup/contoso/.x pickup/fabrikam/x.eml",
        // Reads the mail, or has it read.
        "ls pickup/fabrikam",
        "ls pickup",
        "cat pickup/fabrikam/.secret",
        "mv pickup/fabrikam/.secret pickup/contoso/stolen.eml",
        "ln pickup/fabrikam/.secret pickup/contoso/stolen.eml",
        "cat spool/pickup.key",
        "ls spool",
        "cat config.toml",
        // Gives itself more rights than it has.
        "chmod 777 pickup",
        "chmod 777 pickup/contoso",
        "chmod 777 pickup/fabrikam",
        "chown 61001 pickup/contoso",
        "chgrp 61101 pickup/fabrikam",
        "setfacl -m u:61001:rwx pickup/fabrikam",
        "setfacl -m u:61001:rwx pickup",
        // Uses the command, too.
        "./m365-relay sendmail --pickup $PWD/pickup --tenant fabrikam -f a@fabrikam.example b@example.net <forged",
    ];
    for attempt in attempts {
        machine.fails(contoso, attempt);
    }
    // What it can do in its own folder, and the result. The system already refuses some of it.
    for command in [
        "ln -s $PWD/pickup/fabrikam/.secret pickup/contoso/soft.eml",
        "ln -s $PWD/config.toml pickup/contoso/config.eml",
        "ln forged pickup/contoso/hard.eml",
        "ln -s $PWD/pickup/fabrikam pickup/contoso/folder.eml",
        "mkfifo pickup/contoso/pipe.eml",
        "umask 0; cp forged pickup/contoso/.f && mv pickup/contoso/.f pickup/contoso/forged.eml",
    ] {
        machine.shell(contoso, command, b"");
    }
    // A name that is alternately a file and a link to the other's, switching as fast as possible.
    let race = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); \
                printf 'From: a@contoso.example\\nTo: b@example.net\\nSubject: raced\\n\\nx\\n' >pickup/contoso/.r; \
                mv pickup/contoso/.r pickup/contoso/race.eml; \
                ln -sf $PWD/pickup/fabrikam/.secret pickup/contoso/.l; mv pickup/contoso/.l pickup/contoso/race.eml; done";
    machine.shell(contoso, race, b"");
    wait_until("the forged mail to be refused", || machine.path("pickup/contoso/forged.bad").exists());
    // And names of claims, for the next start.
    let waiting =
        || machine.lab.logged("message accepted").into_iter().find(|entry| entry["tenant"] == "fabrikam");
    wait_until("the log of its acceptance", || waiting().is_some());
    let waiting = waiting().unwrap();
    let id = waiting["id"].as_str().unwrap();
    for name in [format!(".x.eml.{id}.claimed"), format!(".y.eml.{id}-0000000000000000.claimed")] {
        assert!(machine.shell(contoso, &format!("mkdir pickup/contoso/{name}"), b"").status.success());
        machine.shell(contoso, &format!("cp forged pickup/contoso/.f{name}"), b"");
    }
    machine.lab.kill9();
    machine.lab.service.clear_faults();
    machine.lab.restart();
    machine.sends(contoso, "after");
    machine.sends(fabrikam, "after");
    wait_until("mail of both", || {
        let delivered = machine.delivered();
        let expected = [("contoso", "after"), ("contoso", "after-sendmail"), ("fabrikam", "after")];
        let more = [("fabrikam", "after-sendmail"), ("fabrikam", "waiting")];
        let is_there = |(tenant, subject): &(&str, &str)| {
            delivered.get(&(format!("{tenant}.example"), (*subject).to_owned())) == Some(&1)
        };
        expected.iter().chain(&more).all(is_there)
    });
    machine.lab.wait_until_empty();
    for (directory, subject) in machine.delivered().into_keys() {
        assert!(!["forged", "secret"].contains(&subject.as_str()), "{subject} out of {directory}");
        assert!(subject != "raced" || directory == "contoso.example");
    }
    assert_eq!(fs::metadata(machine.path("pickup/fabrikam")).unwrap().ino(), before);
    assert_eq!(fs::read(machine.path("pickup/fabrikam/.secret")).unwrap(), secret);
    assert_eq!(machine.refusals(), 0.0);
    println!("{} attempts, and what a program can do in its own folder", attempts.len());
}

/// An administrator's mistakes: each is reported with the command that fixes it, affects only the folder that
/// it is about, and is over when it is fixed.
#[test]
fn a_folder_that_others_could_replace_is_refused_until_it_is_mended() {
    let mistakes = [
        ("chmod o+w pickup/fabrikam", 1, "chmod o-w PICKUP/fabrikam"),
        ("chown 61002 pickup/fabrikam", 1, "chown 61000 PICKUP/fabrikam"),
        ("chmod g+w pickup", 0, "chmod g-w PICKUP"),
        ("chmod 1777 pickup", 0, "chmod go-w PICKUP"),
        ("setfacl -m u:61001:rwx pickup", 0, "chmod g-w PICKUP"),
        ("chown 61001 pickup", 0, "chown 61000 PICKUP"),
    ];
    // In parallel, since the relay looks at a folder again after ten seconds.
    thread::scope(|scope| {
        for (mistake, first_stopped, command) in mistakes {
            scope.spawn(move || is_mended(mistake, &TENANTS[first_stopped..], command));
        }
    });
}

fn is_mended(mistake: &str, stopped: &[Program], command: &str) {
    let machine = Machine::start();
    let command = command.replace("PICKUP", &machine.path("pickup").display().to_string());
    let sh = |command: &str| {
        let output = run(Command::new("sh").args(["-c", command]).current_dir(machine.lab.folder()));
        assert!(output.status.success(), "{command}: {}", said(&output));
    };
    sh(mistake);
    for program in TENANTS {
        let Program { tenant, .. } = program;
        // As root, who is admitted everywhere.
        let content = message(&format!("a@{tenant}.example"), TO, mistake);
        let hidden = format!("pickup/{tenant}/.tmp");
        let shown = format!("pickup/{tenant}/m.eml");
        fs::write(machine.path(&hidden), content).unwrap();
        fs::rename(machine.path(&hidden), machine.path(&shown)).unwrap();
        if stopped.iter().all(|one| one.tenant != tenant) {
            assert_eq!(machine.lab.wait_for(1)[0].directory, format!("{tenant}.example"));
        }
    }
    let is_said = || machine.lab.log().iter().any(|line| line.contains(&command));
    wait_until("what to type", || is_said() && machine.refusals() > 0.0);
    assert!(machine.check_config().contains(&command), "{}", machine.check_config());
    let sendmail =
        "./m365-relay sendmail --pickup $PWD/pickup --tenant fabrikam -f a@fabrikam.example b@x.example";
    let refused = machine.shell(TENANTS[1], sendmail, &message("a@fabrikam.example", TO, "x"));
    assert_eq!(refused.status.code(), Some(78), "{}", said(&refused));
    // A sender recognises the relay's user by the files that root has given to it, which may be the mistake.
    assert!(said(&refused).contains(&command) || mistake == "chown 61001 pickup", "{}", said(&refused));
    for program in stopped {
        assert!(machine.path(&format!("pickup/{}/m.eml", program.tenant)).exists());
    }
    sh(&command);
    machine.lab.wait_for(TENANTS.len());
    machine.lab.wait_for_log("pickup folder usable again");
}

/// Root starts the relay by hand, in the spool of the service.
#[test]
fn what_root_makes_in_a_spool_belongs_to_its_owner() {
    let mut lab = Lab::without_relay(|_| {});
    let spool = lab.folder().join("spool");
    fs::create_dir(&spool).unwrap();
    chown(&spool, Some(RELAY), Some(RELAY)).unwrap();
    lab.restart();
    let log = lab.log().join("\n");
    assert!(log.contains("runs as root, and the spool") && log.contains(&format!("user {RELAY}")), "{log}");
    lab.send("a@contoso.example", &[TO], &message("a@contoso.example", TO, "by root"));
    lab.wait_for(1);
    lab.wait_until_empty();
    lab.terminate();
    let mut folders = vec![spool];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid()), (RELAY, RELAY), "{}", path.display());
            files += 1;
            if found.is_dir() {
                folders.push(path);
            }
        }
    }
    assert!(files > 3, "{files}");
}
