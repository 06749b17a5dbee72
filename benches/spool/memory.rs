//! How much memory the largest message takes on its way through: nothing that grows with its size.

use std::{fs, path::Path, process::Command};

use crate::{
    arguments::PASS,
    mail::{accept, accept_long, claim_and_end, open_only},
    process::memory_of,
    setting::Setting,
    table::{Figure, Planned},
    units::Megabytes,
};

const OCTETS: usize = 150_000_000;
const GOAL: u64 = 32_000_000;

pub(crate) fn rows() -> Vec<Planned> {
    vec![Planned::figure("memory, 150 MB in and out", measure)]
}

/// In a process of its own: what other rows have left in this one would hide it.
fn measure(setting: &Setting) -> Figure {
    let dir = setting.tempdir();
    let child = Command::new(std::env::current_exe().unwrap())
        .arg(PASS)
        .arg(dir.path())
        .arg(OCTETS.to_string())
        .output()
        .unwrap();
    assert!(child.status.success(), "the child has failed: {}", String::from_utf8_lossy(&child.stderr));
    let grown: u64 = String::from_utf8(child.stdout).unwrap().trim().parse().unwrap();
    Figure {
        measured: format!("+{:.1} MB", grown as f64 / 1e6),
        goal: format!("+{}", Megabytes(GOAL)),
        raw: "-".into(),
        ratio: None,
        is_met: grown <= GOAL,
    }
}

/// In the child: prints by how many octets the resident set grew at most.
pub(crate) fn pass(setting: &Setting, dir: &Path, octets: usize) {
    let spool = open_only(dir);
    setting.runtime.block_on(async {
        // The memory that any message needs is allocated before.
        let id = accept(&spool, &[7; 1_000]).await;
        claim_and_end(&spool, id).await;
        // Resets the peak to what is resident now.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = memory_of("self", "VmRSS");

        let id = accept_long(&spool, octets).await;
        let claim = spool.claim(id).await.unwrap();
        let mut body = claim.body.open().await.unwrap();
        let mut read = 0;
        while let Some(part) = body.next().await.unwrap() {
            read += part.len();
        }
        assert_eq!(read, octets);

        println!("{}", memory_of("self", "VmHWM").saturating_sub(before));
    });
}
