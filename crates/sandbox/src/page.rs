//! `/`: one page that shows the delivered mail, the counts and the active faults. It refreshes itself, and
//! loads nothing else.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use axum::{
    extract::State,
    response::{Html, IntoResponse, Response},
};
use http::header;

use super::{delivered::Delivered, world::World};
use relay_mail::{Timestamp, outside::visible};

/// Rows on the page: the newest.
const ROWS: usize = 200;

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Simulated Microsoft 365</title><style>
:root { color-scheme: light dark; --line: #d0d7de; --soft: #57606a; --panel: #f6f8fa; --link: #0550ae; }
@media (prefers-color-scheme: dark) {
  :root { --line: #373e47; --soft: #9198a1; --panel: #1c2128; --link: #79b8ff; }
  body { background: #0d1117; color: #e6edf3; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; } p { color: var(--soft); }
a { color: var(--link); } .counts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }
.counts div { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; }
.counts b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; } td { overflow-wrap: break-word; max-width: 24rem; } .n { text-align: right; white-space: nowrap; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .75rem; overflow-x: auto; }
</style></head><body><h1>Simulated Microsoft 365</h1>
<p>Mail that the real service would now be delivering. Nothing leaves this machine.</p>
"#;

pub(super) async fn show(State(world): State<Arc<World>>) -> Response {
    let mut page = String::from(HEAD);
    // Writing to a String cannot fail.
    let _ = write_page(&mut page, &world);
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}

fn write_page(page: &mut String, world: &World) -> fmt::Result {
    let counts = world.store.counts();
    let smtp = world.smtp_sessions();
    page.push_str("<div class=\"counts\">");
    for (number, name) in [
        (counts.messages, "messages"),
        (counts.message_bytes, "octets"),
        (counts.calls, "calls"),
        (counts.throttled, "throttled"),
        (counts.refused, "refused"),
        (counts.cut, "cut"),
        (counts.tokens, "tokens"),
        (smtp.connections, "SMTP connections"),
        (smtp.auths, "SMTP logins"),
    ] {
        write!(page, "<div><b>{number}</b>{name}</div>")?;
    }
    page.push_str("</div><h2>Delivered, newest first</h2>");
    let messages = world.store.messages();
    if messages.is_empty() {
        page.push_str("<p>Nothing yet.</p>");
    } else {
        write_messages(page, &messages)?;
    }
    write_faults(page, world)
}

fn write_messages(page: &mut String, messages: &[Arc<Delivered>]) -> fmt::Result {
    page.push_str(
        "<div class=\"wide\"><table><tr><th>Time<th>Tenant<th>Mailbox<th>From<th>Recipients<th>Subject\
         <th class=\"n\">Octets<th></tr>",
    );
    for message in messages.iter().rev().take(ROWS) {
        write!(
            page,
            "<tr><td class=\"n\">{time}<td>{tenant}<td>{mailbox}<td>{from}<td>{recipients}<td>{subject}{warning}\
             <td class=\"n\">{size}<td><a href=\"/_sandbox/messages/{number}/source\">source</a></tr>",
            time = Timestamp::from_millis(message.accepted_at_ms),
            tenant = Escaped(&message.directory),
            mailbox = Escaped(&message.mailbox),
            from = Escaped(&message.from),
            recipients = Escaped(&message.recipients.join(", ")),
            subject = Escaped(&message.subject),
            warning = if message.bare_lf { " <em>(bare LF)</em>" } else { "" },
            size = message.raw.len(),
            number = message.number,
        )?;
    }
    page.push_str("</table></div>");
    Ok(())
}

fn write_faults(page: &mut String, world: &World) -> fmt::Result {
    page.push_str("<h2>Active faults</h2>");
    let faults = world.faults.active();
    if faults.is_empty() {
        page.push_str("<p>None. To see a retry, let the next two deliveries fail:</p>");
    }
    for fault in &faults {
        write!(page, "<pre>{}</pre>", Escaped(&serde_json::to_string(fault).unwrap_or_default()))?;
    }
    let url = &world.url;
    let example = format!(
        "curl {url}/_sandbox/faults -d '{{\"on\":\"send_mail\",\"action\":{{\"status\":{{\"code\":503,\
         \"error\":\"serviceNotAvailable\",\"retry_after\":\"5\"}}}},\"times\":2}}'\n\
         curl -X DELETE {url}/_sandbox/faults"
    );
    write!(page, "<pre>{}</pre></body></html>", Escaped(&example))
}

/// Text inside HTML, or inside a quoted attribute. Invisible characters are shown.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = visible(self.0, |c| c == '\n');
        let mut rest = &*text;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}
