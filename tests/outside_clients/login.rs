//! Relays whose clients encrypt, or log in.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::{
    assert_success,
    harness::{Lab, Setup, run_with_input},
};

pub(crate) const USER: &str = "scanner";
pub(crate) const PASSWORD: &str = "S3cret~of a scanner";

/// With one listener, whose `tls` is this value. Its certificate is signed by [`authority`] and is for the
/// address and the name of the loopback.
pub(crate) fn lab_with_tls(tls: &str, change: impl FnOnce(&mut Setup)) -> Lab {
    let mut lab = Lab::without_relay(|setup| {
        setup.listener = format!("tls = '{tls}'\ncertificate = 'cert.pem'\nkey = 'key.pem'");
        change(setup);
    });
    let mut parameters = CertificateParams::default();
    // A name other than the certificate's, which would be taken for its own issuer.
    parameters.distinguished_name.push(DnType::CommonName, "Authority of the tests");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    fs::write(authority(&lab), certificate.pem()).unwrap();
    let issuer = Issuer::new(parameters, key);
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    fs::write(lab.folder().join("cert.pem"), parameters.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(lab.folder().join("key.pem"), key.serialize_pem()).unwrap();
    lab.restart();
    lab
}

/// The certificate file that clients should trust.
pub(crate) fn authority(lab: &Lab) -> PathBuf {
    lab.folder().join("authority.pem")
}

/// Nobody may send for contoso by address; [`USER`] may, with [`PASSWORD`].
pub(crate) fn with_user(setup: &mut Setup) {
    // A hash is expensive: one serves all tests.
    static HASH: OnceLock<String> = OnceLock::new();
    let hash = HASH.get_or_init(|| {
        let mut relay = Command::new(env!("CARGO_BIN_EXE_m365-relay"));
        let output = run_with_input(relay.arg("hash-password"), format!("{PASSWORD}\n").as_bytes());
        assert_success(&output);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    });
    let tenant = setup.tenant("contoso");
    tenant.networks = "[]".into();
    tenant.more = format!("users = {{ {USER} = '{hash}' }}");
}

/// A user, and a listener on which passwords may be sent unencrypted.
pub(crate) fn lab_with_login_in_clear() -> Lab {
    Lab::with(|setup| {
        with_user(setup);
        setup.listener = "trusted = true".into();
    })
}
