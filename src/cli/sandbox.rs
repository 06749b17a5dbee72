//! `m365-relay sandbox`: the relay on a simulated Microsoft 365, with nothing to configure.
//!
//! Writes an ordinary configuration file into its folder and runs the relay from that, so that what is tried
//! out is what `serve` does, and the file is there to be read and changed.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};

use super::{
    console::{self, Unwritten},
    descriptors, stop,
};
use crate::{
    admin::Reloads,
    background::Background,
    config::Config,
    relay::{Given, Relay},
    telemetry::{self, Metrics},
    vital::{self, Watchdog},
};
use relay_sandbox::{Directory, Limits, Options, Service};

/// Try the relay with a simulated Microsoft 365, on loopback: nothing to configure
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to keep spool, pickup folders and configuration; made if it is missing
    /// [default: a new temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the relay takes SMTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2525")]
    smtp: SocketAddr,
    /// Where the relay shows metrics and health
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8025")]
    admin: SocketAddr,
    /// Where the simulated Microsoft 365 is
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18080")]
    service: SocketAddr,
    /// Where the simulated Microsoft 365 takes SMTP submission
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18587")]
    submission: SocketAddr,
    /// How long each call to Microsoft 365 takes
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = humantime::parse_duration)]
    latency: std::time::Duration,
    /// Switch off all limits on both sides, for measurements
    #[arg(long)]
    no_limits: bool,
}

const NO_LIMITS: &str = "[limits]
messages_per_minute = 0
concurrent_requests = 0
recipients_per_day = 0
requests_per_10_minutes = 0
upload_per_5_minutes = 0
app_requests_per_10_seconds = 0
";

/// The certificate to trust for submission, in the folder.
const AUTHORITY: &str = "ca.pem";

/// Name and domain of the two tenants.
const TENANTS: [(&str, &str); 2] = [("contoso", "contoso.example"), ("fabrikam", "fabrikam.example")];

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    for address in [args.smtp, args.admin, args.service, args.submission] {
        if !address.ip().is_loopback() {
            bail!(
                "{address}: the sandbox needs no login, so it listens only on loopback addresses such as \
                 127.0.0.1"
            );
        }
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(demonstrate(args))
}

