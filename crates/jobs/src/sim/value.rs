//! A toy envelope that is quick, readable and bound like the real one: what a cell holds, and what it opens to.
//!
//! `enf1:` column tenant key(1 hex) nonce(7 hex) value. The simulation asks who wrote what when; the real envelope has tests of
//! its own.

use enfold::KeyId;
use enfold_testkit::rng::Rng;

pub(super) const COLUMNS: usize = 2;

/// No column's number.
const NOWHERE: u8 = 9;

const PREFIX: &[u8] = b"enf1:";
const HEAD: usize = 15;

/// Has the form of an envelope, whatever it may open to.
pub(super) fn has_form(cell: &[u8]) -> bool {
    cell.len() >= HEAD
        && cell.starts_with(PREFIX)
        && cell[5].is_ascii_digit()
        && cell[6].is_ascii_uppercase()
        && cell[7..HEAD].iter().all(u8::is_ascii_hexdigit)
}

pub(super) fn seal(rng: &mut Rng, key: u8, column: usize, tenant: u8, value: &[u8]) -> Vec<u8> {
    let nonce = rng.next() >> 36;
    let mut cell = format!("enf1:{column}{}{key:x}{nonce:07x}", char::from(b'A' + tenant)).into_bytes();
    cell.extend_from_slice(value);
    cell
}

/// `None`: sealed for another column or tenant.
pub(super) fn open(column: usize, tenant: u8, cell: &[u8]) -> Option<Vec<u8>> {
    let here = has_form(cell) && usize::from(cell[5] - b'0') == column && cell[6] == b'A' + tenant;
    here.then(|| cell[HEAD..].to_vec())
}

/// The data key, from 0 to 15, under which what has the form of an envelope was sealed, or pretends to have been.
pub(super) fn key_of(cell: &[u8]) -> Option<u8> {
    let digit = has_form(cell).then(|| char::from(cell[7]).to_digit(16))??;
    u8::try_from(digit).ok()
}

pub(super) fn key_id(key: u8) -> KeyId {
    KeyId::from_bytes([key; 16])
}

/// What a reader of the cell gets in hybrid mode.
pub(super) fn read(column: usize, tenant: u8, cell: &[u8]) -> Option<Vec<u8>> {
    if has_form(cell) { open(column, tenant, cell) } else { Some(cell.to_vec()) }
}

/// A toy blind index (FNV-1a) over the first column, per tenant.
pub(super) fn index(tenant: u8, value: &[u8]) -> Vec<u8> {
    let start = 0xcbf2_9ce4_8422_2325 ^ u64::from(tenant);
    let hash = value.iter().fold(start, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    hash.to_be_bytes().to_vec()
}

/// Something that a user may have typed; now and then what looks like an envelope and is not.
pub(super) fn typed(rng: &mut Rng) -> Option<Vec<u8>> {
    let n = rng.below(1_000_000);
    let text = match rng.below(20) {
        0 => return None,
        1 => String::new(),
        2 => format!("enf1:typed {n}"),
        3 => format!("poison {n}"),
        4 | 5 => format!("Word{n}"),
        _ => format!("v{n}"),
    };
    Some(text.into_bytes())
}

/// What has the form of an envelope and opens nowhere: pasted from another system, or broken.
pub(super) fn pasted(rng: &mut Rng) -> Vec<u8> {
    let nonce = rng.next() >> 32;
    format!("enf1:{NOWHERE}A{nonce:08x}pasted").into_bytes()
}

/// The mark of [`pasted`].
pub(super) fn opens_nowhere(cell: &[u8]) -> bool {
    has_form(cell) && cell[5] == b'0' + NOWHERE
}

/// Equal to a type that ignores case (citext), and not the same bytes.
pub(super) fn other_case(value: &[u8]) -> Vec<u8> {
    let turn = |b: &u8| if b.is_ascii_lowercase() { b.to_ascii_uppercase() } else { b.to_ascii_lowercase() };
    value.iter().map(turn).collect()
}

/// What no codec can convert.
pub(super) fn is_poison(value: &[u8]) -> bool {
    value.to_ascii_lowercase().starts_with(b"poison")
}
