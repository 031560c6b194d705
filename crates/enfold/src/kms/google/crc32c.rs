//! The checksum that Google Cloud KMS checks both ways: CRC-32C (RFC 3720, appendix B.4), as a number in a string.

use crc::{CRC_32_ISCSI, Crc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// `google.protobuf.Int64Value` in JSON: a string of digits; numbers are read as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crc32c(u32);

impl Crc32c {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(CASTAGNOLI.checksum(bytes))
    }
}

impl Serialize for Crc32c {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string())
    }
}

impl<'de> Deserialize<'de> for Crc32c {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Number(u32),
            Text(String),
        }
        match Spelling::deserialize(deserializer)? {
            Spelling::Number(n) => Ok(Self(n)),
            Spelling::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_checksum_of_rfc_3720() {
        for (bytes, sum) in
            [(vec![0; 32], 0x8a91_36aa), (vec![0xff; 32], 0x62a8_ab43), ((0..32).collect(), 0x46dd_794e)]
        {
            assert_eq!(Crc32c::of(&bytes), Crc32c(sum));
        }
        assert_eq!(serde_json::to_string(&Crc32c(7)).unwrap(), "\"7\"");
        assert_eq!(serde_json::from_str::<Crc32c>("\"4294967295\"").unwrap(), Crc32c(u32::MAX));
        assert!(serde_json::from_str::<Crc32c>("\"4294967296\"").is_err());
        assert!(serde_json::from_str::<Crc32c>("\"-1\"").is_err());
    }
}
