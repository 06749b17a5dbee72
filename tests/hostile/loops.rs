//! Mail in circles, and mail to people who never wrote: the mail that leaves the relay is counted.

use std::{
    fs,
    net::{IpAddr, TcpStream},
};

use relay_sandbox::{Fault, On};

use super::{
    harness::{Lab, Mail, Smtp, message, wait_until},
    held,
};

const TO: &str = "b@example.net";
const CONTOSO: &str = "a@contoso.example";
const VICTIM: &str = "victim@elsewhere.example";
/// Servers that a message may pass.
const HOPS: usize = 50;

/// All mail belongs to one tenant alone, which may therefore use the null sender.
fn contoso_alone() -> Lab {
    Lab::with(|setup| setup.tenants.retain(|tenant| tenant.name == "contoso"))
}

fn refuse_all(lab: &Lab) {
    lab.inject(Fault::status(On::SendMail, 400, "ErrorInvalidRecipients"));
}

/// Passes the last message that one relay has sent to the other, by turns, until it is refused; returns how
/// many were sent.
fn in_circles(labs: &[&Lab], envelope_sender: &str) -> usize {
    let mut content = message(CONTOSO, TO, "round and round");
    let mut sent = 0;
    loop {
        let lab = labs[sent % labs.len()];
        let mut smtp = lab.smtp();
        smtp.begin(envelope_sender, &[TO]);
        let reply = smtp.data(&content);
        if reply.code != 250 {
            assert!(reply.code == 554 && reply.text.starts_with("5.4.6 "), "{reply:?}");
            break;
        }
        assert!(sent <= HOPS, "it goes on for ever");
        let before = sent / labs.len();
        content = lab.wait_for(before + 1)[before].raw.to_vec();
        sent += 1;
    }
    for lab in labs {
        lab.wait_until_empty();
        assert_eq!(lab.metric("m365_relay_bounces_total", &[]), 0.0, "a circle makes no reports");
    }
    sent
}

#[test]
fn mail_that_comes_back_again_and_again_is_stopped() {
    let alone = in_circles(&[&contoso_alone()], CONTOSO);
    let one = contoso_alone();
    let other = contoso_alone();
    let at_each_other = in_circles(&[&one, &other], CONTOSO);
    let of_nobody = in_circles(&[&contoso_alone()], "");
    assert!([alone, at_each_other, of_nobody].iter().all(|sent| *sent <= HOPS + 1));
    held("Mail that comes back to the relay again and again", alone + at_each_other + of_nobody);
}

#[test]
fn nobody_is_told_about_a_report() {
    const EACH: usize = 10;
    let lab = contoso_alone();
    refuse_all(&lab);
    let mut smtp = lab.smtp();
    let marked = |field: &str, n: usize| {
        let mut content = format!("{field}\r\n").into_bytes();
        content.extend(message(CONTOSO, TO, &format!("{n} {}", field.len())));
        content
    };
    let report =
        "MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=x";
    for n in 0..EACH {
        // One report each: the sender is told. The report cannot be delivered either, and it ends there.
        smtp.send(CONTOSO, &[TO], &message(CONTOSO, TO, &format!("plain {n}")));
        smtp.send(CONTOSO, &[TO], &marked("Auto-Submitted: auto-replied", n));
        smtp.send(CONTOSO, &[TO], &marked("Auto-Submitted: Auto-Replied (vacation)", n));
        // A report with a sender, as abuse reports have one, is mail like any other.
        smtp.send(CONTOSO, &[TO], &marked(report, n));
        // No report.
        smtp.send("", &[TO], &message(CONTOSO, TO, &format!("null {n}")));
    }
    lab.wait_until_empty();
    assert!(lab.service.messages().is_empty());
    assert_eq!(lab.metric("m365_relay_bounces_total", &[]), 4.0 * EACH as f64);
    assert_eq!(lab.sends(CONTOSO).len(), 5 * EACH + 4 * EACH, "each once, and the reports");
    held("Reports about reports, null senders and automatic replies that cannot be delivered", 5 * EACH);
}

