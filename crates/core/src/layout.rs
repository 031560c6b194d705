//! The sizes and constant bytes of envelope version 1. `docs/format.md` is the same in words; the assertions below are
//! the sums written out, so that neither can change alone.

/// First bytes of every envelope. `F9` never occurs in UTF-8, so no text column's bytes begin like this, and the
/// three bytes are exactly four characters (`-enf`) of base64url.
pub const MAGIC: [u8; 3] = [0xf9, 0xe9, 0xdf];
/// The version this program writes, and the only one it reads.
pub const VERSION: u8 = 1;
/// AES-256-GCM under a salted HKDF-SHA-256 subkey that commits to its key.
pub const SUITE: u8 = 1;

pub const MAGIC_LEN: usize = 3;
pub const KEY_ID_LEN: usize = 16;
/// Magic, version, suite and kind, key id: what all envelopes under one key have in common.
pub const KEY_PREFIX_LEN: usize = 21;
/// The same in base64.
pub const KEY_PREFIX_CHARS: usize = 28;
/// Key prefix, payload type, padding.
pub const FIXED_LEN: usize = 23;
/// Length field of an inline kind's wrapped data key, big-endian.
pub const WRAPPED_FIELD_LEN: usize = 2;
/// 128 bits: 2^64 salts under one data key before two are likely equal.
pub const SALT_LEN: usize = 16;
/// 256 bits: 128-bit security against finding two keys that commit to the same value.
pub const COMMITMENT_LEN: usize = 32;
/// NIST SP 800-38D section 8.2.2, the RBG-based construction: 96 random bits.
pub const NONCE_LEN: usize = 12;
/// NIST SP 800-38D: the full 128-bit tag; shorter ones are not spoken.
pub const TAG_LEN: usize = 16;
/// A data key and a subkey: AES-256.
pub const KEY_LEN: usize = 32;

/// What an envelope that names its data key adds to the plaintext.
pub const OVERHEAD: usize = 99;
/// A data key wrapped by another data key: salt, commitment, nonce, 32 bytes of ciphertext, tag.
pub const WRAPPED_KEY_LEN: usize = 108;

/// Largest value, in bytes, before padding. Postgres holds at most 1 GiB in a field.
pub const MAX_VALUE_LEN: usize = 1 << 30;
/// Largest padding block, in bytes.
pub const MAX_PADDING_BLOCK: u32 = 1 << 20;

/// Values under one subkey. With random 96-bit nonces the chance that two of 2^24 are equal is below
/// (2^24)^2 / 2 / 2^96 = 2^-49, within SP 800-38D section 8.3's 2^-32 by far.
pub const SUBKEY_VALUES: u64 = 1 << 24;
/// Bytes under one subkey: 2^32 AES blocks.
pub const SUBKEY_BYTES: u64 = 1 << 36;

const _: () = {
    assert!(MAGIC.len() == MAGIC_LEN);
    assert!(MAGIC_LEN + 1 /* version */ + 1 /* suite and kind */ + KEY_ID_LEN == KEY_PREFIX_LEN);
    // A whole number of 3-byte groups, so that the key id is a prefix in base64 too.
    assert!(KEY_PREFIX_LEN.is_multiple_of(3) && KEY_PREFIX_LEN / 3 * 4 == KEY_PREFIX_CHARS);
    assert!(KEY_PREFIX_LEN + 1 /* payload type */ + 1 /* padding */ == FIXED_LEN);
    assert!(FIXED_LEN + SALT_LEN + COMMITMENT_LEN + NONCE_LEN + TAG_LEN == OVERHEAD);
    // The promise of the design.
    assert!(OVERHEAD <= 104);
    assert!(SALT_LEN + COMMITMENT_LEN + NONCE_LEN + KEY_LEN + TAG_LEN == WRAPPED_KEY_LEN);
    assert!(WRAPPED_KEY_LEN <= u16::MAX as usize);
    // A padded value still fits one GCM invocation (SP 800-38D section 5.2.1.1: 2^36 - 32 bytes) and one budget.
    assert!((MAX_VALUE_LEN as u64) + (MAX_PADDING_BLOCK as u64) < SUBKEY_BYTES - 32);
    assert!(2 * SUBKEY_VALUES.ilog2() - 1 < 96 - 48);
};
