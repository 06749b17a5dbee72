//! The certificate with which an application proves itself to Entra ID: PEM, or PKCS #12.
//!
//! A [`ClientCertificate`] in a [`super::Config`] could be read when the configuration was loaded. It is read
//! again at each login, so the same errors show in both places. They name the place to fix, and nothing of a
//! key.

mod pkcs12;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, path::Path, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use memchr::memmem;
use ring::rsa::KeyPair;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use super::{SecretError, SecretSource, reader::TableReader};
use relay_mail::Timestamp;

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM, with or without the key; or PKCS #12, which is in base64 where it is text.
    pub certificate: SecretSource,
    /// PEM: PKCS #8 or PKCS #1. `None`: it is with the certificate.
    pub private_key: Option<SecretSource>,
    /// Of PKCS #12. `None`: the empty one.
    pub password: Option<SecretSource>,
    pub algorithm: AssertionAlgorithm,
}

/// How an assertion is signed, and which thumbprint names the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AssertionAlgorithm {
    /// RSA-PSS, and the SHA-256 thumbprint: what Entra ID wants.
    #[default]
    Ps256,
    /// PKCS #1 v1.5, and the SHA-1 thumbprint: what AD FS takes.
    Rs256,
}

/// What was read: a key, and the certificate that it belongs to.
#[derive(Debug)]
pub struct SigningCertificate {
    pub key: KeyPair,
    pub certificate: CertificateDer<'static>,
    /// The end of its validity, in Unix time.
    pub not_after: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientCertificateError {
    #[error(transparent)]
    Certificate(SecretError),
    #[error(transparent)]
    Key(SecretError),
    #[error(transparent)]
    Password(SecretError),
    #[error("{0} is neither PEM, with BEGIN CERTIFICATE, nor PKCS #12: create it again")]
    NoCertificate(String),
    #[error("{0} holds a certificate that cannot be read: create it again")]
    BadCertificate(String),
    #[error("{0} holds no RSA certificate: Entra ID takes assertions that are signed with RSA")]
    NotRsa(String),
    #[error("{0} has no private key: write private_key, or put the key with the certificate")]
    NoKey(String),
    #[error(
        "{0} holds a private key that is encrypted: decrypt it (openssl pkey), or use PKCS #12 with certificate_password"
    )]
    EncryptedKey(String),
    #[error("{0} holds a private key that cannot be used: it must be RSA of 2048 to 4096 bits")]
    BadKey(String),
    #[error("the private key does not belong to any certificate in {0}: name files of one pair")]
    Mismatch(String),
    #[error("certificate_password does not open {0}")]
    WrongPassword(String),
    #[error("{0} is PKCS #12 that cannot be read: create it again, for example with openssl pkcs12 -export")]
    BadPkcs12(String),
    #[error("{0} is PKCS #12, which has its key inside: remove private_key")]
    KeyBesidePkcs12(String),
    #[error("{0} is PEM, which has no password: remove certificate_password")]
    PasswordForPem(String),
}

/// This long before its end a certificate is worth a warning.
pub const EXPIRES_SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// Key and certificates before it is known whether they belong together.
struct Parts {
    key: Zeroizing<PrivateKeyDer<'static>>,
    certificates: Vec<CertificateDer<'static>>,
}

impl ClientCertificate {
    /// Certificate and key as they are now. Blocks while files are read.
    pub fn read(&self) -> Result<SigningCertificate, ClientCertificateError> {
        let octets = self.certificate.read_octets().map_err(ClientCertificateError::Certificate)?;
        let Parts { key, certificates } = match pkcs12_of(&octets) {
            Some(der) => self.read_pkcs12(&der)?,
            None => self.read_pem(&octets)?,
        };
        let key = match &*key {
            PrivateKeyDer::Pkcs8(key) => KeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
            PrivateKeyDer::Pkcs1(key) => KeyPair::from_der(key.secret_pkcs1_der()).ok(),
            _ => None,
        };
        let key = key.ok_or_else(|| ClientCertificateError::BadKey(shown(self.place_of_key())))?;
        self.pair(key, certificates)
    }

