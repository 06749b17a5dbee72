//! What ten thousand tenants cost: to load, to look up, to load again, to log in.
//!
//!     cargo bench --bench tenants -- [--tenants N]
//!
//! Logins go to a simulated Microsoft 365 in this process. Its own memory is measured beforehand with tokens
//! that are not kept.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use m365_relay::{
    config::{Changes, Config, Roster, Tenant},
    identity::{Audience, Identity},
    network::Clients,
    telemetry::Metrics,
};
use relay_sandbox::{Directory, Limits, Options, Service};
use tokio::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut tenants = 10_000;
    while let Some(name) = arguments.next() {
        let value = arguments.next().expect("a value behind each option");
        match name.as_str() {
            "--tenants" => tenants = value.parse().expect("a number"),
            _ => panic!("there is no option {name}"),
        }
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("{tenants} tenants");
    runtime.block_on(measure(tenants));
}

async fn measure(tenants: usize) {
    // No group may write to a configuration's files, whatever the umask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let dir = tempfile::tempdir().expect("a folder");
    let service = Service::start(Options {
        directories: (0..tenants).map(|n| Directory::new(format!("t{n}.example"), "app", "secret")).collect(),
        limits: Limits::unthrottled(),
        login_latency: Duration::from_millis(50),
        keep_calls: 0,
        ..Options::default()
    })
    .await
    .expect("the simulated service");

    let (one, many) = (dir.path().join("one/config.toml"), dir.path().join("many/config.toml"));
    write(&one, &service.url(), tenants, false);
    write(&many, &service.url(), tenants, true);
    let (mut running, took) = timed(|| Config::load(&one).expect("a configuration"));
    show("load, all in one file", took);
    let (mut new, took) = timed(|| Config::load(&many).expect("a configuration"));
    show("load, one file each", took);
    let (_, took) = timed(|| Changes::between(&running, &mut new));
    show("what a reload changes", took);
    running.tenants = new.tenants;
    let (roster, took) = timed(|| Roster::new(running.tenants.clone()));
    show("the roster", took);
    look_up(&roster, tenants);
    log_in(&service, &running).await;
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed())
}

fn show(what: &str, took: Duration) {
    println!("{what:<40} {:>9.1} ms", took.as_secs_f64() * 1000.0);
}

fn write(main: &Path, url: &str, tenants: usize, one_file_each: bool) {
    let folder = main.parent().expect("a folder").join("tenants.d");
    fs::create_dir_all(&folder).expect("a folder");
    let mut text = format!(
        "[spool]\npath = 'spool'\n[smtp]\nhostname = 'relay.example'\n[[smtp.listener]]\naddress = '127.0.0.1:0'\n\
         [clouds.lab]\nlogin = '{url}'\ngraph = '{url}'\n"
    );
    for n in 0..tenants {
        let table = format!(
            "[tenants.t{n}]\ncloud = 'lab'\ndirectory = 't{n}.example'\nclient_id = 'app'\nclient_secret = 'secret'\n\
             senders = ['@t{n}.example', 'scanner{n}@printers.example']\nnetworks = ['10.0.0.0/8', '127.0.0.0/8']\n"
        );
        if one_file_each {
            fs::write(folder.join(format!("t{n}.toml")), table).expect("a file");
        } else {
            text += &table;
        }
    }
    fs::write(main, text).expect("a file");
}

/// Determines whose mail it is. Done for each message that comes in.
fn look_up(roster: &Roster, tenants: usize) {
    let peer: IpAddr = [10, 1, 2, 3].into();
    let senders: Vec<_> =
        (0..tenants).map(|n| format!("a@t{n}.example").parse().expect("an address")).collect();
    let (found, took) = timed(|| {
        senders.iter().filter(|sender| roster.senders_of(sender).any(|tenant| tenant.trusts(peer))).count()
    });
    assert_eq!(found, tenants);
    println!("{:<40} {:>9.2} µs", "who sends this, a message", took.as_secs_f64() * 1e6 / tenants as f64);
}

/// All tenants wake up at the same moment.
async fn log_in(service: &Service, config: &Config) {
    let clients =
        Clients::new(&config.network, config.tenants.values().map(|tenant| &tenant.cloud)).expect("clients");
    // What the service remembers of its tokens does not belong to the relay, and a first round warms
    // everything up.
    let before = resident();
    let forgetful = identity(&clients);
    let weak: Weak<Identity> = Arc::downgrade(&forgetful);
    all_tokens(&forgetful, &config.tenants).await;
    drop(forgetful);
    assert!(weak.upgrade().is_none());
    let service_alone = resident().saturating_sub(before);

    let identity = identity(&clients);
    let idle = resident();
    let (tokens, peak) = (service.counts().tokens, service.peak_logins());
    let began = Instant::now();
    all_tokens(&identity, &config.tenants).await;
    show("all log in at once (50 ms a login)", began.elapsed());
    println!("{:<40} {:>9}", "logins at a time, at most", service.peak_logins().max(peak));
    println!("{:<40} {:>9}", "logins", service.counts().tokens - tokens);
    let grown = resident().saturating_sub(idle);
    let own = grown.saturating_sub(service_alone.min(grown));
    let each = |octets: u64| octets as f64 / config.tenants.len() as f64;
    println!(
        "{:<40} {:>9.0} octets a tenant (both sides; {:.0} beyond a first round)",
        "memory of their tokens",
        each(grown),
        each(own)
    );
    let began = Instant::now();
    all_tokens(&identity, &config.tenants).await;
    show("all ask again", began.elapsed());
}

fn identity(clients: &Clients) -> Arc<Identity> {
    Arc::new(Identity::new(clients.clone(), Metrics::new(), "/nowhere".into()))
}

async fn all_tokens(identity: &Arc<Identity>, tenants: &BTreeMap<relay_mail::TenantName, Arc<Tenant>>) {
    let mut asking = tokio::task::JoinSet::new();
    for tenant in tenants.values() {
        let (identity, tenant) = (identity.clone(), tenant.clone());
        asking.spawn(async move { identity.token(&tenant, Audience::Graph).await.map(drop) });
    }
    while let Some(token) = asking.join_next().await {
        token.expect("no panic").expect("a token");
    }
}

/// Octets of memory that this process has now.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}
