//! How fast the spool is, and how much disk and memory it takes, compared with its goals and with what the
//! disk can do at best.
//!
//! ```text
//! cargo bench --bench spool                      every row
//! cargo bench --bench spool -- accept start      rows whose name contains one of the words, in either table
//! cargo bench --bench spool -- --quick           a tenth of the counts, to see that all works
//! cargo bench --bench spool -- --list            the names
//! ```
//!
//! `SPOOL_BENCH_DIR` chooses the disk; the default is the target folder. 15 GB free is enough. A run writes a
//! lot: some 150 GB, most of it in the disk rows, and takes a quarter of an hour. Progress is printed to
//! standard error, the tables to standard output.
//!
//! Leave five minutes between runs: on ext4, making files is slow for that long after many were removed, and
//! a run ends with removing many.
//!
//! # How to read the table
//!
//! | column   | what it gives                                                                             |
//! |----------|-------------------------------------------------------------------------------------------|
//! | measured | what the spool did                                                                        |
//! | goal     | what it should do on two cores                                                            |
//! | raw      | the limit: what the same disk did in the same run, doing only the least that must be done |
//! | ratio    | measured divided by raw                                                                   |
//! |          | `ok`, or `SHORT` if any part of the goal is missed                                        |
//!
//! Figures from a shared machine vary; ratios do not. So raw is measured directly before and directly after
//! what it is compared with (or alternating with it), and is the mean of both. If they differ by more than
//! half, both are shown: the machine had something else to do, and the row is worth another run. Raw is:
//!
//! * for rates: the octets of the bodies appended to one file, in groups of 64 messages, `fdatasync` after
//!   each group;
//! * for the latency: one body appended to one file, and `fdatasync`; the median of as many as the accepts
//!   that it is compared with, alternating with them;
//! * for claims: the same with 1,000 messages queued, alternating;
//! * for the disk: the octets of the queued bodies;
//! * for the memory and for a start: nothing.
//!
//! A start is that of the real binary, from the moment it is spawned until `/readyz` answers 200, with the
//! spool's files in the page cache. Its memory is the resident set three seconds later; the peak counts for
//! the goal, too.
//!
//! A row that falls short is not an error of the run: a slow disk does that. The last line says how many did.
//!
//! The second table is about a decision: why small bodies share segments instead of having a file each.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench has nobody to report to"
)]

mod arguments;
mod depth;
mod disk;
mod files;
mod latency;
mod mail;
mod memory;
mod million;
mod process;
mod rates;
mod raw;
mod setting;
mod start;
mod table;
mod units;

use std::{process::ExitCode, rc::Rc};

use arguments::{Arguments, Wanted};
use million::Million;
use setting::Setting;
use table::Planned;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("spool bench: {problem}");
            return ExitCode::from(2);
        }
    };
    let setting = Setting::new(arguments.quick);
    match arguments.wanted {
        Wanted::Fill { dir, count } => million::fill_and_wait(&setting, &dir, count),
        Wanted::Pass { dir, octets } => memory::pass(&setting, &dir, octets),
        Wanted::List => planned(&setting).iter().for_each(|row| println!("{}", row.name)),
        Wanted::Rows(words) => return run(&setting, &words),
    }
    ExitCode::SUCCESS
}

/// Every row, in the order of measurement: those that remove many files come last, see
/// [`Setting::kept_tempdir`].
fn planned(setting: &Setting) -> Vec<Planned> {
    let million = Rc::new(Million::new(setting));
    [
        rates::rows(setting),
        latency::rows(setting),
        files::in_fresh_folders(setting),
        start::rows(&million),
        depth::rows(&million),
        memory::rows(),
        disk::rows(setting),
        files::in_used_folders(setting),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn run(setting: &Setting, words: &[String]) -> ExitCode {
    let chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let rows: Vec<_> = planned(setting).into_iter().filter(|row| chosen(&row.name)).collect();
    if rows.is_empty() {
        eprintln!("spool bench: no row's name contains any of {words:?}; --list shows the names");
        return ExitCode::from(2);
    }
    println!("disk: {}", setting.base().display());
    if setting.quick {
        println!("QUICK: a tenth of the counts. The figures only say that the bench works.");
    }
    table::print(setting, rows);
    ExitCode::SUCCESS
}
