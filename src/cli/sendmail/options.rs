//! The command line of sendmail, as programs have written it for forty years. Pure.
//!
//! By the rules of POSIX `getopt`: single letters, several after one dash, a value attached or in the next
//! argument; the first argument that is not an option, or `--`, ends them. GNU's habit of looking for options
//! behind the recipients is not followed: a recipient that begins with a dash must stay a recipient.
//!
//! An option that has no meaning here and does not change what happens to the message is accepted and
//! ignored, since hardly any program can be told to leave it out. Anything else is an error that names it.

use super::exit::{Exit, Failure};
use relay_mail::BodyKind;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// `-bm`: one message from standard input.
    #[default]
    Message,
    /// `-bs`: SMTP on standard input and output.
    Smtp,
    /// `-bp`, `mailq`
    Queue,
    /// `-bi`, `-I`, `newaliases`
    Aliases,
    /// `-q` alone: have the queue run, which the relay does by itself.
    RunQueue,
    Help,
    Version,
}

/// The meaning of a command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Options {
    pub(super) mode: Mode,
    /// `-t`: recipients are in the header, too.
    pub(super) from_header: bool,
    /// `-i`, `-oi`: a line with a single dot is content.
    pub(super) ignore_dots: bool,
    /// `-f`, `-r`: as given.
    pub(super) sender: Option<String>,
    /// `-F`
    pub(super) full_name: Option<String>,
    /// `-B`
    pub(super) body: Option<BodyKind>,
    /// `-N`, as in NOTIFY of RFC 3461.
    pub(super) notify: Option<String>,
    /// `-R`, as in RET of RFC 3461.
    pub(super) ret: Option<&'static str>,
    /// `-V`, as in ENVID of RFC 3461.
    pub(super) envelope_id: Option<String>,
    pub(super) config: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) pickup: Option<String>,
    /// Address lists.
    pub(super) recipients: Vec<String>,
}

/// Whether an option has a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    /// Attached or in the next argument.
    Needed,
    /// Attached, or there is none.
    Attached,
}

/// What an option changes. Flags get an empty value.
#[derive(Clone, Copy)]
enum Meaning {
    Ignored,
    Set(fn(&mut Options, String)),
    /// An error says what is wrong with the value.
    Read(fn(&mut Options, &str) -> Result<(), String>),
}

use Meaning::{Ignored, Read, Set};

const LETTERS: [(char, Value, Meaning); 32] = [
    ('t', Value::None, Set(|options, _| options.from_header = true)),
    ('i', Value::None, Set(|options, _| options.ignore_dots = true)),
    ('f', Value::Needed, Set(|options, sender| options.sender = Some(sender))),
    ('r', Value::Needed, Set(|options, sender| options.sender = Some(sender))),
    ('F', Value::Needed, Set(|options, name| options.full_name = Some(name))),
    ('b', Value::Needed, Read(set_mode)),
    ('o', Value::Needed, Set(set_classic)),
    ('q', Value::Attached, Set(|options, _| options.mode = Mode::RunQueue)),
    ('I', Value::None, Set(|options, _| options.mode = Mode::Aliases)),
    ('B', Value::Needed, Read(set_body)),
    ('N', Value::Needed, Read(set_notify)),
    ('R', Value::Needed, Read(set_ret)),
    ('V', Value::Needed, Read(set_envelope_id)),
    ('A', Value::Needed, Ignored),
    ('C', Value::Needed, Ignored),
    ('L', Value::Needed, Ignored),
    ('M', Value::Needed, Ignored),
    ('O', Value::Needed, Ignored),
    ('X', Value::Needed, Ignored),
    ('e', Value::Needed, Ignored),
    ('h', Value::Needed, Ignored),
    ('p', Value::Needed, Ignored),
    ('d', Value::Attached, Ignored),
    ('E', Value::None, Ignored),
    ('G', Value::None, Ignored),
    ('U', Value::None, Ignored),
    ('c', Value::None, Ignored),
    ('m', Value::None, Ignored),
    ('n', Value::None, Ignored),
    ('v', Value::None, Ignored),
    ('x', Value::None, Ignored),
    ('7', Value::None, Set(|options, _| options.body = Some(BodyKind::SevenBit))),
];

/// This program's own.
const WORDS: [(&str, Value, Meaning); 5] = [
    ("config", Value::Needed, Set(|options, path| options.config = Some(path))),
    ("tenant", Value::Needed, Set(|options, name| options.tenant = Some(name))),
    ("pickup", Value::Needed, Set(|options, path| options.pickup = Some(path))),
    ("help", Value::None, Set(|options, _| options.mode = Mode::Help)),
    ("version", Value::None, Set(|options, _| options.mode = Mode::Version)),
];

