//! What is wrapped, and what a wrap looks like from outside.

use aws_lc_rs::rand;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Code, Error, Result};

/// A 256-bit key in the clear, on its way to or from a root key.
///
/// It can neither be printed, copied nor serialised, and is wiped on drop. It lives on the heap, so that moving it
/// leaves no second copy of the bytes behind.
pub struct KeyMaterial(Box<Zeroizing<[u8; Self::LEN]>>);

impl KeyMaterial {
    /// Bytes of a key.
    pub const LEN: usize = 32;

    /// Draws a key from the operating system's generator through the crypto library.
    pub fn generate() -> Result<Self> {
        let mut key = Self::zeros();
        rand::fill(&mut key.0[..])
            .map_err(|_| Error::new(Code::Internal, "cannot draw random bytes for a data key"))?;
        Ok(key)
    }

    /// Takes the bytes over and wipes where they came from.
    pub fn from_bytes(source: &mut [u8; Self::LEN]) -> Self {
        let mut key = Self::zeros();
        key.0.copy_from_slice(source);
        source.zeroize();
        key
    }

    /// As [`Self::from_bytes`], from a slice whose length the sender decided. The slice is wiped in every case;
    /// `None` where it is not 32 bytes long.
    pub fn from_slice(source: &mut [u8]) -> Option<Self> {
        let mut key = Self::zeros();
        let fits = source.len() == Self::LEN;
        if fits {
            key.0.copy_from_slice(source);
        }
        source.zeroize();
        fits.then_some(key)
    }

    /// A second copy, for a second owner.
    pub(crate) fn copy(source: &[u8; Self::LEN]) -> Self {
        let mut key = Self::zeros();
        key.0.copy_from_slice(source);
        key
    }

    /// For whoever takes the bytes over, and wipes them.
    pub(crate) fn expose_mut(&mut self) -> &mut [u8; Self::LEN] {
        &mut self.0
    }

    /// The bytes. Whoever copies them must wipe the copy.
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The bytes are filled in where they will stay.
    fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; Self::LEN])))
    }
}

/// A wrapped key, as the key service gave it: opaque, not secret, 1 to 8,192 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WrappedKey(Vec<u8>);

impl WrappedKey {
    /// Longer than any key service's answer (AWS KMS: 6,144 bytes, RSA-4096: 512), and short enough for the 16-bit
    /// length that an inline envelope gives it.
    pub const MAX_LEN: usize = 8192;

    /// With this every wrap under a local development key begins.
    pub const DEVELOPMENT_PREFIX: &'static [u8] = b"dev:";

    /// Refuses what cannot be a wrapped key with [`Code::WrapInvalid`].
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        if bytes.is_empty() || bytes.len() > Self::MAX_LEN {
            let found = bytes.len();
            return Err(Error::new(Code::WrapInvalid, format!("a wrapped key cannot be {found} bytes long"))
                .cause(format!("1 to {} bytes are allowed", Self::MAX_LEN)));
        }
        Ok(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Whether a local development key made it.
    pub fn is_development(&self) -> bool {
        self.0.starts_with(Self::DEVELOPMENT_PREFIX)
    }
}

impl std::fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WrappedKey({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_material_wipes_where_it_came_from() {
        let mut source = [7; 32];
        let key = KeyMaterial::from_bytes(&mut source);
        assert_eq!(source, [0; 32]);
        assert_eq!(key.expose(), &[7; 32]);
    }

    #[test]
    fn key_material_of_another_length_is_refused_and_wiped_too() {
        let mut short = [7_u8; 31];
        assert!(KeyMaterial::from_slice(&mut short).is_none());
        assert_eq!(short, [0; 31]);
        let mut right = vec![9_u8; 32];
        assert_eq!(KeyMaterial::from_slice(&mut right).unwrap().expose(), &[9; 32]);
        assert_eq!(right, [0; 32]);
    }

    #[test]
    fn two_generated_keys_differ() {
        assert_ne!(KeyMaterial::generate().unwrap().expose(), KeyMaterial::generate().unwrap().expose());
    }

    #[test]
    fn an_empty_or_an_overlong_wrap_is_refused() {
        assert_eq!(WrappedKey::new(Vec::new()).unwrap_err().code(), Code::WrapInvalid);
        assert_eq!(WrappedKey::new(vec![0; WrappedKey::MAX_LEN + 1]).unwrap_err().code(), Code::WrapInvalid);
        assert!(WrappedKey::new(vec![0; WrappedKey::MAX_LEN]).is_ok());
    }

    #[test]
    fn a_development_wrap_is_known_by_its_first_bytes() {
        assert!(WrappedKey::new(b"dev:1".to_vec()).unwrap().is_development());
        assert!(!WrappedKey::new(b"DEV:1".to_vec()).unwrap().is_development());
    }
}
