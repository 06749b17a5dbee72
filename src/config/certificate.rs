//! A certificate and its key: two PEM files, read together.
//!
//! A [`Certificate`] in a [`super::Config`] could be read when the configuration was loaded. It is read again
//! at the start and whenever the files change, so the same errors show in both places. They name the file to
//! fix, and nothing of a key.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use super::reader::TableReader;

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// PEM: the server's own certificate, then those that lead from it to a root.
    pub chain: PathBuf,
    /// PEM: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// What the files held: a key that fits the first certificate.
#[derive(Debug, Clone)]
pub struct LoadedCertificate {
    pub certified: Arc<CertifiedKey>,
    /// The end of the first certificate's validity, in Unix time.
    pub not_after: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{} cannot be read: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} is over {MAX_FILE} bytes long: write the path of a PEM file", path.display())]
    TooLong { path: PathBuf },
    #[error("{} has no certificate: write the path of a PEM file with BEGIN CERTIFICATE", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds a certificate that cannot be read: create the file again", path.display())]
    BadCertificate { path: PathBuf },
    #[error("{} has no private key: write the path of a PEM file with BEGIN PRIVATE KEY", path.display())]
    NoKey { path: PathBuf },
    #[error(
        "{} holds a private key that cannot be used: it must be RSA of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519, \
         without a password",
        path.display()
    )]
    BadKey { path: PathBuf },
    #[error(
        "the key in {} does not belong to the first certificate in {}: name files of one pair, the server's own certificate \
         first",
        key.display(),
        chain.display()
    )]
    Mismatch { chain: PathBuf, key: PathBuf },
}

/// A chain has a few kilobytes.
const MAX_FILE: usize = 1024 * 1024;

impl Certificate {
    /// Certificate and key as they are now. Blocks while the files are read.
    pub fn read(&self) -> Result<LoadedCertificate, CertificateError> {
        let chain = self.read_chain()?;
        let not_after = chain
            .first()
            .and_then(|first| X509Certificate::from_der(first).ok())
            .map(|(_, certificate)| certificate.validity().not_after.timestamp())
            .ok_or_else(|| CertificateError::BadCertificate { path: self.chain.clone() })?;
        let key = self.read_key()?;
        let certified =
            CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    CertificateError::Mismatch { chain: self.chain.clone(), key: self.key.clone() }
                }
                rustls::Error::InvalidCertificate(_) => {
                    CertificateError::BadCertificate { path: self.chain.clone() }
                }
                _ => CertificateError::BadKey { path: self.key.clone() },
            })?;
        Ok(LoadedCertificate { certified: Arc::new(certified), not_after })
    }

    fn read_chain(&self) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let pem = read_file(&self.chain)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        match chain {
            Ok(chain) if chain.is_empty() => {
                Err(CertificateError::NoCertificate { path: self.chain.clone() })
            }
            Ok(chain) => Ok(chain),
            Err(_) => Err(CertificateError::BadCertificate { path: self.chain.clone() }),
        }
    }

    fn read_key(&self) -> Result<PrivateKeyDer<'static>, CertificateError> {
        let pem = read_file(&self.key)?;
        PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
            pem::Error::NoItemsFound => CertificateError::NoKey { path: self.key.clone() },
            _ => CertificateError::BadKey { path: self.key.clone() },
        })
    }

    /// Refuses the keys `certificate` and `key` of `table`, which has no use for them.
    pub(super) fn refuse_keys(table: &mut TableReader<'_>) {
        for key in ["certificate", "key"] {
            table.optional(key, |item| {
                item.fail::<()>(
                    r#"has no effect without TLS: write tls = "starttls" or "implicit", or remove it"#,
                )
            });
        }
    }

    /// Reads the keys `certificate` and `key` of `table`.
    pub(super) fn read_keys(table: &mut TableReader<'_>) -> Option<Self> {
        const CHAIN: &str = r#""/etc/m365-relay/relay.pem""#;
        const KEY: &str = r#""/etc/m365-relay/relay.key""#;
        let chain = table.required("certificate", CHAIN, |item| {
            let path = item.path()?;
            item.only_ours(&path).map(|()| path)
        });
        let key = table.required("key", KEY, |item| {
            let path = item.path()?;
            item.only_ours(&path)?;
            if path.metadata().is_ok_and(|m| m.permissions().mode() & 0o004 != 0) {
                item.warn(format!("every user of this machine can read {}: chmod o-r", path.display()));
            }
            Some(path)
        });
        let pair = Self { chain: chain?, key: key? };
        match pair.read() {
            Ok(_) => Some(pair),
            Err(error) => {
                let at = if error.is_about(&pair.key) { "key" } else { "certificate" };
                table.fail_at(at, error.to_string())
            }
        }
    }
}

