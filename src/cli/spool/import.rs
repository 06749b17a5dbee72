//! `m365-relay spool import`

use std::{path::PathBuf, process::ExitCode};

use super::{Common, advise, counted, progress::Progress};
use crate::cli::console;
use relay_mail::{ByteSize, outside::Outside};
use relay_spool::archive::{self, Imported, Target};

/// Import exported messages into the spool, which is made if it is missing
///
/// Run it with the relay stopped. Each ID.json in the folder is a message, whose octets are in ID.eml; sizes
/// and checksums are verified. Messages keep their id, their attempts and the time of the next one. Files of
/// messages that are in the spool are moved to DIR/imported, so that nothing is imported twice; remove that
/// folder when you are done.
///
/// If it is interrupted, run it again until it succeeds, and only then start the relay. A wrong file is
/// named and left in place, and the exit code is 1: correct it and run this again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder that `m365-relay spool export` has written
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let spool = args.common.spool();
    let path = spool.as_ref().map(|spool| spool.path.clone()).unwrap_or_default();
    let outcome = spool.and_then(|spool| {
        let target = Target { floor: spool.floor(), spool: spool.path };
        let mut progress = Progress::new("imported");
        archive::import(&target, &args.dir, &mut |step| progress.step(step)).map_err(advise)
    });
    args.common.answer(outcome, Imported::is_complete, |imported| {
        for problem in &imported.problems {
            let file = Outside::new(problem.file.display());
            let reason = Outside::new(&problem.reason);
            console::complain(format_args!("{file}: {reason}"));
        }
        console::say(format_args!("{}: {}", path.display(), text(imported)))
    })
}

fn text(imported: &Imported) -> String {
    let mut line = format!(
        "{} imported ({})",
        counted(imported.imported, "message"),
        ByteSize(imported.octets).rounded()
    );
    for (count, what) in [
        (imported.already_there, "already there"),
        (imported.problems.len(), "skipped because of the errors above"),
        (imported.put_aside, "found damaged in the spool and quarantined"),
    ] {
        if count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    if imported.new_spool {
        line += "; this spool is new";
    }
    line
}
