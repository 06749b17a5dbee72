//! All forms of certificate and key, and what is said about those that cannot be used.

use std::{fs, time::Duration};

use super::*;
use crate::config::Secret;

const CERTIFICATE: &str = include_str!("../../../tests/made_up_keys/app.pem");
const KEY: &str = include_str!("../../../tests/made_up_keys/app.key");
const OTHER_KEY: &str = include_str!("../../../tests/made_up_keys/other.key");
const ENCRYPTED_KEY: &str = include_str!("../../../tests/made_up_keys/app-encrypted.key");
const PFX: &[u8] = include_bytes!("../../../tests/made_up_keys/app.pfx");
/// As Windows and old programs write it, with 3DES and RC2, and with an empty password.
const LEGACY_PFX: &[u8] = include_bytes!("../../../tests/made_up_keys/app-legacy.pfx");

fn text(text: &str) -> SecretSource {
    SecretSource::Text(Secret::new(text.into()))
}

fn pem(certificate: &str, private_key: Option<&str>) -> ClientCertificate {
    ClientCertificate {
        certificate: text(certificate),
        private_key: private_key.map(text),
        password: None,
        algorithm: AssertionAlgorithm::Ps256,
    }
}

fn pfx(octets: &[u8], password: Option<&str>) -> ClientCertificate {
    ClientCertificate { password: password.map(text), ..pem(&BASE64_STANDARD.encode(octets), None) }
}

/// A certificate for the same key, with this time until its end.
fn ending_in(left: Duration) -> String {
    let key = rcgen::KeyPair::from_pem_and_sign_algo(KEY, &rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(1980, 1, 1);
    params.not_after =
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(Timestamp::wall().as_millis()) + left;
    params.self_signed(&key).unwrap().pem()
}

#[test]
fn each_form_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let in_file = |name: &str, octets: &[u8]| {
        fs::write(folder.path().join(name), octets).unwrap();
        SecretSource::File(folder.path().join(name))
    };
    let wrapped = BASE64_STANDARD
        .encode(PFX)
        .as_bytes()
        .chunks(76)
        .fold(String::new(), |all, line| all + std::str::from_utf8(line).unwrap() + "\r\n");
    // Those above it may come first.
    let chain =
        format!("{}{CERTIFICATE}", rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem());
    let whole = CertificateDer::pem_slice_iter(CERTIFICATE.as_bytes()).next().unwrap().unwrap();
    for (form, certificate) in [
        ("two texts", pem(CERTIFICATE, Some(KEY))),
        ("one text", pem(&format!("{KEY}{CERTIFICATE}"), None)),
        ("a chain", pem(&chain, Some(KEY))),
        (
            "files",
            ClientCertificate {
                certificate: in_file("c.pem", CERTIFICATE.as_bytes()),
                private_key: Some(in_file("c.key", KEY.as_bytes())),
                ..pem("", None)
            },
        ),
        ("a PFX", ClientCertificate { certificate: in_file("c.pfx", PFX), ..pfx(b"", Some("pfx-password")) }),
        ("a PFX in base64", pfx(PFX, Some("pfx-password"))),
        (
            "a PFX in lines of base64",
            ClientCertificate { certificate: text(&wrapped), ..pfx(b"", Some("pfx-password")) },
        ),
        ("an old PFX", pfx(LEGACY_PFX, None)),
    ] {
        let read = certificate.read().unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(read.certificate, whole, "{form}");
        assert_eq!(read.warning(), None, "{form}");
        assert!(read.not_after > 4_000_000_000, "{form}: {}", read.not_after);
        let files = certificate.files().count();
        assert_eq!(
            files,
            match form {
                "files" => 2,
                "a PFX" => 1,
                _ => 0,
            },
            "{form}"
        );
    }
}

#[test]
fn errors_say_what_to_mend_and_nothing_of_the_key() {
    let secret = KEY.lines().nth(2).unwrap();
    let elliptic = rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap();
    let elliptic_key = elliptic.signing_key.serialize_pem();
    let elliptic = elliptic.cert.pem();
    let cut = format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n");
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n";
    for (certificate, key, part) in [
        (pem("not PEM", Some(KEY)), "certificate", "neither PEM"),
        (pem(KEY, None), "certificate", "neither PEM"),
        (
            pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", Some(KEY)),
            "certificate",
            "cannot be read",
        ),
        (pem(CERTIFICATE, None), "private_key", "has no private key"),
        (pem(CERTIFICATE, Some(CERTIFICATE)), "private_key", "has no private key"),
        (pem(CERTIFICATE, Some(OTHER_KEY)), "private_key", "does not belong"),
        (pem(CERTIFICATE, Some(ENCRYPTED_KEY)), "private_key", "openssl pkey"),
        (pem(CERTIFICATE, Some(old)), "private_key", "openssl pkey"),
        (pem(CERTIFICATE, Some(&cut)), "private_key", "RSA of 2048 to 4096 bits"),
        (pem(&elliptic, Some(&elliptic_key)), "private_key", "RSA of 2048 to 4096 bits"),
        (pem(&elliptic, Some(KEY)), "certificate", "no RSA certificate"),
        (pfx(PFX, None), "certificate_password", "does not open"),
        (pfx(PFX, Some("another")), "certificate_password", "does not open"),
        (pfx(&PFX[..1000], Some("pfx-password")), "certificate", "cannot be read"),
        (
            ClientCertificate { private_key: Some(text(KEY)), ..pfx(LEGACY_PFX, None) },
            "private_key",
            "remove private_key",
        ),
        (
            ClientCertificate { password: Some(text("another")), ..pem(CERTIFICATE, Some(KEY)) },
            "certificate_password",
            "remove certificate_password",
        ),
        (
            ClientCertificate {
                certificate: SecretSource::File("/no/such.pem".into()),
                ..pem("", Some(KEY))
            },
            "certificate",
            "/no/such.pem",
        ),
    ] {
        let error = certificate.read().unwrap_err();
        let said = error.to_string();
        assert_eq!((error.key(), said.contains(part)), (key, true), "{said}");
        for hidden in [secret, "another", "pfx-password", &KEY[400..440]] {
            assert!(
                !said.contains(hidden) && !format!("{error:?} {certificate:?}").contains(hidden),
                "{said}"
            );
        }
    }
}

#[test]
fn an_end_that_is_near_is_a_warning() {
    let day = Duration::from_secs(24 * 3600);
    let warning = |left| pem(&ending_in(left), Some(KEY)).read().unwrap().warning();
    assert_eq!(warning(31 * day), None);
    let near = warning(29 * day + day / 2).unwrap();
    assert!(near.starts_with("the certificate ends in 29 days, at 20"), "{near}");
    let key = rcgen::KeyPair::from_pem_and_sign_algo(KEY, &rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_after = rcgen::date_time_ymd(2020, 2, 29);
    let ended = pem(&params.self_signed(&key).unwrap().pem(), Some(KEY)).read().unwrap();
    let said = ended.warning().unwrap();
    assert!(said.starts_with("the certificate has ended at 2020-02-29T00:00:00Z"), "{said}");
}
