//! AUTH, as a client sees it.

use std::num::NonZeroU32;

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::time::Instant;

use super::*;
use crate::ingress::{
    smtp::{tls::Security, wire::MAX_AUTH_LINE},
    testing::MAX_MESSAGE,
};
use relay_mail::Encryption;

/// In no tenant's networks.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
fn trusted() -> Peer {
    Peer::new(STRANGER, true)
}
const WRONG: &str = "535 5.7.8 Authentication credentials invalid\r\n";

fn over_tls() -> Security {
    Security::Encrypted(Encryption::new("TLSv1_3", "TLS13_AES_256_GCM_SHA384"))
}

fn house() -> House {
    House::with_users(&[
        ("scanner", "contoso", "s3cret"),
        ("app", "contoso", "contoso's"),
        ("app", "fabrikam", "fabrikam's"),
    ])
}

fn plain(name: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", BASE64_STANDARD.encode(format!("\0{name}\0{password}")))
}

fn from(peer: Peer, service: &Arc<Service>) -> Client<DuplexStream> {
    connect_through(64 * 1024, peer, service.clone()).0
}

async fn greeted(house: &House) -> Client<DuplexStream> {
    let mut client = from(trusted(), &service(house));
    client.hello().await;
    client
}

fn logins(house: &House, result: &str) -> f64 {
    house.metric(&format!("logins_total{{result=\"{result}\"}}"))
}

#[tokio::test]
async fn auth_is_offered_where_a_password_may_travel() {
    let with_users = house();
    let encrypted = Peer { security: over_tls(), ..Peer::new(STRANGER, false) };
    for (peer, house, offered) in [
        (trusted(), &with_users, true),
        (encrypted, &with_users, true),
        (Peer::new(STRANGER, false), &with_users, false),
        (Peer::new(LOOPBACK, false), &with_users, false),
        (trusted(), &House::new(), false),
    ] {
        let mut client = from(peer, &service(house));
        client.reply().await;
        let reply = client.say("EHLO client.example").await;
        assert_eq!(reply.contains("250-AUTH PLAIN LOGIN\r\n"), offered, "{peer:?}: {reply}");
        assert_eq!(reply.contains("AUTH"), offered, "{peer:?}: {reply}");
        let refused = if house.logins(LockoutConfig::default()).exist() { "538 5.7.11" } else { "502 5.5.1" };
        let expected = if offered { "235 2.7.0" } else { refused };
        client.script(&[(&plain("scanner", "s3cret"), expected)]).await;
    }
}

#[tokio::test]
async fn a_login_decides_the_tenant_and_shows_in_received() {
    let mut house = house();
    for (security, protocol) in [(Security::Clear, "ESMTPA"), (over_tls(), "ESMTPSA")] {
        let mut client = from(Peer { security, ..trusted() }, &service(&house));
        client.hello().await;
        client
            .script(&[
                (&plain("Scanner", "s3cret"), "235 2.7.0"),
                (
                    "MAIL FROM:<a@fabrikam.example>",
                    "550 5.7.1 This login may not send mail from fabrikam.example",
                ),
            ])
            .await;
        assert!(client.mail("content\r\n.\r\n").await.starts_with("250 2.0.0"));
        let found = house.next().await;
        assert_eq!(found.message.tenant.as_str(), "contoso");
        let content = String::from_utf8(found.content).unwrap();
        assert!(content.contains(&format!("\tby relay.example with {protocol} id ")), "{content}");
        assert!(!content.to_lowercase().contains("scanner"));
        // The header From, too, must be one of the tenant's senders.
        let foreign = "From: a@fabrikam.example\r\n\r\n.\r\n";
        assert!(client.raw_mail(foreign).await.starts_with("550 5.7.1"));
    }
}

#[tokio::test]
async fn a_login_counts_for_more_than_the_network() {
    let mut house = house();
    // Loopback is in the networks of both tenants.
    let mut client = from(Peer::new(LOOPBACK, true), &service(&house));
    client.hello().await;
    client
        .script(&[
            ("MAIL FROM:<>", "550 5.7.1"),
            ("MAIL FROM:<a@contoso.example>", "250"),
            ("RSET", "250"),
            (&plain("app@fabrikam", "fabrikam's"), "235"),
            ("MAIL FROM:<a@contoso.example>", "550 5.7.1"),
            ("MAIL FROM:<>", "250 2.1.0"),
            ("RCPT TO:<b@example.net>", "250"),
            ("DATA", "354"),
        ])
        .await;
    client.send("From: a@fabrikam.example\r\n\r\n.\r\n").await;
    assert!(client.reply().await.starts_with("250 2.0.0"));
    assert_eq!(house.next().await.message.tenant.as_str(), "fabrikam");
}

