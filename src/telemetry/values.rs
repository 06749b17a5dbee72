//! Values of log lines that are neither text nor a number: lists, which are arrays in JSON, and durations,
//! which are seconds.

use std::{
    fmt::{self, Debug, Display, Write},
    time::Duration,
};

use relay_mail::MailboxAddress;

/// Addresses that a line shows of one message.
const SHOWN: usize = 20;

/// A list, as in `["a","b"]`. In a JSON line it is an array if its field is one of [`LISTS`].
pub struct List(String);

/// The fields that hold lists.
pub(super) const LISTS: [&str; 6] = ["recipients", "into", "added", "changed", "removed", "invalid"];

impl List {
    pub fn of<T: Display>(items: impl IntoIterator<Item = T>) -> Self {
        let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        // Strings always have a form in JSON.
        Self(serde_json::to_string(&items).unwrap_or_default())
    }

    /// A message's recipients: the first of them, and how many more there are.
    pub fn of_recipients(recipients: &[MailboxAddress]) -> Self {
        let more = recipients.len().saturating_sub(SHOWN);
        let rest = (more > 0).then(|| format!("and {more} more"));
        Self::of(recipients.iter().take(SHOWN).map(ToString::to_string).chain(rest))
    }
}

impl Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// In seconds, to the microsecond.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

/// Makes arrays of the lists in a line of JSON, in which they are strings.
pub(super) fn with_arrays(line: &str) -> String {
    let mut made = String::with_capacity(line.len());
    let mut rest = line;
    // A quote inside a string is escaped, so what looks like a key is one.
    while let Some(at) = rest.find("\":\"[") {
        let (before, after) = rest.split_at(at + 2);
        made.push_str(before);
        let is_list = LISTS
            .iter()
            .any(|name| before.strip_suffix("\":").is_some_and(|key| key.ends_with(&format!("\"{name}"))));
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
        let text = values.next().and_then(Result::ok);
        let array = text.filter(|text| is_list && serde_json::from_str::<Vec<String>>(text).is_ok());
        match array {
            Some(array) => {
                // Writing to a String cannot fail.
                let _ = write!(made, "{array}");
                rest = &after[values.byte_offset()..];
            }
            None => {
                made.push_str(&after[..1]);
                rest = &after[1..];
            }
        }
    }
    made.push_str(rest);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_arrays_in_json() {
        let line = serde_json::json!({
            "message": "x\",\"recipients\":\"[1]",
            "recipients": format!("{:?}", List::of(["a\"b", "\u{e9}@x.se"])),
            "why": "[\"no list\"]",
        })
        .to_string();
        let read: serde_json::Value = serde_json::from_str(&with_arrays(&line)).unwrap();
        assert_eq!(read["recipients"], serde_json::json!(["a\"b", "\u{e9}@x.se"]));
        assert_eq!(
            (&read["why"], &read["message"]),
            (&"[\"no list\"]".into(), &"x\",\"recipients\":\"[1]".into())
        );
        assert_eq!(with_arrays("{\"added\":\"[broken\"}\n"), "{\"added\":\"[broken\"}\n");
    }

    #[test]
    fn many_recipients_are_a_number() {
        let addresses: Vec<MailboxAddress> = (0..25).map(|n| format!("a{n}@x.se").parse().unwrap()).collect();
        let shown = format!("{:?}", List::of_recipients(&addresses));
        assert!(
            shown.starts_with("[\"a0@x.se\",") && shown.ends_with("\"a19@x.se\",\"and 5 more\"]"),
            "{shown}"
        );
        assert_eq!(format!("{:?}", List::of_recipients(&addresses[..1])), "[\"a0@x.se\"]");
    }

    #[test]
    fn durations_are_numbers() {
        assert_eq!(seconds(Duration::from_nanos(1_234_567_890)), 1.234568);
    }
}
