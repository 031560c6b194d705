//! The pickles of a text and of bytes, and of nothing else: whatever a pickle can run is refused.

use super::Plaintext;
use super::error::{Error, Result};

/// The text or bytes in a pickle of protocol 2 to 5 (Python's `pickletools` has the opcodes).
pub(super) fn text_or_bytes(pickle: &[u8]) -> Result<Plaintext> {
    read(pickle).map(|found| found.to_vec().into()).ok_or(Error::Unsupported("a pickle that is neither text nor bytes"))
}

fn read(pickle: &[u8]) -> Option<&[u8]> {
    let mut rest = pickle.strip_prefix(&[0x80])?.split_first().filter(|(protocol, _)| (2..=5).contains(*protocol))?.1;
    // FRAME
    if let Some(framed) = rest.strip_prefix(&[0x95]) {
        let (len, inside) = framed.split_first_chunk::<8>()?;
        if u64::from_le_bytes(*len) != u64::try_from(inside.len()).ok()? {
            return None;
        }
        rest = inside;
    }
    let (opcode, rest) = rest.split_first()?;
    let (len, rest) = match opcode {
        // SHORT_BINUNICODE, SHORT_BINBYTES
        0x8c | b'C' => rest.split_first_chunk::<1>().map(|(len, rest)| (u64::from(len[0]), rest)),
        // BINUNICODE, BINBYTES
        b'X' | b'B' => rest.split_first_chunk::<4>().map(|(len, rest)| (u64::from(u32::from_le_bytes(*len)), rest)),
        // BINUNICODE8, BINBYTES8
        0x8d | 0x8e => rest.split_first_chunk::<8>().map(|(len, rest)| (u64::from_le_bytes(*len), rest)),
        _ => None,
    }?;
    let (found, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    // Python keeps it for later, and stops: MEMOIZE or BINPUT, STOP.
    matches!(rest, [b'.'] | [0x94, b'.'] | [b'q', _, b'.']).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_and_bytes_are_read() {
        assert_eq!(&text_or_bytes(b"\x80\x02X\x03\x00\x00\x00annq\x00.").unwrap()[..], b"ann");
        assert_eq!(&text_or_bytes(b"\x80\x03C\x02\x00\xffq\x00.").unwrap()[..], [0, 255]);
        let bad: [&[u8]; 7] = [
            b"",
            b"\x80\x04K\x05.",
            b"\x80\x02X\x03\x00\x00\x00annq\x00.x",
            b"\x80\x02X\xff\xff\xff\xffann.",
            b"\x80\x01X\x03\x00\x00\x00ann.",
            b"cos\nsystem\n(S'true'\ntR.",
            b"\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00\x8c\x03ann\x94.",
        ];
        for pickle in bad {
            assert!(text_or_bytes(pickle).is_err(), "{pickle:?}");
        }
    }
}