impl Options {
    /// `arguments` are those behind the program's name.
    pub(super) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                options.recipients.extend(arguments.by_ref());
            } else if let Some(word) = argument.strip_prefix("--") {
                options.take_word(word, &mut arguments)?;
            } else if argument.len() > 1 && argument.starts_with('-') {
                options.take_letters(&argument[1..], &mut arguments)?;
            } else {
                options.recipients.push(argument);
                options.recipients.extend(arguments.by_ref());
            }
        }
        // If there are recipients, a message is meant: `sendmail -q …` is in old scripts.
        if options.mode == Mode::RunQueue && (options.from_header || !options.recipients.is_empty()) {
            options.mode = Mode::Message;
        }
        Ok(options)
    }

    fn take_word(&mut self, word: &str, more: &mut impl Iterator<Item = String>) -> Result<(), Failure> {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        let shown = format!("--{name}");
        let Some((_, takes, meaning)) = WORDS.into_iter().find(|(known, ..)| *known == name) else {
            return Err(unknown(&shown));
        };
        let value = match (takes, attached) {
            (Value::None, Some(_)) => return Err(Exit::Usage.because(format!("{shown} takes no value"))),
            (Value::Needed, None) => more.next().ok_or_else(|| no_value(&shown))?,
            (_, attached) => attached.unwrap_or_default(),
        };
        self.change(&shown, meaning, value)
    }

    fn take_letters(
        &mut self,
        letters: &str,
        more: &mut impl Iterator<Item = String>,
    ) -> Result<(), Failure> {
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            let shown = format!("-{letter}");
            let Some((_, takes, meaning)) = LETTERS.into_iter().find(|(known, ..)| *known == letter) else {
                return Err(unknown(&shown));
            };
            let value = match takes {
                Value::None => String::new(),
                Value::Needed if rest.as_str().is_empty() => more.next().ok_or_else(|| no_value(&shown))?,
                Value::Needed | Value::Attached => rest.by_ref().collect(),
            };
            self.change(&shown, meaning, value)?;
        }
        Ok(())
    }

    fn change(&mut self, shown: &str, meaning: Meaning, value: String) -> Result<(), Failure> {
        match meaning {
            Ignored => {}
            Set(set) => set(self, value),
            Read(read) => {
                read(self, &value).map_err(|why| Exit::Usage.because(format!("{shown}: {why}")))?;
            }
        }
        Ok(())
    }
}

fn unknown(option: &str) -> Failure {
    Exit::Usage.because(format!("unknown option {option}: see sendmail --help"))
}

fn no_value(option: &str) -> Failure {
    Exit::Usage.because(format!("option {option} needs a value"))
}

fn set_mode(options: &mut Options, mode: &str) -> Result<(), String> {
    options.mode = match mode {
        "m" => Mode::Message,
        "s" => Mode::Smtp,
        "p" => Mode::Queue,
        "i" => Mode::Aliases,
        _ => return Err(format!("unknown mode {mode:?}: the modes are m, s, p and i")),
    };
    Ok(())
}

/// `-oi`, `-oem`, `-odb` and their like: `-o` with a letter and its value.
fn set_classic(options: &mut Options, classic: String) {
    match classic.as_str() {
        "i" => options.ignore_dots = true,
        "t" => options.from_header = true,
        "7" => options.body = Some(BodyKind::SevenBit),
        _ => {}
    }
}

fn set_body(options: &mut Options, body: &str) -> Result<(), String> {
    options.body = Some(match body.to_ascii_uppercase().as_str() {
        "7BIT" => BodyKind::SevenBit,
        "8BITMIME" => BodyKind::EightBitMime,
        _ => return Err(format!("{body:?} is neither 7BIT nor 8BITMIME")),
    });
    Ok(())
}

/// RFC 3461 section 4.1: NEVER, or some of the others.
fn set_notify(options: &mut Options, list: &str) -> Result<(), String> {
    let list = list.to_ascii_uppercase();
    let some = list.split(',').all(|word| ["SUCCESS", "FAILURE", "DELAY"].contains(&word));
    if list != "NEVER" && !some {
        return Err(format!("{list:?} is neither never nor a list of success, failure and delay"));
    }
    options.notify = Some(list);
    Ok(())
}

fn set_ret(options: &mut Options, ret: &str) -> Result<(), String> {
    options.ret = Some(match ret.to_ascii_uppercase().as_str() {
        "FULL" => "FULL",
        "HDRS" => "HDRS",
        _ => return Err(format!("{ret:?} is neither full nor hdrs")),
    });
    Ok(())
}

