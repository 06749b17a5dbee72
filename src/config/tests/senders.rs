//! `force_from`, `from_map` and `[aliases]`.

use relay_mail::MailboxAddress;

use super::*;

const SENDERS: &str = "force_from = 'scanner@contoso.com'\n[tenants.contoso.from_map]\n\
                       'Copier@Old.example' = 'copier@contoso.com'\n";

#[test]
fn mail_goes_out_from_another_address() {
    let config = with(SENDERS).unwrap();
    let tenant = &config.tenants["contoso"];
    let instead = |from: &str| tenant.from_rules.instead_of(&from.parse().unwrap()).map(ToString::to_string);
    assert_eq!(instead("copier@old.example").as_deref(), Some("copier@contoso.com"));
    assert_eq!(instead("x@y.example").as_deref(), Some("scanner@contoso.com"));
    assert!(tenant.takes_from(&"x@y.example".parse().unwrap()));
    let config = with("from_map = { 'a@old.example' = 'a@contoso.com' }\n").unwrap();
    let tenant = &config.tenants["contoso"];
    let takes = |from: &str| tenant.takes_from(&from.parse().unwrap());
    assert!(takes("A@old.example") && takes("b@contoso.com") && !takes("b@old.example"));
    assert!(tenant.from_rules.forced().is_none());
}

#[test]
fn nobody_sends_as_another() {
    for (lines, key, part) in [
        ("force_from = 'a@other.example'", "force_from", "not among this tenant's senders"),
        ("force_from = 'scanner'", "force_from", "is not an address"),
        ("from_map = { 'a@x.se' = 'a@x.se' }", "from_map.\"a@x.se\"", "not among"),
        ("from_map = { copier = 'a@contoso.com' }", "from_map.copier", "with the quotes"),
        ("from_map = { 'a@x.se' = 'a@contoso.com', 'A@x.se' = 'b@contoso.com' }", "from_map", "listed twice"),
    ] {
        let errors = errors(with(lines));
        let [error] = &errors[..] else { panic!("{lines}: {errors:#?}") };
        assert!(error.starts_with(&format!("tenants.contoso.{key}")) && error.contains(part), "{error}");
    }
}

#[test]
fn names_of_this_machine_stand_for_addresses() {
    let config =
        with("[aliases]\nRoot = 'admin@contoso.com'\n'x@old.example' = ['a@x.se', 'b@x.se']\n").unwrap();
    let find = |written: &str| {
        let found = config.aliases.find(written)?;
        Some(found.iter().map(MailboxAddress::as_str).collect::<Vec<_>>().join(" "))
    };
    for root in ["root", "ROOT", "root@localhost", "root@localhost.localdomain", "root@relay.example.net"] {
        assert_eq!(find(root).as_deref(), Some("admin@contoso.com"), "{root}");
    }
    assert_eq!(find("X@Old.example").as_deref(), Some("a@x.se b@x.se"));
    for other in ["root@contoso.com", "x", "x@localhost", "", "@", "roo"] {
        assert_eq!(find(other), None, "{other}");
    }
    for (lines, key, part) in [
        ("root = 'admin'", "aliases.root", "is not an address"),
        ("root = []", "aliases.root", "is empty"),
        ("'a b' = 'a@x.se'", "aliases.\"a b\"", "neither a name"),
        ("root = 'a@x.se'\nROOT = 'b@x.se'", "aliases.ROOT", "listed twice"),
    ] {
        assert_error(with(&format!("[aliases]\n{lines}\n")), key, part);
    }
}
