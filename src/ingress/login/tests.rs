//! What the parts do together.

use std::{net::Ipv4Addr, num::NonZeroU32};

use super::*;
use crate::{config::PasswordHash, ingress::testing::House};

const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn stranger(n: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, n).into()
}

fn house() -> House {
    House::with_users(&[("scanner", "contoso", "s3cret")])
}

fn three_failures() -> LockoutConfig {
    LockoutConfig { failures: NonZeroU32::new(3), ..LockoutConfig::default() }
}

async fn log_in(logins: &Logins, name: &str, password: &str, address: IpAddr) -> Result<Login, Denied> {
    let password = Zeroizing::new(password.as_bytes().to_vec());
    logins.log_in(Credentials { name: name.into(), password }, address).await
}

fn count(house: &House, result: LoginResult) -> f64 {
    house.metric(&format!("logins_total{{result=\"{}\"}}", result.as_str()))
}

#[tokio::test(start_paused = true)]
async fn a_busy_client_costs_a_hash_now_and_then() {
    let house = house();
    let logins = house.logins(three_failures());
    for _ in 0..5 {
        let login = log_in(&logins, "scanner", "s3cret", OWN).await.unwrap();
        assert_eq!((login.user.as_str(), login.tenant.name.as_str()), ("scanner", "contoso"));
    }
    assert_eq!([count(&house, LoginResult::Ok), count(&house, LoginResult::Cached)], [1.0, 4.0]);
    tokio::time::advance(Duration::from_secs(5 * 60)).await;
    log_in(&logins, "scanner", "s3cret", OWN).await.unwrap();
    assert_eq!(count(&house, LoginResult::Ok), 2.0);
    // That this login is known helps no other password.
    assert!(matches!(log_in(&logins, "scanner", "s3cre", OWN).await, Err(Denied::Wrong(_))));
}

#[tokio::test(start_paused = true)]
async fn strangers_do_not_lock_a_printer_out() {
    let house = house();
    let logins = house.logins(three_failures());
    log_in(&logins, "scanner", "s3cret", OWN).await.unwrap();
    for n in 0..3 {
        assert!(matches!(log_in(&logins, "scanner", "guess", stranger(n)).await, Err(Denied::Wrong(_))));
    }
    assert_eq!(log_in(&logins, "scanner", "s3cret", stranger(99)).await.unwrap_err(), Denied::Locked);
    log_in(&logins, "scanner", "s3cret", OWN).await.unwrap();
    // Loopback is in a network of contoso.
    log_in(&logins, "scanner", "s3cret", Ipv4Addr::LOCALHOST.into()).await.unwrap();
    tokio::time::advance(Duration::from_secs(15 * 60)).await;
    log_in(&logins, "scanner", "s3cret", stranger(99)).await.unwrap();
}

/// What a stranger, or a neighbour, sees of a name: each answer, in the order of the tries.
async fn seen(name: &str, address: fn(u8) -> IpAddr, spelling: &[&str]) -> Vec<Denied> {
    let house = house();
    let logins = house.logins(three_failures());
    log_in(&logins, "scanner", "s3cret", OWN).await.unwrap();
    let mut seen = Vec::new();
    for n in 0..8 {
        let name = name.replace("NAME", spelling[usize::from(n) % spelling.len()]);
        seen.push(log_in(&logins, &name, "guess", address(n)).await.unwrap_err());
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn names_of_nobody_are_answered_as_those_of_users() {
    let near: fn(u8) -> IpAddr = |n| Ipv4Addr::new(127, 0, 0, n + 1).into();
    let same: fn(u8) -> IpAddr = |_| stranger(1);
    for address in [stranger, same, near] {
        // In one form, and in both by turns: failures with one must not count for the other.
        for forms in [&["NAME"][..], &["NAME@contoso"], &["NAME", "NAME@contoso"], &["NAME", "NAME@fabrikam"]]
        {
            let mut all = Vec::new();
            for name in ["scanner", "nobody", "Scanner"] {
                let spelling: Vec<_> = forms.iter().map(|form| form.replace("NAME", name)).collect();
                let spelling: Vec<_> = spelling.iter().map(String::as_str).collect();
                all.push(seen("NAME", address, &spelling).await);
            }
            assert_eq!(all[0], all[1], "{forms:?}");
            assert_eq!(all[0], all[2], "{forms:?}");
        }
    }
}

/// Each wrong login costs one hash of each cost, whichever user has which.
#[tokio::test]
async fn a_wrong_login_takes_as_long_whatever_the_users_hash_costs() {
    let house =
        House::with_hashes(&[("cheap", PasswordHash::cheap("x")), ("dear", PasswordHash::of(b"x").unwrap())]);
    let logins = house.logins(LockoutConfig { failures: None, ..LockoutConfig::default() });
    let mut least = Vec::new();
    for name in ["cheap", "dear", "nobody", "cheap@contoso", "nobody@contoso", "nobody@nowhere"] {
        let mut fastest = Duration::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            assert!(matches!(log_in(&logins, name, "guess", OWN).await, Err(Denied::Wrong(_))));
            fastest = fastest.min(began.elapsed());
        }
        least.push(fastest.as_secs_f64());
    }
    let low = least.iter().copied().fold(f64::MAX, f64::min);
    let high = least.iter().copied().fold(0.0, f64::max);
    // One cheap hash is a hundredth of an expensive one.
    assert!(high < 10.0 * low, "{least:?}");
}

#[tokio::test]
async fn a_flood_from_one_address_costs_few_hashes() {
    let house = house();
    let logins = house.logins(three_failures());
    let flood = (0..200).map(|_| log_in(&logins, "scanner", "guess", OWN));
    futures_util::future::join_all(flood).await;
    let turns = (std::thread::available_parallelism().unwrap().get() / 2).max(1) as f64;
    let hashed = count(&house, LoginResult::Wrong);
    // Logins that already have a turn when the lockout begins are still checked.
    assert!((3.0..3.0 + turns).contains(&hashed), "{hashed}");
    assert_eq!(count(&house, LoginResult::Locked), 200.0 - hashed);
}

#[tokio::test]
async fn without_users_nobody_logs_in() {
    let house = House::new();
    let logins = house.logins(three_failures());
    assert!(!logins.exist());
    assert!(matches!(log_in(&logins, "scanner", "", OWN).await, Err(Denied::Wrong(_))));
}

#[test]
fn a_name_in_the_log_is_one_short_line() {
    assert_eq!(shown("a\r\nb\u{1b}"), "a\\u{d}\\u{a}b\\u{1b}");
    assert_eq!(shown(&"x".repeat(1000)), "x".repeat(128) + "… (872 more octets)");
}
