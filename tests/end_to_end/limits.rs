//! Microsoft's limits are kept on this side, mailbox by mailbox.

use std::time::Duration;

use m365_relay::clock;
use relay_sandbox::{Action, Fault, Limits, On};

use crate::harness::{Lab, message, wait_until};

const FROM: &str = "busy@contoso.example";
const TO: &str = "b@example.net";

fn send_forty(lab: &Lab) {
    let mut smtp = lab.smtp();
    for n in 0..40 {
        smtp.send(FROM, &[TO], &message(FROM, TO, &format!("{n}")));
    }
}

/// Slows calls down, so that they overlap where they may.
fn slow_calls(time: Duration) -> Fault {
    Fault::new(On::SendMail, Action::Delay(time))
}

#[test]
fn a_burst_from_one_mailbox_is_spread_and_delays_no_other_mailbox() {
    let lab = Lab::with(|setup| {
        setup.limits = String::new();
        setup.service_limits = Limits::default();
    });
    lab.inject(slow_calls(Duration::from_millis(200)));
    send_forty(&lab);
    let other = "calm@contoso.example";
    let asked_at = clock::now().as_millis();
    lab.send(other, &[TO], &message(other, TO, "calm"));

    // Three at once, then one every two seconds: the sixth is sent after six.
    let accepted_at = |mailbox: &str| -> Vec<u64> {
        let messages = lab.service.messages().into_iter();
        messages.filter(|message| message.mailbox == mailbox).map(|message| message.accepted_at_ms).collect()
    };
    wait_until("some of the burst", || accepted_at(FROM).len() >= 6);
    let busy = accepted_at(FROM);
    let calm = accepted_at(other);
    assert!(busy[5] - busy[2] >= 5000, "{busy:?}");
    assert!(calm[0] - asked_at < 2000, "the other mailbox had to wait: {asked_at} {calm:?}");
    assert!(lab.service.peak_concurrency(FROM) <= 3);
    assert_eq!(lab.service.counts().throttled, 0);
    lab.wait_for_metric("m365_relay_waiting_for_limit", &[("limit", "messages_per_minute")], 1.0);
    let waiting = lab.metric("m365_relay_queue_messages", &[("tenant", "contoso")]);
    assert!(waiting >= 30.0, "{waiting}");
}

#[test]
fn a_mailbox_has_no_more_calls_at_a_time_than_allowed() {
    let lab = Lab::with(|setup| {
        setup.limits = "messages_per_minute = 0".into();
        setup.service_limits = Limits { messages_per_minute: None, ..Limits::default() };
    });
    lab.inject(slow_calls(Duration::from_millis(100)));
    send_forty(&lab);

    lab.wait_for(40);
    lab.wait_until_empty();
    assert_eq!(lab.service.peak_concurrency(FROM), 3);
    assert_eq!(lab.service.counts().throttled, 0);
    assert_eq!(lab.sends(FROM).len(), 40);
}

#[test]
fn a_tenants_own_limits_win() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").more = "limits = { concurrent_requests = 1 }".into();
        setup.tenant("fabrikam").more = "limits = { concurrent_requests = 2 }".into();
    });
    lab.inject(slow_calls(Duration::from_millis(100)));
    let mut smtp = lab.smtp();
    for n in 0..5 {
        for from in ["a@contoso.example", "a@fabrikam.example"] {
            smtp.send(from, &[TO], &message(from, TO, &format!("{n}")));
        }
    }

    lab.wait_for(10);
    assert_eq!(lab.service.peak_concurrency("a@contoso.example"), 1);
    assert_eq!(lab.service.peak_concurrency("a@fabrikam.example"), 2);
}
