//! What `top` draws.

use std::time::{Duration, SystemTime};

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize},
    text::Line as Text,
    widgets::{Paragraph, Row, Table},
};

use super::{Line, View, waiting};
use crate::admin::{MailboxPage, StatusPage, WaitsPage};
use relay_mail::outside::Outside;

/// Characters of a text from outside that are shown.
const LONGEST: usize = 300;

pub(super) fn draw(frame: &mut Frame<'_>, view: &View, now: SystemTime) {
    let [top, list, bottom] =
        Layout::vertical([Constraint::Length(5), Constraint::Min(3), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(summary(&view.status, view.trouble.as_deref())), top);
    let rows: Vec<_> =
        view.tenants.iter().take(usize::from(list.height)).map(|line| row(line, now)).collect();
    let widths = [
        Constraint::Length(24),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Min(20),
    ];
    let head = Row::new(["TENANT", "STATE", "WAITING", "PER MIN", "OLDEST", "WAITS FOR"]).reversed();
    frame.render_widget(Table::new(rows, widths).header(head), list);
    let hint = "q ends   m365-relay tenant show NAME says more   m365-relay queue list --tenant NAME";
    frame.render_widget(Paragraph::new(hint).dim(), bottom);
}

fn summary<'t>(status: &StatusPage, trouble: Option<&str>) -> Vec<Text<'t>> {
    let StatusPage { version, up, not_ready, accepted, delivered, tenants, .. } = status;
    let up = humantime::format_duration(Duration::from_secs(*up));
    let taken = match (trouble, not_ready) {
        (Some(why), _) => {
            Text::from(format!("THE RELAY DOES NOT ANSWER: {}", Outside::up_to(LONGEST, why))).red()
        }
        (None, Some(why)) => Text::from(format!("NO MAIL IS TAKEN: {}", Outside::up_to(LONGEST, why))).red(),
        (None, None) => Text::from("mail is taken").green(),
    };
    let states: Vec<_> = status
        .messages
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(state, number)| format!("{number} {state}"))
        .collect();
    let states = if states.is_empty() { "none".to_owned() } else { states.join(", ") };
    vec![
        Text::from(format!("m365-relay {version}, up {up}")).bold(),
        taken,
        Text::from(format!(
            "accepted {} a minute ({} in ten)   delivered {} a minute ({} in ten)",
            accepted[0], accepted[1], delivered[0], delivered[1]
        )),
        Text::from(format!("messages {states}   quarantine {}", status.quarantined)),
        Text::from(format!(
            "tenants {tenants}, {} suspended, {} in trouble",
            status.suspended, status.tenants_in_trouble
        )),
    ]
}

fn row<'t>(Line { tenant, growth }: &Line, now: SystemTime) -> Row<'t> {
    let oldest = tenant.oldest.as_deref().and_then(|at| age(at, now)).unwrap_or_default();
    let growth = growth
        .filter(|growth| growth.abs() >= 0.5)
        .map_or_else(String::new, |growth| format!("{growth:+.0}"));
    let row = Row::new([
        Outside::up_to(24, &tenant.id).to_string(),
        tenant.state.clone(),
        waiting(tenant).to_string(),
        growth,
        oldest,
        waits_for(tenant.trouble.first(), tenant.why.as_ref(), &tenant.asleep, tenant.mailboxes_asleep, now),
    ]);
    match (tenant.trouble.is_empty(), &*tenant.state) {
        (false, _) => row.style(Style::new().fg(Color::Red)),
        (true, "suspended") => row.dim(),
        (true, _) => row,
    }
}

/// What is wrong, or what it waits for and how much longer.
fn waits_for(
    trouble: Option<&String>,
    why: Option<&WaitsPage>,
    asleep: &[MailboxPage],
    mailboxes: usize,
    now: SystemTime,
) -> String {
    if let Some(trouble) = trouble {
        return Outside::up_to(LONGEST, trouble).to_string();
    }
    if let Some(waits) = why {
        return format!("{}{}", left(waits, now), Outside::up_to(LONGEST, &waits.why));
    }
    let Some(first) = asleep.first() else { return String::new() };
    let others = if mailboxes > 1 { format!(" and {} mailboxes more", mailboxes - 1) } else { String::new() };
    format!("{}{}{others}", left(&first.waits, now), Outside::up_to(LONGEST, &first.mailbox))
}

fn left(waits: &WaitsPage, now: SystemTime) -> String {
    let until = waits.until.as_deref().and_then(|until| humantime::parse_rfc3339(until).ok());
    let left = until.and_then(|until| until.duration_since(now).ok());
    left.map(|left| format!("{} ", short(left))).unwrap_or_default()
}

fn age(at: &str, now: SystemTime) -> Option<String> {
    let age = now.duration_since(humantime::parse_rfc3339(at).ok()?).unwrap_or_default();
    Some(short(age))
}

/// In its two largest units.
fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::admin::TenantPage;

    fn drawn(view: &View, now: &str, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, height)).unwrap();
        let now = humantime::parse_rfc3339(now).unwrap();
        terminal.draw(|frame| draw(frame, view, now)).unwrap();
        let buffer = terminal.backend().buffer();
        let width = usize::from(buffer.area.width);
        let symbols: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
        symbols.chunks(width).map(|line| line.concat().trim_end().to_owned() + "\n").collect()
    }

    fn tenant(id: &str, ready: u64) -> TenantPage {
        TenantPage {
            id: id.into(),
            state: "ok".into(),
            messages: [("ready".to_owned(), ready)].into(),
            ..TenantPage::default()
        }
    }

    #[test]
    fn one_screen() {
        let waits = |until: &str| WaitsPage {
            class: "limit".into(),
            why: "30 a minute".into(),
            limit: None,
            until: Some(until.into()),
        };
        let mailbox = MailboxPage { mailbox: "a@x.se".into(), waits: waits("2026-01-01T00:01:05Z") };
        let sleeping = TenantPage { asleep: vec![mailbox], mailboxes_asleep: 3, ..tenant("contoso", 40) };
        let oldest = Some("2025-12-31T22:00:00Z".to_owned());
        let broken = TenantPage {
            state: "blocked".into(),
            trouble: vec!["blocked (credential): wrong\u{1b}[2J secret".into()],
            oldest,
            ..tenant("fabrikam", 7)
        };
        let status = StatusPage {
            version: "1.0.0".into(),
            up: 3700,
            tenants: 2,
            tenants_in_trouble: 1,
            ..StatusPage::default()
        };
        let view = View::of(status.clone(), vec![tenant("contoso", 100), tenant("fabrikam", 7)], None);
        let mut view = View::of(status, vec![sleeping, broken], Some((&view, Duration::from_secs(2))));
        let text = drawn(&view, "2026-01-01T00:00:00Z", 12);
        for part in [
            "m365-relay 1.0.0, up 1h 1m 40s\nmail is taken\n",
            "tenants 2, 0 suspended, 1 in trouble\n",
            "contoso                  ok        40        -1800               1m05s a@x.se and 2 mailboxes more\n",
            "fabrikam                 blocked   7                   2h00m     blocked (credential): wrong\\u{1b}[2J secret\n",
            "q ends",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        view.trouble = Some("connection refused".into());
        assert!(
            drawn(&view, "2026-01-01T00:00:00Z", 12)
                .contains("THE RELAY DOES NOT ANSWER: connection refused")
        );
        // However small the terminal is.
        for height in 1..8 {
            drawn(&view, "2026-01-01T00:00:00Z", height);
        }
    }
}
