//! No secret gets out: not in the most verbose log, not in a metric, not in what is stored.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use relay_sandbox::{Fault, On, RegisteredCertificate, User};

use crate::harness::{
    APP, APP_KEY, Lab, TenantSetup, certificate_der, federated_token, federates, first_token, message,
};

/// Passes connections on to `target` and keeps the traffic in each direction. Ends with the test's process.
struct Wiretap {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<u8>>>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Wiretap {
    fn start(target: Arc<Mutex<Option<SocketAddr>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<u8>>>::default();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let keep_asked = asked.clone();
        let keep_heard = heard.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let service = TcpStream::connect(target.lock().unwrap().unwrap()).unwrap();
                let from_client = client.try_clone().unwrap();
                let to_client = client;
                let to_service = service.try_clone().unwrap();
                let from_service = service;
                let asked = keep_asked.clone();
                let heard = keep_heard.clone();
                thread::spawn(move || pass_on(from_client, to_service, &asked, say_that_it_is_http));
                thread::spawn(move || pass_on(from_service, to_client, &heard, <[u8]>::to_vec));
            }
        });
        Self { address, asked, heard }
    }

    /// The values that a form's field had in the requests.
    fn asked(&self, field: &str) -> Vec<String> {
        Self::between(&self.asked, &format!("{field}="), '&')
    }

    /// The values that a JSON property had in the answers.
    fn heard(&self, property: &str) -> Vec<String> {
        Self::between(&self.heard, &format!("\"{property}\":\""), '"')
    }

    fn between(octets: &Mutex<Vec<u8>>, begin: &str, end: char) -> Vec<String> {
        let text = String::from_utf8_lossy(&octets.lock().unwrap()).into_owned();
        let found = text.split(begin).skip(1).map(|rest| rest.split(end).next().unwrap().to_owned());
        found.collect()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, keep: &Mutex<Vec<u8>>, change: impl Fn(&[u8]) -> Vec<u8>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        keep.lock().unwrap().extend_from_slice(&buffer[..read]);
        if to.write_all(&change(&buffer[..read])).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Does what a proxy in front of a service should do: the service compares the URL with the one in
/// assertions.
fn say_that_it_is_http(said: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(said);
    text.replacen("\r\nhost: ", "\r\nx-forwarded-proto: http\r\nhost: ", 1).into_bytes()
}

const PASSWORD: &str = "Pass~Word~Not~To~Be~Shown";

#[test]
fn no_secret_token_or_assertion_shows_anywhere() {
    let target = Arc::new(Mutex::new(None));
    let wiretap = Wiretap::start(target.clone());
    let mut lab = Lab::without_relay(|setup| {
        setup.log_filter = "trace".into();
        setup.login = Some(format!("http://{}", wiretap.address));
        setup.tenant("fabrikam").credential = "client_secret = 'Wrong.Secret~Not~To~Be~Shown'".into();
        for (name, credential) in [
            ("certificate", format!("certificate = '''{APP}'''\nprivate_key = '''{APP_KEY}'''")),
            ("federated", "federated_token_file = 'token'".into()),
            ("user", format!("grant = 'password'\nusername = 'a@user.example'\npassword = '{PASSWORD}'")),
            (
                "locked",
                format!("grant = 'password'\nusername = 'a@locked.example'\npassword = 'x{PASSWORD}'"),
            ),
            ("token", "grant = 'refresh_token'\nrefresh_token = { file = 'first' }".into()),
            ("bad-token", "grant = 'refresh_token'\nrefresh_token = 'Bad.Token~Not~To~Be~Shown'".into()),
        ] {
            setup.tenants.push(TenantSetup { credential, ..TenantSetup::new(name) });
        }
        setup.service = Box::new(|options| {
            for directory in &mut options.directories {
                let name = directory.name().to_owned();
                directory.certificates = vec![RegisteredCertificate { der: certificate_der(APP) }];
                directory.federated = vec![federates()];
                directory.users = vec![User::new(format!("a@{name}"), PASSWORD)];
                if ["user.", "locked.", "token.", "bad-token."].iter().any(|user| name.starts_with(user)) {
                    directory.public_client_id = Some(directory.client_id.clone());
                }
            }
        });
    });
    *target.lock().unwrap() = Some(lab.service.address());
    let federated = federated_token();
    std::fs::write(lab.folder().join("token"), &federated).unwrap();
    let first = first_token(&lab, "token", "a", PASSWORD);
    std::fs::write(lab.folder().join("first"), &first).unwrap();
    lab.restart();
    for (status, code) in [(401, "InvalidAuthenticationToken"), (503, "ErrorMailboxStoreUnavailable")] {
        lab.inject(Fault::status(On::SendMail, status, code).for_directory("contoso.example").times(1));
    }
    let mut smtp = lab.smtp();
    let names: Vec<_> = lab.setup.tenants.iter().map(|tenant| tenant.name.clone()).collect();
    for name in &names {
        let from = format!("a@{name}.example");
        smtp.send(&from, &["b@example.net"], &message(&from, "b@example.net", "secret"));
    }
    lab.wait_for(5);
    for name in ["fabrikam", "locked", "bad-token"] {
        lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", name)], 1.0);
    }

    let tokens = wiretap.heard("access_token");
    assert!(tokens.len() >= 6 && tokens.iter().all(|token| token.len() > 20), "{tokens:?}");
    let refresh_tokens = wiretap.heard("refresh_token");
    let assertions = wiretap.asked("client_assertion");
    assert_eq!((refresh_tokens.len(), assertions.len()), (1, 2), "{refresh_tokens:?} {assertions:?}");
    let mut secrets = [tokens, assertions].concat();
    secrets.extend([federated, first, TenantSetup::secret("contoso"), PASSWORD.into()]);
    secrets.extend(["Wrong.Secret~Not~To~Be~Shown".into(), "Bad.Token~Not~To~Be~Shown".into()]);
    // Any line of the key would do.
    secrets.extend(APP_KEY.lines().skip(2).take(3).map(str::to_owned));

    let mut shown = vec![("the log".to_owned(), lab.log().join("\n").into_bytes())];
    for page in ["/metrics", "/readyz", "/healthz", "/no-such-page"] {
        shown.push((page.into(), lab.page(page).1.into_bytes()));
    }
    let config = lab.config_file();
    let checked = lab.run(&["check-config", "--json", "--config", config.to_str().unwrap()]);
    shown.push(("check-config".into(), [checked.stdout, checked.stderr].concat()));
    lab.terminate();
    read_all(&lab.folder().join("spool"), &mut shown);
    assert!(shown.len() > 10);
    let stored = lab.folder().join("spool/credentials/token.json").display().to_string();
    for (place, content) in &shown {
        let text = String::from_utf8_lossy(content);
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} in {place}");
        }
        // This one is kept, and in one place.
        assert_eq!(text.contains(&refresh_tokens[0]), *place == stored, "{place}");
    }
}

fn read_all(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            into.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

/// A dump would contain them. The relay forbids dumps even if it is started with permission for them.
#[test]
fn there_are_no_core_dumps() {
    let raised = "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$@\"";
    let lab = Lab::with(|setup| setup.wrapper = ["sh", "-c", raised, "sh"].map(str::to_owned).into());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", lab.process_id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
}
