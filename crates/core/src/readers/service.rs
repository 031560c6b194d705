//! Values that a key service itself encrypted. It opens them too: here is only how they are recognised and written.

use super::encoding::{Encoding, base64};
use super::error::{Error, Result};
use super::{Foreign, Format, Plaintext, Reader, Secret, Wrapped};

/// What the transit engine of Vault and OpenBao stores: `vault:vN:…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transit;

/// What `Encrypt` of AWS KMS gives, as bytes or in an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwsBlob {
    pub encoding: Encoding,
}

const TRANSIT: &[u8] = b"vault:v";

/// API reference, `Decrypt`: 6,144 bytes at most. What a blob begins with is not documented, so it is not looked at; IV,
/// tag and the key's name are always there.
const AWS_LEN: std::ops::RangeInclusive<usize> = 60..=6144;

impl Format for Transit {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        value.starts_with(TRANSIT)
    }

    fn with_keys(&self, _: &[Secret]) -> Result<Box<dyn Reader>> {
        Err(Error::Key("none: a key service opens it"))
    }

    fn wrapped(&self, value: &Foreign<'_>) -> Option<Result<Wrapped>> {
        Some(transit(value).map(|()| Wrapped::Value(value.to_vec())))
    }

    fn open_with(&self, _: &Foreign<'_>, opened: &Secret) -> Result<Plaintext> {
        Ok(opened.clone())
    }
}

/// One spelling, so that a character cannot be changed without anybody noticing.
pub(super) fn transit(value: &[u8]) -> Result<()> {
    let rest = value.strip_prefix(TRANSIT).ok_or(Error::Malformed)?;
    let colon = rest.iter().position(|byte| *byte == b':').ok_or(Error::Malformed)?;
    let (version, sealed) = (&rest[..colon], &rest[colon + 1..]);
    let numbered = (1..=9).contains(&version.len()) && version.iter().all(u8::is_ascii_digit) && version[0] != b'0';
    if numbered && !base64(sealed)?.is_empty() { Ok(()) } else { Err(Error::Malformed) }
}

impl Format for AwsBlob {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        self.encoding.decode(value).is_ok_and(|bytes| AWS_LEN.contains(&bytes.len()))
    }

    fn with_keys(&self, _: &[Secret]) -> Result<Box<dyn Reader>> {
        Err(Error::Key("none: a key service opens it"))
    }

    fn wrapped(&self, value: &Foreign<'_>) -> Option<Result<Wrapped>> {
        Some(self.encoding.decode(value).map(Wrapped::Value))
    }

    fn open_with(&self, _: &Foreign<'_>, opened: &Secret) -> Result<Plaintext> {
        Ok(opened.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transit_value_has_one_spelling() {
        for good in ["vault:v1:AAAA", "vault:v12:AAA="] {
            assert_eq!(transit(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in
            ["vault:v", "vault:v1", "vault:v0:AAAA", "vault:v01:AAAA", "vault:v1:", "vault:v1:AAA", "vault:vx:AAAA"]
        {
            assert_eq!(transit(bad.as_bytes()), Err(Error::Malformed), "{bad}");
            assert!(Transit.recognises(&bad.as_bytes().into()), "a damaged one is no plaintext");
        }
        assert!(!Transit.recognises(&b"vault"[..].into()));
        assert!(matches!(Transit.with_keys(&[]), Err(Error::Key(_))));
    }
}
