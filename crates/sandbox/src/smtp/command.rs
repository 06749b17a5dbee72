//! One line of a client: which command it is, and what the log shows of it.

/// A line that can be a command: UTF-8 without control characters.
pub(super) struct Command {
    /// In upper case.
    pub(super) verb: String,
    /// Without the space before it.
    pub(super) argument: String,
}

/// `<address> parameters`, as MAIL and RCPT have it.
pub(super) struct Path<'a> {
    pub(super) address: &'a str,
    pub(super) parameters: Vec<&'a str>,
}

/// Verbs whose arguments may be shown.
const VERBS: [&str; 14] = [
    "EHLO", "HELO", "STARTTLS", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "HELP", "VRFY",
    "EXPN", "ETRN",
];

impl Command {
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?.trim_end_matches(' ');
        if text.chars().any(char::is_control) {
            return None;
        }
        let (verb, argument) = text.split_once(' ').unwrap_or((text, ""));
        Some(Self { verb: verb.to_ascii_uppercase(), argument: argument.to_owned() })
    }

    /// The line as the log shows it: nothing that could be a secret.
    pub(super) fn shown(line: &[u8]) -> String {
        match Self::parse(line) {
            Some(command) if command.verb == "AUTH" => {
                let (mechanism, rest) = command.argument.split_once(' ').unwrap_or((&command.argument, ""));
                let is_known =
                    ["XOAUTH2", "LOGIN", "PLAIN"].iter().any(|m| mechanism.eq_ignore_ascii_case(m));
                match (is_known, rest.is_empty()) {
                    (true, true) => format!("AUTH {mechanism}"),
                    (true, false) => format!("AUTH {mechanism} (…)"),
                    (false, _) => "AUTH (…)".into(),
                }
            }
            Some(command) if VERBS.contains(&command.verb.as_str()) => String::from_utf8_lossy(line).into(),
            // Whatever it is: a client that has lost track of an exchange may send a token as a command.
            _ => format!("({} octets)", line.len()),
        }
    }
}

impl<'a> Path<'a> {
    /// `argument` is `FROM:<…> …` with `keyword` FROM. RFC 5321 section 3.3 allows no space after the colon.
    pub(super) fn parse(argument: &'a str, keyword: &str) -> Option<Self> {
        let (found, rest) = argument.split_once(':')?;
        if !found.eq_ignore_ascii_case(keyword) {
            return None;
        }
        let rest = rest.strip_prefix('<')?;
        let end = end_of_path(rest)?;
        let parameters = match rest.get(end + 1..)? {
            "" => Vec::new(),
            more => more.strip_prefix(' ')?.split(' ').filter(|word| !word.is_empty()).collect(),
        };
        Some(Self { address: &rest[..end], parameters })
    }
}

/// Position of the closing bracket: the first one outside quotes.
fn end_of_path(text: &str) -> Option<usize> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (at, octet) in text.bytes().enumerate() {
        match octet {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'>' if !is_quoted => return Some(at),
            _ => {}
        }
    }
    None
}
