//! `m365-relay queue list`: the messages in the queues, oldest first.

use std::{fmt::Write, process::ExitCode};

use super::filter::{Filters, Pages};
use crate::{
    admin::{MessagePage, WaitsPage},
    cli::{config_path::ConfigPath, console, daemon::Daemon, progress::Progress},
    clock,
};
use relay_mail::{ByteSize, MessageId, outside::Outside};

/// List messages in the queues, oldest first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// Messages to list, at most; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    config: ConfigPath,
    /// Print a JSON array instead of text
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn all(config: ConfigPath) -> Self {
        Self { filters: Filters::default(), limit: 0, config, json: false }
    }
}

/// Messages of one page.
const PAGE: usize = 500;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let mut pages = Pages::new(&daemon, args.filters.query());
    let mut left = if args.limit == 0 { usize::MAX } else { args.limit };
    let mut progress = Progress::new();
    let mut listed = 0;
    let mut is_first = true;
    if args.json {
        console::say("[")?;
    }
    while left > 0 {
        pages.limit(left.min(PAGE));
        let Some(page) = pages.next()? else { break };
        let mut out = String::new();
        for message in &page.messages {
            if args.json {
                let comma = if std::mem::take(&mut is_first) { " " } else { "," };
                writeln!(out, "{comma}{}", console::json(message)?)?;
            } else {
                out += &shown(message);
            }
        }
        listed += page.messages.len();
        left -= page.messages.len().min(left);
        console::show(&out, "")?;
        progress.looked_at(page.looked_at, listed);
    }
    if args.json {
        console::say("]")?;
    } else {
        console::say(closing(listed, pages.is_over()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn closing(listed: usize, is_all: bool) -> String {
    let messages = match listed {
        0 => "no messages".to_owned(),
        1 => "1 message".to_owned(),
        many => format!("{many} messages"),
    };
    let more = "; there are more: --limit 0 lists all, and `queue summary` counts them";
    format!("{messages}{}", if is_all { "" } else { more })
}

/// Characters of what a message waits for that are shown.
const LONGEST: usize = 200;

fn shown(message: &MessagePage) -> String {
    let MessagePage { id, state, tenant, size, from, to, recipients, waits, last_error, .. } = message;
    let mut text = format!("{id}  {state:<9}  {:>5}", age(id));
    if let Some(size) = size {
        let size = ByteSize(*size).rounded().to_string();
        let _ = write!(text, "  {size:>10}");
    }
    let _ = write!(text, "  {}", Outside::new(tenant));
    if let Some(from) = from {
        let from = if from.is_empty() { "<>" } else { from };
        let first = to.first().map_or("", String::as_str);
        let _ = write!(text, "  {} -> {}", Outside::new(from), Outside::new(first));
        let others = recipients.unwrap_or(1).saturating_sub(1);
        if others > 0 {
            let _ = write!(text, " and {others} more");
        }
    }
    text.push('\n');
    let why = match (waits, last_error) {
        // What the service said is more than that there was an attempt.
        (Some(WaitsPage { class, until, .. }), Some(last)) if class == "retry" => {
            Some((last.text.clone(), until.clone()))
        }
        (Some(WaitsPage { why, until, .. }), _) => Some((why.clone(), until.clone())),
        (None, _) => None,
    };
    if let Some((why, until)) = why {
        let until = until.map(|until| format!(" (until {until})")).unwrap_or_default();
        let _ = writeln!(text, "               {}{until}", Outside::up_to(LONGEST, why));
    }
    text
}

/// How long ago the message was accepted.
fn age(id: &str) -> String {
    let Ok(id) = id.parse::<MessageId>() else { return String::new() };
    let seconds = clock::wall().since(id.accepted()).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::AttemptPage;
    use relay_mail::Timestamp;

    #[test]
    fn for_people() {
        let accepted = Timestamp::from_millis(clock::wall().as_millis() - 200_000);
        let last = AttemptPage {
            at: "2026-01-01T00:00:00Z".into(),
            class: "service".into(),
            code: "503".into(),
            text: "503 busy\u{1b}[2J".into(),
            request_id: "r".into(),
        };
        let mut message = MessagePage {
            id: MessageId::first_at(accepted).to_string(),
            state: "scheduled".into(),
            tenant: "contoso".into(),
            size: Some(12_345),
            from: Some(String::new()),
            to: vec!["b@x.se".into()],
            recipients: Some(3),
            waits: Some(WaitsPage {
                class: "retry".into(),
                why: "an earlier attempt failed".into(),
                limit: None,
                until: Some("2026-01-01T00:01:00Z".into()),
            }),
            last_error: Some(last),
            ..MessagePage::default()
        };
        let id = message.id.clone();
        assert_eq!(
            shown(&message),
            format!(
                "{id}  scheduled     3m     12.3 KB  contoso  <> -> b@x.se and 2 more\n               \
                 503 busy\\u{{1b}}[2J (until 2026-01-01T00:01:00Z)\n"
            )
        );
        message.waits = None;
        message.recipients = Some(1);
        assert!(shown(&message).ends_with("<> -> b@x.se\n"));
        assert_eq!(closing(1, true), "1 message");
        assert!(closing(100, false).starts_with("100 messages; there are more"));
    }
}
