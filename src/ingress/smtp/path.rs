//! `MAIL FROM:<path> parameters` and `RCPT TO:<path> parameters`.
//!
//! Read here and not by a library, for three reasons: `<>` and no brackets at all are different things, the
//! quotes of a local part are part of it, and RFC 3461's parameters are kept as they were written.

use super::{
    command::{Meant, Misunderstood},
    reply::Reply,
};
use relay_mail::{BodyKind, InvalidNotification, MailParameters, MailboxAddress, Recipient, RecipientWish};

/// Octets of `MAIL` and `RCPT`.
const VERB_LEN: usize = 4;

/// What follows `FROM:` or `TO:`.
struct Path<'a> {
    /// Without the source route, which RFC 5321 section 3.3 has servers ignore.
    address: &'a [u8],
    parameters: &'a [u8],
    /// It was between angle brackets.
    bracketed: bool,
}

/// `MAIL` with the sender, `None` for `<>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) sender: Option<MailboxAddress>,
    /// Octets that the client says are coming.
    pub(crate) size: Option<u64>,
    pub(crate) parameters: MailParameters,
    /// It has the parameter AUTH (RFC 4954 section 5), which is accepted where AUTH is offered, and means
    /// nothing here.
    pub(crate) auth: bool,
}

/// `text` is the whole line without its end.
pub(super) fn mail(text: &[u8]) -> Result<Mail, Misunderstood> {
    let path = Path::find(text, b"FROM").ok_or_else(|| syntax("MAIL FROM:<address>"))?;
    let mut mail = Mail { sender: None, size: None, parameters: MailParameters::default(), auth: false };
    for (name, value) in path.parameters() {
        match name.to_ascii_uppercase().as_slice() {
            b"SIZE" => mail.size = size(value)?,
            b"BODY" => mail.parameters.body = body(value)?,
            b"AUTH" if value.is_some() => mail.auth = true,
            b"SMTPUTF8" if value.is_none() => mail.parameters.utf8 = true,
            b"RET" => mail.parameters.ret = Some(notification(value, InvalidNotification::Return)?),
            b"ENVID" => mail.parameters.envid = Some(notification(value, InvalidNotification::EnvelopeId)?),
            _ => return Err(not_offered().into()),
        }
    }
    if !(path.bracketed && path.address.is_empty()) {
        match path.mailbox("5.1.7", "sender") {
            Ok(sender) if sender.is_ascii() || mail.parameters.utf8 => mail.sender = Some(sender),
            Ok(_) => return Err(Misunderstood::meant(needs_utf8("sender"), Meant::Sender(mail))),
            Err(reply) => return Err(Misunderstood::meant(reply, Meant::Sender(mail))),
        }
    }
    Ok(mail)
}

/// `text` is the whole line without its end. The address may need SMTPUTF8, which MAIL may or may not have
/// declared.
pub(super) fn rcpt(text: &[u8]) -> Result<Recipient, Misunderstood> {
    let path = Path::find(text, b"TO").ok_or_else(|| syntax("RCPT TO:<address>"))?;
    let mut wish = RecipientWish::default();
    for (name, value) in path.parameters() {
        match name.to_ascii_uppercase().as_slice() {
            b"NOTIFY" => wish.notify = Some(notification(value, InvalidNotification::Notify)?),
            b"ORCPT" => wish.original = Some(notification(value, InvalidNotification::OriginalRecipient)?),
            _ => return Err(not_offered().into()),
        }
    }
    match path.recipient() {
        Ok(address) => Ok(Recipient { address, wish }),
        Err(reply) => {
            let written = String::from_utf8_lossy(path.address).into_owned();
            Err(Misunderstood::meant(reply, Meant::Recipient(written, wish)))
        }
    }
}

/// RFC 6531 section 3.5.
pub(super) fn needs_utf8(whose: &str) -> Reply {
    Reply::new(553, "5.6.7", format!("Non-ASCII {whose} address needs SMTPUTF8"))
}

