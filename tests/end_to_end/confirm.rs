//! Unknown outcomes are confirmed: nothing lost, nothing twice where the service can be asked.

use std::{collections::HashMap, time::Duration};

use relay_sandbox::{Action, Fault, On, StatusFault};

use crate::harness::{Lab, Mail, message};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

fn lab(confirm: &str, roles: &[&str], settle: &str) -> Lab {
    Lab::with(|setup| {
        let tenant = setup.tenant("contoso");
        tenant.confirm = confirm.into();
        tenant.roles = roles.iter().map(|role| (*role).to_owned()).collect();
        setup.delivery = format!("settle_after = '{settle}'");
    })
}

const ALL: &[&str] = &["Mail.Send", "Mail.ReadWrite"];

fn resolved(lab: &Lab, how: &str) -> f64 {
    lab.metric("m365_relay_unknown_outcomes_total", &[("tenant", "contoso"), ("resolved", how)])
}

/// A tenth of the calls that send are cut after the service has taken the message, and a tenth before.
fn storm(confirm: &str, roles: &[&str], settle: &str) -> (Lab, HashMap<String, usize>) {
    const MESSAGES: usize = 200;
    let lab = lab(confirm, roles, settle);
    for on in [On::SendMail, On::SendDraft] {
        let cut = |action| Fault { probability: 0.1, ..Fault::new(on, action) };
        lab.inject(cut(Action::CutAfter));
        lab.inject(cut(Action::StatusAfter(StatusFault::new(504, "gatewayTimeout"))));
        lab.inject(cut(Action::CutBefore));
    }
    let mut smtp = lab.smtp();
    for n in 0..MESSAGES {
        smtp.send(FROM, &[TO], &message(FROM, TO, &format!("number {n}")));
    }
    lab.wait_until_empty();
    let mut arrived = HashMap::new();
    for message in lab.service.messages() {
        *arrived.entry(message.subject.clone()).or_default() += 1;
    }
    assert_eq!(arrived.len(), MESSAGES, "mail was lost");
    (lab, arrived)
}

fn nothing_twice(arrived: &HashMap<String, usize>) {
    let twice: Vec<_> = arrived.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn with_drafts_nothing_is_lost_and_nothing_comes_twice() {
    let (lab, arrived) = storm("draft", ALL, "1s");
    nothing_twice(&arrived);
    assert!(resolved(&lab, "arrived") > 0.0 && resolved(&lab, "not_sent") > 0.0);
    assert_eq!(resolved(&lab, "resent"), 0.0);
    assert_eq!(lab.service.drafts(), 0);
}

#[test]
fn with_sent_items_nothing_is_lost_and_nothing_comes_twice() {
    let (lab, arrived) = storm("sent-items", &["Mail.Send", "Mail.ReadBasic.All"], "1s");
    nothing_twice(&arrived);
    assert!(resolved(&lab, "arrived") > 0.0 && resolved(&lab, "not_sent") > 0.0);
    assert_eq!(resolved(&lab, "resent"), 0.0);
}

#[test]
fn with_nobody_to_ask_nothing_is_lost_and_what_may_come_twice_is_counted() {
    let (lab, arrived) = storm("off", ALL, "200ms");
    let twice: usize = arrived.values().map(|times| times - 1).sum();
    assert!(twice > 0 && resolved(&lab, "resent") >= twice as f64, "{twice}");
}

#[test]
fn auto_finds_out_once_what_the_permissions_allow() {
    for (roles, drafts, resolution) in
        [(ALL, 4, "arrived"), (&["Mail.Send", "Mail.Read"], 1, "arrived"), (&["Mail.Send"], 1, "resent")]
    {
        let lab = lab("auto", roles, "1s");
        for on in [On::SendMail, On::SendDraft] {
            lab.inject(Fault::new(on, Action::CutAfter).skip(2).times(1));
        }
        let mut smtp = lab.smtp();
        for n in 0..4 {
            smtp.send(FROM, &[TO], &message(FROM, TO, &format!("number {n}")));
            lab.wait_until_empty();
        }
        let calls = lab.service.calls();
        let made = calls.iter().filter(|call| call.method == "POST" && call.path.ends_with("/messages"));
        // A refusal is learnt from the first message, and remembered.
        assert_eq!(made.count(), drafts, "{roles:?}");
        assert_eq!(resolved(&lab, resolution), 1.0, "{roles:?}");
    }
}

#[test]
fn a_message_that_arrived_with_its_last_attempt_is_not_bounced() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").confirm = "sent-items".into();
        setup.retry = "first = '200ms'\nfactor = 1.0\njitter = 0.0\ngive_up_after = '1s'".into();
    });
    // The call times out when the answer does not come.
    lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_millis(1500))).times(1));
    lab.inject(Fault::new(On::SendMail, Action::CutAfter).times(1));
    lab.send(FROM, &[TO], &message(FROM, TO, "late"));
    lab.wait_until_empty();
    assert_eq!(lab.wait_for(1)[0].subject, "late");
    assert_eq!(resolved(&lab, "arrived"), 1.0);
    assert_eq!(lab.metric("m365_relay_bounces_total", &[]), 0.0);
}

#[test]
fn a_message_that_is_given_up_leaves_no_draft() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").confirm = "draft".into();
        setup.retry = "first = '200ms'\nfactor = 1.0\njitter = 0.0\ngive_up_after = '1s'".into();
    });
    lab.inject(Fault::status(On::SendDraft, 503, "serviceNotAvailable").times(20));
    lab.send(FROM, &[TO], &message(FROM, TO, "never"));
    lab.wait_for_metric("m365_relay_bounces_total", &[("kind", "expired")], 1.0);
    lab.service.clear_faults();
    lab.wait_for(1);
    lab.wait_until_empty();
    assert_eq!(lab.service.drafts(), 0);
}

#[test]
fn a_copy_of_another_message_with_the_same_message_id_proves_nothing() {
    let lab = lab("sent-items", ALL, "500ms");
    let content = |to: &str| message(FROM, to, "same id");
    lab.send(FROM, &["first@example.net"], &content("first@example.net"));
    lab.wait_for(1);
    lab.inject(Fault::new(On::SendMail, Action::CutBefore).times(1));
    lab.send(FROM, &["second@example.net"], &content("second@example.net"));
    let delivered = lab.wait_for(2);
    assert_eq!(delivered[1].recipients, ["second@example.net"]);
    assert_eq!(resolved(&lab, "not_sent"), 1.0);
}

#[test]
fn a_message_with_too_many_recipients_is_split_and_each_gets_it_once() {
    let lab = lab("draft", ALL, "1s");
    let recipients: Vec<String> = (0..1000).map(|n| format!("b{n}@example.net")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    // One of the parts is refused at first, and the other is not sent again.
    lab.inject(Fault::status(On::SendDraft, 503, "serviceNotAvailable").times(1));
    lab.send(FROM, &recipients, &message(FROM, "list@example.net", "to many"));
    let delivered = lab.wait_for(2);
    lab.wait_until_empty();
    let mut reached: Vec<_> = delivered.iter().flat_map(|message| message.recipients.clone()).collect();
    reached.sort();
    let mut expected: Vec<_> = recipients.iter().map(|to| (*to).to_owned()).collect();
    expected.sort();
    assert_eq!(reached, expected);
    assert!(delivered.iter().all(|message| message.recipients.len() == 500));
    assert_eq!(delivered[0].fields("Message-ID"), delivered[1].fields("Message-ID"));
}
