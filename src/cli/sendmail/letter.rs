//! From a header and the wishes of the caller to the top of a pickup file: whose it is, and for whom. Pure.

use crate::config::Aliases;

use super::{
    exit::{Exit, Failure},
    options::Options,
    site::{Environment, Site},
};
use relay_mail::{
    BodyKind, BrokenAddress, Envelope, Field, HeaderBlock, HeaderScanner, InvalidAuthor, InvalidNotification,
    MailParameters, MailboxAddress, Recipient, RecipientWish, TenantName, addresses, author, from_field,
    injected_envelope,
};

/// The envelope sender to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sender {
    /// Nobody was named, or only a name without a domain, as by cron's `-f root`: the author.
    Author,
    /// `<>`
    Null,
    Address(MailboxAddress),
}

/// What is known about a message before its header is known.
#[derive(Debug, Clone)]
pub(super) struct Wishes {
    pub(super) sender: Sender,
    pub(super) recipients: Vec<MailboxAddress>,
    /// Recipients in the header get it, too.
    pub(super) from_header: bool,
    /// For a From field that must be made.
    pub(super) full_name: Option<String>,
    /// Who writes, where nothing else says so.
    pub(super) default_author: Option<MailboxAddress>,
    pub(super) body: Option<BodyKind>,
    pub(super) notify: Option<String>,
    pub(super) ret: Option<&'static str>,
    pub(super) envelope_id: Option<String>,
}

/// The beginning of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) tenant: TenantName,
    /// The envelope's lines, the header and the empty line.
    pub(super) top: Vec<u8>,
}

impl Wishes {
    pub(super) fn of(options: &Options, environment: &Environment, site: &Site) -> Result<Self, Failure> {
        let mut recipients = Vec::new();
        for list in &options.recipients {
            recipients.extend(read_recipients(list, site.aliases())?);
        }
        Ok(Self {
            sender: options.sender.as_deref().map_or(Ok(Sender::Author), read_sender)?,
            recipients,
            from_header: options.from_header,
            full_name: options.full_name.clone(),
            default_author: environment.from.as_deref().map(read_default_author).transpose()?,
            body: options.body,
            notify: options.notify.clone(),
            ret: options.ret,
            envelope_id: options.envelope_id.clone(),
        })
    }

    /// Finds sender, recipients and tenant, and writes them down as pickup reads them.
    pub(super) fn letter(&self, header: &HeaderBlock, site: &Site) -> Result<Letter, Failure> {
        let header = self.with_author(header, site)?;
        let author = author(&header).map_err(|error| Exit::Data.because(error.to_string()))?;
        let sender = match &self.sender {
            Sender::Author => Some(author.mailbox()),
            Sender::Null => None,
            Sender::Address(address) => Some(address),
        };
        let mut recipients = self.recipients.clone();
        if self.from_header {
            recipients.extend(recipients_of(&header, site.aliases())?);
        }
        let envelope = self.envelope(sender.cloned(), recipients)?;
        let mut all: Vec<&MailboxAddress> = sender.into_iter().chain(author.everybody()).collect();
        all.push(author.mailbox());
        let tenant = site.tenant_for(&all)?;

        let mut top = self.lines(&envelope).into_bytes();
        top.extend_from_slice(header.as_bytes());
        top.extend_from_slice(b"\r\n");
        check(&top, &envelope)?;
        Ok(Letter { tenant, top })
    }

    fn envelope(
        &self,
        sender: Option<MailboxAddress>,
        recipients: Vec<MailboxAddress>,
    ) -> Result<Envelope, Failure> {
        let invalid = |error: InvalidNotification| Exit::Usage.because(error.to_string());
        let notify = self.notify.as_deref().map(str::parse).transpose().map_err(invalid)?;
        let parameters = MailParameters {
            body: self.body.unwrap_or(BodyKind::EightBitMime),
            utf8: !sender.iter().chain(&recipients).all(MailboxAddress::is_ascii),
            ret: self.ret.map(str::parse).transpose().map_err(invalid)?,
            envid: self.envelope_id.as_deref().map(str::parse).transpose().map_err(invalid)?,
        };
        let recipients = recipients
            .into_iter()
            .map(|address| Recipient { address, wish: RecipientWish { notify, original: None } });
        Envelope::with_parameters(sender, parameters, recipients)
            .map_err(|_| Exit::Usage.because("No recipient addresses found"))
    }

