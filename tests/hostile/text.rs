//! Text from outside that gives orders to a terminal, forges lines, or hides: by every entrance, searched for
//! in everything that is printed.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use m365_relay::config::PasswordHash;
use relay_mail::outside::is_hidden;
use relay_sandbox::{Action, Fault, On, StatusFault};

use crate::{
    harness::{Lab, Smtp, message, wait_until},
    held,
};

/// One of each kind: C0, DEL, C1, direction marks, Unicode line ends, zero-width characters, fillers,
/// selectors, tags.
const KINDS: [&str; 20] = [
    "\u{1}",
    "\u{7}",
    "\u{8}",
    "\u{b}",
    "\u{1b}[2J",
    "\u{1b}]0;x\u{7}",
    "\u{7f}",
    "\u{85}",
    "\u{9b}2J",
    "\u{ad}",
    "\u{61c}",
    "\u{200b}",
    "\u{200f}",
    "\u{2028}",
    "\u{2029}",
    "\u{202e}",
    "\u{2066}",
    "\u{feff}",
    "\u{3164}",
    "\u{e0041}",
];
/// What else a file's name and a service's word may contain.
const LINE_ENDS: [&str; 3] = ["\n", "\r", "\r\n2001-01-01T00:00:00Z  INFO forged: id=1"];

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// A relay whose log is kept octet by octet, in either format.
struct Talker {
    lab: Lab,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Talker {
    fn start(format: &str) -> Self {
        let lab = Lab::without_relay(|setup| {
            setup.listener = "trusted = true".into();
            setup.log_filter = "debug".into();
            let hash = PasswordHash::of(b"right").unwrap().expose();
            setup.tenant("contoso").more = format!("users = {{ scanner = '{hash}' }}");
            setup.tenant("fabrikam").route = "smtp".into();
        });
        let config = fs::read_to_string(lab.config_file()).unwrap();
        fs::write(lab.config_file(), config.replace("format = \"json\"", &format!("format = \"{format}\"")))
            .unwrap();
        for kind in KINDS.iter().chain(&LINE_ENDS) {
            // It belongs to no tenant: the relay says so.
            fs::create_dir_all(lab.folder().join(format!("pickup/stray{kind}"))).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_m365-relay"))
            .args(["serve", "--config"])
            .arg(lab.config_file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let to = log.clone();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut chunk) {
                to.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
        });
        let talker = Self { lab, child, log };
        talker.says(" ready", "\"ready\"");
        talker
    }

    fn log(&self) -> String {
        String::from_utf8(self.log.lock().unwrap().clone()).unwrap()
    }

    /// Waits for one of the two in the log.
    fn says(&self, text: &str, json: &str) {
        wait_until("the log to say it", || {
            self.log().lines().any(|line| line.contains(text) || line.contains(json))
        });
    }

    fn address(&self, of: &str) -> SocketAddr {
        let log = self.log();
        let line = log.lines().find(|line| line.contains(of)).unwrap();
        let from = line.find("127.0.0.1:").unwrap();
        let end =
            line[from..].find(|c: char| !matches!(c, '0'..='9' | '.' | ':')).unwrap_or(line.len() - from);
        line[from..from + end].parse().unwrap()
    }

    fn page(&self, path: &str) -> String {
        let address = self.address("listening for metrics");
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split_once("\r\n\r\n").unwrap().1.replace("\r\n", "\n")
    }

    fn drop_file(&self, name: &str, content: &[u8]) {
        let folder = self.lab.folder().join("pickup/contoso");
        fs::write(folder.join(".tmp"), content).unwrap();
        fs::rename(folder.join(".tmp"), folder.join(name)).unwrap();
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn assert_visible(what: &str, text: &str) {
    let lines = text.lines().filter(|line| line.contains(is_hidden));
    let shown: Vec<_> = lines.take(3).collect();
    assert!(shown.is_empty(), "{what}: {shown:?}");
}

/// Sends all of them, in each place that SMTP has. Returns how many tries that was.
fn by_smtp(talker: &Talker, kind: &str, number: usize) -> usize {
    let source = Ipv4Addr::new(127, 0, 3, u8::try_from(number).unwrap() + 1);
    let (mut smtp, _): (Smtp, _) = Smtp::from_address(source.into(), talker.address("listening for SMTP"));
    smtp.write(format!("EHLO x{kind}\r\n").as_bytes());
    smtp.reply();
    assert_eq!(smtp.command("EHLO client.example").code, 250);
    for local in [format!("a{kind}b"), format!("\"a{kind}b\""), format!("\"a\\{kind}b\"")] {
        let reply = smtp.command(&format!("MAIL FROM:<{local}@contoso.example> SMTPUTF8"));
        assert!((500..600).contains(&reply.code), "{local:?}: {reply:?}");
        assert_eq!(smtp.command(&format!("MAIL FROM:<{FROM}> SMTPUTF8")).code, 250);
        let reply = smtp.command(&format!("RCPT TO:<{local}@example.net>"));
        assert!((500..600).contains(&reply.code), "{local:?}: {reply:?}");
        assert_eq!(smtp.command("RSET").code, 250);
    }
    let login = BASE64_STANDARD.encode(format!("\0scan{kind}ner\0wrong"));
    let reply = smtp.command(&format!("AUTH PLAIN {login}"));
    assert!((500..600).contains(&reply.code), "{reply:?}");
    smtp.begin(FROM, &[TO]);
    let reply = smtp.data(&message(&format!("a{kind}b@contoso.example"), TO, "x"));
    assert_eq!(reply.code, 550, "{reply:?}");
    // Text that is not a command.
    smtp.write(format!("VR{kind}FY\r\n").as_bytes());
    smtp.reply();
    10
}

fn by_file(talker: &Talker, kind: &str, number: usize) -> usize {
    talker.drop_file(&format!("good{number}{kind}.eml"), &message(FROM, TO, "by file"));
    talker.drop_file(&format!("bad{number}{kind}.eml"), b"no header\n");
    let sender = format!("X-Sender: <a{kind}b@contoso.example>\r\nX-Receiver: <{TO}>\r\n");
    talker.drop_file(&format!("sender{number}.eml"), &[sender.as_bytes(), &message(FROM, TO, "x")].concat());
    let author = message(&format!("a{kind}b@contoso.example"), TO, "x");
    talker.drop_file(&format!("author{number}.eml"), &author);
    4
}

/// Words of the services that cause bounces.
fn by_service(talker: &Talker, kind: &str) -> usize {
    let service = &talker.lab.service;
    let sent = |mailbox: &str| service.messages().iter().filter(|message| message.mailbox == mailbox).count();
    let by_graph = "service@contoso.example";
    let by_smtp = "service@fabrikam.example";
    let said =
        StatusFault { message: format!("no{kind} right"), ..StatusFault::new(400, "ErrorInvalidRecipients") };
    let fault = Fault::new(On::SendMail, Action::Status(said)).times(1);
    talker.lab.inject(Fault { mailbox: Some(by_graph.into()), ..fault });
    let mut smtp = Smtp::connect(talker.address("listening for SMTP"));
    assert_eq!(smtp.command("EHLO client.example").code, 250);
    let before = sent(by_graph);
    let subject = format!("sub{}ject", kind.replace(['\r', '\n'], ""));
    smtp.send(by_graph, &[TO], &message(by_graph, TO, &subject));
    wait_until("the bounce", || sent(by_graph) > before);
    let mut tries = 2;
    if !kind.contains(char::is_control) {
        talker.lab.inject(Fault::reply(On::SmtpRcpt, &format!("550 5.1.1 no{kind} user")).times(1));
        let before = sent(by_smtp);
        smtp.send(by_smtp, &[TO], &message(by_smtp, TO, "x"));
        wait_until("the bounce", || sent(by_smtp) > before);
        tries += 1;
    }
    tries
}

fn all_ways_in(format: &str) -> usize {
    let talker = Talker::start(format);
    let mut tries = KINDS.len() + LINE_ENDS.len();
    for (number, kind) in KINDS.iter().enumerate() {
        tries += by_smtp(&talker, kind, number);
        tries += by_file(&talker, kind, number);
        tries += by_service(&talker, kind);
    }
    for (number, kind) in LINE_ENDS.iter().enumerate() {
        let number = KINDS.len() + number;
        talker.drop_file(&format!("good{number}{kind}.eml"), &message(FROM, TO, "by file"));
        talker.drop_file(&format!("bad{number}{kind}.eml"), b"no header\n");
        tries += 2 + by_service(&talker, kind);
    }
    let folder = talker.lab.folder().join("pickup/contoso");
    let names = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let left = |end: &str| names().filter(|name| name.to_string_lossy().ends_with(end)).count();
    let refused = 3 * KINDS.len() + LINE_ENDS.len();
    wait_until("all files to be taken or refused", || left(".bad.txt") == refused && left(".eml") == 0);

    for name in names().filter(|name| name.to_string_lossy().ends_with(".bad.txt")) {
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        assert_visible(".bad.txt", &text);
        assert_eq!(text.lines().count(), 1, "{text:?}");
    }
    for bounce in
        talker.lab.service.messages().iter().filter(|message| message.subject.starts_with("Undelivered"))
    {
        let parsed = mail_parser::MessageParser::default().parse(&*bounce.raw).unwrap();
        // The text and the report; after them comes the message's own header, unchanged.
        assert_visible("a bounce", &parsed.body_text(0).unwrap());
        let report = parsed.attachment(0).unwrap();
        assert_visible("a report", &String::from_utf8_lossy(report.contents()));
        assert_visible("the bounce's subject", &bounce.subject);
    }
    assert_visible("metrics", &talker.page("/metrics"));
    let log = talker.log();
    assert_visible("log", &log);
    for line in log.lines() {
        match format {
            "json" => assert!(
                serde_json::from_str::<serde_json::Value>(line).is_ok_and(|it| it["level"].is_string()),
                "{line}"
            ),
            _ => assert!(line.starts_with("20") && !line.starts_with("2001"), "{line}"),
        }
    }
    tries
}

#[test]
fn text_that_gives_orders_is_shown_and_not_obeyed() {
    let tries = all_ways_in("text") + all_ways_in("json");
    held("Control and hidden characters by every way in", tries);
}

/// The login service's words, on the terminal of the user who asks.
#[test]
fn a_login_services_words_on_a_terminal() {
    let lab = Lab::without_relay(|_| {});
    let config = lab.config_file();
    let config = config.to_str().unwrap();
    let mut tries = 0;
    for kind in KINDS.iter().chain(&LINE_ENDS) {
        let said = StatusFault {
            message: format!("AADSTS7000215: In{kind}valid."),
            ..StatusFault::new(401, "invalid_client")
        };
        lab.inject(Fault::new(On::Token, Action::Status(said)).times(1));
        for more in [&[][..], &["--json"]] {
            let output = lab.run(&[&["tenant", "check", "contoso", "--config", config], more].concat());
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(!text.is_empty() && !text.contains("\n2001"));
            assert_visible("tenant check", &text);
            tries += 1;
        }
        lab.service.clear_faults();
    }
    held("A login service's words on a terminal", tries);
}
