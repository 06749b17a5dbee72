//! strace: the order of writes, syncs and replies.

use std::{fs, path::Path, process::Stdio};

use crate::{
    FROM, TO,
    harness::{Lab, base64_mail, message, wait_until},
    installed,
};

/// The basis of the 250's promise, seen from outside: body synced, its directory synced, index written, index
/// synced, and only then the reply.
#[test]
fn a_message_is_on_the_disk_before_its_250() {
    for (body, content) in
        [(".seg>", message(FROM, TO, "small")), ("/body/large/", base64_mail(FROM, TO, "large", 500_000))]
    {
        let lab = Lab::start();
        let trace = Trace::of(lab.process_id(), &lab.folder().join("strace"));
        lab.send(FROM, &[TO], &content);
        lab.wait_for(1);
        let calls = trace.calls();
        let after = |from: usize, what: &str, is_it: &dyn Fn(&str) -> bool| {
            let found = calls[from..].iter().position(|call| is_it(call));
            from + found.unwrap_or_else(|| panic!("no {what} after call {from}:\n{}", calls.join("\n")))
        };
        let written = after(0, "body", &|call| call.contains("write") && call.contains(body));
        let synced =
            after(written, "sync of the body", &|call| call.starts_with("fdatasync") && call.contains(body));
        let directory = calls.iter().position(|call| call.starts_with("fsync") && call.contains("/body"));
        let indexed = after(synced, "write to the index", &|call| {
            call.starts_with("pwrite64") && call.contains("/index/db>")
        });
        let index_synced = after(indexed, "sync of the index", &|call| {
            call.starts_with("fdatasync") && call.contains("/index/db>")
        });
        let replied = calls.iter().position(|call| call.contains("250 2.0.0 Ok: queued")).expect("a reply");
        assert!(directory.is_some_and(|directory| directory < index_synced), "{}", calls.join("\n"));
        assert!(index_synced < replied, "{}", calls.join("\n"));
    }
}

/// The same for each message of a group: many come at once, and each of them waits for its own.
#[test]
fn each_message_of_a_group_is_on_the_disk_before_its_250() {
    const CLIENTS: usize = 20;
    let lab = Lab::start();
    let trace = Trace::of(lab.process_id(), &lab.folder().join("strace"));
    let ids: Vec<String> = std::thread::scope(|scope| {
        let send = |n: usize| {
            let lab = &lab;
            move || lab.smtp().send(FROM, &[TO], &message(FROM, TO, &format!("number {n}")))
        };
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(send(n))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    lab.wait_for(CLIENTS);
    let calls = trace.calls();
    let all = calls.join("\n");
    let find = |from: usize, what: &str, is_it: &dyn Fn(&str) -> bool| {
        let found = calls[from..].iter().position(|call| is_it(call));
        from + found.unwrap_or_else(|| panic!("no {what} after call {from}:\n{all}"))
    };
    let directory =
        find(0, "sync of the directory", &|call| call.starts_with("fsync") && call.contains("/body>"));
    let mut groups = std::collections::BTreeSet::new();
    for id in ids {
        let written = find(0, "body", &|call| call.starts_with("pwritev") && call.contains(&id));
        let synced = find(written, "sync", &|call| call.starts_with("fdatasync") && call.contains(".seg>"));
        let indexed =
            find(synced, "index", &|call| call.starts_with("pwrite64") && call.contains("/index/db>"));
        let index_synced =
            find(indexed, "index sync", &|call| call.starts_with("fdatasync") && call.contains("/index/db>"));
        let replied =
            find(0, "reply", &|call| call.starts_with("send") && call.contains(&format!("queued as {id}")));
        assert!(directory < index_synced && index_synced < replied, "{id}:\n{all}");
        groups.insert(written);
    }
    assert!(groups.len() < CLIENTS, "nothing was written together");
}

/// strace on all threads of a process.
struct Trace {
    strace: std::process::Child,
    file: std::path::PathBuf,
}

impl Trace {
    fn of(process: u32, file: &Path) -> Self {
        let calls = "trace=write,writev,pwrite64,pwritev,pwritev2,fdatasync,fsync,sendto,sendmsg";
        let strace = installed("strace", "strace")
            .args(["-f", "-y", "-s", "200", "-v", "-e", calls, "-p", &process.to_string(), "-o"])
            .arg(file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("every thread is traced", || {
            let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
            let status =
                |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            threads.flatten().all(|thread| !status(thread).contains("TracerPid:\t0\n"))
        });
        Self { strace, file: file.to_owned() }
    }

    /// The calls in the order in which they ended, without the thread's number in front; the reply in the
    /// order in which it began.
    fn calls(mut self) -> Vec<String> {
        let terminate = rustix::process::Pid::from_child(&self.strace);
        rustix::process::kill_process(terminate, rustix::process::Signal::TERM).unwrap();
        self.strace.wait().unwrap();
        let text = fs::read_to_string(&self.file).unwrap();
        let mut begun = std::collections::HashMap::new();
        let mut calls = Vec::new();
        for line in text.lines() {
            let (thread, call) = line.split_once(' ').unwrap();
            let call = call.trim_start();
            if call.starts_with("send") {
                calls.push(call.to_owned());
            } else if let Some(unfinished) = call.strip_suffix(" <unfinished ...>") {
                begun.insert(thread, unfinished);
            } else if call.starts_with("<...") {
                calls.extend(begun.remove(thread).map(str::to_owned));
            } else {
                calls.push(call.to_owned());
            }
        }
        calls
    }
}
