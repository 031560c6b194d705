//! Bytes as text, in one spelling each: otherwise a character could be changed without any check noticing.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::error::{Error, Result};

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Raw,
    Hex,
    Base64,
    Base64Url,
    Base64Unpadded,
    Base64UrlUnpadded,
}

const fn engine(alphabet: &Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(false);
    GeneralPurpose::new(alphabet, config.with_decode_padding_mode(padding))
}

const STANDARD_PADDED: GeneralPurpose = engine(&STANDARD, DecodePaddingMode::RequireCanonical);
const URL_SAFE_PADDED: GeneralPurpose = engine(&URL_SAFE, DecodePaddingMode::RequireCanonical);
const STANDARD_ANY: GeneralPurpose = engine(&STANDARD, DecodePaddingMode::Indifferent);
const URL_SAFE_ANY: GeneralPurpose = engine(&URL_SAFE, DecodePaddingMode::Indifferent);

impl Encoding {
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(self, text: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Raw => Ok(text.to_vec()),
            Self::Hex => hex(text),
            // With its padding or, as some write it, without.
            Self::Base64 | Self::Base64Unpadded => STANDARD_ANY.decode(text).map_err(|_| Error::Malformed),
            Self::Base64Url | Self::Base64UrlUnpadded => URL_SAFE_ANY.decode(text).map_err(|_| Error::Malformed),
        }
    }

    /// Whether encoded bytes may have this in them.
    pub fn may_hold(self, byte: u8) -> bool {
        match self {
            Self::Raw => true,
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Base64 | Self::Base64Unpadded => byte.is_ascii_alphanumeric() || b"+/=".contains(&byte),
            Self::Base64Url | Self::Base64UrlUnpadded => byte.is_ascii_alphanumeric() || b"-_=".contains(&byte),
        }
    }

    /// Hexadecimal digits in small letters.
    pub(super) fn encode(self, bytes: &[u8]) -> Vec<u8> {
        let digit = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
        match self {
            Self::Raw => bytes.to_vec(),
            Self::Hex => bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect(),
            Self::Base64 => STANDARD_PADDED.encode(bytes).into_bytes(),
            Self::Base64Url => URL_SAFE_PADDED.encode(bytes).into_bytes(),
            Self::Base64Unpadded => STANDARD_NO_PAD.encode(bytes).into_bytes(),
            Self::Base64UrlUnpadded => URL_SAFE_NO_PAD.encode(bytes).into_bytes(),
        }
    }
}

/// With its padding.
pub(super) fn base64(text: impl AsRef<[u8]>) -> Result<Vec<u8>> {
    STANDARD_PADDED.decode(text).map_err(|_| Error::Malformed)
}

/// With its padding.
pub(super) fn base64url(text: impl AsRef<[u8]>) -> Result<Vec<u8>> {
    URL_SAFE_PADDED.decode(text).map_err(|_| Error::Malformed)
}

/// In small letters or in capitals, and not in both.
pub(super) fn hex(text: &[u8]) -> Result<Vec<u8>> {
    let capital = text.iter().any(|digit| (b'A'..=b'F').contains(digit));
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' if !capital => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(Error::Malformed),
    };
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Error::Malformed);
    }
    pairs.iter().map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_spelling() {
        assert_eq!(hex(b"00ff").unwrap(), [0, 255]);
        assert_eq!(hex(b"00FF").unwrap(), [0, 255]);
        for bad in ["0", "0x", "aB", "é", "0 "] {
            assert_eq!(hex(bad.as_bytes()), Err(Error::Malformed), "{bad}");
        }
        assert_eq!(base64("AA==").unwrap(), [0]);
        for bad in ["AA", "AB==", "AA=", "AA ==", "AA==\n", "-w=="] {
            assert_eq!(base64(bad), Err(Error::Malformed), "{bad}");
        }
        assert_eq!(Encoding::Base64Url.decode(b"_w").unwrap(), [255]);
        assert_eq!(Encoding::Base64Url.decode(b"_w==").unwrap(), [255]);
        assert_eq!(Encoding::Base64.decode(b"_w=="), Err(Error::Malformed));
    }
}
