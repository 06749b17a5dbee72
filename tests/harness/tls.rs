//! Certificates made on the spot, and a TLS client that trusts one.

use std::{fs, net::TcpStream, path::Path, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};

/// Writes `relay.pem` and `relay.key` into `folder`, new ones each time, as a program that renews
/// certificates should: by renaming.
pub fn make_certificate(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    for (name, pem) in [("relay.key", made.signing_key.serialize_pem()), ("relay.pem", made.cert.pem())] {
        let new = folder.join(format!("{name}.new"));
        fs::write(&new, pem).unwrap();
        fs::rename(new, folder.join(name)).unwrap();
    }
    made.cert.der().clone()
}

/// Performs the whole handshake. An error says why the client does not trust the server, or that the server
/// closed the connection.
pub fn shake(
    mut stream: TcpStream,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("relay.example").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}
