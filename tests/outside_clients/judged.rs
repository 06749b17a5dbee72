//! Mail that was taken apart, judged by two programs that share no code with the relay: Python's email
//! package, and mailparser for Node.js.
//!
//! The messages are the cases of this project, those that packages bring along to test their own readers
//! with, and some that Python's email package writes at random. `judge/differences.txt` lists the
//! differences that there may be, each with its reason; it may only shrink.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use relay_sandbox::Limits;

use crate::{
    assert_success,
    harness::{Lab, Setup, fields},
    installed, nodemailer,
};

const JUDGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside_clients/judge");
/// Of each kind of part, character set, encoding and way to write a name there are dozens among so many.
const GENERATED: &str = "860";
/// The same messages each time: a difference can be looked at.
const SEED: &str = "15";

#[test]
fn what_arrives_is_what_was_sent() {
    let lab = Lab::with(|setup: &mut Setup| {
        setup.service_limits = Limits { message_bytes: None, ..Limits::unthrottled() };
        setup.more_listeners = "[graph]\nmax_mime = '64KiB'\n".into();
        setup.smtp = "max_errors = 100000\nmax_messages = 100000\nmax_commands = 100000".into();
    });
    // Whoever looks at a difference wants to keep the messages.
    let folder = std::env::var_os("JUDGED").map_or_else(|| lab.folder().join("judged"), PathBuf::from);
    fs::create_dir_all(&folder).unwrap();
    let mut smtp = lab.smtp();
    let mut sent = 0;
    let mut names = BTreeSet::new();
    for path in messages(&lab) {
        // Larger than the limit.
        let bulk = format!("X-Bulk: {}\n", "x".repeat(900)).repeat(75);
        let Some(content) = sendable(&fs::read(&path).unwrap(), &bulk) else { continue };
        smtp.begin("a@contoso.example", &["b@example.net"]);
        let reply = smtp.data(&content);
        assert_eq!(reply.code, 250, "{}: {reply:?}", path.display());
        sent += 1;
        let delivered = &lab.wait_for(sent)[sent - 1];
        let name = name_of(&path);
        fs::write(folder.join(format!("{name}.sent")), &content).unwrap();
        fs::write(folder.join(format!("{name}.arrived")), &delivered.raw).unwrap();
        names.insert(name);
    }
    assert!(sent >= 1000, "only {sent} messages");

    let mut python = installed("python3", "python3");
    python.arg("-I").arg(format!("{JUDGE}/judge.py"));
    let mut mailparser = nodemailer::node();
    mailparser.arg(format!("{JUDGE}/judge.cjs"));
    let mut differences = BTreeSet::new();
    for (judge, program) in [("Python", &mut python), ("mailparser", &mut mailparser)] {
        let output = program.arg(&folder).output().unwrap();
        assert_success(&output);
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let difference: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| difference[key].as_str().unwrap();
            println!("{judge}: {line}");
            differences.insert(format!("{} {judge} {}", text("name"), text("what")));
        }
    }
    let known = fs::read_to_string(format!("{JUDGE}/differences.txt")).unwrap();
    let known: BTreeSet<String> = known
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (difference, reason) = line.split_once('\t').unwrap_or_else(|| panic!("no reason: {line}"));
            assert!(!reason.trim().is_empty(), "no reason: {line}");
            difference.to_owned()
        })
        .collect();
    println!("{sent} messages, {} differences", differences.len());
    let unexplained: Vec<_> = differences.difference(&known).collect();
    assert!(unexplained.is_empty(), "differences that differences.txt does not explain: {unexplained:#?}");
    // Not each release of Python has the same messages.
    let is_sent = |difference: &str| difference.split(' ').next().is_some_and(|name| names.contains(name));
    let gone: Vec<_> = known.difference(&differences).filter(|gone| is_sent(gone)).collect();
    assert!(gone.is_empty(), "differences that are none: take them out of differences.txt: {gone:#?}");
}

