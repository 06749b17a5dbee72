//! TLS for connections that are not HTTP: certificates are checked as for HTTPS.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;

use super::NetworkError;

/// Trusts the system's certificates and those of `ca`, a file and what it holds.
pub(super) fn client_config(ca: Option<(&Path, &[u8])>) -> Result<ClientConfig, NetworkError> {
    let provider = Arc::new(ring::default_provider());
    let more = match ca {
        None => Vec::new(),
        Some((path, pem)) => CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| NetworkError::Pem { path: path.into(), source })?,
    };
    let verifier = Verifier::new_with_extra_roots(more, provider.clone()).map_err(NetworkError::Rustls)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(NetworkError::Rustls)?
        .dangerous()
        // The verifier is the system's own, and the one that HTTPS uses: nothing is left unchecked.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}
