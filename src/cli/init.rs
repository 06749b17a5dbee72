//! `m365-relay init`: asks five questions, and writes a configuration that `check-config` passes.
//!
//! It writes the main file, one tenant in `tenants.d` beside it, and the tenant's secret in a file of its
//! own. Nothing that exists is written over. At a terminal, an answer that is wrong is asked for again;
//! otherwise the answers are lines of standard input, and a wrong one ends the command. An empty line takes
//! the answer in brackets.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, BufRead, IsTerminal, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::{config_path::ConfigPath, console};
use crate::config::Config;
use relay_mail::TenantName;

/// Write a first configuration: asks five questions
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigPath,
    /// The spool's folder [default: /var/lib/m365-relay/spool for root, else the folder "spool" beside the
    /// file]
    #[arg(long, value_name = "PATH")]
    spool: Option<PathBuf>,
}

/// The group that the unit runs the relay in: it may read what root writes.
const GROUP: &str = "m365-relay";

/// What was asked for, each valid by itself.
struct Answers {
    domain: String,
    client_id: String,
    secret: Zeroizing<String>,
    listener: String,
    networks: Vec<String>,
}

/// A question, and which keys of the configuration its answer is written to.
struct Question {
    text: &'static str,
    usual: &'static str,
    keys: &'static [&'static str],
}

const DOMAIN: Question = Question {
    text: "Domain of the organisation, as in its addresses, such as contoso.com",
    usual: "",
    keys: &["directory", "senders"],
};
const CLIENT_ID: Question =
    Question { text: "Application (client) ID of the app registration", usual: "", keys: &["client_id"] };
const SECRET: Question =
    Question { text: "Client secret: its Value, not its ID", usual: "", keys: &["client_secret"] };
