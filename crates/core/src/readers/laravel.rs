//! Laravel's `Crypt` (Illuminate\Encryption\Encrypter): JSON in base64, AES-CBC with an HMAC, or AES-GCM.

use serde::Deserialize;
use zeroize::Zeroizing;

use super::encoding::{base64, hex};
use super::error::{Error, Result};
use super::primitives::{BLOCK, Gcm, authenticate, cbc_pkcs7};
use super::{Foreign, Format, Plaintext, Reader, Secret, any_of};

/// `{"iv":` in base64.
const BEGINNING: &[u8] = b"eyJpdiI6";

/// Its keys are those of `APP_KEY`: `base64:` and 16 or 32 bytes, or such a number of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Laravel {
    /// Whether values were serialized, as `Crypt::encrypt` does unless told otherwise; `Crypt::encryptString` and the cast
    /// `encrypted` do not.
    pub serialized: bool,
}

struct Key {
    bytes: Secret,
    gcm: Gcm,
}

/// All but `tag` since ever; nothing else is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    iv: String,
    value: String,
    mac: String,
    #[serde(default)]
    tag: String,
}

impl Format for Laravel {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        value.starts_with(BEGINNING)
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        let keys = keys.iter().map(Key::new).collect::<Result<_>>()?;
        let serialized = self.serialized;
        any_of(keys, move |key: &Key, value| {
            let plaintext = key.open(value)?;
            if serialized { unserialize(&plaintext) } else { Ok(plaintext) }
        })
    }
}

impl Key {
    fn new(secret: &Secret) -> Result<Self> {
        let expected = Error::Key("`base64:` and 16 or 32 bytes, as in `APP_KEY`");
        let bytes = match secret.trim_ascii().strip_prefix(b"base64:") {
            Some(encoded) => Zeroizing::new(base64(encoded).map_err(|_| expected)?),
            None => secret.clone(),
        };
        let gcm = Gcm::new(&bytes).map_err(|_| expected)?;
        Ok(Self { bytes, gcm })
    }

    fn open(&self, value: &[u8]) -> Result<Plaintext> {
        let json = base64(value)?;
        let payload: Payload = serde_json::from_slice(&json).map_err(|_| Error::Malformed)?;
        let (iv, ciphertext) = (base64(&payload.iv)?, base64(&payload.value)?);
        if payload.mac.is_empty() {
            return self.gcm.open(&iv, b"", &ciphertext, &base64(&payload.tag)?);
        }
        let iv: [u8; BLOCK] = iv.try_into().map_err(|_| Error::Malformed)?;
        let capitals = payload.mac.bytes().any(|digit| digit.is_ascii_uppercase());
        if !payload.tag.is_empty() || capitals {
            return Err(Error::Malformed);
        }
        let signed = [payload.iv, payload.value].concat();
        authenticate(&self.bytes, signed.as_bytes(), &hex(payload.mac.as_bytes())?)?;
        cbc_pkcs7(&self.bytes, &iv, &ciphertext)
    }
}

/// The text in `s:LENGTH:"TEXT";`, of all that PHP's `serialize` writes.
fn unserialize(serialized: &[u8]) -> Result<Plaintext> {
    let text = || {
        let rest = serialized.strip_prefix(b"s:")?;
        let colon = rest.iter().position(|byte| *byte == b':')?;
        let len: usize = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
        let text = rest[colon..].strip_prefix(b":\"")?.strip_suffix(b"\";")?;
        (text.len() == len).then(|| Zeroizing::new(text.to_vec()))
    };
    text().ok_or(Error::Unsupported("a serialized value that is not a text"))
}