impl CertificateError {
    /// Whether the problem is the key, which is at `key`.
    fn is_about(&self, key: &Path) -> bool {
        match self {
            Self::Read { path, .. } | Self::TooLong { path } => path == key,
            Self::NoCertificate { .. } | Self::BadCertificate { .. } => false,
            Self::NoKey { .. } | Self::BadKey { .. } | Self::Mismatch { .. } => true,
        }
    }
}

/// Wiped when it is dropped, since it may be a key.
fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let failed = |error| CertificateError::Read { path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    // Reading a pipe would wait.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("not a file")));
    }
    // Room for all of it, so that growing leaves no copy behind in freed memory.
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX).min(MAX_FILE);
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_FILE {
        return Err(CertificateError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};

    fn made() -> Made<rcgen::KeyPair> {
        generate_simple_self_signed(["relay.example".to_owned()]).unwrap()
    }

    fn write(folder: &Path, chain: &str, key: &str) -> Certificate {
        let pair = Certificate { chain: folder.join("relay.pem"), key: folder.join("relay.key") };
        std::fs::write(&pair.chain, chain).unwrap();
        std::fs::write(&pair.key, key).unwrap();
        pair
    }

    #[test]
    fn a_pair_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let made = made();
        let key = made.signing_key.serialize_pem();
        let pair = write(folder.path(), &made.cert.pem(), &key);
        let loaded = pair.read().unwrap();
        assert_eq!(loaded.certified.cert, [made.cert.der().clone()]);
        // rcgen's default: the first of January 4096.
        assert_eq!(loaded.not_after, 67_090_118_400);
        // Both in one file.
        let both = write(folder.path(), &format!("{key}{}", made.cert.pem()), &key);
        assert!(Certificate { key: both.chain.clone(), ..both }.read().is_ok());
    }

    #[test]
    fn errors_name_the_file_and_nothing_of_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let one = made();
        let other = made();
        let chain = one.cert.pem();
        let key = one.signing_key.serialize_pem();
        let cut = chain.lines().take(4).chain(["-----END CERTIFICATE-----"]).collect::<Vec<_>>().join("\n");
        let secret = key.lines().nth(1).unwrap().to_owned();
        for (chain, key, file, part) in [
            (&*chain, &*other.signing_key.serialize_pem(), "relay.key", "does not belong"),
            (&*chain, "", "relay.key", "no private key"),
            (
                &*chain,
                &*format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"),
                "relay.key",
                "cannot be used",
            ),
            (&*key, &*key, "relay.pem", "no certificate"),
            (&*cut, &*key, "relay.pem", "cannot be read"),
        ] {
            let error = write(folder.path(), chain, key).read().unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(part), "{error}");
            assert!(!error.contains(&secret), "{error}");
        }
        let missing = Certificate { chain: folder.path().join("no.pem"), key: folder.path().join("no.key") };
        assert!(missing.read().unwrap_err().to_string().contains("no.pem cannot be read"));
        let folder_for_file = Certificate { chain: folder.path().into(), key: folder.path().into() };
        assert!(folder_for_file.read().unwrap_err().to_string().contains("not a file"));
    }
}