    /// The files that it is read from.
    pub fn files(&self) -> impl Iterator<Item = Cow<'_, Path>> {
        let others = [&self.private_key, &self.password].into_iter().flatten();
        std::iter::once(&self.certificate).chain(others).filter_map(SecretSource::path)
    }

    fn read_pkcs12(&self, der: &[u8]) -> Result<Parts, ClientCertificateError> {
        let place = shown(&self.certificate);
        if self.private_key.is_some() {
            return Err(ClientCertificateError::KeyBesidePkcs12(place));
        }
        let password = self.password.as_ref().map(SecretSource::read).transpose();
        let password = password.map_err(ClientCertificateError::Password)?;
        pkcs12::open(der, password.as_ref().map_or("", |password| password.expose()), place)
    }

    fn read_pem(&self, pem: &[u8]) -> Result<Parts, ClientCertificateError> {
        let place = || shown(&self.certificate);
        if self.password.is_some() {
            return Err(ClientCertificateError::PasswordForPem(place()));
        }
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|_| ClientCertificateError::BadCertificate(place()))?;
        if certificates.is_empty() {
            return Err(ClientCertificateError::NoCertificate(place()));
        }
        let key = match &self.private_key {
            None => self.read_key(pem)?,
            Some(source) => self.read_key(&source.read_octets().map_err(ClientCertificateError::Key)?)?,
        };
        Ok(Parts { key, certificates })
    }

    fn read_key(&self, pem: &[u8]) -> Result<Zeroizing<PrivateKeyDer<'static>>, ClientCertificateError> {
        let place = || shown(self.place_of_key());
        // By the label of PKCS #8, or by the header of what OpenSSL wrote before.
        let is_encrypted = |mark: &str| memmem::find(pem, mark.as_bytes()).is_some();
        if is_encrypted("BEGIN ENCRYPTED PRIVATE KEY") || is_encrypted("Proc-Type: 4,ENCRYPTED") {
            return Err(ClientCertificateError::EncryptedKey(place()));
        }
        PrivateKeyDer::from_pem_slice(pem).map(Zeroizing::new).map_err(|error| match error {
            pem::Error::NoItemsFound => ClientCertificateError::NoKey(place()),
            _ => ClientCertificateError::BadKey(place()),
        })
    }

    /// The certificate among them that belongs to the key, whatever their order.
    fn pair(
        &self,
        key: KeyPair,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<SigningCertificate, ClientCertificateError> {
        let mut has_rsa = false;
        for certificate in certificates {
            let Ok((_, parsed)) = X509Certificate::from_der(&certificate) else {
                return Err(ClientCertificateError::BadCertificate(shown(&self.certificate)));
            };
            let public_key = parsed.public_key();
            has_rsa |= public_key.algorithm.algorithm == x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
            if &*public_key.subject_public_key.data == key.public().as_ref() {
                let not_after = parsed.validity().not_after.timestamp();
                return Ok(SigningCertificate { key, certificate, not_after });
            }
        }
        Err(if has_rsa {
            ClientCertificateError::Mismatch(shown(&self.certificate))
        } else {
            ClientCertificateError::NotRsa(shown(&self.certificate))
        })
    }

    fn place_of_key(&self) -> &SecretSource {
        self.private_key.as_ref().unwrap_or(&self.certificate)
    }

    /// Reads the certificate that the keys of a tenant's table describe, if there is a `certificate`.
    pub(super) fn read_keys(table: &mut TableReader<'_>) -> Option<Self> {
        let algorithm = table.or_default("assertion_algorithm", AssertionAlgorithm::Ps256, |item| {
            item.choice(&[("PS256", AssertionAlgorithm::Ps256), ("RS256", AssertionAlgorithm::Rs256)])
        });
        let [at_certificate, at_key, at_password] =
            ["certificate", "private_key", "certificate_password"].map(|key| table.item(key));
        let at_certificate = at_certificate?;
        let certificate = SecretSource::read_place(&at_certificate);
        let private_key = at_key.as_ref().map(SecretSource::read_place);
        let password = at_password.as_ref().map(SecretSource::read_place);
        if [&private_key, &password].into_iter().any(|read| matches!(read, Some(None))) {
            return None;
        }
        let private_key = private_key.flatten();
        let password = password.flatten();
        let certificate = certificate?;
        let places = [
            (Some(&certificate), Some(&at_certificate)),
            (private_key.as_ref(), at_key.as_ref()),
            (password.as_ref(), at_password.as_ref()),
        ];
        for (source, item) in places.into_iter().filter_map(|(source, item)| source.zip(item)) {
            source.refuse_if_exposed(item)?;
        }
        let all = Self { certificate, private_key, password, algorithm };
        let read = match all.read() {
            Ok(read) => read,
            Err(error) => {
                let place = match error.key() {
                    "private_key" => at_key.as_ref(),
                    "certificate_password" => at_password.as_ref(),
                    _ => None,
                };
                return place.unwrap_or(&at_certificate).fail_alone(all, error.to_string());
            }
        };
        // A certificate alone is no secret.
        let secrets = match &at_key {
            Some(item) => all.private_key.as_ref().map(|key| (key, item)),
            None => Some((&all.certificate, &at_certificate)),
        };
        let password = all.password.as_ref().zip(at_password.as_ref());
        for (source, item) in secrets.into_iter().chain(password) {
            source.warn_if_exposed(item);
        }
        if let Some(warning) = read.warning() {
            at_certificate.warn(warning);
        }
        Some(all)
    }
}