async fn demonstrate(args: &Args) -> anyhow::Result<ExitCode> {
    let shutdown = stop::on_signal()?;
    // The real one does not take its time from this machine.
    let background = Background::start("microsoft-365").context("cannot start the simulation's threads")?;
    let service = background.handle().spawn(Service::start(options(args))).await?;
    let service = service.with_context(|| {
        format!("cannot start the simulated Microsoft 365 on {} and {}", args.service, args.submission)
    })?;
    let (dir, temporary) = match &args.dir {
        Some(dir) => (dir.clone(), false),
        None => (temporary_dir()?, true),
    };
    make_folder(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let authority = dir.join(AUTHORITY);
    write(&authority, &service.ca_pem(), 0o644)
        .with_context(|| format!("cannot write {}", authority.display()))?;
    let file = dir.join("config.toml");
    let text = configuration(args, &service);
    // Made-up secrets are in it, and the relay warns of those that everybody can read.
    write(&file, &text, 0o600).with_context(|| format!("cannot write {}", file.display()))?;
    let config = Config::load(&file)?;
    let watchdog = Watchdog::default();
    let metrics = Metrics::new();
    let vital = vital::watched();
    let _logs =
        telemetry::start_logs(&config.log, &metrics, &vital.0).context("cannot start the log's thread")?;
    descriptors::provide(&config);
    let reloads = Reloads::new();
    stop::reload_on_hangup(reloads.0.clone())?;
    let relay = Relay::start(config, Given { metrics, reloads, vital }).await?;
    let introduced = introduce(&relay, &service, &dir);
    if introduced.is_err() {
        // Nobody knows where it is, or how to try it.
        shutdown.cancel();
    }
    relay.run(shutdown, &watchdog).await?;
    service.shutdown().await;
    if temporary {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    introduced?;
    Ok(ExitCode::SUCCESS)
}

/// Whatever the umask, since the relay believes no file that others can write to, and none in a folder that
/// they can write to.
fn make_folder(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(dir)
}

fn write(file: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(file)?;
    file.write_all(text.as_bytes())
}

fn options(args: &Args) -> Options {
    let directories = TENANTS.map(|(name, domain)| {
        let mut directory = Directory::new(domain, client_id(name), secret(name));
        directory.roles.push("SMTP.SendAsApp".into());
        directory
    });
    let limits = if args.no_limits { Limits::unthrottled() } else { Limits::default() };
    Options {
        address: args.service,
        smtp: Some(args.submission),
        directories: directories.into(),
        limits,
        latency: args.latency,
        ..Options::default()
    }
}

fn client_id(tenant: &str) -> String {
    format!("{tenant}-app")
}

/// Made up, as the service is.
fn secret(tenant: &str) -> String {
    format!("{tenant}-sandbox-secret")
}

fn configuration(args: &Args, service: &Service) -> String {
    let Args { smtp, admin, no_limits, .. } = args;
    let url = service.url();
    let limits = if *no_limits { NO_LIMITS } else { "" };
    let submission = service.smtp_address().map_or_else(String::new, |address| address.to_string());
    let mut text = format!(
        r#"# Written by `m365-relay sandbox` at each start.
[spool]
path = "spool"
min_free = "100MB"

[smtp]
hostname = "sandbox.example"
# One machine plays all clients here.
max_connections_per_address = 0

[[smtp.listener]]
address = "{smtp}"

[pickup]
path = "pickup"

[admin]
address = "{admin}"

{limits}
[clouds.sandbox]
login = "{url}"
graph = "{url}"
smtp = "{submission}"
ca_file = "{AUTHORITY}"
"#
    );
    for (name, domain) in TENANTS {
        let client_id = client_id(name);
        let secret = secret(name);
        text.push_str(&format!(
            r#"
[tenants.{name}]
cloud = "sandbox"
directory = "{domain}"
client_id = "{client_id}"
client_secret = "{secret}"
senders = ["@{domain}"]
networks = ["127.0.0.0/8", "::1/128"]
"#
        ));
    }
    text
}

fn temporary_dir() -> anyhow::Result<PathBuf> {
    let name = format!("m365-relay-sandbox-{}", uuid::Uuid::new_v4().simple());
    Ok(std::env::temp_dir().join(name))
}

fn introduce(relay: &Relay, service: &Service, dir: &Path) -> Result<(), Unwritten> {
    let url = service.url();
    let submission = service.smtp_address().map_or_else(String::new, |address| address.to_string());
    let smtp = relay.smtp_addresses().first().map_or_else(String::new, SocketAddr::to_string);
    let admin = relay.admin_address().map_or_else(|_| String::new(), |address| address.to_string());
    let dir = dir.display();
    console::say(format_args!(
        r#"
The relay and a simulated Microsoft 365 are running.

  SMTP              {smtp}
  pickup folders    {dir}/pickup/contoso  {dir}/pickup/fabrikam
  metrics, health   http://{admin}/metrics  http://{admin}/readyz
  Microsoft 365     {url}/  (delivered mail; this page is for your browser)
  its submission    {submission}  (SMTP with XOAUTH2; {dir}/{AUTHORITY} is the certificate to trust)
  configuration     {dir}/config.toml
  commands          m365-relay reload --config {dir}/config.toml  (and all others, with the same --config)

Try, in another terminal:

  1. Send a message by SMTP:
     swaks --server {smtp} --from a@contoso.example --to b@example.net

  2. Move a file into a pickup folder:
     printf 'From: a@fabrikam.example\nTo: b@example.net\nSubject: by file\n\nHello\n' > /tmp/hello.eml
     mv /tmp/hello.eml {dir}/pickup/fabrikam/

  3. Make Microsoft 365 throttle, send again, and watch the relay wait and deliver:
     curl {url}/_sandbox/faults -d '{{"on":"any_graph","times":1,"action":{{"status":{{"code":429,"error":"TooManyRequests","retry_after":"5"}}}}}}'
     curl -s http://{admin}/metrics | grep -E 'm365_relay_(throttled|deliveries|queue)'

Ctrl-C stops both.
"#
    ))
}
