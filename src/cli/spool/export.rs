//! `m365-relay spool export`

use std::{path::PathBuf, process::ExitCode};

use super::{Common, advise, counted, progress::Progress, size};
use crate::{
    cli::console::{self, Unwritten},
    config::DeliveryConfig,
};
use relay_mail::outside::Outside;
use relay_spool::archive::{self, Exported, Source};

/// Write every message in the spool to a folder, as ID.eml and ID.json; changes nothing in the spool
///
/// Run it with the relay stopped. ID.eml has the octets of the message, ID.json its tenant, envelope and
/// attempts. `m365-relay spool import` takes them into a spool again, on this machine or another. If it
/// breaks off, run it again: what is in the folder stays, and the rest is added. Damaged messages are named
/// and left out, and the exit code is 1 then.
///
/// After an export, remove the old spool before a relay starts on it again, or both would deliver.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to: made if it is missing; outside of the spool
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
            "damaged: the index: {why}: messages may be missing; the next start of the relay makes it anew"
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
            "{dir}/{id}.json: not in the spool (any more): remove it and {id}.eml, or an import brings it back"
        ));
    }
    let mut line =
        format!("{dir}: {} exported ({})", counted(exported.exported, "message"), size(exported.octets));
    for (count, what) in [
        (exported.skipped, "were there already"),
        (exported.damaged.len(), "damaged and left out"),
        (exported.strangers.len(), "not of this spool"),
    ] {
        if count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    console::say(line)
}
