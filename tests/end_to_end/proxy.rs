//! Through a proxy to Microsoft 365, and with certificates of a private CA.

use std::fs;

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::harness::{Lab, Proxy, ProxySetup, TlsFront, base64_mail, message};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";
const PASSWORD: &str = "Proxy~Very.Secret~0123456789";

fn authorization() -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("relay:{PASSWORD}")))
}

fn network(proxy: &Proxy) -> String {
    format!("proxy = '{}'\nproxy_user = 'relay'\nproxy_password = '{PASSWORD}'", proxy.url())
}

/// A relay behind a proxy, whose built-in cloud is played by the service and its certificate.
fn behind_an_intercepting_proxy() -> (Lab, TlsFront, Proxy) {
    let mut lab = Lab::without_relay(|_| {});
    let service = lab.service.url().trim_start_matches("http://").parse().unwrap();
    let front = TlsFront::start(&["login.microsoftonline.com", "graph.microsoft.com"], service);
    let setup = ProxySetup { authorization: Some(authorization()), leads_to: Some(front.address) };
    let proxy = Proxy::start(setup);
    lab.setup.network = network(&proxy);
    lab.setup.log_filter = "trace".into();
    lab.setup.login = Some("https://login.microsoftonline.com".into());
    lab.setup.graph = Some("https://graph.microsoft.com".into());
    fs::write(lab.folder().join("ca.pem"), &front.ca).unwrap();
    (lab, front, proxy)
}

/// The waiting tenant's line in the log names all of `parts`.
fn wait_for_reason(lab: &Lab, parts: &[&str]) {
    crate::harness::wait_until(&format!("a line with {parts:?}"), || {
        lab.log().iter().any(|line| parts.iter().all(|part| line.contains(part)))
    });
}

fn assert_no_secret(lab: &Lab) {
    let log = lab.log().join("\n");
    let encoded = authorization();
    for secret in [PASSWORD, encoded.trim_start_matches("Basic ")] {
        assert!(!log.contains(secret), "{log}");
        assert!(!lab.page("/metrics").1.contains(secret));
    }
}

#[test]
fn login_and_mail_go_by_the_proxy() {
    let proxy = Proxy::start(ProxySetup { authorization: Some(authorization()), leads_to: None });
    let lab = Lab::with(|setup| {
        setup.network = network(&proxy);
        setup.log_filter = "trace".into();
    });
    lab.send(FROM, &[TO], &message(FROM, TO, "by proxy"));
    lab.send(FROM, &[TO], &base64_mail(FROM, TO, "large", 1_000_000));
    lab.wait_for(2);
    lab.wait_until_empty();

    let url = lab.service.url();
    let heads = proxy.heads();
    for (path, count) in
        [("/contoso.example/oauth2/v2.0/token", 1), ("/v1.0/users/a@contoso.example/sendMail", 2)]
    {
        let start = format!("POST {url}{path} HTTP/1.1\r\n");
        let found = heads.iter().filter(|head| head.starts_with(&start)).count();
        assert!(found >= count, "{start} {heads:#?}");
    }
    // Not one call went another way.
    assert_eq!(heads.len(), lab.service.calls().len(), "{heads:#?}");
    assert_no_secret(&lab);
}

#[test]
fn https_goes_by_connect_and_a_private_ca_is_trusted_if_the_configuration_says_so() {
    let (mut lab, _front, proxy) = behind_an_intercepting_proxy();
    lab.write_config();
    lab.restart();
    lab.send(FROM, &[TO], &message(FROM, TO, "intercepted"));
    // No known authority vouches for the certificate: nothing is sent, and the mail waits.
    wait_for_reason(&lab, &["login.microsoftonline.com", "invalid peer certificate", &proxy.url()]);
    assert!(lab.service.calls().is_empty());
    assert_eq!(lab.metric("m365_relay_queue_messages", &[]), 1.0);
    assert_no_secret(&lab);
    assert_eq!(lab.terminate(), Some(0));

    lab.setup.cloud = "ca_file = 'ca.pem'".into();
    lab.write_config();
    lab.restart();
    assert_eq!(lab.wait_for(1)[0].subject, "intercepted");
    lab.wait_until_empty();
    let heads = proxy.heads();
    for host in ["login.microsoftonline.com", "graph.microsoft.com"] {
        let start = format!("CONNECT {host}:443 HTTP/1.1\r\n");
        assert!(heads.iter().any(|head| head.starts_with(&start)), "{start} {heads:#?}");
    }
    assert_no_secret(&lab);
}

#[test]
fn mail_waits_for_a_proxy_that_is_not_there_or_lets_nobody_in() {
    let (mut lab, _front, proxy) = behind_an_intercepting_proxy();
    // A port on which nothing listens.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    lab.setup.network = format!("proxy = 'http://{gone}'");
    lab.setup.cloud = "ca_file = 'ca.pem'".into();
    lab.write_config();
    lab.restart();
    lab.send(FROM, &[TO], &message(FROM, TO, "patient"));
    wait_for_reason(&lab, &[&format!("by the proxy http://{gone}: "), "refused"]);
    assert_eq!(lab.terminate(), Some(0));

    lab.setup.network = network(&proxy).replace(PASSWORD, "wrong");
    lab.write_config();
    lab.restart();
    wait_for_reason(&lab, &[&format!("by the proxy {}: ", proxy.url()), "proxy authorization required"]);
    assert_eq!(lab.metric("m365_relay_queue_messages", &[]), 1.0);
    assert_eq!(lab.terminate(), Some(0));

    lab.setup.network = network(&proxy);
    lab.write_config();
    lab.restart();
    assert_eq!(lab.wait_for(1)[0].subject, "patient");
}

#[test]
fn a_private_ca_without_a_proxy() {
    let mut lab = Lab::without_relay(|_| {});
    let service = lab.service.url().trim_start_matches("http://").parse().unwrap();
    let front = TlsFront::start(&["localhost"], service);
    fs::write(lab.folder().join("ca.pem"), &front.ca).unwrap();
    lab.setup.login = Some(format!("https://localhost:{}", front.address.port()));
    lab.write_config();
    lab.restart();
    lab.send(FROM, &[TO], &message(FROM, TO, "over TLS"));
    wait_for_reason(&lab, &["cannot reach the login service https://localhost", "invalid peer certificate"]);
    assert!(lab.service.calls().is_empty());
    assert_eq!(lab.terminate(), Some(0));

    lab.setup.cloud = "ca_file = 'ca.pem'".into();
    lab.write_config();
    lab.restart();
    assert_eq!(lab.wait_for(1)[0].subject, "over TLS");
}
