//! Who may ask for what: the socket for commands, the token, the names of this machine.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
};

use crate::harness::{Lab, wait_until};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Status and body of an answer over TCP.
fn ask(lab: &Lab, request: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(lab.admin_address()).unwrap();
    let head = format!("{request} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

fn reload(lab: &Lab) -> (Option<i32>, String) {
    let output = lab.run(&["reload", "--config", lab.config_file().to_str().unwrap()]);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_socket_is_there_while_the_relay_is_and_for_its_group_alone() {
    let mut lab = Lab::start();
    let metadata = fs::symlink_metadata(lab.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let spool = lab.folder().join("spool");
    let mode = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&spool), 0o710);
    // The group can reach nothing else there, whatever the umask of the user who runs this test.
    for entry in fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        let mode = mode(&entry);
        assert!(name == "admin.sock" || mode & 0o077 == 0, "{name} has mode {mode:o}");
    }
    assert_eq!(lab.api("GET", "/healthz"), (200, "alive\n".into()));
    assert_eq!(lab.terminate(), Some(0));
    assert!(!lab.socket().exists());

    // What a killed relay leaves behind does not block the next one.
    lab.restart();
    lab.kill9();
    assert!(lab.socket().exists());
    let (code, said) = reload(&lab);
    assert!(code == Some(1) && said.contains("does not answer at its socket"), "{said}");
    lab.restart();
    assert_eq!(reload(&lab).0, Some(0));
}

#[test]
fn a_socket_elsewhere_and_one_that_is_taken() {
    let mut lab = Lab::without_relay(|_| {});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    lab.setup.admin = format!("socket = {path:?}");
    lab.write_config();
    lab.restart();
    assert!(path.exists() && !lab.socket().exists());
    assert_eq!(reload(&lab).0, Some(0));
    lab.terminate();
    let serve = |lab: &Lab| {
        let output = lab.run(&["serve", "--config", lab.config_file().to_str().unwrap()]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let listener = UnixListener::bind(&path).unwrap();
    let (code, said) = serve(&lab);
    assert!(code == Some(1) && said.contains("another process listens there"), "{said}");
    drop(listener);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(lab.folder().join("planted"), &path).unwrap();
    let (code, said) = serve(&lab);
    assert!(code == Some(1) && said.contains("is not a socket: remove it"), "{said}");
    assert!(!lab.folder().join("planted").exists());

    lab.setup.admin = format!("socket = '/{}/admin.sock'", "x".repeat(100));
    lab.write_config();
    let (code, said) = serve(&lab);
    assert!(code == Some(1) && said.contains("admin.socket: /xxx"), "{said}");
    assert!(said.contains("107 octets at most"), "{said}");
}

#[test]
fn by_tcp_the_api_wants_a_token() {
    let mut lab = Lab::start();
    let host = "Host: localhost\r\nContent-Type: application/json\r\n";
    for request in ["GET /api/v1/messages/x", "POST /api/v1/reload", "GET /api/v1/no-such"] {
        let (status, said) = ask(&lab, request, host);
        assert!(status == 403 && said.contains("/spool/admin.sock"), "{request}: {status} {said}");
    }
    // Metrics and health need no token.
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(lab.page(path).0, 200);
    }
    lab.terminate();

    let file = lab.folder().join("admin.token");
    fs::write(&file, TOKEN).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    lab.setup.admin = "token = { file = 'admin.token' }".into();
    lab.write_config();
    lab.restart();
    let reload_with = |lab: &Lab, more: &str| ask(lab, "POST /api/v1/reload", &format!("{host}{more}")).0;
    assert_eq!(reload_with(&lab, ""), 401);
    assert_eq!(reload_with(&lab, "Authorization: Bearer 0123456789abcdef0123456789abcdeF\r\n"), 401);
    assert_eq!(reload_with(&lab, &format!("Authorization: Bearer {TOKEN}\r\n")), 200);
    assert_eq!(lab.metric("m365_relay_admin_refused_total", &[("reason", "token")]), 2.0);
    // Another token takes effect without a restart.
    fs::write(&file, "fedcba9876543210\n").unwrap();
    wait_until("the new token", || reload_with(&lab, "Authorization: Bearer fedcba9876543210\r\n") == 200);
    assert_eq!(reload_with(&lab, &format!("Authorization: Bearer {TOKEN}\r\n")), 401);
    let shown = [lab.log().join("\n"), lab.page("/metrics").1].concat();
    assert!(!shown.contains(TOKEN) && !shown.contains("fedcba9876543210"));

    // The command uses it if it cannot use the socket.
    let text = fs::read_to_string(lab.config_file()).unwrap();
    let text = text.replace(
        "address = \"127.0.0.1:0\"\ntoken",
        &format!("address = \"{}\"\nsocket = 'no-such'\ntoken", lab.admin_address()),
    );
    let beside = lab.folder().join("by-tcp.toml");
    fs::write(&beside, text).unwrap();
    let output = lab.run(&["reload", "--config", beside.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn an_address_that_others_reach_wants_the_token_for_metrics_too() {
    let mut lab = Lab::without_relay(|_| {});
    let address = |lab: &Lab, admin: &str| {
        let text = fs::read_to_string(lab.config_file()).unwrap();
        let text = text.replacen(
            "[admin]\naddress = \"127.0.0.1:0\"",
            &format!("[admin]\naddress = \"0.0.0.0:0\"\n{admin}"),
            1,
        );
        fs::write(lab.config_file(), text).unwrap();
    };
    address(&lab, "");
    let output = lab.run(&["check-config", "--config", lab.config_file().to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("token = { file ="), "{said}");
    lab.write_config();
    address(&lab, "token = 'short'");
    let output = lab.run(&["check-config", "--config", lab.config_file().to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("openssl rand -hex 32") && !said.contains("short'"), "{said}");

    lab.write_config();
    address(&lab, &format!("token = '{TOKEN}'"));
    lab.restart();
    // The destination 0.0.0.0 is this machine.
    let host = "Host: localhost\r\n";
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&lab, &format!("GET {path}"), host).0, 200);
    }
    assert_eq!(ask(&lab, "GET /metrics", host).0, 401);
    assert_eq!(ask(&lab, "GET /metrics", &format!("{host}Authorization: Bearer {TOKEN}\r\n")).0, 200);
}

/// Any web page can have a browser send such requests.
#[test]
fn a_strange_name_gets_nothing_and_a_form_reloads_nothing() {
    let lab = Lab::with(|setup| setup.admin = "hosts = ['relay.example']".into());
    for path in ["/metrics", "/healthz", "/readyz", "/api/v1/messages/x", "/nothing"] {
        let (status, said) = ask(&lab, &format!("GET {path}"), "Host: evil.example\r\n");
        assert!(status == 421 && said.contains("admin.hosts"), "{path}: {status} {said}");
        assert_eq!(ask(&lab, &format!("GET {path}"), "").0, 400);
    }
    assert_eq!(ask(&lab, "GET http://evil.example/metrics", "Host: localhost\r\n").0, 421);
    assert_eq!(ask(&lab, "GET /metrics", "Host: relay.example:8025\r\n").0, 200);
    let form = "POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                Content-Length: 2\r\n\r\n{}";
    assert_eq!(crate::harness::socket_ask(&lab.socket(), form).0, 415);
    assert_eq!(lab.metric("m365_relay_config_reloads_total", &[]), 0.0);
}

/// Needs root, for users of its own.
#[cfg(feature = "postfix")]
#[test]
fn the_relays_group_may_ask_and_others_may_not() {
    const RELAY: u32 = 64_120;
    const OTHER: u32 = 64_121;
    let as_user = |user: u32, group: u32| {
        ["setpriv", &format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups"]
            .map(str::to_owned)
    };
    let mut lab = Lab::without_relay(|setup| setup.wrapper = as_user(RELAY, RELAY).to_vec());
    let chown = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(RELAY), Some(RELAY)).unwrap();
    chown(lab.folder());
    chown(&lab.config_file());
    fs::set_permissions(lab.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(lab.config_file(), fs::Permissions::from_mode(0o644)).unwrap();
    lab.restart();
    assert_eq!(reload(&lab).0, Some(0), "root");
    let reload_as = |user, group| {
        let [program, arguments @ ..] = as_user(user, group);
        let output = crate::harness::run(
            std::process::Command::new(program).args(arguments).arg(env!("CARGO_BIN_EXE_m365-relay")).args([
                "reload",
                "--config",
                lab.config_file().to_str().unwrap(),
            ]),
        );
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = reload_as(OTHER, RELAY);
    assert_eq!(code, Some(0), "a member of the group: {said}");
    let (code, said) = reload_as(OTHER, OTHER);
    assert!(code == Some(1) && said.contains("a member of the relay's group"), "{said}");
}