/// Up to `graph.max_mime`, and by SMTP, a message goes as it is: whatever follows the fields on its top,
/// that is, all of its content and nearly all of its header.
#[test]
fn every_other_path_leaves_the_content_as_it_is() {
    for (route, confirm, is_file) in
        [("graph", "off", false), ("graph", "draft", false), ("smtp", "off", false), ("graph", "off", true)]
    {
        let lab = Lab::with(|setup: &mut Setup| {
            setup.tenant("contoso").route = route.into();
            setup.tenant("contoso").confirm = confirm.into();
            setup.service_limits = Limits { message_bytes: None, ..Limits::unthrottled() };
            setup.smtp = "max_errors = 100000\nmax_messages = 100000\nmax_commands = 100000".into();
        });
        let mut smtp = lab.smtp();
        let mut sent = HashMap::new();
        for path in messages(&lab) {
            let mark = format!("X-Case: {}\n", sent.len());
            let Some(content) = sendable(&fs::read(&path).unwrap(), &mark) else { continue };
            if is_file {
                if !fields(&content, "X-Receiver").is_empty() {
                    // In a file, this says who gets it.
                    continue;
                }
                let folder = lab.pickup("contoso");
                fs::write(folder.join("written"), &content).unwrap();
                fs::rename(folder.join("written"), folder.join(format!("{}.eml", sent.len()))).unwrap();
            } else {
                smtp.begin("a@contoso.example", &["b@example.net"]);
                let reply = smtp.data(&content);
                assert_eq!(reply.code, 250, "{}: {reply:?}", path.display());
            }
            sent.insert(sent.len().to_string(), (path, content));
        }
        assert!(sent.len() >= 1000, "only {} messages", sent.len());
        let mut different = Vec::new();
        let mut bounced = Vec::new();
        for delivered in lab.wait_for(sent.len()) {
            let Some(mark) = fields(&delivered.raw, "X-Case").into_iter().next() else {
                // The service has refused it.
                bounced.push(delivered);
                continue;
            };
            let (path, content) = sent.remove(&mark).unwrap();
            let [was, is] = [&content, &delivered.raw[..]].map(BelowTheMark::of);
            if !was.is_kept_in(&is) {
                different.push((path, was, is));
            }
        }
        // RFC 6531: a header that is neither ASCII nor UTF-8 cannot be sent by SMTP. Its sender is told.
        for bounce in &bounced {
            assert!(
                route == "smtp"
                    && String::from_utf8_lossy(&bounce.raw).contains("554 5.6.9 SMTPUTF8 is required"),
                "{bounce:?}"
            );
        }
        assert_eq!(sent.len(), bounced.len());
        for (path, content) in sent.values() {
            assert!(str::from_utf8(content).is_err(), "{}", path.display());
        }
        let by = if is_file { "pickup" } else { "SMTP" };
        let count = different.len();
        println!("{by}, {route}, confirm {confirm}: {count} differences, {} bounces", bounced.len());
        assert!(different.is_empty(), "{different:#?}");
    }
}

/// What follows the fields on top, in a form that can be shown: the fields, and the body.
#[derive(Debug)]
struct BelowTheMark {
    fields: Vec<String>,
    body: String,
}

impl BelowTheMark {
    /// A header ends at an empty line, or at the first line that is no field.
    fn of(content: &[u8]) -> Self {
        let top = content.windows(8).position(|eight| eight == b"X-Case: ").unwrap();
        let text = content[top..].escape_ascii().to_string();
        let mut fields: Vec<String> = Vec::new();
        let mut lines = text.split("\\r\\n").peekable();
        while let Some(line) = lines.peek() {
            let is_continued = line.starts_with([' ']) || line.starts_with("\\t");
            let name = line.split_once(':').map_or("", |(name, _)| name.trim_end());
            match fields.last_mut().filter(|_| is_continued) {
                Some(field) => field.push_str(line),
                None if !name.is_empty() && !name.contains([' ', '\\']) => fields.push((*line).to_owned()),
                None => break,
            }
            lines.next();
        }
        lines.next_if_eq(&"");
        // Which the relay removes.
        fields.retain(|field| !field.starts_with("Return-Path:"));
        Self { fields, body: lines.collect::<Vec<_>>().join("\n") }
    }