const LISTENER: Question = Question {
    text: "Address and port where programs and devices hand in mail by SMTP",
    usual: "127.0.0.1:2525",
    keys: &["smtp.listener"],
};
const NETWORKS: Question = Question {
    text: "Addresses and networks that may send without a login, separated by blanks",
    usual: "127.0.0.0/8 ::1",
    keys: &["networks"],
};

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let file = args.config.path();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.exists() {
        bail!("{} exists already, and is not written over: name another file with --config", file.display());
    }
    let is_root = geteuid().is_root();
    let spool = match &args.spool {
        Some(spool) => spool.display().to_string(),
        None if is_root => "/var/lib/m365-relay/spool".to_owned(),
        None => "spool".to_owned(),
    };
    let answers = Answers::ask()?;
    let tenant = answers.tenant()?;
    let secret = folder.join(format!("{tenant}.secret"));
    let table = folder.join("tenants.d").join(format!("{tenant}.toml"));
    for path in [&secret, &table] {
        if path.exists() {
            bail!(
                "{} exists already, and is not written over: remove it, or choose another folder",
                path.display()
            );
        }
    }
    let group = if is_root { group_of(&fs::read_to_string("/etc/group").unwrap_or_default()) } else { None };
    make_folder(folder, group)?;
    make_folder(&folder.join("tenants.d"), group)?;
    write(&secret, &format!("{}\n", *answers.secret), group)?;
    write(&table, &answers.table(&tenant), group)?;
    write(&file, &answers.main(&spool), group)?;
    // What it writes is right, or there is a defect here.
    let config = Config::load(&file).context("what init has written is wrong")?;
    for warning in &config.warnings {
        console::complain(format_args!("warning: {warning}"));
    }
    let (shown, listener) = (file.display(), &answers.listener);
    let domain = &answers.domain;
    let named = if shown.to_string() == "/etc/m365-relay/config.toml" {
        String::new()
    } else {
        format!(" --config {shown}")
    };
    console::say(format_args!(
        "\nWritten:\n  {shown}\n  {}\n  {}\n\nNext:\n  m365-relay check-config{named}\n  m365-relay tenant consent-url \
         {tenant}{named}    an administrator of {domain} opens it\n  m365-relay tenant check {tenant} --mailbox somebody@{domain}{named}\
         \n  m365-relay serve{named}    or, installed as a service: systemctl enable --now m365-relay\n  swaks --server {listener} \
         --from somebody@{domain} --to somebody@{domain}",
        table.display(),
        secret.display(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

impl Answers {
    fn ask() -> anyhow::Result<Self> {
        let mut answers = Self {
            domain: "example.com".into(),
            client_id: "app".into(),
            secret: Zeroizing::new("secret".into()),
            listener: LISTENER.usual.into(),
            networks: NETWORKS.usual.split_whitespace().map(ToOwned::to_owned).collect(),
        };
        let is_terminal = io::stdin().is_terminal();
        for (n, question) in [DOMAIN, CLIENT_ID, SECRET, LISTENER, NETWORKS].iter().enumerate() {
            loop {
                let answer = question.ask(n + 1, is_terminal && n == 2)?;
                match n {
                    0 => answers.domain = answer.to_ascii_lowercase(),
                    1 => answers.client_id = answer.to_string(),
                    2 => answers.secret = answer,
                    3 => answers.listener = answer.to_string(),
                    _ => answers.networks = answer.split_whitespace().map(ToOwned::to_owned).collect(),
                }
                let Some(wrong) = answers.mistake_in(question) else { break };
                if !is_terminal {
                    bail!("{}: {wrong}", question.text);
                }
                console::complain(format_args!("  {wrong}"));
            }
        }
        Ok(answers)
    }

    /// What is wrong with the answer to this question: the configuration's own words.
    fn mistake_in(&self, question: &Question) -> Option<String> {
        if question.keys == SECRET.keys {
            return self.secret.is_empty().then(|| "the secret is empty".to_owned());
        }
        let tenant = match self.tenant() {
            Ok(tenant) => tenant,
            Err(error) => return Some(error.to_string()),
        };
        let secret = format!("client_secret = {{ file = {} }}", quoted(&format!("{tenant}.secret")));
        let table = self.table(&tenant).replace(&secret, "client_secret = \"secret\"");
        let text = format!("{}\n{table}", self.main("spool"));
        let errors = Config::parse(&text, Path::new("config.toml")).err()?;
        let concerns = |key: &str| question.keys.iter().any(|part| key.contains(part));
        errors.problems().iter().find(|problem| concerns(&problem.key)).map(|problem| problem.message.clone())
    }

    /// The first label of the domain.
    fn tenant(&self) -> anyhow::Result<TenantName> {
        let label = self.domain.split('.').next().unwrap_or_default();
        label.parse().with_context(|| format!("{:?} is not a domain such as contoso.com", self.domain))
    }

    fn main(&self, spool: &str) -> String {
        format!(
            "# Written by m365-relay init. config.example.toml explains every key, of this file and of those in tenants.d.\n\n\
             [spool]\npath = {}\n\n[[smtp.listener]]\naddress = {}\n",
            quoted(spool),
            quoted(&self.listener)
        )
    }

    fn table(&self, tenant: &TenantName) -> String {
        let Self { domain, client_id, networks, .. } = self;
        let networks: Vec<_> = networks.iter().map(|network| quoted(network)).collect();
        format!(
            "# Written by m365-relay init.\n\n[tenants.{}]\ndirectory = {}\nclient_id = {}\nclient_secret = {{ file = {} }}\n\
             senders = [{}]\nnetworks = [{}]\n",
            key(tenant.as_str()),
            quoted(domain),
            quoted(client_id),
            quoted(&format!("{tenant}.secret")),
            quoted(&format!("@{domain}")),
            networks.join(", ")
        )
    }
}

impl Question {
    fn ask(&self, number: usize, hidden: bool) -> anyhow::Result<Zeroizing<String>> {
        let Self { text, usual, .. } = self;
        let usual_shown = if usual.is_empty() { String::new() } else { format!(" [{usual}]") };
        let prompt = format!("{number}. {text}{usual_shown}: ");
        let line = if hidden {
            let typed = rpassword::prompt_password(format!("{prompt}(not shown) "));
            Zeroizing::new(typed.context("cannot read from the terminal")?)
        } else {
            if io::stdin().is_terminal() {
                console::ask(&prompt)?;
            }
            let mut line = Zeroizing::new(String::new());
            let read = io::stdin().lock().read_line(&mut line).context("cannot read standard input")?;
            if read == 0 {
                bail!(
                    "{text}: there is no answer: standard input has one line for each of the five questions"
                );
            }
            line
        };
        let answer = line.trim();
        Ok(Zeroizing::new(if answer.is_empty() { (*usual).to_owned() } else { answer.to_owned() }))
    }
}

/// As a TOML string: a JSON string is one.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// As a TOML key.
fn key(name: &str) -> String {
    if name.contains('.') { quoted(name) } else { name.to_owned() }
}

/// The id of [`GROUP`] in group(5), if there is one.
fn group_of(groups: &str) -> Option<u32> {
    let line = groups.lines().find_map(|line| line.strip_prefix(GROUP)?.strip_prefix(':'))?;
    line.split(':').nth(1)?.parse().ok()
}

fn make_folder(folder: &Path, group: Option<u32>) -> anyhow::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let made =
        DirBuilder::new().recursive(true).mode(if group.is_some() { 0o750 } else { 0o700 }).create(folder);
    made.and_then(|()| chown(folder, None, group))
        .with_context(|| format!("cannot make {}", folder.display()))
}

fn write(file: &Path, text: &str, group: Option<u32>) -> anyhow::Result<()> {
    let mode = if group.is_some() { 0o640 } else { 0o600 };
    let write = || {
        let mut opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(file)?;
        opened.write_all(text.as_bytes())?;
        chown(file, None, group)?;
        opened.sync_all()
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(domain: &str, listener: &str, networks: &str) -> Answers {
        Answers {
            domain: domain.into(),
            client_id: "11111111-2222-3333-4444-555555555555".into(),
            secret: Zeroizing::new("s".into()),
            listener: listener.into(),
            networks: networks.split_whitespace().map(ToOwned::to_owned).collect(),
        }
    }

    #[test]
    fn wrong_answers_are_told_in_the_configurations_words() {
        for (domain, listener, networks, question, part) in [
            ("con toso", "127.0.0.1:2525", "::1", &DOMAIN, "is not a domain"),
            ("contoso", "127.0.0.1:2525", "::1", &DOMAIN, ""),
            ("contoso.com", "localhost", "::1", &LISTENER, "is not an IP address with a port"),
            ("contoso.com", "127.0.0.1:2525", "all", &NETWORKS, "is not an IP network"),
            ("contoso.com", "0.0.0.0:25", "10.1.0.0/16", &NETWORKS, ""),
        ] {
            let said = answers(domain, listener, networks).mistake_in(question).unwrap_or_default();
            assert!(said.contains(part) && said.is_empty() == part.is_empty(), "{domain} {listener}: {said}");
        }
    }

    #[test]
    fn groups() {
        assert_eq!(group_of("root:x:0:\nm365-relay-x:x:7:\nm365-relay:x:989:\n"), Some(989));
        assert_eq!(group_of("root:x:0:\n"), None);
    }
}
