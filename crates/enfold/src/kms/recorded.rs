//! Wraps that say which key made them.
//!
//! An alias of AWS KMS may be pointed at another key, and its wraps must still open. So a wrap under an alias begins with
//! [`MAGIC`], the length of the ARN of the key that made it (one byte), and the ARN, as the service answered it; the
//! service's ciphertext follows. A wrap under a key's id or ARN is the ciphertext alone: the URI says which key it was.

use std::fmt;

use super::material::WrappedKey;
use super::uri::{KeyUri, RootKey};
use crate::error::Result;

/// No ciphertext of AWS KMS begins so: theirs begin with the byte 1, and those of imitations with a key's id.
const MAGIC: &[u8; 4] = b"aws1";

/// `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`, of a key and of no alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyArn {
    text: String,
}

impl KeyArn {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let uri: KeyUri = format!("aws-kms://{text}").parse().ok()?;
        match uri.root() {
            RootKey::Aws(aws) if aws.key() == text && !aws.is_alias() && text.len() <= usize::from(u8::MAX) => {
                Some(Self { text: text.to_owned() })
            }
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn id(&self) -> &str {
        id(&self.text)
    }

    pub(crate) fn region(&self) -> &str {
        self.part(3)
    }

    /// Two keys that are of one account, whatever their region: `PARTITION` and `ACCOUNT`.
    pub(crate) fn is_of_the_account_of(&self, other: &Self) -> bool {
        self.part(1) == other.part(1) && self.part(4) == other.part(4)
    }

    /// The same key there: itself, or its replica where it is a multi-region key.
    pub(crate) fn in_region(&self, region: &str) -> Option<Self> {
        if self.region() == region {
            return Some(self.clone());
        }
        let text = self.text.replacen(&format!(":{}:", self.region()), &format!(":{region}:"), 1);
        is_multi_region(self.id()).then_some(Self { text })
    }

    fn part(&self, at: usize) -> &str {
        self.text.split(':').nth(at).unwrap_or_default()
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A wrap that names the key that made it.
pub(crate) fn record(made_by: &KeyArn, ciphertext: &[u8]) -> Result<WrappedKey> {
    let length = u8::try_from(made_by.text.len()).unwrap_or_default();
    WrappedKey::new([&MAGIC[..], &[length], made_by.text.as_bytes(), ciphertext].concat())
}

/// The key that a wrap names, if it names one, and the service's ciphertext.
pub(crate) fn read(wrapped: &[u8]) -> (Option<KeyArn>, &[u8]) {
    let parts = || {
        let (length, rest) = wrapped.strip_prefix(MAGIC)?.split_first()?;
        let (arn, ciphertext) = rest.split_at_checked(usize::from(*length))?;
        Some((KeyArn::parse(std::str::from_utf8(arn).ok()?)?, ciphertext))
    };
    parts().map_or((None, wrapped), |(arn, ciphertext)| (Some(arn), ciphertext))
}

/// Whether a root key opens what another one of the ring wrapped, so that it need not have wrapped that itself: the key of
/// AWS KMS that the wrap is of, under another name, or its replica in another region.
pub(crate) fn opens(root: &KeyUri, wrapped_under: &str, wrapped: &[u8]) -> bool {
    let Ok(other) = wrapped_under.parse::<KeyUri>() else { return false };
    let (RootKey::Aws(aws), RootKey::Aws(by)) = (root.root(), other.root()) else { return false };
    let (recorded, _) = read(wrapped);
    let (made_by, region) = match &recorded {
        Some(arn) => (arn.id(), arn.region()),
        // Which key an alias stood for is known by what it recorded alone.
        None if by.is_alias() => return false,
        None => (id(by.key()), by.region()),
    };
    let reachable = region == aws.region() || is_multi_region(made_by);
    reachable && if aws.is_alias() { recorded.is_some() } else { id(aws.key()) == made_by }
}

fn is_multi_region(id: &str) -> bool {
    id.starts_with("mrk-")
}

/// Of an ARN, or of an id.
pub(crate) fn id(key: &str) -> &str {
    key.rsplit_once("key/").map_or(key, |(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
    const MRK: &str = "mrk-1234abcd12ab34cd56ef1234567890ab";

    fn arn(region: &str, id: &str) -> KeyArn {
        KeyArn::parse(&format!("arn:aws:kms:{region}:111122223333:key/{id}")).unwrap()
    }

    fn wrap(made_by: &KeyArn) -> Vec<u8> {
        let text = made_by.as_str();
        [&b"aws1"[..], &[u8::try_from(text.len()).unwrap()], text.as_bytes(), b"sealed"].concat()
    }

    #[test]
    fn only_arns_of_keys_are_arns_of_keys() {
        assert_eq!(arn("eu-west-1", MRK).id(), MRK);
        for bad in [
            "",
            ID,
            "arn:aws:kms:eu-west-1:111122223333:alias/orders",
            "arn:aws:kms:eu-west-1:111122223333:key/",
            "arn:aws:s3:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab?endpoint=http://h",
        ] {
            assert_eq!(KeyArn::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_record_is_taken_for_ciphertext() {
        let made_by = arn("eu-west-1", ID);
        assert_eq!(read(&wrap(&made_by)), (Some(made_by.clone()), &b"sealed"[..]));
        for other in [&b"aws1"[..], b"aws1\xff", b"aws1\x03arn", &wrap(&made_by)[..40], b"\x01\x02\x02\x00"] {
            assert_eq!(read(other), (None, other));
        }
    }

    #[test]
    fn a_root_key_opens_what_its_replica_or_its_alias_wrapped_and_nothing_else() {
        let uri = |text: String| format!("aws-kms://{text}");
        let opens = |root: &str, under: &str, made: &[u8]| {
            opens(&uri(root.to_owned()).parse().unwrap(), &uri(under.to_owned()), made)
        };
        let (here, there) = (format!("eu-west-1/{MRK}"), format!("us-east-1/{MRK}"));
        assert!(opens(&there, &here, b"sealed"));
        assert!(opens(&format!("arn:aws:kms:us-east-1:111122223333:key/{MRK}"), &here, b"sealed"));
        assert!(!opens(&format!("us-east-1/{ID}"), &here, b"sealed"), "another key");
        assert!(!opens(&format!("us-east-1/{ID}"), &format!("eu-west-1/{ID}"), b"sealed"), "a key of one region");
        // By aliases: what was recorded decides, and where nothing was, nothing is known.
        let (single, multi) = (wrap(&arn("eu-west-1", ID)), wrap(&arn("eu-west-1", MRK)));
        assert!(opens(&format!("eu-west-1/{ID}"), "eu-west-1/alias/a", &single));
        assert!(opens("eu-west-1/alias/b", "eu-west-1/alias/a", &single));
        assert!(!opens("us-east-1/alias/a", "eu-west-1/alias/a", &single));
        assert!(opens("us-east-1/alias/a", "eu-west-1/alias/a", &multi));
        assert!(opens(&there, "eu-west-1/alias/a", &multi));
        assert!(!opens(&there, "eu-west-1/alias/a", b"sealed"));
        assert!(!opens("us-east-1/alias/a", &here, b"sealed"));
        assert!(!super::opens(&"memory:a".parse().unwrap(), &uri(here), b"sealed"));
    }
}
