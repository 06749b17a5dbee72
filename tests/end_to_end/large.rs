//! Mail above the MIME limit: a draft, its attachments, `/send`; every attachment arrives octet for octet.

use std::{sync::Arc, time::Duration};

use relay_sandbox::{Action, Delivered, Fault, Limits, On, StatusFault};

use crate::harness::{Attached, Lab, Mail, Setup, mixed_mail, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";
const MB: usize = 1_000_000;

fn change(setup: &mut Setup) {
    setup.service_limits = Limits { message_bytes: None, ..Limits::unthrottled() };
}

fn lab() -> Lab {
    Lab::with(change)
}

fn is_as_sent(delivered: &Delivered, attached: &[Attached]) {
    let found: Vec<_> =
        delivered.attachments.iter().map(|a| (a.name.clone(), a.size, a.sha256.clone())).collect();
    let logo = Attached { name: "logo.png".into(), content: b"\x89PNG\r\n\x1a\n".to_vec() };
    let expected: Vec<_> =
        [&logo].into_iter().chain(attached).map(|a| (a.name.clone(), a.content.len(), a.sha256())).collect();
    assert_eq!(found, expected);
    assert!(delivered.attachments[0].is_inline);
    assert_eq!(delivered.attachments[0].content_id.as_deref(), Some("logo"));
}

/// Sends a message with these attachments, and returns what arrives.
fn delivered(lab: &Lab, attached: &[Attached]) -> Arc<Delivered> {
    lab.send(FROM, &[TO], &mixed_mail(FROM, TO, "large", "", attached));
    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    is_as_sent(&delivered, attached);
    assert_eq!(delivered.recipients, [TO]);
    assert_eq!(lab.service.drafts(), 0, "a draft is left");
    delivered
}

fn paths(lab: &Lab) -> Vec<String> {
    let last = |path: &str| path.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    lab.service
        .calls()
        .iter()
        .filter(|call| !call.path.contains("/token"))
        .map(|call| {
            format!(
                "{} {}",
                call.method,
                if call.path.starts_with("/api/") { "upload".into() } else { last(&call.path) }
            )
        })
        .collect()
}

#[test]
fn up_to_the_limit_it_is_mime_and_above_it_is_taken_apart() {
    let lab = lab();
    // 1 MB: one call, octet for octet.
    let small = mixed_mail(FROM, TO, "small", "", &[Attached::random("a.bin", MB)]);
    lab.send(FROM, &[TO], &small);
    assert!(lab.wait_for(1)[0].as_sent() == small, "not what was sent");
    lab.wait_until_empty();
    assert_eq!(paths(&lab), ["POST sendMail"]);

    let header = "Importance: high\r\nReply-To: Help <help@contoso.example>\r\nIn-Reply-To: <earlier@x.se>\r\n\
                  References: <first@x.se>\r\n <earlier@x.se>\r\nX-Ticket: 4711\r\n";
    let attached = [Attached::random("b.bin", 2_300_000)];
    lab.send(
        FROM,
        &[TO, "hidden@example.net"],
        &mixed_mail(FROM, &format!("Bee <{TO}>"), "Grüße", header, &attached),
    );
    let delivered = lab.wait_for(2).remove(1);
    lab.wait_until_empty();
    is_as_sent(&delivered, &attached);
    assert_eq!(delivered.recipients, [TO, "hidden@example.net"]);
    assert_eq!(paths(&lab)[1..], ["POST messages", "POST attachments", "POST attachments", "POST send"]);
    let text = delivered.text();
    for expected in ["help@contoso.example", "earlier@x.se", "first@x.se", "4711"] {
        assert!(text.contains(expected), "{expected} is missing");
    }
    assert_eq!(delivered.fields("Importance"), ["high"]);
    assert_eq!(delivered.subject, "Grüße");
    assert_eq!(delivered.message_id, "<Grüße@client.example>");
    assert!(!delivered.fields("To").concat().contains("hidden"));
}

#[test]
fn a_text_too_large_for_a_request_is_attached() {
    let lab = lab();
    let text = format!("{}\r\n", "x".repeat(78)).repeat(50_000);
    lab.send(FROM, &[TO], format!("From: {FROM}\r\nTo: {TO}\r\nSubject: long\r\n\r\n{text}").as_bytes());
    let delivered = lab.wait_for(1).remove(0);
    let [attachment] = &delivered.attachments[..] else { panic!("{:?}", delivered.attachments) };
    assert_eq!((attachment.name.as_str(), attachment.size), ("attachment-1.txt", text.len()));
}

#[test]
fn five_and_thirty_megabytes_go_by_upload_session() {
    let lab = lab();
    let attached = [
        Attached::random("five.bin", 5 * MB),
        Attached::random("two.bin", 2 * MB),
        Attached::random("thirty.bin", 23 * MB),
    ];
    delivered(&lab, &attached);
    let puts = paths(&lab).iter().filter(|path| *path == "PUT upload").count();
    assert_eq!(puts, 2 + 6);
}

#[test]
fn a_hundred_and_forty_megabytes_cost_little_memory() {
    let lab = lab();
    // Base64 turns it into 140 MB of mail.
    let attached = [Attached::random("huge.bin", 102 * MB)];
    let mail = mixed_mail(FROM, TO, "huge", "", &attached);
    assert!(mail.len() > 139 * MB);
    lab.send(FROM, &[TO], &mail);
    let deadline = Duration::from_secs(120);
    let mut peak = 0;
    let arrived = crate::harness::holds_within(deadline, || {
        peak = peak.max(resident(lab.process_id()));
        lab.service.counts().messages == 1
    });
    assert!(arrived, "not delivered within {deadline:?}");
    is_as_sent(&lab.wait_for(1)[0], &attached);
    assert!(peak < 100 << 20, "{} MiB resident", peak >> 20);
}

/// Octets.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

#[test]
fn a_cut_at_each_step_changes_nothing_of_what_arrives() {
    let steps = [
        (On::CreateDraft, 0),
        (On::Attach, 0),
        (On::Attach, 1),
        (On::BeginUpload, 0),
        (On::Upload, 0),
        (On::Upload, 1),
        (On::Upload, 2),
        (On::SendDraft, 0),
    ];
    for (on, skip) in steps {
        for action in [
            Action::CutBefore,
            Action::CutAfter,
            Action::Status(StatusFault::new(503, "ErrorServerBusy").retry_after("0.3")),
        ] {
            let lab = Lab::with(|setup| {
                change(setup);
                setup.tenant("contoso").confirm = "draft".into();
            });
            lab.inject(Fault::new(on, action.clone()).skip(skip).times(1));
            let attached = [Attached::random("a.bin", 100_000), Attached::random("b.bin", 9 * MB)];
            lab.send(FROM, &[TO], &mixed_mail(FROM, TO, "cut", "", &attached));
            let delivered = lab.wait_for(1).remove(0);
            lab.wait_until_empty();
            is_as_sent(&delivered, &attached);
            assert_eq!(lab.wait_for(1).len(), 1, "{on:?} {skip} {action:?}");
            // A draft whose creation was interrupted after it was made is a draft that the relay does not
            // know about.
            let orphans = usize::from(on == On::CreateDraft && action == Action::CutAfter);
            assert!(lab.service.drafts() <= orphans, "{on:?} {skip} {action:?}: a draft is left");
        }
    }
}

#[test]
fn killed_inside_each_step_it_arrives_once() {
    for on in [On::CreateDraft, On::Attach, On::BeginUpload, On::Upload, On::SendDraft] {
        let mut lab = Lab::with(|setup| {
            change(setup);
            setup.tenant("contoso").confirm = "draft".into();
        });
        lab.inject(Fault::new(on, Action::Delay(Duration::from_millis(500))).times(1));
        let attached = [Attached::random("a.bin", 100_000), Attached::random("b.bin", 5 * MB)];
        lab.send(FROM, &[TO], &mixed_mail(FROM, TO, "killed", "", &attached));
        wait_until("the step", || lab.service.faults().is_empty());
        lab.kill9();
        lab.restart();
        let delivered = lab.wait_for(1).remove(0);
        lab.wait_until_empty();
        is_as_sent(&delivered, &attached);
        lab.wait_for(1);
    }
}

/// The service finishes the work requested before the kill while the relay does it again.
#[test]
fn a_call_that_outlives_its_relay_adds_nothing() {
    let mut lab = Lab::with(|setup| {
        change(setup);
        setup.tenant("contoso").confirm = "draft".into();
    });
    let slow = |ms| Fault::new(On::Attach, Action::Delay(Duration::from_millis(ms))).times(1);
    lab.inject(slow(8000));
    let attached = [Attached::random("a.bin", 100_000), Attached::random("b.bin", 2_600_000)];
    lab.send(FROM, &[TO], &mixed_mail(FROM, TO, "killed", "", &attached));
    wait_until("the step", || lab.service.faults().is_empty());
    lab.kill9();
    lab.inject(slow(16_000));
    lab.restart();
    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    is_as_sent(&delivered, &attached);
    assert_eq!(lab.service.drafts(), 0, "a draft is left");
    assert_eq!(lab.wait_for_logs("draft has unexpected attachments; creating another", 1).len(), 1);
}

#[test]
fn what_cannot_be_taken_apart_is_refused_with_the_reason_at_once() {
    let lab = lab();
    let body = "x".repeat(70) + "\r\n";
    let mail = format!(
        "From: {FROM}\r\nTo: {TO}\r\nSubject: signed\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\nMessage-ID: <s@x.se>\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=s; protocol=\"application/pkcs7-signature\"\r\n\r\n\
         --s\r\nContent-Type: text/plain\r\n\r\n{}--s\r\nContent-Type: application/pkcs7-signature\r\n\r\nx\r\n--s--\r\n",
        body.repeat(40_000)
    );
    lab.send(FROM, &[FROM], mail.as_bytes());
    let bounce = lab.wait_for(1).remove(0);
    assert!(bounce.text().contains("sign"), "{}", bounce.text());
    assert_eq!(lab.service.drafts(), 0);
}

#[test]
fn without_the_permission_the_sender_is_told_which_is_missing() {
    let lab = Lab::with(|setup| {
        change(setup);
        setup.tenant("contoso").roles = vec!["Mail.Send".into()];
    });
    lab.send(FROM, &[TO], &mixed_mail(FROM, TO, "large", "", &[Attached::random("a.bin", 3 * MB)]));
    let bounce = lab.wait_for(1).remove(0);
    assert!(bounce.text().contains("Mail.ReadWrite"), "{}", bounce.text());
    // Small mail still goes through.
    lab.send(FROM, &[TO], &mixed_mail(FROM, TO, "small", "", &[]));
    lab.wait_for(2);
}

/// The header of a mailing, above the limit.
const FIELDS: &str = "Date: Tue, 24 Nov 2026 09:00:00 +0100\r\nList-Unsubscribe: <https://contoso.example/u>,\r\n <mailto:u@contoso.example>\r\n\
    Auto-Submitted: auto-generated\r\nX-1: 1\r\nX-2: 2\r\nX-3: 3\r\nX-4: 4\r\nX-5: 5\r\nX-6: 6\r\n";

fn mailing(setup: impl FnOnce(&mut Setup), fault: Option<Fault>) -> (Lab, Arc<Delivered>) {
    let lab = Lab::with(|own| {
        change(own);
        setup(own);
    });
    fault.into_iter().for_each(|fault| lab.inject(fault));
    let attached = [Attached::random("data.bin", 2_500_000)];
    lab.send(FROM, &[TO], &mixed_mail(FROM, TO, "mailing", FIELDS, &attached));
    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    is_as_sent(&delivered, &attached);
    (lab, delivered)
}

#[test]
fn fields_that_have_no_place_are_kept_as_properties_on_demand() {
    let kept = |setup: &mut Setup| setup.more_listeners = "[graph]\nkeep_headers = true\n".into();
    let (_, delivered) = mailing(kept, None);
    for (name, value) in [
        ("X-Original-Date", "Tue, 24 Nov 2026 09:00:00 +0100"),
        ("List-Unsubscribe", "<https://contoso.example/u>, <mailto:u@contoso.example>"),
        ("Auto-Submitted", "auto-generated"),
        ("X-5", "5"),
        ("X-6", "6"),
    ] {
        assert_eq!(delivered.fields(name), [value], "{name}");
    }

    let (_, delivered) = mailing(|_| {}, None);
    for name in ["X-Original-Date", "List-Unsubscribe", "Auto-Submitted", "X-6"] {
        assert_eq!(delivered.fields(name), [""; 0], "{name}");
    }
    assert_eq!(delivered.fields("X-5"), ["5"]);

    // A service that does not take them gets the message without.
    let refused = Fault::status(On::CreateDraft, 400, "ErrorInvalidExtendedProperty").times(1);
    let (lab, delivered) = mailing(kept, Some(refused));
    assert_eq!(delivered.fields("List-Unsubscribe"), [""; 0]);
    lab.wait_for_log("draft refused; creating it without the fields that graph.keep_headers keeps");
}
