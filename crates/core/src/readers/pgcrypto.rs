//! `pgp_sym_encrypt` and `pgp_sym_encrypt_bytea` of Postgres' pgcrypto: an OpenPGP message under a passphrase, as it is, in
//! ASCII armour, or through `encode`.

use std::borrow::Cow;

use super::encoding::{base64, hex};
use super::error::{Error, Result};
use super::openpgp;
use super::{Foreign, Format, Reader, Secret, any_of};

/// Its keys are passphrases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pgcrypto {
    pub wrapping: Wrapping,
}

/// What an application put around the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// Nothing: a column of bytes.
    Raw,
    /// `armor(…)`.
    Armor,
    /// `encode(…, 'base64')`, which breaks lines.
    Base64,
    /// `encode(…, 'hex')`.
    Hex,
}

const ARMOR: &str = "-----BEGIN PGP MESSAGE-----";
const ARMOR_END: &str = "-----END PGP MESSAGE-----";

impl Format for Pgcrypto {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        match self.wrapping {
            Wrapping::Armor => value.starts_with(ARMOR.as_bytes()),
            _ => self.message(value).is_ok_and(|message| openpgp::begins_with_passphrase_key(&message)),
        }
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        if keys.iter().any(|key| key.is_empty()) {
            return Err(Error::Key("a passphrase that is not empty"));
        }
        let format = *self;
        any_of(keys.to_vec(), move |key: &Secret, value| openpgp::open(key, &format.message(value)?))
    }
}

impl Pgcrypto {
    fn message(self, value: &[u8]) -> Result<Cow<'_, [u8]>> {
        let joined = |lines: &[u8]| lines.iter().copied().filter(|byte| *byte != b'\n').collect::<Vec<u8>>();
        Ok(match self.wrapping {
            Wrapping::Raw => Cow::Borrowed(value),
            Wrapping::Hex => Cow::Owned(hex(value)?),
            Wrapping::Base64 => Cow::Owned(base64(joined(value))?),
            Wrapping::Armor => Cow::Owned(dearmored(value)?),
        })
    }
}

/// RFC 4880 section 6.2. The checksum only finds accidents, which the message's own code does better: it is not looked at.
fn dearmored(value: &[u8]) -> Result<Vec<u8>> {
    let text = std::str::from_utf8(value).map_err(|_| Error::Malformed)?;
    let mut lines = text.lines();
    if lines.next() != Some(ARMOR) {
        return Err(Error::Malformed);
    }
    let mut body = String::new();
    // Headers up to an empty line, lines of base64, a checksum.
    for line in lines.skip_while(|line| !line.is_empty()).skip(1) {
        if line.starts_with('=') || line == ARMOR_END {
            return base64(&body);
        }
        body.push_str(line);
    }
    Err(Error::Malformed)
}
