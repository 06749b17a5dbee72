//! Who may send as whom.

use crate::harness::{Lab, Mail, Reply, message};

/// Only contoso has the clients' networks.
fn lab() -> Lab {
    Lab::with(|setup| setup.tenant("fabrikam").networks = "['10.0.0.0/8']".into())
}

fn refused(reply: &Reply, enhanced: &str) -> bool {
    reply.code == 550 && reply.text.starts_with(enhanced)
}

#[test]
fn a_tenant_may_not_send_as_another() {
    let lab = lab();
    let mut smtp = lab.smtp();
    for sender in ["a@fabrikam.example", "a@sub.contoso.example", "a@contoso.example.evil.example"] {
        let reply = smtp.mail(sender);
        assert!(refused(&reply, "5.7.1 "), "{sender}: {reply:?}");
    }
    for from in [
        "a@fabrikam.example",
        "a@contoso.example, b@fabrikam.example\r\nSender: a@contoso.example",
        "\"a@contoso.example\" <a@fabrikam.example>",
    ] {
        smtp.begin("a@contoso.example", &["b@example.net"]);
        let reply = smtp.data(&message(from, "b@example.net", "forged"));
        assert!(refused(&reply, "5.7.1 "), "{from}: {reply:?}");
    }
    // The connection works as before.
    smtp.send("a@contoso.example", &["b@example.net"], &message("a@contoso.example", "b@example.net", "own"));
    let delivered = lab.wait_for(1);
    lab.wait_until_empty();
    assert_eq!((&*delivered[0].subject, &*delivered[0].directory), ("own", "contoso.example"));
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "no_tenant")]), 3.0);
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "sender")]), 3.0);
}

#[test]
fn tenants_in_one_network_are_told_apart_by_their_senders() {
    let lab = Lab::start();
    let mut smtp = lab.smtp();
    for tenant in ["contoso", "fabrikam"] {
        let from = format!("a@{tenant}.example");
        smtp.send(&from, &["b@example.net"], &message(&from, "b@example.net", tenant));
    }
    // The envelope chose the tenant; the header may not choose another.
    smtp.begin("a@contoso.example", &["b@example.net"]);
    let reply = smtp.data(&message("a@fabrikam.example", "b@example.net", "forged"));
    assert!(refused(&reply, "5.7.1 "), "{reply:?}");
    // The tenant cannot be determined.
    assert!(refused(&smtp.command("MAIL FROM:<>"), "5.7.1 "));

    let delivered = lab.wait_for(2);
    lab.wait_until_empty();
    for message in delivered {
        assert_eq!(message.directory, format!("{}.example", message.subject));
        assert_eq!(message.mailbox, format!("a@{}", message.directory));
    }
}

#[test]
fn a_client_in_no_tenants_network_is_refused() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").networks = "['10.0.0.0/8', '127.0.0.2']".into();
        setup.tenant("fabrikam").networks = "[]".into();
    });
    let mut smtp = lab.smtp();
    for sender in ["a@contoso.example", "a@fabrikam.example", ""] {
        let reply = smtp.mail(sender);
        assert!(refused(&reply, "5.7.1 Client 127.0.0.1 "), "{sender}: {reply:?}");
    }
    assert_eq!(smtp.rcpt("b@example.net").code, 503);
    assert_eq!(smtp.command("DATA").code, 503);
}

#[test]
fn a_null_sender_is_taken_where_one_tenant_is() {
    let lab = lab();
    lab.send("", &["b@example.net"], &message("a@contoso.example", "b@example.net", "report"));

    assert_eq!(lab.wait_for(1)[0].mailbox, "a@contoso.example");
}

#[test]
fn mail_without_one_author_is_refused() {
    let lab = lab();
    let mut smtp = lab.smtp();
    for header in
        ["From: a@contoso.example, b@contoso.example", "From: a@contoso.example\r\nFrom: b@contoso.example"]
    {
        smtp.begin("a@contoso.example", &["b@example.net"]);
        let reply = smtp.data(format!("{header}\r\n\r\nHello.\r\n").as_bytes());
        assert!(refused(&reply, "5.6.0 "), "{header}: {reply:?}");
    }
    lab.wait_until_empty();
}