    /// The same body, and the same fields; only an id and a date are added where there was none.
    fn is_kept_in(&self, other: &Self) -> bool {
        let is_known = |field: &String| field.starts_with("Message-ID: ") || field.starts_with("Date: ");
        other.fields.strip_prefix(&self.fields[..]).is_some_and(|added| added.iter().all(is_known))
            && self.body == other.body
    }
}

/// Of all corpora, in the same order each time.
fn messages(lab: &Lab) -> Vec<PathBuf> {
    let generated = lab.folder().join("generated");
    fs::create_dir(&generated).unwrap();
    let mut python = installed("python3", "python3");
    let generator = format!("{JUDGE}/generate.py");
    assert_success(
        &python.args(["-I", &generator]).arg(&generated).args([GENERATED, SEED]).output().unwrap(),
    );

    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/real_mail");
    let mut found = Vec::new();
    for folder in [generated, cases, resources_of_mail_parser(), data_of_python()] {
        let before = found.len();
        files(&folder, &mut found);
        assert!(found.len() > before, "no messages in {}", folder.display());
    }
    found.sort_by_key(|path| name_of(path));
    found
}

/// The source of the crate has the messages of its own tests.
fn resources_of_mail_parser() -> PathBuf {
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap();
    assert_success(&host);
    let host = String::from_utf8(host.stdout).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    // The build has fetched what this platform needs, and no more.
    cargo.args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host.trim()]);
    let output = cargo.output().unwrap();
    assert_success(&output);
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let parser = packages.iter().find(|package| package["name"] == "mail-parser").unwrap();
    Path::new(parser["manifest_path"].as_str().unwrap()).with_file_name("resources")
}

/// The messages by which Python's own reader is tested.
fn data_of_python() -> PathBuf {
    let mut python = installed("python3", "python3");
    let output =
        python.args(["-I", "-c", "import test.test_email as it; print(it.__path__[0])"]).output().unwrap();
    assert!(
        output.status.success(),
        "Python's own tests are not installed: they are in Debian's package libpython3.11-testsuite"
    );
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).join("data")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Its folder and its name: several have a message `001`.
fn name_of(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
    let name = path.file_name().unwrap_or_default();
    format!("{}-{}", folder.to_string_lossy(), name.to_string_lossy())
}

/// The message as a client sends it: line ends of SMTP, an author who may send, and these fields on top.
fn sendable(content: &[u8], fields: &str) -> Option<Vec<u8>> {
    let text: Vec<u8> = content.iter().copied().filter(|octet| *octet != b'\r').collect();
    let begin =
        if text.starts_with(b"From ") { text.iter().position(|octet| *octet == b'\n')? + 1 } else { 0 };
    let text = &text[begin..];
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let header = text.windows(2).position(|two| two == b"\n\n")?;
    let mut out = format!("From: a@contoso.example\nTo: b@example.net\n{fields}").into_bytes();
    let mut skipped = false;
    for line in text[..=header].split_inclusive(|octet| *octet == b'\n') {
        let is_continued = line.starts_with(b" ") || line.starts_with(b"\t");
        let name = line.split(|octet| *octet == b':').next().unwrap_or_default().trim_ascii();
        let is_replaced = ["from", "to", "cc", "bcc", "sender", "received"]
            .iter()
            .any(|replaced| name.eq_ignore_ascii_case(replaced.as_bytes()));
        skipped = if is_continued { skipped } else { is_replaced };
        if !skipped {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(&text[header + 1..]);
    if !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    let lines = out.split(|octet| *octet == b'\n');
    Some(lines.collect::<Vec<_>>().join(&b"\r\n"[..]))
}
