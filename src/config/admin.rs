//! `[admin]`: where metrics, health and the API are, and who may use them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{
    ConfigErrors, SecretSource, SpoolConfig,
    access::Owners,
    files::{self, ConfigFile},
    reader::{Findings, Item, TableReader},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Without a `token` it is a loopback address.
    pub address: SocketAddr,
    /// For the commands of this machine. Its path fits into a socket address.
    pub socket: AdminSocket,
    /// Opens the API by TCP; an address that is not loopback requires it for metrics, too.
    pub token: Option<SecretSource>,
    /// Names that requests may have in `Host`, besides addresses of this machine. In lower case.
    pub hosts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSocket {
    pub path: PathBuf,
    /// The configuration does not name it: it is in the spool's folder.
    pub is_default: bool,
}

/// The name of the socket in the spool's folder.
const SOCKET: &str = "admin.sock";
/// In octets: unix(7), `sun_path` with its NUL.
const LONGEST_PATH: usize = 107;
/// In octets. Half of what `openssl rand -hex 16` prints.
pub const SHORTEST_TOKEN: usize = 16;

impl AdminConfig {
    /// Reads `[admin]` out of the main file, and `spool.path`, which it may depend on, and ignores mistakes
    /// elsewhere. It is for finding a running relay. Whether the token can be read is not checked.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let file = ConfigFile::read(path.to_owned(), Owners::Any)
            .map_err(|problem| ConfigErrors::new(vec![problem]))?;
        let findings = Findings::default();
        let admin = files::read_some(&file, &findings, &["admin", "spool.path"], |root| {
            let spool = root.table("spool", SpoolConfig::read);
            root.table("admin", |table| Self::read(table, spool.as_ref(), SecretSource::read_place))
        });
        let mut errors = findings.errors.into_inner();
        if admin.as_ref().is_some_and(|admin| !admin.socket.is_default) {
            errors.retain(|problem| problem.key != "spool.path");
        }
        match admin {
            Some(admin) if errors.is_empty() => Ok(admin),
            _ => Err(ConfigErrors::new(errors)),
        }
    }

    /// `None`: neither the table nor the spool says where the socket is, or its path is too long.
    pub(super) fn read(
        table: &mut TableReader<'_>,
        spool: Option<&SpoolConfig>,
        read_token: fn(&Item<'_>) -> Option<SecretSource>,
    ) -> Option<Self> {
        table.note_keys("token", &super::secret::PLACES);
        let has_token = table.has("token");
        let token = table.optional("token", read_token);
        let address = table
            .or_default("address", (Ipv4Addr::LOCALHOST, 8025).into(), |item| read_address(item, has_token));
        let socket = table.optional("socket", |item| {
            let path = item.path()?;
            if path.as_os_str().as_bytes().len() > LONGEST_PATH {
                return item.fail(too_long(&path));
            }
            Some(AdminSocket { path, is_default: false })
        });
        let in_spool = || {
            let path = spool?.path.join(SOCKET);
            if !table.has("socket") && path.as_os_str().as_bytes().len() > LONGEST_PATH {
                return table.fail_at("socket", too_long(&path));
            }
            Some(AdminSocket { path, is_default: true })
        };
        let socket = socket.or_else(in_spool);
        let hosts = table.or_default("hosts", Vec::new(), |item| {
            let names = item.elements(HOSTS)?;
            Some(names.iter().filter_map(read_host).collect())
        });
        Some(Self { address, socket: socket?, token, hosts })
    }
}

const HOSTS: &str = r#"["relay.example.net"]"#;

fn read_address(item: &Item<'_>, has_token: bool) -> Option<SocketAddr> {
    const EXAMPLE: &str = r#""127.0.0.1:8025""#;
    let address = item.socket_address(EXAMPLE)?;
    if address.ip().to_canonical().is_loopback() {
        return Some(address);
    }
    if !has_token {
        return item.fail(format!(
            "other machines can reach this: write a loopback address such as {EXAMPLE}, or require a token: \
             token = {{ file = \"/etc/m365-relay/admin.token\" }}"
        ));
    }
    item.warn(
        "the token and the metrics travel unencrypted to and from this address: put a proxy with TLS in \
         front of it, or use a network that you trust",
    );
    Some(address)
}

/// For `token`: one that cannot be guessed.
pub(super) fn read_token(item: &Item<'_>) -> Option<SecretSource> {
    let source = SecretSource::read_item(item)?;
    // It could be read a moment ago.
    if source.read().is_ok_and(|token| token.expose().len() < SHORTEST_TOKEN) {
        return item.fail(format!(
            "the token has fewer than {SHORTEST_TOKEN} characters, so it can be guessed: make one with \
             `openssl rand -hex 32`"
        ));
    }
    Some(source)
}

fn read_host(item: &Item<'_>) -> Option<String> {
    const EXAMPLE: &str = r#""relay.example.net""#;
    let name = item.text(EXAMPLE)?;
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.split('.').all(is_label) {
        return Some(name.to_ascii_lowercase());
    }
    item.fail(format!("{name:?} is not a host name: write one without a port, such as {EXAMPLE}"))
}

fn too_long(path: &Path) -> String {
    format!(
        "{} is too long for a socket, whose path has {LONGEST_PATH} octets at most: write socket = \"/run/m365-relay/admin.sock\" or \
         the like",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;

    fn parsed(spool: &str, admin: &str) -> Result<AdminConfig, String> {
        let text = format!("[spool]\npath = '{spool}'\n[pickup]\npath = 'p'\n[admin]\n{admin}");
        let config = Config::parse(&text, Path::new("/etc/relay/config.toml"));
        config.map(|config| config.admin).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_socket_is_in_the_spool_unless_it_is_named() {
        let socket = |admin: &str| parsed("/var/spool", admin).unwrap().socket;
        assert_eq!(socket(""), AdminSocket { path: "/var/spool/admin.sock".into(), is_default: true });
        let named = AdminSocket { path: "/etc/relay/a.sock".into(), is_default: false };
        assert_eq!(socket("socket = 'a.sock'"), named);
        // As long as allowed, and one longer.
        let folder = |length: usize| format!("/{}", "x".repeat(length - "//admin.sock".len()));
        assert!(parsed(&folder(LONGEST_PATH), "").is_ok());
        let said = parsed(&folder(LONGEST_PATH + 1), "").unwrap_err();
        assert!(said.contains("admin.socket: /x") && said.contains("107 octets at most"), "{said}");
        assert!(parsed(&folder(LONGEST_PATH + 1), "socket = '/run/a.sock'").is_ok());
    }

    /// A command finds the relay whatever is wrong elsewhere, without the secrets.
    #[test]
    fn commands_read_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let load = |text: &str| {
            fs::write(&file, text).unwrap();
            AdminConfig::load(&file).map_err(|errors| errors.to_string())
        };
        let admin = load(
            "[spool]\npath = '/s'\nmin_free = 7\n[admin]\ntoken = { file = 'no-such' }\n[smtp]\nx = 1\n",
        )
        .unwrap();
        assert_eq!(admin.socket.path, Path::new("/s/admin.sock"));
        assert!(admin.token.is_some());
        assert!(load("[admin]\nsocket = '/a.sock'\n").is_ok());
        assert!(load("").unwrap_err().contains("spool.path"));
        assert!(
            load("[spool]\npath = '/s'\n[admin]\nadress = 'x'\n")
                .unwrap_err()
                .contains("did you mean address?")
        );
    }
}
