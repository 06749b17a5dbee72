//! A service, or another machine answering in its place, that directs mail elsewhere, or sends answers that
//! were not asked for.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use relay_sandbox::Limits;

use crate::{
    front::{Front, with_body},
    harness::{Attached, Lab, PATIENCE, holds_within, message, mixed_mail, wait_until},
    held,
};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// Graph by way of a front that tampers with its answers in this way.
fn lab_behind(tamper: impl Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> Lab {
    let mut lab = Lab::without_relay(|setup| {
        setup.service_limits = Limits { message_bytes: None, ..Limits::unthrottled() };
        setup.delivery = "settle_after = '100ms'".into();
    });
    let front = Front::start(&lab.service.url(), tamper);
    lab.setup.graph = Some(front.url());
    lab.setup.login = Some(front.url());
    lab.write_config();
    lab.restart();
    lab
}

#[test]
fn attachments_go_nowhere_else() {
    // Callers there are counted.
    let canary = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = canary.local_addr().unwrap().port();
    let elsewhere: Vec<String> = [
        "https://evil.example/put",
        "https://outlook.office.com.evil.example/put",
        "https://outlook.office.com@evil.example/put",
        "https://user:secret@outlook.office.com/put",
        "http://outlook.office.com/put",
        "https://outlook.office.com:8443/put",
        "https://169.254.169.254/metadata",
        "http://169.254.169.254/metadata",
        "https://10.0.0.1/put",
        "https://[fe80::1]/put",
        "https://2130706433/put",
        "https://localhost/put",
        "file:///etc/passwd",
        "ftp://outlook.office.com/put",
        "//evil.example/put",
        "",
    ]
    .iter()
    .map(|url| (*url).to_owned())
    .chain([
        format!("https://127.0.0.1:{port}/put"),
        format!("http://user@127.0.0.1:{port}/put"),
        format!("https://localhost:{port}/put"),
        format!("https://127.0.0.1.nip.io:{port}/put"),
    ])
    .collect();
    let tries = Arc::<AtomicUsize>::default();
    let is_honest = Arc::<AtomicBool>::default();
    let lab = {
        let tries = tries.clone();
        let is_honest = is_honest.clone();
        let elsewhere = elsewhere.clone();
        lab_behind(move |request, answer| {
            if !request.contains("createUploadSession") || is_honest.load(Ordering::SeqCst) {
                return answer;
            }
            let url = elsewhere[tries.fetch_add(1, Ordering::SeqCst) % elsewhere.len()].clone();
            with_body(&answer, |body| {
                let mut json: serde_json::Value = serde_json::from_str(&body).unwrap();
                json["uploadUrl"] = url.clone().into();
                json.to_string()
            })
        })
    };
    let attached = [Attached::random("a.bin", 3_500_000)];
    lab.send(FROM, &[TO], &mixed_mail(FROM, TO, "large", "", &attached));
    // Each try takes apart a message of megabytes, which takes its time on a busy machine.
    let all_named = || tries.load(Ordering::SeqCst) >= elsewhere.len();
    assert!(holds_within(2 * PATIENCE, all_named), "{} tries", tries.load(Ordering::SeqCst));
    // Other mail continues meanwhile.
    lab.send(FROM, &[TO], &message(FROM, TO, "small"));
    assert_eq!(lab.wait_for(1)[0].subject, "small");
    canary.set_nonblocking(true).unwrap();
    assert!(canary.accept().is_err(), "somebody was called");
    let calls = lab.service.calls();
    assert!(!calls.iter().any(|call| call.path.starts_with("/api/")), "it was put somewhere");
    // The log names the target, and which option; not the rest of the address.
    let log = lab.log().join("\n");
    assert!(log.contains("the host evil.example") && log.contains("upload_hosts of [clouds.lab]"));
    assert!(!log.contains("/put") && !log.contains("user:secret"));
    // An honest answer, and the message arrives, once.
    is_honest.store(true, Ordering::SeqCst);
    assert_eq!(lab.wait_for(2)[1].subject, "large");
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 2);
    held("Addresses for an upload that are not the service's", elsewhere.len());
}

#[test]
fn no_redirect_is_followed() {
    let canary = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("http://{}/elsewhere", canary.local_addr().unwrap());
    let tries = Arc::<AtomicUsize>::default();
    let lab = {
        let tries = tries.clone();
        lab_behind(move |request, answer| {
            const CODES: [u16; 6] = [300, 301, 302, 303, 307, 308];
            let n = tries.fetch_add(1, Ordering::SeqCst);
            if !request.contains("sendMail") || n >= CODES.len() {
                return answer;
            }
            format!("HTTP/1.1 {} Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n", CODES[n])
                .into_bytes()
        })
    };
    lab.send(FROM, &[TO], &message(FROM, TO, "redirected"));
    wait_until("each of them tried", || tries.load(Ordering::SeqCst) > 6);
    // The front has passed each call on: a redirect says that it was not taken.
    lab.wait_until_empty();
    canary.set_nonblocking(true).unwrap();
    assert!(canary.accept().is_err(), "somebody was called");
    held("Redirects to another host", 6);
}

/// Two tenants share their connections to the service. Each answer is followed by another, which was not
/// asked for. If it were taken for the answer to the next call, that message would be counted as delivered,
/// and be lost.
#[test]
fn answers_to_nothing_deliver_nothing() {
    const MESSAGES: usize = 200;
    let lab = lab_behind(|request, mut answer| {
        if request.contains("sendMail") {
            answer.extend_from_slice(
                b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nrequest-id: stray\r\n\r\n",
            );
        }
        answer
    });
    for n in 0..MESSAGES {
        let from = ["a@contoso.example", "a@fabrikam.example"][n % 2];
        lab.send(from, &[TO], &message(from, TO, &format!("{n}")));
    }
    lab.wait_until_empty();
    let mut subjects: Vec<_> = lab.service.messages().iter().map(|message| message.subject.clone()).collect();
    subjects.sort();
    subjects.dedup();
    assert_eq!(subjects.len(), MESSAGES, "some never arrived");
    assert!(!lab.log().iter().any(|line| line.contains("\"stray\"")));
    held("Answers that nobody asked for, on a connection that tenants share", MESSAGES);
}

/// The answer to one tenant's call comes on the connection of another's, and names that call; nothing was
/// sent.
#[test]
fn an_answer_to_another_tenants_call_delivers_nothing() {
    const TRIES: usize = 20;
    let swapped = Arc::<AtomicUsize>::default();
    let lab = {
        let swapped = swapped.clone();
        lab_behind(move |request, answer| {
            if !request.contains("sendMail") || swapped.fetch_add(1, Ordering::SeqCst) >= TRIES {
                return answer;
            }
            b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nrequest-id: 1\r\n\
              client-request-id: 7b1cbf05-0d0e-4b9e-9c3d-2f1e0a9b8c7d\r\n\r\n"
                .to_vec()
        })
    };
    lab.send(FROM, &[TO], &message(FROM, TO, "swapped"));
    wait_until("all of them swapped", || swapped.load(Ordering::SeqCst) > TRIES);
    lab.wait_until_empty();
    assert_eq!(lab.wait_for_logs("message delivered", 1).len(), 1, "{:?}", lab.logged("message delivered"));
    let unknown = lab.logged("delivery outcome unknown");
    assert_eq!(unknown.len(), TRIES);
    assert!(unknown.iter().all(|line| line["why"].as_str().unwrap().contains("belongs to another call")));
    held("Answers to another tenant's call", TRIES);
}
