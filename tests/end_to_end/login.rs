//! SMTP logins, from the password's hash to the delivered message.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::harness::{Lab, Mail, Reply, Setup, Smtp, message, wait_until};

const CONTOSO: &str = "a@contoso.example";
const FABRIKAM: &str = "a@fabrikam.example";
const TO: &str = "b@example.net";
const CONTOSO_PASSWORD: &str = "Contoso's p\u{e4}ssword~1";
const FABRIKAM_PASSWORD: &str = "Fabrikam's password~2";

fn hash_password(input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_m365-relay"))
        .arg("hash-password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Made as an administrator makes it.
fn hash_of(password: &str) -> String {
    let output = hash_password(&format!("{password}\n"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Both tenants have a user `scanner` and no client networks; contoso also has `app`.
fn with_users(setup: &mut Setup) {
    setup.listener = "trusted = true".into();
    for (tenant, password) in [("contoso", CONTOSO_PASSWORD), ("fabrikam", FABRIKAM_PASSWORD)] {
        let tenant = setup.tenant(tenant);
        let hash = hash_of(password);
        let app = if tenant.name == "contoso" { format!(", app = '{hash}'") } else { String::new() };
        tenant.networks = "[]".into();
        tenant.more = format!("users = {{ Scanner = '{hash}'{app} }}");
    }
}

fn plain(name: &str, password: &str) -> String {
    BASE64_STANDARD.encode(format!("\0{name}\0{password}"))
}

fn log_in(smtp: &mut Smtp, name: &str, password: &str) -> Reply {
    smtp.command(&format!("AUTH PLAIN {}", plain(name, password)))
}

#[track_caller]
fn assert_reply(reply: &Reply, code: u16, start: &str) {
    assert!(reply.code == code && reply.text.starts_with(start), "{reply:?}");
}

#[test]
fn mail_of_users_is_delivered_for_their_tenants() {
    let lab = Lab::with(with_users);
    assert!(lab.smtp().command("EHLO client.example").text.contains("\nAUTH PLAIN LOGIN\n"));
    for (name, password, from) in [
        ("scanner@contoso", CONTOSO_PASSWORD, CONTOSO),
        ("SCANNER@fabrikam", FABRIKAM_PASSWORD, FABRIKAM),
        ("app", CONTOSO_PASSWORD, CONTOSO),
    ] {
        let mut smtp = lab.smtp();
        assert_reply(&log_in(&mut smtp, name, password), 235, "2.7.0 ");
        smtp.send(from, &[TO], &message(from, TO, name));
        smtp.quit();
    }

    let mut delivered = lab.wait_for(3);
    delivered.sort_by(|a, b| a.subject.cmp(&b.subject));
    let directories: Vec<_> = delivered.iter().map(|message| &*message.directory).collect();
    assert_eq!(directories, ["fabrikam.example", "contoso.example", "contoso.example"]);
    for message in &delivered {
        let received = message.fields("Received").remove(0);
        assert!(received.contains(" with ESMTPA id "), "{received}");
        assert!(!received.to_lowercase().contains("scanner"), "{received}");
    }
    assert_eq!(lab.metric("m365_relay_logins_total", &[("result", "ok")]), 3.0);
    let said = lab.wait_for_log("login succeeded");
    assert!(said["user"] == "scanner" && said["tenant"] == "contoso", "{said:#?}");
}

#[test]
fn old_devices_log_in_by_login() {
    let lab = Lab::with(with_users);
    let mut smtp = lab.smtp();
    assert_reply(&smtp.command("auth login"), 334, "VXNlcm5hbWU6");
    assert_reply(&smtp.command(&BASE64_STANDARD.encode("app")), 334, "UGFzc3dvcmQ6");
    let password = BASE64_STANDARD.encode(CONTOSO_PASSWORD);
    assert_reply(&smtp.command(password.trim_end_matches('=')), 235, "2.7.0 ");
    smtp.send(CONTOSO, &[TO], &message(CONTOSO, TO, "scan"));
    assert_eq!(lab.wait_for(1)[0].subject, "scan");
}

#[test]
fn who_has_not_logged_in_or_not_as_that_tenant_is_refused() {
    let lab = Lab::with(with_users);
    let mut smtp = lab.smtp();
    assert_reply(&smtp.mail(CONTOSO), 530, "5.7.0 ");
    // Two tenants have the name, each with a password of its own.
    assert_reply(&log_in(&mut smtp, "scanner", CONTOSO_PASSWORD), 535, "5.7.8 ");
    assert_reply(&log_in(&mut smtp, "scanner@fabrikam", CONTOSO_PASSWORD), 535, "5.7.8 ");
    assert_reply(&smtp.mail(CONTOSO), 530, "5.7.0 ");
    assert_reply(&log_in(&mut smtp, "scanner@fabrikam", FABRIKAM_PASSWORD), 235, "2.7.0 ");
    let refused = "5.7.1 This login may not send mail from contoso.example";
    assert_reply(&smtp.mail(CONTOSO), 550, refused);
    smtp.begin(FABRIKAM, &[TO]);
    assert_reply(&smtp.data(&message(CONTOSO, TO, "foreign")), 550, "5.7.1 ");
    smtp.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, "own"));
    assert_eq!(lab.wait_for(1)[0].subject, "own");
    let labels = |result| [("result", result)];
    assert_eq!(lab.metric("m365_relay_logins_total", &labels("unknown")), 1.0);
    assert_eq!(lab.metric("m365_relay_logins_total", &labels("wrong")), 1.0);
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "no_login")]), 2.0);
}

