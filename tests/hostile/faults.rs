//! System calls that fail, by strace's injection, while mail comes in by SMTP and as files: everything
//! acknowledged arrives, and the relay runs whole, or ends with 1 and is started again.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::{
    courier::{Courier, FROM, missing},
    harness::{Lab, holds_within, message, wait_until},
    held,
};

/// Which calls, and how they fail: `when=A+B` means the Ath of a thread and each Bth after it. The part after
/// `;` applies at the same time.
const FAULTS: [&str; 16] = [
    // A body that could not be read is looked at again after a minute: these come first.
    "openat:error=EMFILE:when=2+3",
    "openat:error=EIO",
    "pread64,preadv,preadv2:error=EIO",
    "pread64,preadv,preadv2:error=EIO:when=1+4",
    // With these, sled's flush sometimes waits for ever.
    "pwrite64:error=EIO:when=5+11",
    "pwrite64,pwritev,pwritev2:error=EIO:when=3+5;ftruncate:error=EIO",
    "pwrite64,pwritev,pwritev2:error=ENOSPC",
    "pwritev,pwritev2:error=EIO:when=2+7",
    "clone,clone3:error=EAGAIN",
    "clone,clone3:error=EAGAIN:when=2+2",
    "rename,renameat,renameat2:error=EIO:when=1+3",
    "rename,renameat,renameat2:error=ENOSPC",
    "fdatasync:error=EIO:when=3+5",
    "fdatasync,fsync:error=EIO",
    "fsync:error=ENOSPC:when=1+2",
    "unlink,unlinkat:error=EROFS:when=1+2",
];

/// The first of them, which take a minute each.
const SLOW: usize = 4;
/// At least this many calls must have failed.
const CALLS: usize = 300;
/// How long calls fail.
const SPELL: Duration = Duration::from_millis(1500);

#[test]
fn whatever_call_fails_nothing_acknowledged_is_lost() {
    if !has_strace() {
        return;
    }
    // Each once; then the short ones again, where few calls were made because the machine is busy.
    let again = FAULTS[SLOW..].iter().cycle();
    let faults = Mutex::new(FAULTS.iter().map(|fault| (fault, 0)).chain(again.map(|fault| (fault, CALLS))));
    let injected = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let (fault, enough) = faults.lock().unwrap().next().unwrap();
                    if (1..=injected.load(Ordering::Relaxed)).contains(&enough) {
                        return;
                    }
                    injected.fetch_add(under(fault), Ordering::Relaxed);
                }
            });
        }
    });
    held("Disk faults injected into system calls", injected.into_inner());
}

/// Returns how many calls have failed.
fn under(fault: &str) -> usize {
    let mut lab = Lab::with(|setup| {
        setup.with_own_address();
        setup.delivery = "settle_after = '200ms'".into();
        setup.spool += "\nstalled_after = '2s'";
    });
    let pickup = lab.pickup("contoso");
    let couriers = ["one", "other"].map(|name| Courier::start(lab.smtp_address(), name));
    let files = |spell: &str, count: usize| -> Vec<String> {
        let names = (0..count).map(|n| format!("{spell} {n}"));
        names.inspect(|name| leave(&pickup, name)).collect()
    };
    let mut expected = files("before", 5);
    let strace = Strace::attach(lab.process_id(), fault, lab.folder());
    let until = Instant::now() + SPELL;
    while Instant::now() < until {
        expected.extend(files(&format!("file {:?}", until - Instant::now()), 1));
        thread::park_timeout(Duration::from_millis(50));
    }
    let injected = strace.detach();
    // So that there is something after it.
    thread::park_timeout(Duration::from_millis(200));
    expected.extend(couriers.map(Courier::end).concat());
    let mut ends = 0;
    // A body that could not be read is looked at again after a minute, and a stop takes half a minute when
    // the spool hangs.
    let all = holds_within(Duration::from_secs(150), || {
        if lab.has_ended() {
            assert_eq!(lab.wait_for_end(), Some(1), "{fault}");
            lab.restart();
            ends += 1;
        }
        missing(&lab, &expected).is_none()
    });
    println!("{fault}: {injected} calls, {} messages, the relay has ended {ends} times", expected.len());
    assert!(all, "{:?} was acknowledged, and is lost", missing(&lab, &expected));
    lab.wait_until_empty();
    assert_eq!(lab.terminate(), Some(0), "{fault}");
    injected
}

/// Writes beside the folder and renames, as a careful program does.
fn leave(pickup: &Path, subject: &str) {
    let name = subject.replace(' ', "-");
    let hidden = pickup.join(format!(".{name}"));
    fs::write(&hidden, message(FROM, "b@example.net", subject)).unwrap();
    fs::rename(&hidden, pickup.join(format!("{name}.eml"))).unwrap();
}

/// Whether these tests can run. They must be able to where `scripts/test` or CI runs them.
pub(crate) fn has_strace() -> bool {
    let is_there = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok();
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "strace is missing: scripts/test installs it");
        println!("NOT RUN: strace is missing");
    }
    is_there
}

/// Attached to a running relay.
pub(crate) struct Strace {
    child: Child,
    file: std::path::PathBuf,
}

impl Strace {
    pub(crate) fn attach(process: u32, fault: &str, folder: &Path) -> Self {
        let calls: Vec<_> = fault.split(';').map(|fault| fault.split(':').next().unwrap()).collect();
        let file = folder.join("strace");
        let child = Command::new("strace")
            .args(["-f", "-e", &format!("trace={}", calls.join(","))])
            .args(fault.split(';').flat_map(|fault| ["-e".to_owned(), format!("inject={fault}")]))
            .args(["-p", &process.to_string(), "-o"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("every thread to be traced", || {
            let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
            let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status"));
            threads.map(status).all(|status| !status.is_ok_and(|status| status.contains("TracerPid:\t0\n")))
        });
        Self { child, file }
    }

    /// Lets go of a thread in the middle of a call.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Returns how many calls have failed.
    pub(crate) fn detach(mut self) -> usize {
        // An error means that it has ended, with the relay.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.child.wait().unwrap();
        fs::read_to_string(&self.file).unwrap().matches("(INJECTED)").count()
    }
}
