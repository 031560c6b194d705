//! The key that signs the log where a key service keeps it.

use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use crate::events::Signer;
use crate::kms::{KeyManagementService, SignBytes};
use crate::policy::format_operator_key;
use crate::{Code, Error, Result};

/// A version of a key that never leaves its service. Which one signs is settled when it is opened.
pub(super) struct KmsLogKey {
    kms: Arc<dyn KeyManagementService>,
    version: u32,
    public_key: [u8; 32],
}

impl KmsLogKey {
    /// The newest version of which the public key is among `trusted`; of any, the newest, where none is given.
    ///
    /// # Errors
    /// `LogKeyMissing` if there is none of those.
    pub(super) async fn open(kms: Arc<dyn KeyManagementService>, trusted: &[[u8; 32]]) -> Result<Self> {
        let versions = signs(&kms)?.public_keys().await?;
        let is_ours = |key: &[u8; 32]| trusted.is_empty() || trusted.contains(key);
        let found = versions.iter().rev().find(|(_, key)| is_ours(key)).map(|(version, key)| (*version, *key));
        let Some((version, public_key)) = found else {
            let newest = versions.values().next_back().map(format_operator_key).unwrap_or_default();
            return Err(Error::new(Code::LogKeyMissing, format!("no version of `{}` is a key of the log", kms.uri()))
                .cause("the policy believes none of their public keys (`events.log_keys`)")
                .hint(format!("add the newest to `events.log_keys` if it is yours: {newest}"))
                .hint("`enfold log init` does that where the policy names the key"));
        };
        Ok(Self { kms, version, public_key })
    }
}

#[async_trait]
impl Signer for KmsLogKey {
    fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    async fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let signature = signs(&self.kms)?.sign(self.version, bytes).await?;
        // What nobody could verify would end the log's chain of checkpoints.
        UnparsedPublicKey::new(&ED25519, self.public_key).verify(bytes, &signature).map_err(|_| {
            Error::new(
                Code::KmsProtocol,
                format!("`{}` gave a signature that its public key does not verify", self.kms.uri()),
            )
        })?;
        Ok(signature)
    }
}

fn signs(kms: &Arc<dyn KeyManagementService>) -> Result<&dyn SignBytes> {
    kms.abilities().signer.ok_or_else(|| {
        Error::new(Code::KmsProtocol, format!("`{}` cannot sign with Ed25519", kms.uri()))
            .hint("use a transit key of the type `ed25519`, or a key in a file (`events.signing_key_file`)")
    })
}
