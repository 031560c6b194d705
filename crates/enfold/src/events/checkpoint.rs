//! Checkpoints: what vouches for the chains.
//!
//! A checkpoint names how far each writer's chain has come, by its last entry's number and hash, and is signed with Ed25519. What is
//! signed is `enfold/v1 log checkpoint`, a zero byte, and the document: JSON in one spelling, fields in the order of
//! [`Checkpoint`], maps in the order of their keys, no blanks. Checkpoints are numbered from 1 and each names the hash of the one
//! before, so that one kept elsewhere vouches for all before it. Any process with the log's key signs for all writers of a
//! catalog: applications need no key that signs.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::chain::{Hash, WriterId};
use super::cut::Cut;
use crate::hex::{from_hex, hex};
use crate::policy::{format_operator_key, parse_operator_key};
use crate::signing_key::{Purpose, SigningKey};
use crate::{Code, Error, Result};

const DOMAIN: &[u8] = b"enfold/v1 log checkpoint\0";
const FORMAT: u32 = 1;
const PURPOSE: Purpose = Purpose { prefix: "enfold-log-key-1:", what: "log's key" };

/// How far a chain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub seq: u64,
    pub hash: Hash,
}

impl Head {
    /// Before the first entry.
    pub const START: Self = Self { seq: 0, hash: Hash::NONE };
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    format: u32,
    /// From 1.
    pub number: u64,
    /// The hash of the checkpoint before.
    pub previous: Hash,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Of the key that signs: `ed25519:` and 43 characters of base64url.
    pub key: String,
    /// Chains that have come further since the checkpoint before.
    pub heads: BTreeMap<WriterId, Head>,
    /// What is taken out of the log with this checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

/// A checkpoint as it is stored, and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedCheckpoint {
    pub number: u64,
    pub document: String,
    /// In hex.
    pub signature: String,
}

/// Signs checkpoints: a key in a file, or one that a key service keeps.
#[async_trait]
pub trait Signer: Send + Sync {
    fn public_key(&self) -> [u8; 32];

    /// The 64 bytes of an Ed25519 signature.
    async fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>>;
}

/// The log's key in a file, `enfold-log-key-1:` and the 32-byte seed of RFC 8032 in 43 characters of unpadded base64url, to which
/// nobody but its owner may have any right.
pub struct LogKey(SigningKey);

impl LogKey {
    /// Makes the key file, mode 0600. Refuses to touch a file that is there already.
    pub fn init(path: &Path) -> Result<Self> {
        SigningKey::init(path, PURPOSE).map(Self)
    }

    /// Reads the key file.
    ///
    /// # Errors
    /// `LogKeyMissing` if there is none, `KeyFilePermissions` if others have rights to it, `KeyFileInvalid` if it holds
    /// something else.
    pub fn load(path: &Path) -> Result<Self> {
        SigningKey::load(path, PURPOSE)?.map(Self).ok_or_else(|| {
            Error::new(Code::LogKeyMissing, format!("there is no log's key `{}`", path.display()))
                .hint("run this where the key is, or name it: `events.signing_key_file` in enfold.toml")
                .hint("`enfold log init` makes one")
        })
    }
}

#[async_trait]
impl Signer for LogKey {
    fn public_key(&self) -> [u8; 32] {
        self.0.public_key()
    }

    async fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(self.0.sign(bytes))
    }
}

impl Checkpoint {
    /// The one after `before`, unsigned.
    pub fn after(before: Option<&SignedCheckpoint>, key: &[u8; 32], heads: BTreeMap<WriterId, Head>) -> Self {
        Self {
            format: FORMAT,
            number: before.map_or(0, |checkpoint| checkpoint.number) + 1,
            previous: before.map_or(Hash::NONE, SignedCheckpoint::hash),
            at_ms: jiff::Timestamp::now().as_millisecond(),
            key: format_operator_key(key),
            heads,
            cut: None,
        }
    }

