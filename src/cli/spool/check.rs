//! `m365-relay spool check`

use std::{path::Path, process::ExitCode};

use super::{Common, advise, counted, progress::Progress};
use crate::cli::console;
use relay_mail::{ByteSize, outside::Outside};
use relay_spool::archive::{self, Checked};

/// Read every message in the spool and compare it with its checksums; changes nothing
///
/// Run it with the relay stopped. Exit code 0: every message is as it was stored. 1: something is damaged, or
/// the spool cannot be opened. The relay never sends a damaged message: it moves it to the quarantine
/// folder when it comes to it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let spool = args.common.spool();
    let path = spool.as_ref().map(|spool| spool.path.clone()).unwrap_or_default();
    let outcome = spool.and_then(|spool| {
        let mut progress = Progress::new("checked");
        archive::check(&spool.path, &mut |step| progress.step(step)).map_err(advise)
    });
    args.common.answer(outcome, Checked::is_whole, |checked| console::show(&text(&path, checked), ""))
}

fn text(spool: &Path, checked: &Checked) -> String {
    let Checked { messages, waiting, held, leased, octets, damaged, .. } = checked;
    let mut lines = vec![format!(
        "{}: {} ({waiting} waiting, {held} held, {} leased to a worker when the relay ended), {}",
        spool.display(),
        counted(*messages, "message"),
        leased.len(),
        ByteSize(*octets).rounded(),
    )];
    lines.extend(damaged.iter().map(|damaged| {
        let file = Outside::new(damaged.file.display());
        format!("damaged: {}: {} ({file})", damaged.id, Outside::new(&damaged.reason))
    }));
    if let Some(why) = &checked.index {
        lines.push(format!(
            "damaged: the index: {why}; the next start of the relay rebuilds it from the bodies"
        ));
    }
    if checked.unreadable_lanes > 0 {
        lines.push(format!("damaged: {} in the index", counted(checked.unreadable_lanes, "unreadable lane")));
    }
    if checked.unknown_records > 0 {
        lines.push(format!("damaged: {} in the index", counted(checked.unknown_records, "unknown record")));
    }
    let unowned = checked.unowned.records + checked.unowned.large_bodies;
    if unowned > 0 {
        let bodies = counted(unowned, "body");
        lines.push(format!("{bodies} without a message: no damage, the relay will remove them"));
    }
    if checked.quarantined > 0 {
        let count = counted(checked.quarantined, "message");
        lines.push(format!("{count} in {}", spool.join("quarantine").display()));
    }
    lines.push(if checked.is_whole() {
        "every message is as it was stored".into()
    } else {
        format!("{} of {} damaged", damaged.len(), counted(*messages, "message"))
    });
    lines.join("\n") + "\n"
}