#[test]
fn a_missing_from_is_made_of_the_envelope_or_of_the_default_sender() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").more = "default_sender = 'scanner@contoso.example'".into();
        setup.tenant("fabrikam").networks = "[]".into();
    });
    for (sender, from) in [("a@contoso.example", "a@contoso.example"), ("", "scanner@contoso.example")] {
        lab.send(sender, &["b@example.net"], format!("Subject: from {from}\r\n\r\nscan\r\n").as_bytes());
    }
    for delivered in lab.wait_for(2) {
        let from = delivered.fields("Subject")[0].strip_prefix("from ").unwrap().to_owned();
        assert_eq!((&delivered.mailbox, &delivered.from), (&from, &from));
        assert_eq!(delivered.fields("From"), [format!("<{from}>")]);
    }
}

#[test]
fn a_suspended_tenant_keeps_its_mail_and_costs_it_no_attempt() {
    let mut lab = Lab::with(|setup| setup.tenant("contoso").more = "suspended = true".into());
    lab.send("a@contoso.example", &["b@example.net"], &message("a@contoso.example", "b@example.net", "kept"));
    lab.send(
        "a@fabrikam.example",
        &["b@example.net"],
        &message("a@fabrikam.example", "b@example.net", "sent"),
    );
    assert_eq!(lab.wait_for(1)[0].mailbox, "a@fabrikam.example");
    lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", "contoso"), ("reason", "suspended")], 1.0);
    assert_eq!(lab.metric("m365_relay_deliveries_total", &[("tenant", "contoso")]), 0.0);

    lab.setup.tenant("contoso").more = String::new();
    lab.write_config();
    assert_eq!(lab.terminate(), Some(0));
    lab.restart();
    assert_eq!(lab.wait_for(2)[1].mailbox, "a@contoso.example");
}

#[test]
fn a_suspended_tenant_can_refuse_mail_for_the_time() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").more = "suspended = true\nwhile_suspended = 'refuse'".into()
    });
    let reply = lab.smtp().mail("a@contoso.example");
    assert_eq!((reply.code, &reply.text[..5]), (450, "4.7.1"), "{reply:?}");
}

/// Forty copiers with whatever address somebody once typed in.
#[test]
fn devices_with_wrong_addresses_send_as_one() {
    let mut lab = Lab::with(|setup| {
        setup.tenant("contoso").more = "force_from = 'scanner@contoso.example'".into();
        setup.tenant("fabrikam").networks = "['10.0.0.0/8']".into();
    });
    let mut smtp = lab.smtp();
    let to = "b@example.net";
    for (sender, header) in [
        ("copier@old.example", "From: \"Copier, 2nd floor\" <copier@old.example>\r\n"),
        ("", "From: <copier@old.example>\r\nSender: a@fabrikam.example\r\n"),
        ("copier", "From: Copier 3\r\n"),
        ("copier@localhost", ""),
        ("a@contoso.example", "From: a@x.example, b@y.example\r\n"),
        ("scanner@contoso.example", "From: scanner@contoso.example\r\n"),
    ] {
        assert_eq!(smtp.command(&format!("MAIL FROM:<{sender}>")).code, 250, "{sender}");
        assert_eq!(smtp.rcpt(to).code, 250);
        let content = format!("{header}To: {to}\r\nSubject: {sender}\r\n\r\nscan\r\n");
        let reply = smtp.data(content.as_bytes());
        assert_eq!(reply.code, 250, "{sender} {header}: {reply:?}");
    }
    let folder = lab.pickup("contoso");
    std::fs::write(folder.join("one.eml"), message("copier@old.example", to, "file")).unwrap();
    let delivered = lab.wait_for(7);
    lab.wait_until_empty();
    for message in &delivered {
        assert_eq!(message.mailbox, "scanner@contoso.example");
        let fields = |name| crate::harness::fields(&message.raw, name);
        let from = fields("From");
        assert!(from.len() == 1 && from[0].contains("<scanner@contoso.example>"), "{from:?}");
        assert!(fields("Sender").is_empty());
    }
    let named = |subject: &str| {
        let message = delivered.iter().find(|message| message.subject == subject).unwrap();
        crate::harness::fields(&message.raw, "From").remove(0)
    };
    assert!(
        named("copier@old.example").contains("Copier, 2nd floor") && named("copier").contains("Copier 3")
    );

    // A reload ends it.
    lab.setup.tenant("contoso").more =
        "from_map = { 'copier@old.example' = 'scanner@contoso.example' }".into();
    lab.write_config();
    lab.hang_up();
    lab.wait_for_log("configuration reloaded");
    assert_eq!(smtp.command("MAIL FROM:<copier>").code, 501);
    assert_eq!(smtp.mail("other@old.example").code, 550);
    smtp.send("copier@old.example", &[to], &message("copier@old.example", to, "mapped"));
    smtp.send("a@contoso.example", &[to], &message("a@contoso.example", to, "as it is"));
    let delivered = lab.wait_for(9);
    let mailbox =
        |subject: &str| delivered.iter().find(|message| message.subject == subject).unwrap().mailbox.clone();
    assert_eq!(mailbox("mapped"), "scanner@contoso.example");
    assert_eq!(mailbox("as it is"), "a@contoso.example");
}