/// RFC 3461 section 4.4: up to 100 printable characters, as xtext.
fn set_envelope_id(options: &mut Options, id: &str) -> Result<(), String> {
    let is_xtext = (1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic() && b != b'=');
    let hex = |text: &str| {
        text.len() >= 2 && text.bytes().take(2).all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    };
    if !is_xtext || !id.split('+').skip(1).all(hex) {
        return Err(format!("{id:?} is not an envelope identifier (RFC 3461 section 4.4)"));
    }
    options.envelope_id = Some(id.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned)).map_err(
            |failure| {
                assert_eq!(failure.exit, Exit::Usage);
                failure.text
            },
        )
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn as_programs_call_it() {
        let base = Options::default;
        let rows = [
            // PHP
            ("-t -i", Options { from_header: true, ignore_dots: true, ..base() }),
            // cron
            (
                "-FCronDaemon -i -odi -oem -oi -t -f root",
                Options {
                    from_header: true,
                    ignore_dots: true,
                    full_name: text("CronDaemon"),
                    sender: text("root"),
                    ..base()
                },
            ),
            (
                "-i -FCronDaemon -B8BITMIME -oem root",
                Options {
                    ignore_dots: true,
                    full_name: text("CronDaemon"),
                    body: Some(BodyKind::EightBitMime),
                    recipients: vec!["root".into()],
                    ..base()
                },
            ),
            // git send-email
            (
                "-i a@x.se b@x.se",
                Options { ignore_dots: true, recipients: vec!["a@x.se".into(), "b@x.se".into()], ..base() },
            ),
            // mutt
            (
                "-oem -oi -f me@x.se -N failure,delay -R hdrs -- a@x.se -b@x.se",
                Options {
                    ignore_dots: true,
                    sender: text("me@x.se"),
                    notify: text("FAILURE,DELAY"),
                    ret: Some("HDRS"),
                    recipients: vec!["a@x.se".into(), "-b@x.se".into()],
                    ..base()
                },
            ),
            ("-ti", Options { from_header: true, ignore_dots: true, ..base() }),
            (
                "-tifa@x.se",
                Options { from_header: true, ignore_dots: true, sender: text("a@x.se"), ..base() },
            ),
            ("-ot -r a@x.se", Options { from_header: true, sender: text("a@x.se"), ..base() }),
            ("-bs", Options { mode: Mode::Smtp, ..base() }),
            ("-b p", Options { mode: Mode::Queue, ..base() }),
            ("-bi", Options { mode: Mode::Aliases, ..base() }),
            ("-q30m", Options { mode: Mode::RunQueue, ..base() }),
            ("-q -t", Options { from_header: true, ..base() }),
            (
                "--config c --tenant=contoso --pickup p a@x.se -t",
                Options {
                    config: text("c"),
                    tenant: text("contoso"),
                    pickup: text("p"),
                    recipients: vec!["a@x.se".into(), "-t".into()],
                    ..base()
                },
            ),
            ("-V id+2B1 -", Options { envelope_id: text("id+2B1"), recipients: vec!["-".into()], ..base() }),
            (
                "-oee -odb -odq -om -o7 -v -n -Ac -Am -L tag -O opt=val -C file -d0.1 -h 3 -pSMTP:h -X log -U -x -G -em -Mx y",
                Options { body: Some(BodyKind::SevenBit), recipients: vec!["y".into()], ..base() },
            ),
        ];
        for (line, options) in rows {
            assert_eq!(parse(line), Ok(options), "{line}");
        }
        let empty = ["-f", "", "a@x.se"].map(str::to_owned);
        assert_eq!(Options::parse(empty).unwrap().sender, text(""));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, part) in [
            ("-Z", "-Z"),
            ("-tZ", "-Z"),
            ("-é", "-é"),
            ("--tennant x", "--tennant"),
            ("--help=x", "--help takes no value"),
            ("-t -f", "-f needs a value"),
            ("--tenant", "--tenant needs a value"),
            ("-bd", "-b: unknown mode \"d\""),
            ("-BBINARYMIME", "-B: \"BINARYMIME\""),
            ("-N never,delay", "-N: "),
            ("-N always", "-N: "),
            ("-R all", "-R: "),
            ("-V a=b", "-V: "),
            ("-V a+2b", "-V: "),
        ] {
            let said = parse(line).unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }

    #[test]
    fn letters_stand_once() {
        for (at, (letter, ..)) in LETTERS.iter().enumerate() {
            assert!(LETTERS.iter().skip(at + 1).all(|(other, ..)| other != letter), "{letter}");
        }
    }

    proptest! {
        #[test]
        fn any_arguments_are_answered(arguments in prop::collection::vec("(-|--)?[a-zA-Z0-9=@é+]{0,6}", 0..8)) {
            let _ = Options::parse(arguments);
        }

        #[test]
        fn behind_two_dashes_everything_is_a_recipient(arguments in prop::collection::vec(".{0,6}", 0..8)) {
            let line = ["-t".to_owned(), "--".to_owned()].into_iter().chain(arguments.clone());
            prop_assert_eq!(Options::parse(line).unwrap().recipients, arguments);
        }

        #[test]
        fn clustered_attached_or_apart_is_the_same(
            flags in "[tiGUvn]{0,6}",
            letter in prop::sample::select(vec!['f', 'r', 'F', 'L', 'X']),
            value in "[a-z@.-]{1,8}",
            recipient in "[a-z][a-z@]{0,6}",
        ) {
            let line = |words: Vec<String>| Options::parse(words.into_iter().chain([recipient.clone()])).unwrap();
            let clustered = line(vec![format!("-{flags}{letter}{value}")]);
            let mut apart: Vec<String> = flags.chars().map(|flag| format!("-{flag}")).collect();
            apart.extend([format!("-{letter}"), value.clone()]);
            prop_assert_eq!(line(apart), clustered);
        }
    }
}
