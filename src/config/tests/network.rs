//! The proxy.

use super::*;

fn with_network(lines: &str) -> Result<Config, ConfigErrors> {
    with(&format!("[network]\n{lines}"))
}

#[test]
fn a_proxy_has_an_address_and_perhaps_a_login() {
    assert!(with("").unwrap().network.proxy.is_none());

    let proxy = with_network("proxy = 'http://proxy:3128/'").unwrap().network.proxy.unwrap();
    assert_eq!(proxy.url, "http://proxy:3128");
    assert!(proxy.login.is_none());

    let config = with_network(
        "proxy = 'https://[::1]:3128'\nproxy_user = 'relay user'\nproxy_password = 'Proxy~Secret'",
    )
    .unwrap();
    let login = config.network.proxy.as_ref().unwrap().login.as_ref().unwrap();
    assert_eq!(login.user, "relay user");
    assert_eq!(login.password.read().unwrap().expose(), "Proxy~Secret");
    assert!(!format!("{config:?}").contains("Proxy~Secret"));
}

#[test]
fn mistakes_about_the_proxy_say_what_to_write() {
    for (lines, key, part) in [
        ("proxy = 'proxy:3128'", "network.proxy", "write one such as \"http://proxy:3128\""),
        ("proxy = 'socks5://proxy'", "network.proxy", "is not the http(s) address"),
        ("proxy = 'http://'", "network.proxy", "is not the http(s) address"),
        ("proxy = 'http://proxy/way'", "network.proxy", "a host and a port"),
        ("proxy = 'http://me:Proxy~Secret@proxy'", "network.proxy", "as proxy_user and proxy_password"),
        ("proxy = 'me:Proxy~Secret@proxy:3128'", "network.proxy", "as proxy_user and proxy_password"),
        ("proxy_user = 'me'", "network.proxy_user", "write proxy = "),
        ("proxy_password = 'Proxy~Secret'", "network.proxy_password", "write proxy = "),
        ("proxy = 'http://proxy'\nproxy_user = 'me'", "network.proxy_password", "write both"),
        ("proxy = 'http://proxy'\nproxy_password = 'Proxy~Secret'", "network.proxy_user", "write both"),
        (
            "proxy = 'http://proxy'\nproxy_user = 'a:b'\nproxy_password = 'Proxy~Secret'",
            "network.proxy_user",
            "a colon",
        ),
    ] {
        assert_error(with_network(lines), key, part);
        assert!(!errors(with_network(lines))[0].contains("Proxy~Secret"), "{lines}");
    }
}

#[test]
fn what_a_proxy_elsewhere_would_read_is_warned_about() {
    let lab = "[clouds.lab]\nlogin = 'http://127.0.0.1:1'\ngraph = 'http://127.0.0.1:1'";
    let warnings = |proxy: &str| with_network(&format!("proxy = '{proxy}'\n{lab}")).unwrap().warnings;
    assert!(warnings("http://127.0.0.1:3128").is_empty() && warnings("http://[::1]:3128").is_empty());
    let [warning] = &warnings("http://proxy:3128")[..] else { panic!("not one warning") };
    assert!(warning.key == "network.proxy" && warning.message.contains("the cloud lab"), "{warning}");
}
