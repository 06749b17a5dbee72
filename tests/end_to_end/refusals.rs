//! Refusals for lack of room, or for size.

use relay_sandbox::{Fault, On};

use crate::harness::{Lab, base64_mail, message, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

#[test]
fn a_full_tenant_gets_452_until_there_is_room_and_others_do_not() {
    let mut lab = Lab::with(|setup| setup.tenant("contoso").more = "max_queued = 2".into());
    lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable").for_directory("contoso.example"));
    let mut smtp = lab.smtp();
    for n in 0..2 {
        smtp.send(FROM, &[TO], &message(FROM, TO, &format!("{n}")));
    }
    let reply = smtp.mail(FROM);
    assert!(reply.code == 452 && reply.text.starts_with("4.3.1 "), "{reply:?}");
    let other = "a@fabrikam.example";
    smtp.send(other, &[TO], &message(other, TO, "other"));
    assert_eq!(lab.wait_for(1)[0].subject, "other");
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "tenant_full")]), 1.0);

    // Counts survive the process.
    lab.wait_until_settled();
    lab.kill9();
    lab.restart();
    let mut smtp = lab.smtp();
    assert_eq!(smtp.mail(FROM).code, 452);
    lab.wait_until_settled();
    lab.kill9();
    lab.service.clear_faults();
    lab.restart();
    lab.wait_for(3);
    lab.wait_until_empty();
    lab.send(FROM, &[TO], &message(FROM, TO, "room again"));
    lab.wait_for(4);
}

#[test]
fn a_message_over_the_limit_is_refused_at_mail_and_after_data() {
    let lab = Lab::with(|setup| setup.smtp = "max_message = '64KiB'".into());
    let mut smtp = lab.smtp();
    assert!(smtp.command("EHLO client.example").text.contains("SIZE 65536"));
    let too_large = |reply: crate::harness::Reply| reply.code == 552 && reply.text.starts_with("5.3.4 ");
    assert!(too_large(smtp.command(&format!("MAIL FROM:<{FROM}> SIZE=65537"))));
    assert_eq!(smtp.command(&format!("MAIL FROM:<{FROM}> SIZE=65536")).code, 250);
    smtp.command("RSET");

    let mut content = base64_mail(FROM, TO, "large", 40_000);
    let fill = 65_536 - content.len();
    content.extend(std::iter::repeat_n(b'x', fill - 2));
    content.extend_from_slice(b"\r\n");
    smtp.begin(FROM, &[TO]);
    let mut larger = content.clone();
    larger.insert(content.len() - 2, b'x');
    assert!(too_large(smtp.data(&larger)));
    // Far too large, and still the connection continues.
    smtp.begin(FROM, &[TO]);
    assert!(too_large(smtp.data(&base64_mail(FROM, TO, "huge", 3_000_000))));

    smtp.send(FROM, &[TO], &content);
    assert_eq!(lab.wait_for(1)[0].subject, "large");
    lab.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "too_large")]), 3.0);
}

#[test]
fn a_full_disk_is_said_before_anything_is_stored() {
    let mut lab = Lab::without_relay(|_| {});
    let config = std::fs::read_to_string(lab.config_file()).unwrap();
    std::fs::write(lab.config_file(), config.replace("min_free = 0", "min_free = '9000000GiB'")).unwrap();
    lab.restart();

    let reply = lab.smtp().mail(FROM);
    assert!(reply.code == 452 && reply.text.starts_with("4.3.1 "), "{reply:?}");
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "disk_full")]), 1.0);
    // It is alive, but takes no mail, and says why.
    assert_eq!(lab.page("/healthz").0, 200);
    let (status, why) = lab.page("/readyz");
    assert!(status == 503 && why.starts_with("new mail is refused with 452: "), "{why}");
    assert!(why.ends_with(" free on the disk under the spool, and spool.min_free is 9000000GiB\n"), "{why}");
    let told = || lab.log().iter().filter(|line| line.contains("new mail refused with 452")).count();
    wait_until("the warning", || told() == 1);
}

#[test]
fn recipients_over_the_limit_are_left_to_the_next_transaction() {
    let lab = Lab::with(|setup| setup.smtp = "max_recipients = 100".into());
    let mut smtp = lab.smtp();
    let recipients: Vec<String> = (0..100).map(|n| format!("r{n}@example.net")).collect();
    smtp.begin(FROM, &recipients.iter().map(String::as_str).collect::<Vec<_>>());
    let reply = smtp.rcpt("one.more@example.net");
    assert!(reply.code == 452 && reply.text.starts_with("4.5.3 "), "{reply:?}");
    assert_eq!(smtp.data(&message(FROM, TO, "many")).code, 250);

    assert_eq!(lab.wait_for(1)[0].recipients.len(), 100);
}