impl ClientCertificateError {
    /// The configuration key to fix.
    fn key(&self) -> &'static str {
        match self {
            Self::Key(_) | Self::NoKey(_) | Self::EncryptedKey(_) | Self::BadKey(_) => "private_key",
            Self::Mismatch(_) | Self::KeyBesidePkcs12(_) => "private_key",
            Self::Password(_) | Self::WrongPassword(_) | Self::PasswordForPem(_) => "certificate_password",
            Self::Certificate(_) | Self::NoCertificate(_) | Self::BadCertificate(_) => "certificate",
            Self::NotRsa(_) | Self::BadPkcs12(_) => "certificate",
        }
    }
}

impl SigningCertificate {
    /// What an administrator must know about its end, if that has come or comes soon.
    pub fn warning(&self) -> Option<String> {
        let now = Timestamp::wall();
        let end = Timestamp::from_unix_seconds(self.not_after);
        match end.since(now) {
            Duration::ZERO => {
                Some(format!("the certificate has ended at {end}: create a new one, and register it"))
            }
            left if left < EXPIRES_SOON => {
                let days = left.as_secs() / 86_400;
                Some(format!(
                    "the certificate ends in {days} days, at {end}: create a new one, and register it"
                ))
            }
            _ => None,
        }
    }
}

/// PKCS #12 as it is, or in base64, as Azure Key Vault hands it out. `None`: it must be PEM.
fn pkcs12_of(octets: &[u8]) -> Option<Cow<'_, [u8]>> {
    const SEQUENCE: u8 = 0x30;
    if octets.first() == Some(&SEQUENCE) {
        return Some(octets.into());
    }
    // Without the line ends that wrapping has added.
    let text: Vec<u8> = octets.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
    BASE64_STANDARD.decode(text).ok().filter(|der| der.first() == Some(&SEQUENCE)).map(Cow::from)
}

/// In errors: a place in the configuration, or a file.
fn shown(source: &SecretSource) -> String {
    match source {
        SecretSource::Text(_) => "the text".to_owned(),
        SecretSource::File(path) => path.display().to_string(),
        other => format!("{other:?}"),
    }
}
