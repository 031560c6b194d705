//! Assertions that a client signs to say who it is: JSON Web Tokens (RFC 7519) under an RSA key (RFC 7518, section 3).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use zeroize::{Zeroize, Zeroizing};

/// How an assertion is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kms) enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
}

/// A private key. The crypto library wipes it.
pub(in crate::kms) struct Signer(RsaKeyPair);

impl Signer {
    /// The first private key of a PEM text, as PKCS#8 or PKCS#1.
    pub(in crate::kms) fn from_pem(pem: &str) -> Option<Self> {
        let mut der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?;
        let key = match &der {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()).ok(),
            _ => None,
        };
        der.zeroize();
        key.map(Self)
    }

    /// The compact form. `None` where the system has no random bytes to sign with.
    pub(in crate::kms) fn sign(
        &self,
        algorithm: Algorithm,
        header: &impl Serialize,
        claims: &impl Serialize,
    ) -> Option<Zeroizing<String>> {
        let part = |value: Vec<u8>| URL_SAFE_NO_PAD.encode(value);
        let (header, claims) = (serde_json::to_vec(header).ok()?, serde_json::to_vec(claims).ok()?);
        let mut token = Zeroizing::new(format!("{}.{}", part(header), part(claims)));
        let mut signature = vec![0; self.0.public_modulus_len()];
        let scheme = match algorithm {
            Algorithm::Rs256 => &RSA_PKCS1_SHA256,
            Algorithm::Ps256 => &RSA_PSS_SHA256,
        };
        self.0.sign(scheme, &SystemRandom::new(), token.as_bytes(), &mut signature).ok()?;
        // Until it ends it is as good as a password, so no copy of a part of it is left behind.
        let mut whole = Zeroizing::new(String::with_capacity(token.len() + 1 + 4 * signature.len().div_ceil(3)));
        whole.push_str(&token);
        whole.push('.');
        URL_SAFE_NO_PAD.encode_string(&signature, &mut whole);
        token.zeroize();
        Some(whole)
    }
}
