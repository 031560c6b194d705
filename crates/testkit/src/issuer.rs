//! An issuer of JSON Web Tokens (RFC 7519) with a key of its own, for servers that are told its public key.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

pub struct Issuer {
    key: EcdsaKeyPair,
}

impl Issuer {
    pub fn new() -> Self {
        Self { key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key") }
    }

    /// PEM.
    pub fn public_key(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.key.public_key().as_der().expect("DER");
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der.as_ref()))
    }

    /// As a JSON Web Key (RFC 7517) of this id.
    pub fn jwk(&self, id: &str) -> Value {
        // Uncompressed: 4, and both coordinates.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": part(x), "y": part(y) })
    }

    /// A token with these claims and an hour to live, unless they say another time (`exp`).
    pub fn sign(&self, mut claims: Value) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
        let fields = claims.as_object_mut().expect("an object");
        fields.entry("iat").or_insert(json!(now));
        fields.entry("exp").or_insert(json!(now + 3600));
        self.sign_as_it_is(&json!({ "alg": "ES256", "typ": "JWT" }), &claims)
    }

    /// A token of this header and these claims, whatever they say.
    pub fn sign_as_it_is(&self, header: &Value, claims: &Value) -> String {
        let signed = signed_part(header, claims);
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// A token that is authenticated by a secret (HS256), whatever its header says.
pub fn sign_by_secret(secret: &[u8], header: &Value, claims: &Value) -> String {
    let signed = signed_part(header, claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// A token that nobody signed.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.", signed_part(header, claims))
}

fn signed_part(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}
