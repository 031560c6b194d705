//! An entry of the shared cache: a data key, and when the key service last gave it out, sealed.
//!
//! `milliseconds since 1970, 8 bytes big-endian ‖ wrap`, the wrap as the local provider makes it (`kms/aead.rs`) under the
//! ring's key for entries. That key is a data key of a purpose of its own: the root keys wrap it, the catalog keeps it, the
//! ring's row key authenticates it and the operators can disable it. The time and the context of the data key's own wraps
//! (ring, data-key id, scope, tenant, labels) are bound to the entry, so it opens for that one data key and no other.

use std::time::Duration;

use crate::Result;
use crate::kms::{EncryptionContext, KeyMaterial, WrappedKey, aead};

const PURPOSE: &[u8] = b"enfold/v1 shared cache";
const PREFIX: &[u8] = b"enfold-entry:";
const TIME: usize = 8;
const TIME_NAME: &str = "enfold:unwrapped-at";

/// No entry is longer: what is, is none.
pub(crate) const LONGEST: usize = 128;
/// How far the clock of another machine may be ahead.
const SKEW: Duration = Duration::from_secs(5);

/// What an entry said.
pub(crate) enum Opened {
    /// A data key, and how long ago the key service gave it out.
    Key(KeyMaterial, Duration),
    /// It is none of ours, or not the one that was asked for.
    Refused,
}

pub(crate) fn seal(
    entries: &KeyMaterial,
    key: &KeyMaterial,
    context: &EncryptionContext,
    at: jiff::Timestamp,
) -> Result<Vec<u8>> {
    let at = at.as_millisecond();
    let wrapped = aead::wrap(PREFIX, PURPOSE, entries, key, &timed(context, at)?)?;
    Ok([&at.to_be_bytes()[..], wrapped.as_bytes()].concat())
}

pub(crate) fn open(entries: &KeyMaterial, entry: &[u8], context: &EncryptionContext, now: jiff::Timestamp) -> Opened {
    let found = || {
        let entry = Some(entry).filter(|entry| entry.len() <= LONGEST)?;
        let (at, wrapped) = entry.split_first_chunk::<TIME>()?;
        let at = i64::from_be_bytes(*at);
        let wrapped = WrappedKey::new(wrapped.to_vec()).ok()?;
        let key = aead::unwrap(PREFIX, PURPOSE, entries, &wrapped, &timed(context, at).ok()?)?;
        let age = now.as_millisecond().checked_sub(at)?;
        let ahead = i64::try_from(SKEW.as_millis()).ok()?;
        (age >= -ahead).then(|| Opened::Key(key, Duration::from_millis(u64::try_from(age).unwrap_or(0))))
    };
    found().unwrap_or(Opened::Refused)
}

fn timed(context: &EncryptionContext, at: i64) -> Result<EncryptionContext> {
    context.clone().with(TIME_NAME, &at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> KeyMaterial {
        KeyMaterial::generate().unwrap()
    }

    fn context(tenant: &str) -> EncryptionContext {
        EncryptionContext::new().with("enfold:ring", "r").unwrap().with("enfold:tenant", tenant).unwrap()
    }

    fn at(seconds: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn an_entry_says_its_key_and_its_age_and_every_changed_bit_is_refused() {
        let (entries, data_key) = (key(), key());
        let sealed = seal(&entries, &data_key, &context("a"), at(1000)).unwrap();
        assert!(sealed.len() <= LONGEST);
        let Opened::Key(opened, age) = open(&entries, &sealed, &context("a"), at(1060)) else { panic!("refused") };
        assert_eq!((opened.expose(), age), (data_key.expose(), Duration::from_secs(60)));
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(&entries, &changed, &context("a"), at(1060)), Opened::Refused), "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert!(matches!(open(&entries, &sealed[..cut], &context("a"), at(1060)), Opened::Refused), "cut at {cut}");
        }
    }

    #[test]
    fn an_entry_of_another_tenant_another_key_or_the_future_is_refused() {
        let entries = key();
        let sealed = seal(&entries, &key(), &context("a"), at(1000)).unwrap();
        let refused =
            |entries: &KeyMaterial, context, now| matches!(open(entries, &sealed, &context, now), Opened::Refused);
        assert!(refused(&entries, context("b"), at(1000)));
        assert!(refused(&key(), context("a"), at(1000)));
        assert!(refused(&entries, context("a"), at(994)));
        assert!(!refused(&entries, context("a"), at(996)), "clocks differ by a little");
    }
}
