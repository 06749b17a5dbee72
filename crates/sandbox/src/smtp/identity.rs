//! The server's certificate, for this machine's loopback only, and the one to trust for it.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(super) acceptor: TlsAcceptor,
}

#[derive(Debug, thiserror::Error)]
enum IdentityError {
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl Identity {
    pub(super) fn new() -> Self {
        // Names and algorithms are written below; nothing here comes from outside but random octets.
        Self::make().expect("certificates of fixed names")
    }

    fn make() -> Result<Self, IdentityError> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "Simulated Microsoft 365, authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = authority.self_signed(&key)?;
        let issuer = Issuer::new(authority, key);

        let mut server = CertificateParams::new(["127.0.0.1", "::1", "localhost"].map(str::to_owned))?;
        server.distinguished_name.push(DnType::CommonName, "Simulated Microsoft 365");
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Python from 3.13 on is strict about RFC 5280 section 4.2.1.1.
        server.use_authority_key_identifier_extension = true;
        let server_key = KeyPair::generate()?;
        let server = server.signed_by(&server_key, &issuer)?;

        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![server.der().clone()],
                PrivatePkcs8KeyDer::from(server_key.serialize_der()).into(),
            )?;
        Ok(Self { ca_pem: certificate.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}
