//! PKCS #12 (RFC 7292), also called PFX: certificate and key in one file, under a password.

use p12_keystore::{Pkcs12Archive, error::Error};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::{ClientCertificateError, Parts};

/// The first key, and all certificates. `place` is for errors.
pub(super) fn open(der: &[u8], password: &str, place: String) -> Result<Parts, ClientCertificateError> {
    let archive = match Pkcs12Archive::from_pkcs12(der, password) {
        Ok(archive) => archive,
        Err(Error::MacError(_)) => return Err(ClientCertificateError::WrongPassword(place)),
        Err(_) => return Err(ClientCertificateError::BadPkcs12(place)),
    };
    let Some(key) = archive.keys.first() else { return Err(ClientCertificateError::NoKey(place)) };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.key.as_der().to_vec()));
    let certificates = archive.certs.iter().map(|bag| CertificateDer::from(bag.cert.as_der().to_vec()));
    Ok(Parts { key: Zeroizing::new(key), certificates: certificates.collect() })
}