#[test]
fn a_name_without_a_domain_stands_for_somebody() {
    let mut lab = Lab::without_relay(|_| {});
    let with_aliases = |lab: &Lab, aliases: &str| {
        lab.write_config();
        let text = std::fs::read_to_string(lab.config_file()).unwrap();
        std::fs::write(lab.config_file(), format!("[aliases]\n{aliases}\n{text}")).unwrap();
    };
    with_aliases(&lab, "root = ['ann@example.net', 'bob@example.net']");
    lab.restart();
    let mut smtp = lab.smtp();
    let from = "a@contoso.example";
    assert_eq!(smtp.mail(from).code, 250);
    for (to, code) in [("root", 250), ("ROOT@localhost", 250), ("other", 501), ("other@localhost", 550)] {
        assert_eq!(smtp.command(&format!("RCPT TO:<{to}>")).code, code, "{to}");
    }
    assert_eq!(smtp.data(&message(from, "root", "by SMTP")).code, 250);
    let delivered = lab.wait_for(1);
    assert_eq!(delivered[0].recipients, ["ann@example.net", "bob@example.net"]);

    // Cron's mail, by sendmail.
    let sendmail = |input: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_m365-relay"));
        command.args(["sendmail", "-t", "-f", from]).env("M365_RELAY_CONFIG", lab.config_file());
        command.env_remove("M365_RELAY_TENANT").env_remove("M365_RELAY_PICKUP");
        crate::harness::run_with_input(&mut command, input.as_bytes())
    };
    let output = sendmail("From: root (Cron Daemon)\nTo: root\nSubject: by sendmail\n\nx\n");
    assert!(output.status.success(), "{output:?}");
    let delivered = lab.wait_for(2);
    let mine = delivered.iter().find(|message| message.subject == "by sendmail").unwrap();
    assert_eq!(mine.recipients, ["ann@example.net", "bob@example.net"]);
    let said = String::from_utf8(sendmail("From: a@contoso.example\nTo: other\n\nx\n").stderr).unwrap();
    assert!(said.contains("[aliases]"), "{said}");

    // A reload changes them.
    with_aliases(&lab, "other = 'carol@example.net'");
    lab.hang_up();
    lab.wait_for_log("configuration reloaded");
    assert_eq!(smtp.mail(from).code, 250);
    assert_eq!(smtp.command("RCPT TO:<root>").code, 501);
    assert_eq!(smtp.command("RCPT TO:<other>").code, 250);
}
