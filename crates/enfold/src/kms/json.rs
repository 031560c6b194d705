//! JSON that carries keys and tokens: written where it will be wiped, and read into what wipes itself.

use std::fmt;

use base64::Engine;
use base64::engine::GeneralPurpose;
use bytes::Bytes;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use super::http;
use super::material::KeyMaterial;

/// A secret string of an answer: wiped, and nothing in between where JSON did not need to escape it.
#[derive(Default)]
pub(super) struct Text(pub(super) Zeroizing<String>);

impl Text {
    /// The bytes that it holds in base64, at most `N`.
    pub(super) fn bytes<const N: usize>(&self, base64: &GeneralPurpose) -> Option<Zeroizing<Vec<u8>>> {
        // The decoder wants room for the whole of its last group.
        let mut bytes = Zeroizing::new(vec![0; N + 3]);
        let length = base64.decode_slice(self.0.as_bytes(), &mut bytes[..]).ok()?;
        bytes.truncate(length);
        (length <= N).then_some(bytes)
    }

    /// All the bytes that it holds in base64.
    #[cfg(feature = "vault")]
    pub(super) fn all(&self, base64: &GeneralPurpose) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(vec![0; self.0.len() / 4 * 3 + 3]);
        let length = base64.decode_slice(self.0.as_bytes(), &mut bytes[..]).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }

    /// The key that it holds in base64.
    pub(super) fn key(&self, base64: &GeneralPurpose) -> Option<KeyMaterial> {
        KeyMaterial::from_slice(&mut self.bytes::<{ KeyMaterial::LEN }>(base64)?)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Wiped;
        impl Visitor<'_> for Wiped {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Zeroizing::new(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Wiped)
    }
}

/// JSON that is written where it will be wiped; `room` is enough for all of it, so that it does not move.
pub(super) fn body(value: &impl Serialize, room: usize) -> Bytes {
    let mut json = Zeroizing::new(Vec::with_capacity(room));
    // Strings and numbers into memory: nothing in it can fail.
    serde_json::to_writer(&mut *json, value).ok();
    http::secret_body(json)
}

/// Bytes in base64, in a place that is wiped.
pub(super) fn encode(base64: &GeneralPurpose, bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(4 * bytes.len().div_ceil(3)));
    base64.encode_string(bytes, &mut text);
    text
}
