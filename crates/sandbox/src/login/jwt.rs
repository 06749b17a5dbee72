//! JSON Web Tokens made by others (RFC 7515 compact form, RFC 7519), and RSA signatures on them.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::signature::{self, RsaParameters, UnparsedPublicKey};
use serde_json::{Map, Value};
use x509_parser::{
    oid_registry::OID_PKCS1_RSAENCRYPTION,
    prelude::{FromDer, SubjectPublicKeyInfo},
};

pub(super) struct Jwt<'a> {
    pub(super) header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// `None`: it is not a signed JSON Web Token. Padding and the letters of plain base64 are wrong in one.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| {
            let json = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice::<Map<String, Value>>(&json).ok()
        };
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed,
            signature: BASE64_URL_SAFE_NO_PAD.decode(signature).ok().filter(|octets| !octets.is_empty())?,
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.header.get(name).and_then(Value::as_str)
    }

    pub(super) fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str)
    }

    /// A NumericDate, in milliseconds. It may have a fraction (RFC 7519 section 2), as MSAL for Python's do.
    pub(super) fn time(&self, name: &str) -> Option<i64> {
        self.claims.get(name).and_then(Value::as_f64).map(|seconds| (seconds * 1000.0) as i64)
    }

    /// Accepts a single audience, or any one of several: Kubernetes writes a list.
    pub(super) fn is_for(&self, accepted: impl Fn(&str) -> bool) -> bool {
        match self.claims.get("aud") {
            Some(Value::String(one)) => accepted(one),
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).any(accepted),
            _ => false,
        }
    }

    /// Whether the key behind `info` (SubjectPublicKeyInfo in DER) signed it as `alg` says.
    pub(super) fn is_signed_by(&self, alg: &str, info: &[u8]) -> bool {
        let parameters: &'static RsaParameters = match alg {
            "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
            "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
            _ => return false,
        };
        let Ok((_, info)) = SubjectPublicKeyInfo::from_der(info) else { return false };
        info.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION
            && UnparsedPublicKey::new(parameters, &info.subject_public_key.data)
                .verify(self.signed.as_bytes(), &self.signature)
                .is_ok()
    }
}