    /// The header, with our own From field if it has none, or none that contains an address with a domain.
    fn with_author(&self, header: &HeaderBlock, site: &Site) -> Result<HeaderBlock, Failure> {
        let is_local =
            || header.named("From").count() == 1 && header.named("From").all(|field| !has_at(&field));
        match author(header) {
            Err(InvalidAuthor::Missing) => {}
            Err(InvalidAuthor::Empty | InvalidAuthor::Broken(_)) if is_local() => {}
            Err(error) => return Err(Exit::Data.because(error.to_string())),
            Ok(_) => return Ok(header.clone()),
        }
        let from = match &self.sender {
            Sender::Address(address) => Some(address),
            Sender::Author | Sender::Null => self.default_author.as_ref(),
        };
        let from = from.or_else(|| site.forced_author()).ok_or_else(|| {
            Exit::Usage.because(
                "neither the From field nor -f has an address with a domain, so the sender is unknown: give \
                 -f NAME@DOMAIN, a From field, M365_RELAY_FROM in the environment, or force_from to the tenant",
            )
        })?;
        let mut bytes = from_field(self.full_name.as_deref(), from);
        let rest = header.fields().filter(|field| !field.is("From"));
        rest.for_each(|field| bytes.extend_from_slice(field.raw()));
        let whole =
            HeaderScanner::split_message(&bytes).map_err(|error| Exit::Data.because(error.to_string()))?;
        Ok(whole.header)
    }

    /// In the dialect of Exchange Replay, with the parameters of RFC 3461. The line at the end prevents
    /// fields of the message that look like these from being read as these.
    fn lines(&self, envelope: &Envelope) -> String {
        let mut lines = format!("X-Sender: <{}>", envelope.sender().map_or("", MailboxAddress::as_str));
        let body = self.body.map(|body| match body {
            BodyKind::SevenBit => "7BIT",
            BodyKind::EightBitMime => "8BITMIME",
        });
        let parameters = [("BODY", body), ("RET", self.ret), ("ENVID", self.envelope_id.as_deref())];
        for (name, value) in parameters {
            lines.extend(value.map(|value| format!(" {name}={value}")));
        }
        lines.push_str("\r\n");
        let notify = self.notify.as_ref().map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
        for recipient in envelope.recipients() {
            lines.push_str(&format!("X-Receiver: <{recipient}>{notify}\r\n"));
        }
        lines.push_str("X-EndOfInjectedXHeaders: 0\r\n");
        lines
    }
}

/// Whether pickup will read this envelope from it.
fn check(top: &[u8], envelope: &Envelope) -> Result<(), Failure> {
    let split = HeaderScanner::split_message(top)
        .map_err(|error| Exit::Data.because(format!("with the envelope, {error}")))?;
    match injected_envelope(&split.header) {
        Ok(Some((read, _))) if read == *envelope && split.body.is_empty() => Ok(()),
        _ => {
            Err(Exit::Software.because("cannot write the envelope: this is a defect of m365-relay sendmail"))
        }
    }
}

fn has_at(field: &Field<'_>) -> bool {
    field.value().contains(&b'@')
}

/// To, Cc and Bcc; for a message that was resent, those that it was resent to (RFC 5322 section 3.6.6).
fn recipients_of(header: &HeaderBlock, aliases: &Aliases) -> Result<Vec<MailboxAddress>, Failure> {
    const RESENT: [&str; 3] = ["Resent-To", "Resent-Cc", "Resent-Bcc"];
    let is_one = |field: &Field<'_>, names: [&str; 3]| names.into_iter().any(|name| field.is(name));
    let is_resent = header.fields().any(|field| is_one(&field, RESENT));
    let names = if is_resent { RESENT } else { ["To", "Cc", "Bcc"] };
    let mut recipients = Vec::new();
    for field in header.fields().filter(|field| is_one(field, names)) {
        recipients.extend(addressees(&field, aliases)?);
    }
    Ok(recipients)
}

/// A recipient on the command line is an address list, as in a header.
fn read_recipients(list: &str, aliases: &Aliases) -> Result<Vec<MailboxAddress>, Failure> {
    let invalid = || Exit::Usage.because(format!("recipient {list:?} is not an address"));
    if list.contains(char::is_control) {
        return Err(invalid());
    }
    let field =
        HeaderScanner::split_message(format!("recipient: {list}").as_bytes()).map_err(|_| invalid())?;
    let field = field.header.fields().next().ok_or_else(invalid)?;
    addressees(&field, aliases)
}

