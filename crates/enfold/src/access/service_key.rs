//! The secret of a service key: how it is spelled, and what is kept of it.

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::hex::{from_hex, hex};
use crate::{Code, Error, Result};

/// By this, programs that search repositories for secrets know one.
const PREFIX: &str = "enfsk_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
/// Hashed before the secret, so that what is kept is a hash of nothing else.
const DOMAIN: &[u8] = b"enfold/v1 service key\0";

/// A service key as whoever holds it has it: `enfsk_`, 16 hexadecimal digits that name it, `_`, and 256 random bits in
/// base64url. It cannot be printed, and is wiped on drop.
///
/// What is kept of it is one SHA-256: of 256 random bits, stretching would make no guess less vain.
pub struct ServiceKeySecret {
    text: Zeroizing<String>,
    id_len: usize,
}

/// A service key that somebody shows.
pub struct ShownKey<'a> {
    id: &'a str,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

impl ServiceKeySecret {
    pub(super) fn draw() -> Result<Self> {
        let mut drawn = Zeroizing::new([0; ID_BYTES + SECRET_BYTES]);
        rand::fill(&mut *drawn)
            .map_err(|_| Error::new(Code::Internal, "cannot draw random bytes for a service key"))?;
        let (id, secret) = drawn.split_at(ID_BYTES);
        let mut text = Zeroizing::new(String::with_capacity(128));
        text.push_str(PREFIX);
        text.push_str(&hex(id));
        text.push('_');
        URL_SAFE_NO_PAD.encode_string(secret, &mut text);
        Ok(Self { text, id_len: 2 * ID_BYTES })
    }

    pub(super) fn id(&self) -> &str {
        &self.text[PREFIX.len()..PREFIX.len() + self.id_len]
    }

    pub(super) fn hash(&self) -> Result<String> {
        let shown = ShownKey::parse(&self.text)
            .ok_or_else(|| Error::new(Code::Internal, "a service key that was just made does not read back"))?;
        Ok(hex(&shown.hash()))
    }

    /// The whole secret, for the one time that it is shown.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl<'a> ShownKey<'a> {
    /// None where it is no service key by its form.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (id, encoded) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let mut room = Zeroizing::new([0; SECRET_BYTES + 3]);
        let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut *room).ok()?;
        if length != SECRET_BYTES || id.len() != 2 * ID_BYTES || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        secret.copy_from_slice(&room[..SECRET_BYTES]);
        Some(Self { id, secret })
    }

    /// Whether it is of this form at all, so that it is not taken for a token of another kind.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    pub fn id(&self) -> &str {
        self.id
    }

    /// Whether it is the one of which this hash, in hexadecimal digits, was kept.
    pub(super) fn is_of(&self, hash: &str) -> bool {
        from_hex(hash).is_some_and(|kept| bool::from(self.hash().as_slice().ct_eq(&kept)))
    }

    fn hash(&self) -> [u8; digest::SHA256_OUTPUT_LEN] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(DOMAIN);
        context.update(self.id.as_bytes());
        context.update(&*self.secret);
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_is_known_by_its_hash_alone() {
        let (one, other) = (ServiceKeySecret::draw().unwrap(), ServiceKeySecret::draw().unwrap());
        assert_eq!(one.expose().len(), 66);
        let shown = ShownKey::parse(one.expose()).unwrap();
        assert_eq!(shown.id(), one.id());
        assert!(shown.is_of(&one.hash().unwrap()));
        assert!(!shown.is_of(&other.hash().unwrap()));
        assert!(!shown.is_of("") && !shown.is_of("zz"));
        let swapped = one.expose().replacen(one.id(), other.id(), 1);
        assert!(!ShownKey::parse(&swapped).unwrap().is_of(&one.hash().unwrap()), "the id is hashed with it");
    }

    #[test]
    fn what_has_another_form_is_none() {
        let secret = ServiceKeySecret::draw().unwrap();
        let text = secret.expose();
        let longer = format!("{text}A");
        for wrong in
            ["", "enfsk_", "enfsk__", &text[1..], &text[..text.len() - 1], &longer, &text.replace("enfsk_", "enfsk_0")]
        {
            assert!(ShownKey::parse(wrong).is_none(), "{} characters", wrong.len());
        }
    }
}