#[tokio::test(start_paused = true)]
async fn names_lead_to_one_user() {
    let house = house();
    let service = service(&house);
    for (name, password, expected) in [
        ("scanner", "s3cret", "235"),
        ("SCANNER@Contoso", "s3cret", "235"),
        ("app@contoso", "contoso's", "235"),
        ("app@fabrikam", "fabrikam's", "235"),
        ("app@fabrikam", "contoso's", "535"),
        // Two tenants have it.
        ("app", "contoso's", "535"),
        ("scanner@fabrikam", "s3cret", "535"),
        ("scanner@contoso.example", "s3cret", "535"),
        ("scanner@", "s3cret", "535"),
        ("@contoso", "s3cret", "535"),
        ("scanner", "S3cret", "535"),
    ] {
        let mut client = from(trusted(), &service);
        client.hello().await;
        client.script(&[(&plain(name, password), expected)]).await;
    }
    assert_eq!([logins(&house, "ok"), logins(&house, "cached")], [3.0, 1.0]);
    assert_eq!([logins(&house, "wrong"), logins(&house, "unknown")], [2.0, 5.0]);
}

#[tokio::test]
async fn every_way_to_say_it() {
    let house = house();
    let service = service(&house);
    let name = BASE64_STANDARD.encode("scanner");
    let password = BASE64_STANDARD.encode("s3cret");
    let whole = BASE64_STANDARD.encode("\0scanner\0s3cret");
    for lines in [
        &[("AUTH LOGIN", "334 VXNlcm5hbWU6\r\n"), (&*name, "334 UGFzc3dvcmQ6\r\n"), (&*password, "235 ")][..],
        &[(&format!("auth login {name}"), "334 UGFzc3dvcmQ6\r\n"), (password.trim_end_matches('='), "235 ")],
        &[("Auth Plain", "334 \r\n"), (&whole, "235 ")],
        &[(&format!("AUTH PLAIN {whole}  "), "235 ")],
    ] {
        let mut client = from(trusted(), &service);
        client.hello().await;
        client.script(lines).await;
    }
    assert_eq!([logins(&house, "ok"), logins(&house, "cached")], [1.0, 3.0]);
    assert_eq!(house.metric("smtp_commands_total{code=\"334\",verb=\"auth\"}"), 4.0);
    assert_eq!(house.metric("smtp_commands_total{code=\"235\",verb=\"auth\"}"), 4.0);
}

#[tokio::test]
async fn what_is_wrong_and_goes_on() {
    let house = house();
    let mut client = greeted(&house).await;
    let identity = format!("AUTH PLAIN {}", BASE64_STANDARD.encode("app\0scanner\0s3cret"));
    client
        .script(&[
            ("AUTH", "501 5.5.4"),
            ("AUTH CRAM-MD5", "504 5.5.4"),
            ("AUTH PLAIN =", "501 5.5.2"),
            ("AUTH PLAIN !!!", "501 5.5.2"),
            (&identity, "535 5.7.8"),
            ("AUTH LOGIN", "334 "),
            ("*", "501 5.7.0"),
            ("AUTH PLAIN", "334 "),
            ("*", "501 5.7.0"),
            ("AUTH LOGIN c2Nhbm5lcg==", "334 "),
            ("?", "501 5.5.2"),
            // A command in the middle of an exchange is not read as one.
            ("AUTH LOGIN", "334 "),
            ("NOOP", "334 "),
            ("MAIL FROM:<a@contoso.example>", "501 5.5.2"),
            ("MAIL FROM:<a@contoso.example>", "530 5.7.0"),
            (&plain("scanner", "s3cret"), "235"),
        ])
        .await;
}

#[tokio::test]
async fn auth_has_its_place() {
    let house = house();
    let right = plain("scanner", "s3cret");
    let mut client = from(Peer::new(LOOPBACK, true), &service(&house));
    client.reply().await;
    client
        .script(&[
            (&right, "503 5.5.1"),
            ("EHLO client", "250-"),
            ("MAIL FROM:<a@contoso.example> AUTH=<>", "250"),
            (&right, "503 5.5.1"),
            ("RSET", "250"),
            (&right, "235"),
            (&right, "503 5.5.1"),
            // The login stays.
            ("EHLO client", "250-"),
            ("RSET", "250"),
            ("MAIL FROM:<a@fabrikam.example>", "550 5.7.1"),
            ("MAIL FROM:<a@contoso.example> AUTH=a+2Bb@example.net SIZE=10", "250"),
        ])
        .await;
}

/// As other servers take it: some devices say no EHLO.
#[tokio::test]
async fn auth_comes_after_helo_too() {
    let house = house();
    let mut client = from(Peer::new(LOOPBACK, true), &service(&house));
    client.reply().await;
    client.script(&[("HELO client", "250"), (&plain("scanner", "s3cret"), "235")]).await;
}

