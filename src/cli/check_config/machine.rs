//! What a configuration needs of this machine, tried: the spool and the pickup folders, the addresses, the
//! certificates of listeners.
//!
//! Nothing is left behind: an address is bound for a moment, and a folder is only asked about.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::Path,
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
    process::geteuid,
};

use crate::{
    clock,
    config::{Certificate, Config, EXPIRES_SOON, ListenerTls, Problem},
    ingress::pickup,
};

/// What keeps the relay from running, and what only looks wrong.
#[derive(Default)]
pub(super) struct Tried {
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

impl Tried {
    pub(super) fn of(config: &Config) -> Self {
        let mut tried = Self::default();
        let file = &config.file;
        let problem =
            |key: &str, message: String| Problem { key: key.into(), ..Problem::of_file(file, message) };
        tried.errors.extend(unusable(&config.spool.path).map(|why| problem("spool.path", why)));
        if let Some(folders) = &config.pickup {
            // The relay runs all the same, and looks again every ten seconds. So these are not errors.
            let barriers = pickup::barriers(&folders.path, config.tenants.keys());
            tried.warnings.extend(barriers.into_iter().map(|why| problem("pickup.path", why)));
        }
        for listener in &config.smtp.listeners {
            let certificate = match &listener.tls {
                ListenerTls::Off => continue,
                ListenerTls::StartTls(certificate) | ListenerTls::Implicit(certificate) => certificate,
            };
            tried.warnings.extend(ending(certificate).map(|why| problem("smtp.listener.certificate", why)));
        }
        // A relay that runs has them bound. One of another user's may not be asked.
        match UnixStream::connect(&config.admin.socket.path).map_err(|error| error.kind()) {
            Ok(_) | Err(ErrorKind::PermissionDenied) => return tried,
            Err(_) => {}
        }
        let listeners =
            config.smtp.listeners.iter().map(|listener| ("smtp.listener.address", listener.address));
        for (key, address) in listeners.chain([("admin.address", config.admin.address)]) {
            match bindable(address) {
                Ok(()) => {}
                Err((true, why)) => tried.errors.push(problem(key, why)),
                Err((false, why)) => tried.warnings.push(problem(key, why)),
            }
        }
        tried
    }
}

/// Why the spool cannot be in this folder.
fn unusable(spool: &Path) -> Option<String> {
    let shown = spool.display();
    let user = geteuid().as_raw();
    let may = |path: &Path, what| accessat(CWD, path, what, AtFlags::EACCESS);
    match may(spool, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if !spool.is_dir() => Some(format!("{shown} is not a folder: name another path")),
        Ok(()) => None,
        Err(Errno::NOENT) => {
            let above =
                spool.ancestors().skip(1).find(|above| above.as_os_str().is_empty() || above.exists())?;
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            let error = may(above, Access::WRITE_OK | Access::EXEC_OK).err()?;
            let above = above.display();
            Some(format!(
                "{shown} does not exist, and this user ({user}) cannot make it in {above} ({error}): install -d -m 700 -o \
                 USER {shown}, with the user that the relay runs as"
            ))
        }
        Err(error) => Some(format!(
            "this user ({user}) cannot use {shown} ({error}): check as the user that the relay runs as, or give it to that \
             user: chown -R USER {shown}"
        )),
    }
}

/// Whether that is an error, and why the address cannot be bound.
fn bindable(address: SocketAddr) -> Result<(), (bool, String)> {
    let Err(error) = TcpListener::bind(address) else { return Ok(()) };
    let port = address.port();
    Err(match error.kind() {
        ErrorKind::AddrInUse => (
            true,
            format!(
                "another process listens at {address}: name another port, or stop it (ss -ltnp 'sport = :{port}')"
            ),
        ),
        ErrorKind::AddrNotAvailable => (
            true,
            format!("this machine has no address {}: see ip address, or write 0.0.0.0 or [::]", address.ip()),
        ),
        ErrorKind::PermissionDenied => (
            false,
            format!(
                "this user may not listen at {address}: ports below 1024 need CAP_NET_BIND_SERVICE, which the unit gives"
            ),
        ),
        _ => (false, format!("cannot listen at {address}: {error}")),
    })
}

/// Whether a listener's certificate has ended, or will soon.
fn ending(certificate: &Certificate) -> Option<String> {
    // That it can be read was found out before.
    let loaded = certificate.read().ok()?;
    let left = loaded.not_after - i64::try_from(clock::wall().as_millis() / 1000).ok()?;
    let chain = certificate.chain.display();
    if left <= 0 {
        return Some(format!(
            "the certificate in {chain} has ended: clients that check it refuse the connection"
        ));
    }
    let days = left / (24 * 3600);
    (u64::try_from(left).ok()? < EXPIRES_SOON.as_secs())
        .then(|| format!("the certificate in {chain} ends in {days} days: renew it in time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let (is_error, why) = bindable(taken.local_addr().unwrap()).unwrap_err();
        assert!(is_error && why.contains("another process listens at 127.0.0.1"), "{why}");
        let (is_error, why) = bindable("192.0.2.1:2525".parse().unwrap()).unwrap_err();
        assert!(is_error && why.contains("this machine has no address 192.0.2.1"), "{why}");
        assert_eq!(bindable("127.0.0.1:0".parse().unwrap()), Ok(()));
    }

    #[test]
    fn folders() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(unusable(&place.path().join("a/b/c")), None);
        assert_eq!(unusable(place.path()), None);
        std::fs::write(place.path().join("file"), "").unwrap();
        let why = unusable(&place.path().join("file")).unwrap_or_default();
        // Root may read and write it, and nobody can execute it.
        assert!(why.contains("file"), "{why}");
    }
}
