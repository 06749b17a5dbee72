//! No secret gets out: not in the most talkative log, not in a metric, not in what is stored.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use m365_relay::sandbox::{Fault, On};

use crate::harness::{Lab, TenantSetup, message};

/// Hands connections on to `target` and keeps what it answers. Ends with the test's process.
struct Wiretap {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Wiretap {
    fn start(target: Arc<Mutex<Option<SocketAddr>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let keep = heard.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let service = TcpStream::connect(target.lock().unwrap().unwrap()).unwrap();
                let (from_client, to_client) = (client.try_clone().unwrap(), client);
                let (to_service, from_service) = (service.try_clone().unwrap(), service);
                thread::spawn(move || pass_on(from_client, to_service, None));
                let keep = keep.clone();
                thread::spawn(move || pass_on(from_service, to_client, Some(&keep)));
            }
        });
        Self { address, heard }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, keep: Option<&Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if let Some(keep) = keep {
            keep.lock().unwrap().extend_from_slice(&buffer[..read]);
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn neither_client_secret_nor_token_shows_anywhere() {
    let target = Arc::new(Mutex::new(None));
    let wiretap = Wiretap::start(target.clone());
    let mut lab = Lab::without_relay(|setup| {
        setup.log_filter = "trace".into();
        setup.login = Some(format!("http://{}", wiretap.address));
        setup.tenant("fabrikam").credential = "client_secret = 'Wrong.Secret~Not~To~Be~Shown'".into();
    });
    *target.lock().unwrap() = Some(lab.service.address());
    lab.restart();
    lab.inject(Fault::status(On::SendMail, 401, "InvalidAuthenticationToken").times(1));
    lab.inject(Fault::status(On::SendMail, 503, "ErrorMailboxStoreUnavailable").times(1));
    let mut smtp = lab.smtp();
    for from in ["a@contoso.example", "a@fabrikam.example"] {
        smtp.send(from, &["b@example.net"], &message(from, "b@example.net", "secret"));
    }
    lab.wait_for(1);
    lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", "fabrikam")], 1.0);

    let heard = wiretap.heard();
    let tokens: Vec<String> = heard
        .split("\"access_token\":\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    assert!(tokens.len() >= 2 && tokens.iter().all(|token| token.len() > 20), "{heard}");
    let mut secrets = tokens;
    secrets.push(TenantSetup::secret("contoso"));
    secrets.push("Wrong.Secret~Not~To~Be~Shown".into());

    let mut shown = vec![("the log".to_owned(), lab.log().join("\n").into_bytes())];
    for page in ["/metrics", "/readyz", "/healthz"] {
        shown.push((page.into(), lab.page(page).1.into_bytes()));
    }
    lab.terminate();
    read_all(&lab.folder().join("spool"), &mut shown);
    assert!(shown.len() > 8);
    for (place, content) in &shown {
        let text = String::from_utf8_lossy(content);
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} in {place}");
        }
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