/// The addresses of a field, and those that its aliases stand for.
fn addressees(field: &Field<'_>, aliases: &Aliases) -> Result<Vec<MailboxAddress>, Failure> {
    let mut all = Vec::new();
    for entry in addresses(field) {
        let written = match &entry {
            Ok(address) => address.as_str(),
            Err(BrokenAddress { entry, .. }) => without_brackets(entry),
        };
        match (aliases.find(written), entry) {
            (Some(addresses), _) => all.extend_from_slice(addresses),
            (None, Ok(address)) => all.push(address),
            (None, Err(error)) => return Err(broken(&error)),
        }
    }
    Ok(all)
}

fn broken(error: &BrokenAddress) -> Failure {
    let BrokenAddress { field, entry } = error;
    if entry.contains('@') {
        return Exit::Data.because(error.to_string());
    }
    Exit::NoUser.because(format!(
        "{field}: {entry:?} has no domain, and there are no local mailboxes here: write name@domain (for cron, MAILTO=), or \
         {entry:?} = \"admin@example.com\" into [aliases]"
    ))
}

fn without_brackets(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text)
}

fn read_sender(text: &str) -> Result<Sender, Failure> {
    match without_brackets(text) {
        "" => Ok(Sender::Null),
        name if !name.contains('@') => Ok(Sender::Author),
        address => {
            let parsed = address.parse().map_err(|why| Exit::Usage.because(format!("-f {text:?}: {why}")))?;
            Ok(Sender::Address(parsed))
        }
    }
}