/// A report is sent to the envelope sender, as whom the tenant may send; to nobody that a header names.
#[test]
fn a_report_goes_to_nobody_whom_a_header_names() {
    const FIELDS: [&str; 10] = [
        "Return-Path",
        "Reply-To",
        "Errors-To",
        "Disposition-Notification-To",
        "Return-Receipt-To",
        "Resent-From",
        "Resent-Sender",
        "X-Confirm-Reading-To",
        "Resent-Reply-To",
        "X-Errors-To",
    ];
    let lab = contoso_alone();
    let mut smtp = lab.smtp();
    for (n, field) in FIELDS.into_iter().enumerate() {
        lab.inject(Fault::status(On::SendMail, 400, "ErrorInvalidRecipients").times(1));
        let mut content = format!("{field}: <{VICTIM}>\r\n").into_bytes();
        content.extend(message(CONTOSO, TO, field));
        smtp.send(CONTOSO, &[TO], &content);
        let report = lab.wait_for(n + 1).remove(n);
        assert_eq!(report.recipients, [CONTOSO], "{field}");
        assert!(report.fields("Subject")[0].starts_with("Undelivered mail"), "{field}");
        lab.wait_until_empty();
    }
    held("Reports that a header asks for in another's name", FIELDS.len());
}

#[test]
fn an_outsider_makes_the_relay_write_to_nobody() {
    let lab = Lab::with(|setup| {
        for tenant in &mut setup.tenants {
            tenant.networks = "['127.1.0.0/16']".into();
        }
    });
    refuse_all(&lab);
    let mut tries = 0;
    let mut is_refused = |source: [u8; 4], line: &str| {
        let (mut smtp, _): (Smtp<TcpStream>, _) =
            Smtp::from_address(IpAddr::from(source), lab.smtp_address());
        assert_eq!(smtp.command("EHLO client.example").code, 250);
        let reply = smtp.command(line);
        assert!((500..600).contains(&reply.code), "{line}: {reply:?}");
        assert!(
            smtp.command(&format!("RCPT TO:<{TO}> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;{VICTIM}")).code >= 500
        );
        assert!(smtp.command("DATA").code >= 500);
        tries += 1;
    };
    for sender in [VICTIM, CONTOSO, "a@fabrikam.example", "", "a@CONTOSO.example", "a@sub.contoso.example"] {
        for more in ["", " RET=FULL ENVID=x", " SIZE=100 BODY=8BITMIME", " SMTPUTF8"] {
            // From outside, whoever is named; from inside, addresses that no tenant sends as.
            is_refused([127, 9, 9, 9], &format!("MAIL FROM:<{sender}>{more}"));
            if sender == VICTIM || sender.contains("sub.") {
                is_refused([127, 1, 0, 1], &format!("MAIL FROM:<{sender}>{more}"));
            }
        }
    }
    // By a file: the tenant is the one of the folder.
    let put = |name: &str, content: &str| {
        let hidden = lab.pickup("contoso").join(format!(".{name}"));
        fs::write(&hidden, content).unwrap();
        fs::rename(hidden, lab.pickup("contoso").join(name)).unwrap();
    };
    let body = format!("From: {CONTOSO}\r\nTo: {TO}\r\n\r\nx\r\n");
    put("1.eml", &format!("X-Sender: <{VICTIM}>\r\nX-Receiver: <{TO}> NOTIFY=SUCCESS,FAILURE\r\n{body}"));
    put("2.eml", &format!("From: {VICTIM}\r\nTo: {TO}\r\n\r\nx\r\n"));
    put("3.eml", &format!("Sender: {VICTIM}\r\n{}", body.replace(CONTOSO, VICTIM)));
    for n in 1..=3 {
        wait_until("the file to be refused", || lab.pickup("contoso").join(format!("{n}.bad")).exists());
        tries += 1;
    }
    lab.wait_until_empty();
    let sends = lab.service.calls().into_iter().filter(|call| call.path.ends_with("/sendMail")).count();
    assert_eq!((sends, lab.service.messages().len()), (0, 0));
    held("Outsiders who would have reports sent to strangers (backscatter)", tries);
}