#[tokio::test]
async fn without_a_login_the_network_decides_as_ever() {
    let house = house();
    let mut client = greeted(&house).await;
    client.script(&[("MAIL FROM:<a@contoso.example>", "530 5.7.0 Authentication required")]).await;
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"no_login\"}"), 1.0);
    // Where nobody can log in, it would not help to ask for a login; and the parameter is not known.
    let mut client = from(Peer::new(STRANGER, false), &service(&house));
    client.hello().await;
    client
        .script(&[
            ("MAIL FROM:<a@contoso.example>", "550 5.7.1"),
            ("MAIL FROM:<a@contoso.example> AUTH=<>", "555 5.5.4"),
        ])
        .await;
    let mut client = from(Peer::new(LOOPBACK, true), &service(&house));
    client.hello().await;
    client
        .script(&[("MAIL FROM:<a@elsewhere.example>", "550 5.7.1"), ("MAIL FROM:<a@contoso.example>", "250")])
        .await;
}

#[tokio::test]
async fn limits_hold_for_users() {
    let house = House::with_users(&[("scanner", "contoso", "s3cret")]);
    let mut client = greeted(&house).await;
    client
        .script(&[
            (&plain("scanner", "s3cret"), "235"),
            (&format!("MAIL FROM:<a@contoso.example> SIZE={}", MAX_MESSAGE + 1), "552 5.3.4"),
        ])
        .await;
}

#[tokio::test]
async fn long_lines_of_an_exchange() {
    let house = house();
    let mut client = greeted(&house).await;
    let line = |start: &str, len: usize| format!("{start}{}", "A".repeat(len - start.len() - 2));
    client
        .script(&[
            // Read to the end, and not what PLAIN wants.
            (&line("AUTH PLAIN ", MAX_AUTH_LINE), "501 5.5.2"),
            (&line("AUTH PLAIN ", MAX_AUTH_LINE + 1), "500 5.5.2"),
            ("AUTH PLAIN", "334 "),
            (&line("", MAX_AUTH_LINE - 2), "501 5.5.2"),
            ("AUTH PLAIN", "334 "),
            (&line("", MAX_AUTH_LINE + 1), "500 5.5.6"),
            // Other commands are as short as ever.
            (&line("NOOP ", 2049), "500 5.5.2"),
            (&plain("scanner", "s3cret"), "235"),
        ])
        .await;
}

#[tokio::test]
async fn an_exchange_in_one_batch() {
    let house = house();
    let mut client = greeted(&house).await;
    client.send("AUTH LOGIN\r\nc2Nhbm5lcg==\r\nczNjcmV0\r\nNOOP\r\n").await;
    for expected in ["334 ", "334 ", "235 ", "250 "] {
        assert!(client.reply().await.starts_with(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_in_an_exchange_is_hung_up_on() {
    let house = house();
    let mut client = greeted(&house).await;
    client.script(&[("AUTH LOGIN", "334 ")]).await;
    assert_eq!(client.rest().await, "421 4.4.2 Timeout, closing\r\n");
}

#[tokio::test]
async fn a_shutdown_ends_an_exchange() {
    let house = house();
    let service = service(&house);
    let mut client = from(trusted(), &service);
    client.hello().await;
    client.script(&[("AUTH LOGIN", "334 ")]).await;
    service.shutdown.cancel();
    assert_eq!(client.rest().await, "421 4.3.2 Shutting down, closing\r\n");
}

#[tokio::test(start_paused = true)]
async fn failures_slow_down_and_lock_out() {
    let house = house();
    let lockout = LockoutConfig { failures: NonZeroU32::new(3), ..LockoutConfig::default() };
    let service =
        Arc::new(Service { logins: house.logins(lockout), ..Arc::into_inner(service(&house)).unwrap() });
    let mut client = from(trusted(), &service);
    client.hello().await;
    let mut waits = Vec::new();
    for name in ["scanner", "nobody", "app@contoso"] {
        let began = Instant::now();
        assert_eq!(client.say(&plain(name, "guess")).await, WRONG);
        waits.push(began.elapsed().as_millis());
    }
    assert_eq!(waits, [250, 500, 1000]);
    // From now on nothing is looked at, not even the right password.
    for right in [plain("scanner", "s3cret"), plain("nobody", "x")] {
        let mut client = from(trusted(), &service);
        client.hello().await;
        client.script(&[(&right, "421 4.7.0 Too many failed logins")]).await;
        assert_eq!(client.rest().await, "");
    }
    assert_eq!(
        [logins(&house, "wrong"), logins(&house, "unknown"), logins(&house, "locked")],
        [2.0, 1.0, 2.0]
    );
    // Other clients go on; and so does this one, after a time.
    let other = Peer { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), ..trusted() };
    for (peer, pause) in [(other, 0), (trusted(), 15 * 60)] {
        tokio::time::advance(std::time::Duration::from_secs(pause)).await;
        let mut client = from(peer, &service);
        client.hello().await;
        client.script(&[(&plain("scanner", "s3cret"), "235")]).await;
    }
}
