//! Data keys and their ids.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, Result};
use crate::layout::{KEY_ID_LEN, KEY_LEN};

/// Names a data key (or, for inline kinds, the key that wraps it): 16 random bytes, written as 32 hexadecimal digits.
/// Not a secret: it stands in every envelope.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID_LEN]);

impl KeyId {
    pub const fn from_bytes(bytes: [u8; KEY_ID_LEN]) -> Self {
        Self(bytes)
    }

    /// A new id.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; KEY_ID_LEN];
        rand::fill(&mut bytes).map_err(|_| Error::Random)?;
        Ok(Self(bytes))
    }

    pub const fn as_bytes(&self) -> &[u8; KEY_ID_LEN] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = Error;

    /// 32 lower-case hexadecimal digits: one spelling, so that two texts that differ are two ids.
    fn from_str(text: &str) -> Result<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * KEY_ID_LEN {
            return Err(Error::KeyIdSyntax);
        }
        let mut bytes = [0; KEY_ID_LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn hex_digit(digit: u8) -> Result<u8> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(Error::KeyIdSyntax),
    }
}

/// A 256-bit data key. It cannot be printed, copied or serialised, and is wiped on drop; [`danger::expose`] is the one
/// way to its bytes, for those who wrap it. Everything else derives from it. It lives on the heap, so that moving it
/// leaves no second copy of the bytes behind.
pub struct DataKey(Box<Zeroizing<[u8; KEY_LEN]>>);

/// Its content is.
impl ZeroizeOnDrop for DataKey {}

impl DataKey {
    /// A new key from the operating system's generator through the cryptographic library.
    pub fn generate() -> Result<Self> {
        let mut key = Self::zeros();
        rand::fill(&mut key.0[..]).map_err(|_| Error::Random)?;
        Ok(key)
    }

    /// Takes the key over and wipes where it came from.
    pub fn from_bytes(source: &mut [u8; KEY_LEN]) -> Self {
        let mut key = Self::zeros();
        key.0.copy_from_slice(source);
        source.zeroize();
        key
    }

    /// As [`DataKey::from_bytes`], from a slice that must be 32 bytes long; the source is wiped even when it is not.
    pub fn from_slice(source: &mut [u8]) -> Result<Self> {
        let len = source.len();
        let mut key = Self::zeros();
        if len == KEY_LEN {
            key.0.copy_from_slice(source);
        }
        source.zeroize();
        if len == KEY_LEN { Ok(key) } else { Err(Error::KeyLength(len)) }
    }

    pub(crate) fn duplicate(&self) -> Self {
        let mut key = Self::zeros();
        key.0.copy_from_slice(self.bytes());
        key
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The bytes are filled in where they will stay.
    fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; KEY_LEN])))
    }
}

/// Sharp edges, named.
pub mod danger {
    use super::DataKey;
    use crate::layout::KEY_LEN;

    /// The bytes of a data key: for wrapping it under a root key, and for nothing else.
    pub fn expose(key: &DataKey) -> &[u8; KEY_LEN] {
        key.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_reads_back_what_it_prints_and_nothing_else() {
        let id = KeyId::random().unwrap();
        assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
        assert_eq!(id.to_string().len(), 32);
        for bad in ["", "00", &"g".repeat(32), &"A".repeat(32), &"0".repeat(33)] {
            assert_eq!(bad.parse::<KeyId>(), Err(Error::KeyIdSyntax));
        }
    }

    #[test]
    fn making_a_key_wipes_where_it_came_from() {
        let mut source = [7; KEY_LEN];
        let key = DataKey::from_bytes(&mut source);
        assert_eq!(source, [0; KEY_LEN]);
        assert_eq!(danger::expose(&key), &[7; KEY_LEN]);
        let mut long = [7; 33];
        assert_eq!(DataKey::from_slice(&mut long).err(), Some(Error::KeyLength(33)));
        assert_eq!(long, [0; 33]);
    }
}