#[test]
fn no_password_in_clear_where_that_is_not_allowed() {
    let lab = Lab::with(|setup| {
        with_users(setup);
        setup.listener.clear();
        setup.smtp = "trusted_networks = ['10.0.0.0/8']".into();
    });
    let mut smtp = lab.smtp();
    assert!(!smtp.command("EHLO client.example").text.contains("AUTH"));
    assert_reply(&log_in(&mut smtp, "app", CONTOSO_PASSWORD), 538, "5.7.11 ");
    assert_reply(&smtp.mail(CONTOSO), 550, "5.7.1 ");

    let lab = Lab::with(|setup| {
        with_users(setup);
        setup.listener.clear();
        setup.smtp = "trusted_networks = ['127.0.0.0/8']".into();
    });
    assert_reply(&log_in(&mut lab.smtp(), "app", CONTOSO_PASSWORD), 235, "2.7.0 ");
}

#[test]
fn a_guesser_is_locked_out() {
    let lab = Lab::with(|setup| {
        with_users(setup);
        setup.smtp = "lockout = { failures = 3, for = '1h' }".into();
    });
    for _ in 0..3 {
        assert_reply(&log_in(&mut lab.smtp(), "scanner@contoso", "a guess"), 535, "5.7.8 ");
    }
    let reply = log_in(&mut lab.smtp(), "scanner@contoso", CONTOSO_PASSWORD);
    assert_reply(&reply, 421, "4.7.0 ");
    lab.wait_for_log("address locked out after too many failed logins");
    lab.wait_for_metric("m365_relay_logins_total", &[("result", "wrong")], 3.0);
    lab.wait_for_metric("m365_relay_logins_total", &[("result", "locked")], 1.0);
}

#[test]
fn neither_password_nor_hash_shows_anywhere() {
    let lab = Lab::with(|setup| {
        with_users(setup);
        setup.log_filter = "trace".into();
    });
    let mut smtp = lab.smtp();
    assert_eq!(log_in(&mut smtp, "app", "Wrong~password~3").code, 535);
    assert_eq!(smtp.command("AUTH LOGIN").code, 334);
    assert_eq!(smtp.command(&BASE64_STANDARD.encode("app")).code, 334);
    assert_eq!(smtp.command(&BASE64_STANDARD.encode("Wrong~password~4")).code, 535);
    assert_eq!(log_in(&mut smtp, "app", CONTOSO_PASSWORD).code, 235);
    smtp.send(CONTOSO, &[TO], &message(CONTOSO, TO, "secret"));
    lab.wait_for(1);
    lab.wait_until_empty();

    let hash = lab.setup.tenants[0].more.split('\'').nth(1).unwrap().rsplit('$').next().unwrap().to_owned();
    let secrets = [
        CONTOSO_PASSWORD.into(),
        "Wrong~password".into(),
        BASE64_STANDARD.encode(CONTOSO_PASSWORD),
        BASE64_STANDARD.encode("Wrong~password~4"),
        plain("app", CONTOSO_PASSWORD),
        plain("app", "Wrong~password~3"),
        hash,
        "$argon2id$".into(),
    ];
    wait_until("the log", || lab.log().iter().any(|line| line.contains("login failed")));
    let shown = [lab.log().join("\n"), lab.page("/metrics").1];
    for secret in &secrets {
        assert!(shown.iter().all(|text| !text.contains(secret.as_str())), "{secret}");
    }
}

#[test]
fn a_hash_is_made_of_one_line_and_nothing_else() {
    let hash = hash_of(CONTOSO_PASSWORD);
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert_ne!(hash, hash_of(CONTOSO_PASSWORD));
    for (input, said) in [("", "is empty"), ("\n", "is empty"), (&*"x".repeat(2000), "over 1024 bytes")] {
        let output = hash_password(input);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(
            output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains(said),
            "{output:?}"
        );
    }
    let lab = Lab::without_relay(|_| {});
    assert_eq!(lab.run(&["hash-password", "s3cret"]).status.code(), Some(2));
}

#[test]
fn a_password_in_place_of_its_hash_is_not_shown() {
    let lab = Lab::without_relay(|setup| setup.tenant("contoso").more = "users = { app = 'S3~cret' }".into());
    let output = lab.run(&["check-config", "--config", lab.config_file().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("tenants.contoso.users.app: ") && said.contains("m365-relay hash-password"),
        "{said}"
    );
    assert!(!said.contains("S3~cret"), "{said}");
}
