//! Who is found by a sender, by a client's address, by a login.

use super::*;
use crate::config::Cloud;

fn roster(tenants: Vec<Tenant>) -> Roster {
    Roster::new(tenants.into_iter().map(|tenant| (tenant.name.clone(), Arc::new(tenant))).collect())
}

fn tenant(name: &str, senders: &[&str], networks: &[&str]) -> Tenant {
    let rule = |text: &&str| match text.strip_prefix('@') {
        Some(domain) => SenderRule::Domain(domain.to_owned()),
        None if *text == "*" => SenderRule::Any,
        None => SenderRule::Address(text.parse().unwrap()),
    };
    Tenant {
        senders: senders.iter().map(rule).collect(),
        networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
        ..Tenant::sample(name, Cloud::loopback("http://127.0.0.1:1"))
    }
}

fn names<'a>(tenants: impl Iterator<Item = &'a Arc<Tenant>>) -> Vec<&'a str> {
    let mut names: Vec<_> = tenants.map(|tenant| tenant.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn senders_are_found_by_every_rule_and_each_once() {
    let roster = roster(vec![
        tenant("a", &["@x.example", "me@x.example", "@x.example", "other@y.example"], &[]),
        tenant("b", &["me@X.example", "me@x.EXAMPLE"], &[]),
        tenant("c", &["*", "@x.example"], &[]),
    ]);
    let of = |address: &str| names(roster.senders_of(&address.parse().unwrap()));
    assert_eq!(of("me@x.example"), ["a", "b", "c"]);
    assert_eq!(of("ME@X.Example"), ["a", "b", "c"]);
    assert_eq!(of("you@x.example"), ["a", "c"]);
    assert_eq!(of("other@y.example"), ["a", "c"]);
    assert_eq!(of("me@sub.x.example"), ["c"]);
}

/// What the index finds is what the rules say.
#[test]
fn the_index_agrees_with_the_rules() {
    let rules = ["*", "@x.example", "@y.example", "a@x.example", "b@y.example", "a@b\u{fc}.example"];
    let every = (1..1_usize << rules.len()).map(|set| {
        let chosen: Vec<&str> = (0..rules.len()).filter(|n| set >> n & 1 == 1).map(|n| rules[n]).collect();
        tenant(&format!("t{set}"), &chosen, &[])
    });
    let roster = roster(every.collect());
    for address in ["a@x.example", "b@y.example", "c@z.example", "A@xn--b-xga.example", "a@xn--b-xga.example"]
    {
        let address = address.parse().unwrap();
        let expected = roster.tenants().values().filter(|tenant| tenant.may_send_as(&address));
        assert_eq!(names(roster.senders_of(&address)), names(expected), "{address}");
    }
}

#[test]
fn neighbours_are_found_whatever_way_their_network_is_written() {
    let roster = roster(vec![
        tenant("a", &["*"], &["10.1.0.0/16", "10.1.2.0/24"]),
        tenant("b", &["*"], &["10.1.99.99/16"]),
        tenant("c", &["*"], &["::1/128"]),
    ]);
    let at = |address: &str| {
        let mut found = names(roster.neighbours_of(address.parse().unwrap()));
        found.dedup();
        found
    };
    assert_eq!(at("10.1.2.3"), ["a", "b"]);
    assert_eq!(at("::ffff:10.1.200.3"), ["a", "b"]);
    assert_eq!(at("::1"), ["c"]);
    assert!(at("10.2.0.1").is_empty());
}

#[tokio::test]
async fn a_new_roster_is_seen_by_everybody_and_the_old_one_stays_whole() {
    let (keeper, live) = RosterKeeper::new(roster(vec![tenant("a", &["*"], &[])]));
    let mut other = live.clone();
    let before = live.now();
    keeper.replace(Arc::new(roster(vec![tenant("b", &["*"], &[])])));
    assert_eq!(names(live.now().tenants().values()), ["b"]);
    assert_eq!(names(other.next().await.tenants().values()), ["b"]);
    assert_eq!(names(before.tenants().values()), ["a"]);
}