    pub async fn sign(&self, signer: &dyn Signer) -> Result<SignedCheckpoint> {
        let document =
            serde_json::to_string(self).map_err(|_| Error::new(Code::Internal, "cannot encode a checkpoint"))?;
        let signature = hex(&signer.sign(&signed_bytes(&document)).await?);
        Ok(SignedCheckpoint { number: self.number, document, signature })
    }
}

impl SignedCheckpoint {
    pub fn hash(&self) -> Hash {
        Hash::of(DOMAIN, &self.document)
    }

    /// One line of an export.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The reverse of [`Self::to_line`].
    pub fn from_line(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    /// What it says, without asking who signed it.
    pub fn read(&self) -> Option<Checkpoint> {
        let read: Checkpoint = serde_json::from_str(&self.document).ok()?;
        // One spelling, so that nobody reads two things in it.
        let same = serde_json::to_string(&read).ok()? == self.document && read.number == self.number;
        (same && read.format == FORMAT).then_some(read)
    }

    /// What it says, if one of these keys signed it.
    pub fn verify(&self, trusted: &[[u8; 32]]) -> Option<Checkpoint> {
        let read = self.read()?;
        let key = parse_operator_key(&read.key).ok().filter(|key| trusted.contains(key))?;
        let signature = from_hex(&self.signature)?;
        UnparsedPublicKey::new(&ED25519, key).verify(&signed_bytes(&self.document), &signature).ok()?;
        Some(read)
    }
}

fn signed_bytes(document: &str) -> Vec<u8> {
    [DOMAIN, document.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn heads() -> BTreeMap<WriterId, Head> {
        BTreeMap::from([(WriterId::from_bytes([7; 16]), Head { seq: 3, hash: Hash::NONE })])
    }

    #[tokio::test]
    async fn a_checkpoint_is_believed_of_its_key_and_as_it_was_signed_alone() {
        let dir = tempfile::tempdir().unwrap();
        let key = LogKey::init(&dir.path().join("log.key")).unwrap();
        let other = LogKey::init(&dir.path().join("other.key")).unwrap();
        let checkpoint = Checkpoint::after(None, &key.public_key(), heads());
        let signed = checkpoint.sign(&key).await.unwrap();
        let signed = SignedCheckpoint::from_line(&signed.to_line()).unwrap();
        assert_eq!(signed.verify(&[other.public_key(), key.public_key()]).unwrap(), checkpoint);
        assert!(signed.verify(&[other.public_key()]).is_none());
        assert!(signed.verify(&[]).is_none());
        // Signed by another that is trusted, and said to be by the first.
        let swapped = checkpoint.sign(&other).await.unwrap();
        assert!(swapped.verify(&[other.public_key(), key.public_key()]).is_none());
        for (from, to) in
            [("\"seq\":3", "\"seq\":4"), ("\"number\":1", "\"number\":2"), ("{\"format\"", "{ \"format\"")]
        {
            let document = signed.document.replacen(from, to, 1);
            assert_ne!(document, signed.document);
            assert!(SignedCheckpoint { document, ..signed.clone() }.verify(&[key.public_key()]).is_none(), "{to}");
        }
    }

    #[tokio::test]
    async fn each_checkpoint_names_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let key = LogKey::init(&dir.path().join("log.key")).unwrap();
        let first = Checkpoint::after(None, &key.public_key(), heads()).sign(&key).await.unwrap();
        let second = Checkpoint::after(Some(&first), &key.public_key(), heads());
        assert_eq!((second.number, second.previous), (2, first.hash()));
    }

    #[test]
    fn the_logs_key_is_a_file_of_its_own_kind_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.key");
        let code = || LogKey::load(&path).err().unwrap().code();
        assert_eq!(code(), Code::LogKeyMissing);
        let key = LogKey::init(&path).unwrap();
        assert_eq!(LogKey::load(&path).unwrap().public_key(), key.public_key());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(code(), Code::KeyFilePermissions);
        std::fs::remove_file(&path).unwrap();
        crate::state::OperatorKey::init(&path).unwrap();
        assert_eq!(code(), Code::KeyFileInvalid);
    }
}
