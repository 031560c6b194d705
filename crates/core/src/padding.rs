//! Hiding lengths: ISO/IEC 7816-4 padding, inside what is encrypted.
//!
//! The header says only whether a value is padded. Where the value ends is under the AEAD, so there is no oracle: an
//! envelope that was changed is refused before its padding is looked at.

use crate::error::{Error, Result};
use crate::layout::{MAX_PADDING_BLOCK, MAX_VALUE_LEN};

/// How a value's length is hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// The ciphertext is as long as the value.
    #[default]
    None,
    /// The ciphertext is a multiple of this many bytes, at least one longer than the value; 1 to 2^20.
    Block(u32),
}

const MARK: u8 = 0x80;

impl Padding {
    /// As it stands in the header.
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Padding::None => 0,
            Padding::Block(_) => 1,
        }
    }

    /// How long `len` bytes become, or why they may not be sealed.
    pub(crate) fn padded_len(self, len: usize) -> Result<usize> {
        if len > MAX_VALUE_LEN {
            return Err(Error::ValueTooLarge { len: len as u64, max: MAX_VALUE_LEN as u64 });
        }
        match self {
            Padding::None => Ok(len),
            Padding::Block(block @ 1..=MAX_PADDING_BLOCK) => Ok((len + 1).next_multiple_of(block as usize)),
            Padding::Block(block) => Err(Error::PaddingBlock(block)),
        }
    }

    /// Appends the mark and the zeros that bring `out`, whose value begins at `start`, to `padded` bytes.
    pub(crate) fn pad(self, out: &mut Vec<u8>, start: usize, padded: usize) {
        if self != Padding::None {
            out.push(MARK);
            out.resize(start + padded, 0);
        }
    }
}

/// Takes the padding off a value that was opened.
pub(crate) fn unpad(value: &mut Vec<u8>) -> Result<()> {
    match value.iter().rposition(|byte| *byte != 0) {
        Some(at) if value[at] == MARK => {
            value.truncate(at);
            Ok(())
        }
        _ => Err(Error::OpenFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(value: &[u8], block: u32) -> Vec<u8> {
        let padding = Padding::Block(block);
        let mut out = value.to_vec();
        padding.pad(&mut out, 0, padding.padded_len(value.len()).unwrap());
        out
    }

    #[test]
    fn padding_comes_off_again_whatever_the_value_ends_with() {
        for value in [&b""[..], b"a", b"\x80", b"\x80\0\0", b"\0\0\0", b"sixteen bytes ok"] {
            for block in [1, 2, 16, 64] {
                let mut out = padded(value, block);
                assert_eq!(out.len() % block as usize, 0);
                assert!(out.len() > value.len());
                unpad(&mut out).unwrap();
                assert_eq!(out, value);
            }
        }
    }

    #[test]
    fn what_has_no_mark_is_refused() {
        for bad in [&b""[..], b"\0\0", b"abc", b"\x81\0"] {
            assert_eq!(unpad(&mut bad.to_vec()), Err(Error::OpenFailed));
        }
    }

    #[test]
    fn blocks_outside_the_limits_are_refused() {
        for block in [0, MAX_PADDING_BLOCK + 1] {
            assert_eq!(Padding::Block(block).padded_len(1), Err(Error::PaddingBlock(block)));
        }
        assert!(matches!(Padding::None.padded_len(MAX_VALUE_LEN + 1), Err(Error::ValueTooLarge { .. })));
    }
}