fn read_default_author(text: &str) -> Result<MailboxAddress, Failure> {
    let address = without_brackets(text).parse();
    address.map_err(|why| Exit::Config.because(format!("M365_RELAY_FROM is {text:?}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sendmail::options::Mode;

    fn letter(arguments: &[&str], from: Option<&str>, header: &str) -> Result<String, (Exit, String)> {
        let find = || {
            let mut options = Options::parse(arguments.iter().map(|text| (*text).to_owned()))?;
            assert_eq!(options.mode, Mode::Message);
            options.pickup = Some("p".into());
            options.tenant = Some("contoso".into());
            let environment = Environment { from: from.map(str::to_owned), ..Environment::default() };
            let site = Site::find(&options, &environment)?;
            let header = HeaderScanner::split_message(header.as_bytes()).unwrap().header;
            Wishes::of(&options, &environment, &site)?.letter(&header, &site)
        };
        let letter = find().map_err(|failure: Failure| (failure.exit, failure.text))?;
        assert!(letter.top.ends_with(b"\r\n\r\n"));
        Ok(String::from_utf8(letter.top).unwrap().replace("\r\n", "\n"))
    }

    const END: &str = "X-EndOfInjectedXHeaders: 0\n";

    #[test]
    fn the_envelope_of_arguments() {
        let top = letter(
            &["-f", "s@x.se", "-B7BIT", "-Nnever", "-Rfull", "-Vid", "--", "a@y.se, B <b@y.se>", "A@y.se"],
            None,
            "From: o@x.se\nX-Sender: <evil@x.se>\nBcc: c@y.se\n",
        );
        let expected = format!(
            "X-Sender: <s@x.se> BODY=7BIT RET=FULL ENVID=id\nX-Receiver: <a@y.se> NOTIFY=NEVER\n\
             X-Receiver: <b@y.se> NOTIFY=NEVER\n{END}From: o@x.se\nX-Sender: <evil@x.se>\nBcc: c@y.se\n\n"
        );
        assert_eq!(top, Ok(expected));
        // A message that begins with such lines does not choose its envelope.
        let top =
            letter(&["a@y.se"], None, "X-Sender: <e@x.se>\nX-Receiver: <e@y.se>\nFrom: o@x.se\n").unwrap();
        assert!(
            top.starts_with(&format!("X-Sender: <o@x.se>\nX-Receiver: <a@y.se>\n{END}X-Sender: <e@x.se>\n"))
        );
    }

    #[test]
    fn the_envelope_of_the_header() {
        let receivers = |arguments: &[&str], header: &str| {
            let top = letter(arguments, None, header)?;
            let lines = top.lines().filter_map(|line| line.strip_prefix("X-Receiver: "));
            Ok(lines.collect::<Vec<_>>().join(" "))
        };
        let header = "From: o@x.se\nTo: a@y.se\nCc: g: b@y.se;\nBcc: c@y.se\n";
        assert_eq!(receivers(&["-t"], header), Ok("<a@y.se> <b@y.se> <c@y.se>".into()));
        assert_eq!(receivers(&["-t", "d@y.se"], header), Ok("<d@y.se> <a@y.se> <b@y.se> <c@y.se>".into()));
        assert_eq!(receivers(&["-t"], &format!("Resent-To: r@y.se\n{header}")), Ok("<r@y.se>".into()));
        let nobody = Err((Exit::Usage, "No recipient addresses found".into()));
        assert_eq!(receivers(&["-t"], "From: o@x.se\nTo: undisclosed-recipients:;\n"), nobody);
        assert_eq!(receivers(&[""], header), nobody);
    }

    #[test]
    fn the_sender() {
        let sender = |arguments: &[&str], from: Option<&str>, header: &str| {
            let top = letter(&[arguments, &["a@y.se"]].concat(), from, header)?;
            let fields: Vec<&str> =
                top.lines().filter(|line| line.contains("rom: ") || line.starts_with("X-S")).collect();
            Ok(fields.join("\n"))
        };
        let ok = |text: &str| Ok(text.to_owned());
        let o = "From: o@x.se\n";
        assert_eq!(sender(&[], Some("d@x.se"), o), ok("X-Sender: <o@x.se>\nFrom: o@x.se"));
        assert_eq!(sender(&["-f", "<s@x.se>"], None, o), ok("X-Sender: <s@x.se>\nFrom: o@x.se"));
        for null in ["", "<>"] {
            assert_eq!(sender(&["-f", null], None, o), ok("X-Sender: <>\nFrom: o@x.se"));
        }
        assert_eq!(sender(&["-froot"], None, o), ok("X-Sender: <o@x.se>\nFrom: o@x.se"));
        assert_eq!(
            sender(&["-fs@x.se", "-FCron Daemon"], None, "Subject: s\n"),
            ok("X-Sender: <s@x.se>\nFrom: \"Cron Daemon\" <s@x.se>")
        );
        assert_eq!(
            sender(&["-froot", "-FCron"], Some("d@x.se"), "From: root (Cron Daemon)\nSubject: s\n"),
            ok("X-Sender: <d@x.se>\nFrom: \"Cron\" <d@x.se>")
        );
        assert_eq!(sender(&["-f", ""], Some("d@x.se"), ""), ok("X-Sender: <>\nFrom: <d@x.se>"));
        for (arguments, from, header, expected) in [
            (&["-froot"][..], None, "From: root\n", Exit::Usage),
            (&[], None, "Subject: s\n", Exit::Usage),
            (&["-f", ""], None, "", Exit::Usage),
            (&["-fa@@x"], None, o, Exit::Usage),
            (&[], Some("root"), o, Exit::Config),
            (&["-fs@x.se"], None, "From: o@x.se, root\nSender: o@x.se\n", Exit::Data),
            (&["-fs@x.se"], None, "From: o@x.se\nFrom: o@x.se\n", Exit::Data),
            (&["-fs@x.se"], None, "From: o@x.se, p@x.se\n", Exit::Data),
        ] {
            let (exit, text) = sender(arguments, from, header).unwrap_err();
            assert_eq!(exit, expected, "{arguments:?} {header:?}: {text}");
        }
    }

    #[test]
    fn recipients_have_a_domain() {
        for (arguments, header, expected) in [
            (&["root"][..], "From: o@x.se\n", Exit::NoUser),
            (&["-t"], "From: o@x.se\nTo: root\n", Exit::NoUser),
            (&["-t"], "From: o@x.se\nTo: a@@y\n", Exit::Data),
            (&["a@y.se\nb"], "From: o@x.se\n", Exit::Usage),
        ] {
            let (exit, text) = letter(arguments, None, header).unwrap_err();
            assert_eq!(exit, expected, "{arguments:?} {header:?}: {text}");
        }
    }

    #[test]
    fn the_header_stays_readable_for_pickup() {
        let many: Vec<String> = (0..9000).map(|n| format!("a-rather-long-name{n}@y.se")).collect();
        let arguments: Vec<&str> = many.iter().map(String::as_str).collect();
        let (exit, text) = letter(&arguments, None, "From: o@x.se\n").unwrap_err();
        assert_eq!((exit, text.contains("256KiB")), (Exit::Data, true));
    }
}
