//! `m365-relay spool export`

use std::{path::PathBuf, process::ExitCode};

use super::{Common, advise, counted, progress::Progress};
use crate::{
    cli::console::{self, Unwritten},
    config::DeliveryConfig,
};
use relay_mail::{ByteSize, outside::Outside};
use relay_spool::archive::{self, Exported, Source};

/// Write every message in the spool to a folder, as ID.eml and ID.json; changes nothing in the spool
///
/// Run it with the relay stopped. ID.eml has the octets of the message, ID.json its tenant, envelope and
/// attempts. `m365-relay spool import` reads them into a spool again, on this machine or another. If it
/// is interrupted, run it again: what is in the folder stays, and the rest is added. Damaged messages
/// are named and left out, and the exit code is 1.
///
/// After an export, remove the old spool before a relay starts on it again, or both would deliver.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder, outside the spool; made if it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let outcome = args.common.spool().and_then(|spool| {
        let source = Source { spool: spool.path, settle_after: DeliveryConfig::default().settle_after };
        let mut progress = Progress::new("exported");
        archive::export(&source, &args.dir, &mut |step| progress.step(step)).map_err(advise)
    });
    args.common.answer(outcome, Exported::is_complete, |exported| tell(args, exported))
}

fn tell(args: &Args, exported: &Exported) -> Result<(), Unwritten> {
    let dir = Outside::new(args.dir.display());
    if let Some(why) = &exported.index {
        console::complain(format_args!(
            "damaged: the index: {why}: messages may be missing; the next start of the relay rebuilds it"
        ));
    }
    for damaged in &exported.damaged {
        let file = Outside::new(damaged.file.display());
        console::complain(format_args!(
            "damaged: {}: {} ({file})",
            damaged.id,
            Outside::new(&damaged.reason)
        ));
    }
    for id in &exported.strangers {
        console::complain(format_args!(
            "{dir}/{id}.json: its message is not in the spool (any more): remove it and {id}.eml, or an \
             import brings the message back"
        ));
    }
    let mut line = format!(
        "{dir}: {} exported ({})",
        counted(exported.exported, "message"),
        ByteSize(exported.octets).rounded()
    );
    for (count, what) in [
        (exported.skipped, "already there"),
        (exported.damaged.len(), "damaged and left out"),
        (exported.strangers.len(), "from another spool"),
    ] {
        if count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    console::say(line)
}