impl<'a> Path<'a> {
    /// `None`: `keyword` with its colon does not follow the verb.
    fn find(text: &'a [u8], keyword: &[u8]) -> Option<Self> {
        // Some clients put a space before or after the colon, which can be read in only one way.
        let text = text.trim_ascii_start();
        let argument = text.get(VERB_LEN..)?;
        let rest = argument.trim_ascii_start();
        if rest.len() == argument.len() || !rest.get(..keyword.len())?.eq_ignore_ascii_case(keyword) {
            return None;
        }
        let path = rest[keyword.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        match path.strip_prefix(b"<") {
            Some(inside) => Self::bracketed(inside),
            // Old devices leave out the brackets.
            None => {
                let end = path.iter().position(u8::is_ascii_whitespace).unwrap_or(path.len());
                let (address, parameters) = path.split_at(end);
                (!address.is_empty()).then_some(Self { address, parameters, bracketed: false })
            }
        }
    }

    fn bracketed(inside: &'a [u8]) -> Option<Self> {
        let mut quoted = false;
        let mut escaped = false;
        let end = inside.iter().position(|&octet| {
            let closes = octet == b'>' && !quoted;
            match octet {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => {}
            }
            closes
        })?;
        let address = inside[..end].trim_ascii();
        let route = address.starts_with(b"@").then(|| memchr::memchr(b':', address)).flatten();
        Some(Self {
            address: route.map_or(address, |colon| &address[colon + 1..]),
            parameters: &inside[end + 1..],
            bracketed: true,
        })
    }

    fn recipient(&self) -> Result<MailboxAddress, Reply> {
        // RFC 5321 section 4.5.1 wants a postmaster at every server that receives for a domain of its own.
        // This one has no domain, and says so.
        if self.address.eq_ignore_ascii_case(b"postmaster") {
            let text = "This relay has no postmaster mailbox, give a full address";
            return Err(Reply::new(550, "5.1.1", text));
        }
        let address = self.mailbox("5.1.3", "recipient")?;
        // Exchange Online has no route to these, and would refuse the message for all.
        if !address.domain().contains('.') || address.domain().starts_with('[') {
            let text = format!(
                "Microsoft 365 delivers to domains only, such as example.com: not to {}",
                address.domain()
            );
            return Err(Reply::new(550, "5.1.2", text));
        }
        Ok(address)
    }

    fn mailbox(&self, enhanced: &'static str, whose: &str) -> Result<MailboxAddress, Reply> {
        let invalid = |why: String| Reply::new(501, enhanced, format!("Bad {whose} address: {why}"));
        match std::str::from_utf8(self.address) {
            Ok(text) => text.parse().map_err(|why: relay_mail::InvalidAddress| invalid(why.to_string())),
            Err(_) => Err(needs_utf8(whose)),
        }
    }

    fn parameters(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let words = self.parameters.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.map(|word| match memchr::memchr(b'=', word) {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word, None),
        })
    }
}

/// RFC 1870: digits, 20 at most. 0 states nothing.
fn size(value: Option<&[u8]>) -> Result<Option<u64>, Reply> {
    let wrong = || Reply::new(501, "5.5.4", "SIZE is a number of octets");
    let digits =
        value.filter(|digits| (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit));
    let text = digits.and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(wrong)?;
    // Twenty nines do not fit a u64, and are too large all the same.
    Ok(Some(text.parse().unwrap_or(u64::MAX)).filter(|&size| size > 0))
}

fn body(value: Option<&[u8]>) -> Result<BodyKind, Reply> {
    match value {
        Some(kind) if kind.eq_ignore_ascii_case(b"7BIT") => Ok(BodyKind::SevenBit),
        Some(kind) if kind.eq_ignore_ascii_case(b"8BITMIME") => Ok(BodyKind::EightBitMime),
        // BINARYMIME is not offered: Graph and SMTP both want lines.
        _ => Err(Reply::new(504, "5.5.4", "BODY is 7BIT or 8BITMIME")),
    }
}

fn notification<T: std::str::FromStr<Err = InvalidNotification>>(
    value: Option<&[u8]>,
    wrong: InvalidNotification,
) -> Result<T, Reply> {
    let text = value.and_then(|value| std::str::from_utf8(value).ok()).ok_or(wrong);
    text.and_then(str::parse).map_err(|why| Reply::new(501, "5.5.4", why.to_string()))
}

fn syntax(form: &str) -> Reply {
    Reply::new(501, "5.5.4", format!("Syntax: {form}"))
}

pub(crate) fn not_offered() -> Reply {
    Reply::new(555, "5.5.4", "Parameter not supported")
}
