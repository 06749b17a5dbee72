//! `m365-relay queue show ID`: where a message is, what it waits for, and until when.

use std::process::ExitCode;

use anyhow::Context;

use crate::{
    admin::{ErrorPage, MessagePage, WaitsPage},
    cli::{config_path::ConfigPath, console, daemon::Daemon},
};
use relay_mail::{
    MessageId,
    outside::{Outside, json_visible},
};

/// Show what a message waits for, and until when
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The message's id, as in the log, the reply to the client and the Received field
    #[arg(value_name = "ID")]
    id: MessageId,
    #[command(flatten)]
    config: ConfigPath,
    /// Print the relay's JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let (status, text) = daemon.get(&format!("/api/v1/messages/{}", args.id))?;
    let is_there = match status {
        200 => true,
        404 => false,
        _ => return Err(daemon.strange(status)),
    };
    if args.json {
        console::say(json_visible(&text))?;
    } else if is_there {
        let page = serde_json::from_str(&text).context("cannot understand the relay's answer")?;
        console::show(&shown(&page), "")?;
    }
    if is_there {
        return Ok(ExitCode::SUCCESS);
    }
    let ErrorPage { error } = serde_json::from_str(&text).context("cannot understand the relay's answer")?;
    console::complain(format_args!("m365-relay: {}", Outside::new(error)));
    Ok(ExitCode::FAILURE)
}

/// Characters of a value that are shown.
const LONGEST: usize = 4096;

fn shown(page: &MessagePage) -> String {
    let MessagePage { id, state, tenant, mailbox, accepted, waits } = page;
    let mut lines = vec![("message", &**id), ("state", state), ("tenant", tenant)];
    lines.extend(mailbox.iter().map(|mailbox| ("mailbox", &**mailbox)));
    lines.push(("accepted", accepted));
    if let Some(WaitsPage { why, limit, until }) = waits {
        lines.push(("waits for", why));
        lines.extend(limit.iter().map(|limit| ("limit", &**limit)));
        lines.extend(until.iter().map(|until| ("until", &**until)));
    }
    // What a service said may hold anything.
    let line = |(name, value): (&str, &str)| format!("{name:<10} {}\n", Outside::up_to(LONGEST, value));
    lines.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people() {
        let page = MessagePage {
            id: "0D3S".into(),
            state: "ready".into(),
            tenant: "contoso".into(),
            mailbox: Some("a@contoso.example".into()),
            accepted: "2026-01-01T00:00:00Z".into(),
            waits: Some(WaitsPage {
                why: "429\nTooManyRequests".into(),
                limit: Some("service".into()),
                until: Some("2026-01-01T00:01:00Z".into()),
            }),
        };
        let expected = "message    0D3S\nstate      ready\ntenant     contoso\nmailbox    a@contoso.example\n\
                        accepted   2026-01-01T00:00:00Z\nwaits for  429\\u{a}TooManyRequests\nlimit      service\n\
                        until      2026-01-01T00:01:00Z\n";
        assert_eq!(shown(&page), expected);
    }
}
