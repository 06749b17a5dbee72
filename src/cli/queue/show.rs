//! `m365-relay queue show ID`: whose a message is, what has become of its attempts, what it waits for and
//! until when; or the message itself.

use std::process::ExitCode;

use anyhow::Context;

use crate::{
    admin::{AttemptPage, ErrorPage, MessagePage, WaitsPage},
    cli::{config_path::ConfigPath, console, daemon::Daemon},
};
use relay_mail::{
    ByteSize, MessageId,
    outside::{Outside, json_visible},
};

/// Show a message: its envelope, its attempts, what it waits for and until when
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The message's id, as in the log, the reply to the client and the Received field
    #[arg(value_name = "ID")]
    id: MessageId,
    /// Show the message's header instead. The relay logs that
    #[arg(long, conflicts_with_all = ["body", "json"])]
    headers: bool,
    /// Show the message's body instead. The relay logs that
    #[arg(long, conflicts_with = "json")]
    body: bool,
    #[command(flatten)]
    config: ConfigPath,
    /// Print the relay's JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    if args.headers || args.body {
        return show_content(&daemon, args);
    }
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
    missing(&text)
}

fn missing(text: &str) -> anyhow::Result<ExitCode> {
    let ErrorPage { error } = serde_json::from_str(text).context("cannot understand the relay's answer")?;
    console::complain(format_args!("m365-relay: {}", Outside::new(error)));
    Ok(ExitCode::FAILURE)
}

/// The header, or what follows it.
fn show_content(daemon: &Daemon, args: &Args) -> anyhow::Result<ExitCode> {
    let (status, octets) = daemon.octets(&format!("/api/v1/messages/{}/content", args.id))?;
    match status {
        200 => {}
        404 => return missing(&String::from_utf8_lossy(&octets)),
        _ => return Err(daemon.strange(status)),
    }
    const END: &[u8] = b"\r\n\r\n";
    let end = octets.windows(END.len()).position(|found| found == END);
    let (header, body) = octets.split_at(end.map_or(octets.len(), |at| at + 2));
    console::octets(if args.headers { header } else { body.get(2..).unwrap_or_default() })?;
    Ok(ExitCode::SUCCESS)
}

/// Characters of a value that are shown.
const LONGEST: usize = 4096;

fn shown(page: &MessagePage) -> String {
    let MessagePage { id, state, tenant, mailbox, accepted, size, from, to, waits, .. } = page;
    let MessagePage { attempts, in_doubt_since, failed_attempts, .. } = page;
    let size = size.map(|size| ByteSize(size).rounded().to_string());
    let attempts = attempts.map(|attempts| attempts.to_string());
    let mut lines = vec![("message", &**id), ("state", state), ("tenant", tenant)];
    lines.extend(mailbox.iter().map(|mailbox| ("mailbox", &**mailbox)));
    lines.push(("accepted", accepted));
    lines.extend(size.iter().map(|size| ("size", &**size)));
    lines.extend(from.iter().map(|from| ("from", if from.is_empty() { "<>" } else { from })));
    lines.extend(to.iter().map(|to| ("to", &**to)));
    lines.extend(attempts.iter().map(|attempts| ("attempts", &**attempts)));
    lines.extend(in_doubt_since.iter().map(|since| ("in doubt", &**since)));
    if let Some(WaitsPage { why, limit, until, .. }) = waits {
        lines.push(("waits for", why));
        lines.extend(limit.iter().map(|limit| ("limit", &**limit)));
        lines.extend(until.iter().map(|until| ("until", &**until)));
    }
    let failed: Vec<_> = failed_attempts.iter().map(failure).collect();
    lines.extend(failed.iter().map(|failed| ("failed", &**failed)));
    // What a service said may hold anything.
    let line = |(name, value): (&str, &str)| format!("{name:<10} {}\n", Outside::up_to(LONGEST, value));
    lines.into_iter().map(line).collect()
}

fn failure(attempt: &AttemptPage) -> String {
    let AttemptPage { at, class, code, text, request_id } = attempt;
    let code = if code.is_empty() { String::new() } else { format!(" ({code})") };
    let is_told = request_id.is_empty() || text.contains(request_id);
    let request_id = if is_told { String::new() } else { format!(" (request-id {request_id})") };
    format!("{at}  {class}{code}: {text}{request_id}")
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
            size: Some(1234),
            from: Some("a@contoso.example".into()),
            to: vec!["b@x.se".into(), "c@x.se".into()],
            recipients: Some(2),
            attempts: Some(1),
            waits: Some(WaitsPage {
                class: "service".into(),
                why: "429\nTooManyRequests".into(),
                limit: Some("service".into()),
                until: Some("2026-01-01T00:01:00Z".into()),
            }),
            failed_attempts: vec![AttemptPage {
                at: "2026-01-01T00:00:01Z".into(),
                class: "throttled".into(),
                code: "TooManyRequests".into(),
                text: "429 TooManyRequests: too much".into(),
                request_id: "r-1".into(),
            }],
            ..MessagePage::default()
        };
        let expected = "message    0D3S\nstate      ready\ntenant     contoso\nmailbox    a@contoso.example\n\
                        accepted   2026-01-01T00:00:00Z\nsize       1.2 KB\nfrom       a@contoso.example\n\
                        to         b@x.se\nto         c@x.se\nattempts   1\n\
                        waits for  429\\u{a}TooManyRequests\nlimit      service\n\
                        until      2026-01-01T00:01:00Z\n\
                        failed     2026-01-01T00:00:01Z  throttled (TooManyRequests): \
                        429 TooManyRequests: too much (request-id r-1)\n";
        assert_eq!(shown(&page), expected);
    }
}
