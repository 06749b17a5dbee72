//! TLS, certificates that are renewed, proxies, and connections by address.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
};

use rustls::pki_types::CertificateDer;

use crate::harness::{Lab, Mail, Setup, Smtp, Stream, make_certificate, message, shake, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";
const PAIR: &str = "certificate = 'relay.pem'\nkey = 'relay.key'";

/// A relay with that setup and a certificate, which clients of the test trust.
fn start(change: impl FnOnce(&mut Setup)) -> (Lab, CertificateDer<'static>) {
    let mut lab = Lab::without_relay(change);
    let certificate = make_certificate(lab.folder());
    lab.restart();
    (lab, certificate)
}

/// STARTTLS on the first listener, TLS from the start on the second.
fn both(setup: &mut Setup) {
    setup.listener = format!("tls = 'starttls'\n{PAIR}");
    setup.more_listeners = format!("[[smtp.listener]]\naddress = '127.0.0.1:0'\ntls = 'implicit'\n{PAIR}\n");
}

fn send<S: Stream>(smtp: &mut Smtp<S>, subject: &str) {
    smtp.send(FROM, &[TO], &message(FROM, TO, subject));
}

fn received(lab: &Lab, subject: &str) -> String {
    let delivered = lab.service.messages().into_iter().find(|message| message.subject == subject).unwrap();
    delivered.fields("Received").remove(0)
}

/// Whether `trusted` vouches for a new connection with TLS from the start.
fn is_served(lab: &Lab, listener: usize, trusted: &CertificateDer<'static>) -> bool {
    shake(TcpStream::connect(lab.listener(listener)).unwrap(), trusted).is_ok()
}

#[test]
fn mail_comes_in_over_tls() {
    let (lab, certificate) = start(both);
    let mut smtp = lab.smtp();
    send(&mut smtp, "in clear");
    assert!(smtp.command("EHLO client.example").text.contains("\nSTARTTLS\n"));
    assert_eq!(smtp.command("STARTTLS").code, 220);
    let mut smtp = Smtp::over(shake(smtp.into_stream(), &certificate).unwrap());
    // Without a second EHLO.
    assert_eq!(smtp.mail(FROM).code, 250);
    assert!(!smtp.command("EHLO client.example").text.contains("STARTTLS"));
    send(&mut smtp, "starttls");
    smtp.quit();

    let stream = TcpStream::connect(lab.listener(1)).unwrap();
    let mut smtp = Smtp::over(shake(stream, &certificate).unwrap());
    assert_eq!(smtp.reply().code, 220);
    assert_eq!(smtp.command("EHLO client.example").code, 250);
    send(&mut smtp, "implicit");
    smtp.quit();

    lab.wait_for(3);
    assert!(received(&lab, "in clear").contains(" with ESMTP id "));
    for subject in ["starttls", "implicit"] {
        let field = received(&lab, subject);
        assert!(
            field.contains(" with ESMTPS id ") && field.contains("using TLSv1.3 with cipher TLS_"),
            "{field}"
        );
    }
    // The first of January 4096.
    for listener in [0, 1].map(|number| lab.listener(number).to_string()) {
        let labels = [("listener", &*listener)];
        assert_eq!(lab.metric("m365_relay_certificate_expiry_timestamp_seconds", &labels), 67_090_118_400.0);
    }
}

#[test]
fn what_stands_behind_starttls_in_clear_is_not_carried_out() {
    let (lab, certificate) = start(both);
    let mut smtp = lab.smtp();
    let injected = format!("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<{FROM}>\r\nRCPT TO:<evil@example.net>\r\n");
    smtp.write(injected.as_bytes());
    let reply = smtp.reply();
    assert!(reply.code == 501 && reply.text.starts_with("5.5.4 STARTTLS must be the last"), "{reply:?}");
    assert_eq!(smtp.rest(), b"");

    // In a second write, while the server waits for the handshake.
    let mut smtp = lab.smtp();
    assert_eq!(smtp.command("STARTTLS").code, 220);
    smtp.write(format!("MAIL FROM:<{FROM}>\r\n").as_bytes());
    let answer = String::from_utf8_lossy(&smtp.rest()).into_owned();
    assert!(!answer.contains("250"), "{answer}");
    let refused = [("ingress", "smtp"), ("reason", "tls_handshake")];
    lab.wait_for_metric("m365_relay_refused_total", &refused, 1.0);
    assert_eq!(lab.metric("m365_relay_smtp_commands_total", &[("verb", "mail")]), 0.0);
    assert!(lab.wait_for_log("TLS handshake failed")["span"]["session"].is_u64());

    // The next client is served as usual.
    assert!(is_served(&lab, 1, &certificate));
}

#[test]
fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
    let (lab, old) = start(both);
    assert!(is_served(&lab, 1, &old));
    let new = make_certificate(lab.folder());
    wait_until("the new certificate", || is_served(&lab, 1, &new));
    assert!(!is_served(&lab, 1, &old));
    lab.wait_for_log("certificate reloaded; new connections use it");
    let errors = || lab.logged("certificate reload failed; the old certificate stays in use");
    let before = errors().len();

    fs::write(lab.folder().join("relay.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    wait_until("the error", || errors().len() > before);
    let error = errors().pop().unwrap();
    assert!(error["error"].as_str().unwrap().contains("relay.pem"), "{error}");
    assert_eq!(error["level"], "ERROR");
    assert!(is_served(&lab, 1, &new));

    let newer = make_certificate(lab.folder());
    wait_until("the newer certificate", || is_served(&lab, 1, &newer));
    let mut smtp = lab.smtp();
    assert_eq!(smtp.command("STARTTLS").code, 220);
    assert!(shake(smtp.into_stream(), &newer).is_ok());
}

#[test]
fn a_certificate_that_cannot_be_used_is_said_before_the_start() {
    let lab = Lab::without_relay(both);
    make_certificate(lab.folder());
    let key = fs::read(lab.folder().join("relay.key")).unwrap();
    make_certificate(lab.folder());
    fs::write(lab.folder().join("relay.key"), key).unwrap();
    let output = lab.run(&["check-config", "--config", "config.toml"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("smtp.listener[0].key: ") && said.contains("does not belong to"), "{said}");
}

fn v2(source: &str) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match source.parse().unwrap() {
        std::net::IpAddr::V4(v4) => {
            header.extend([0x11, 0, 12]);
            header.extend(v4.octets());
            header.extend([10, 0, 0, 1, 1, 2, 0, 25]);
        }
        std::net::IpAddr::V6(v6) => {
            header.extend([0x21, 0, 36]);
            header.extend(v6.octets());
            header.extend(Ipv6Addr::LOCALHOST.octets());
            header.extend([1, 2, 0, 25]);
        }
    }
    header
}

fn v1(source: &str) -> Vec<u8> {
    let (kind, destination) = if source.contains(':') { ("TCP6", "::1") } else { ("TCP4", "10.0.0.1") };
    format!("PROXY {kind} {source} {destination} 258 25\r\n").into_bytes()
}

fn proxied(setup: &mut Setup) {
    setup.listener = "proxies = ['127.0.0.1', '::1']".into();
    setup.more_listeners = format!(
        "[[smtp.listener]]\naddress = '127.0.0.1:0'\nproxies = ['127.0.0.1']\ntls = 'implicit'\n{PAIR}\n\
         [[smtp.listener]]\naddress = '127.0.0.1:0'\n"
    );
    setup.tenant("contoso").networks = "['192.0.2.0/24', '2001:db8::/32']".into();
}

/// Behind a proxy that sends `header` to `address`.
fn behind(address: SocketAddr, header: &[u8]) -> Smtp {
    let mut smtp = Smtp::dial(address);
    smtp.write(header);
    smtp
}

#[test]
fn a_client_behind_a_proxy_is_known_by_its_own_address() {
    let (lab, certificate) = start(proxied);
    let make: [fn(&str) -> Vec<u8>; 2] = [v1, v2];
    let mut sent = 0;
    for (version, header) in make.into_iter().enumerate() {
        for (source, literal) in [
            ("192.0.2.7", "[192.0.2.7]"),
            ("2001:db8::7", "[IPv6:2001:db8::7]"),
            ("::ffff:192.0.2.7", "[192.0.2.7]"),
        ] {
            let subject = format!("{source} by version {}", version + 1);
            let mut smtp = behind(lab.listener(0), &header(source));
            assert_eq!(smtp.reply().code, 220);
            assert_eq!(smtp.command("EHLO client.example").code, 250);
            send(&mut smtp, &subject);
            smtp.quit();
            sent += 1;
            lab.wait_for(sent);
            let field = received(&lab, &subject);
            assert!(field.contains(&format!("from client.example ({literal})")), "{field}");
        }
        for source in ["198.51.100.7", "2001:db9::7"] {
            let mut smtp = behind(lab.listener(0), &header(source));
            assert_eq!(smtp.reply().code, 220);
            assert_eq!(smtp.command("EHLO client.example").code, 250);
            let reply = smtp.mail(FROM);
            assert_eq!(reply.code, 550);
            assert_eq!(reply.text, format!("5.7.1 Client {source} is in no tenant's networks"));
        }
        // The first octets of TLS follow the header at once.
        let mut stream = TcpStream::connect(lab.listener(1)).unwrap();
        std::io::Write::write_all(&mut stream, &header("192.0.2.9")).unwrap();
        let mut smtp = Smtp::over(shake(stream, &certificate).unwrap());
        assert_eq!(smtp.reply().code, 220);
        assert_eq!(smtp.command("EHLO client.example").code, 250);
        assert_eq!(smtp.mail(FROM).code, 250);
    }
}

#[test]
fn proxy_headers_are_demanded_from_proxies_and_read_from_nobody_else() {
    let (lab, _) = start(proxied);
    for bad in [&b"EHLO client.example\r\n"[..], b"PROXY TCP4 192.0.2.7 10.0.0.1 258\r\n"] {
        assert_eq!(behind(lab.listener(0), bad).rest(), b"");
    }
    assert_eq!(
        lab.wait_for_log("connection closed: no PROXY header from a trusted proxy")["span"]["proxy"],
        "127.0.0.1"
    );
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "proxy_header")]), 2.0);

    let mut smtp = behind(lab.listener(2), &v1("192.0.2.7"));
    assert_eq!((smtp.reply().code, smtp.reply().code), (220, 500));
    assert_eq!(smtp.command("EHLO client.example").code, 250);
    assert_eq!(smtp.mail(FROM).text, "5.7.1 No tenant may send from contoso.example at your address");
}

