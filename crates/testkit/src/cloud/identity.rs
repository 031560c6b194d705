//! Keys and signed assertions of those who sign in, and the check of them on the issuer's side.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// An RSA key of 2048 bits, and how it is written to files.
pub struct SigningKey {
    pair: KeyPair,
}

/// A token of three parts, taken apart and not yet believed.
pub struct Assertion {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    signed: String,
    signature: Vec<u8>,
}

impl SigningKey {
    pub fn generate() -> Self {
        Self { pair: KeyPair::generate(KeySize::Rsa2048).expect("a key") }
    }

    /// PKCS#8 in PEM, as Google's console hands it out.
    pub fn private_pem(&self) -> String {
        let der: Pkcs8V1Der<'_> = self.pair.as_der().expect("PKCS#8");
        pem("PRIVATE KEY", der.as_ref())
    }

    /// What the issuer keeps.
    pub fn public(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = self.pair.public_key().as_der().expect("a public key");
        der.as_ref().to_vec()
    }
}

impl Assertion {
    pub fn parse(text: &str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed: signed.to_owned(),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// Whether the holder of that key signed it, with the algorithm that it names.
    pub fn is_signed_by(&self, public: &[u8]) -> bool {
        let scheme = match self.header.get("alg").and_then(Value::as_str) {
            Some("RS256") => &RSA_PKCS1_2048_8192_SHA256,
            Some("PS256") => &RSA_PSS_2048_8192_SHA256,
            _ => return false,
        };
        UnparsedPublicKey::new(scheme, public).verify(self.signed.as_bytes(), &self.signature).is_ok()
    }

    pub fn claim(&self, name: &str) -> &str {
        self.claims.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn time(&self, name: &str) -> i64 {
        self.claims.get(name).and_then(Value::as_i64).unwrap_or_default()
    }
}

/// RFC 7468.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).expect("base64")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