#[test]
fn one_address_has_so_many_connections() {
    let (lab, _) = start(|setup| {
        proxied(setup);
        setup.smtp = "max_connections_per_address = 2".into();
    });
    let open: Vec<_> = ["192.0.2.7", "192.0.2.7", "192.0.2.8"]
        .map(|source| {
            let mut smtp = behind(lab.listener(0), &v2(source));
            assert_eq!(smtp.reply().code, 220);
            smtp
        })
        .into();
    let too_many = "421 4.7.0 Too many connections from your address, try again later\r\n";
    assert_eq!(String::from_utf8(behind(lab.listener(0), &v2("192.0.2.7")).rest()).unwrap(), too_many);
    let direct = [lab.listener(2); 2].map(Smtp::connect);
    assert_eq!(String::from_utf8(Smtp::dial(lab.listener(2)).rest()).unwrap(), too_many);
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "connections_per_address")]), 2.0);

    drop((open, direct));
    wait_until("a place", || Smtp::dial(lab.listener(2)).reply().code == 220);
}

#[test]
fn ipv6() {
    if let Err(error) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        println!("NOT CHECKED: this machine has no IPv6 loopback ({error})");
        return;
    }
    let (lab, _) = start(|setup| {
        setup.listener_address = "[::1]:0".into();
        setup.listener = format!("tls = 'starttls'\n{PAIR}");
        setup.more_listeners = "[[smtp.listener]]\naddress = '[::]:0'\nproxies = ['::1']\n".into();
        setup.tenant("contoso").networks = "['::1', '127.0.0.1', '2001:db8::/32']".into();
    });
    send(&mut lab.smtp(), "six");
    // An IPv4 client of a listener for both is known by its IPv4 address, and is not a proxy here.
    let any = lab.listener(1);
    let mut four = Smtp::connect(([127, 0, 0, 1], any.port()).into());
    assert_eq!(four.command("EHLO client.example").code, 250);
    send(&mut four, "four");
    let mut behind = behind((Ipv6Addr::LOCALHOST, any.port()).into(), &v1("2001:db8::9"));
    assert_eq!(behind.reply().code, 220);
    assert_eq!(behind.command("EHLO client.example").code, 250);
    send(&mut behind, "behind");
    lab.wait_for(3);
    for (subject, literal) in
        [("six", "[IPv6:::1]"), ("four", "[127.0.0.1]"), ("behind", "[IPv6:2001:db8::9]")]
    {
        let field = received(&lab, subject);
        assert!(field.contains(literal), "{field}");
    }
}
