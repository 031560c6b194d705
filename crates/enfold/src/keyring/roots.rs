//! The root keys of a ring, in the policy's order of preference.

use std::sync::Arc;

use enfold_core::{DataKey, KeyId, danger};

use crate::catalog::Wrap;
use crate::error::Retry;
use crate::kms::{EncryptionContext, KeyManagementService, KeyManagementServiceExt, KeyMaterial, WrappedKey};
use crate::{Code, Error, Result};

/// Only these are ever called, whatever a row of the catalog names.
pub(crate) struct Roots {
    ring: String,
    providers: Vec<Provider>,
}

pub(crate) struct Provider {
    /// The catalog's id of the root key, which inline envelopes carry.
    pub(crate) id: KeyId,
    pub(crate) kms: Arc<dyn KeyManagementService>,
}

impl Roots {
    pub(crate) fn new(ring: &str, providers: Vec<Provider>) -> Self {
        Self { ring: ring.to_owned(), providers }
    }

    /// Wraps a data key under every root key. Where one of several cannot be reached now, its wrap is left out: sealing
    /// survives the outage of one key service. A root key that refuses is an error, because it would be missed later.
    pub(crate) async fn wrap(&self, key: &DataKey, context: &EncryptionContext) -> Result<Vec<Wrap>> {
        let material = material(key);
        let mut wraps = Vec::with_capacity(self.providers.len());
        let mut missed = Vec::new();
        for provider in &self.providers {
            match provider.kms.wrap_one(&material, context).await {
                Ok(wrapped) => {
                    wraps.push(Wrap { root: provider.kms.uri().to_string(), wrapped: wrapped.into_bytes() });
                }
                Err(error) if error.code().retry() == Retry::Later => missed.push(error),
                Err(error) => return Err(error.while_doing(self.doing("wrap"))),
            }
        }
        if wraps.is_empty() {
            return Err(self.nobody("wrap", missed));
        }
        for error in missed {
            tracing::warn!(target: "enfold::keyring", ring = self.ring, "a new data key has no wrap by one root key: {error}");
        }
        // The catalog gives them back in this order, and the row's MAC is over them in order.
        wraps.sort_by(|a, b| a.root.cmp(&b.root));
        Ok(wraps)
    }

    /// Unwraps by the first root key that answers, in the policy's order.
    pub(crate) async fn unwrap(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<DataKey> {
        let mut failed = Vec::new();
        for provider in &self.providers {
            let Some(wrap) = wraps.iter().find(|w| w.root == provider.kms.uri().as_str()) else { continue };
            let wrapped = WrappedKey::new(wrap.wrapped.clone())?;
            match provider.kms.unwrap_one(&wrapped, context).await {
                Ok(key) => return Ok(data_key(&key)),
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() {
            return Err(Error::new(Code::KmsKeyNotFound, self.doing("unwrap"))
                .cause("none of its wraps is by a root key of the policy")
                .hint("put the root key that wrapped it back into the ring's `roots`, or rewrap"));
        }
        Err(self.nobody("unwrap", failed))
    }

    /// The first root key, which wraps the data keys of records.
    pub(crate) fn first(&self) -> &Provider {
        // The policy's loader refuses a ring without root keys.
        &self.providers[0]
    }

    pub(crate) fn by_id(&self, id: KeyId) -> Option<&Provider> {
        self.providers.iter().find(|p| p.id == id)
    }

    fn doing(&self, what: &str) -> String {
        format!("cannot {what} a data key of ring `{}`", self.ring)
    }

    /// Several failures as one: the most hopeful code, since one service that comes back is enough.
    fn nobody(&self, what: &str, mut failed: Vec<Error>) -> Error {
        let at = failed.iter().position(|e| e.code().retry() == Retry::Later).unwrap_or(0);
        let mut error = failed.swap_remove(at).while_doing(self.doing(what));
        for other in failed {
            error = error.cause(other.to_string());
        }
        error
    }
}

/// A data key on its way to a key service.
pub(crate) fn material(key: &DataKey) -> KeyMaterial {
    let mut copy = *danger::expose(key);
    KeyMaterial::from_bytes(&mut copy)
}

/// A data key on its way from one.
pub(crate) fn data_key(material: &KeyMaterial) -> DataKey {
    let mut copy = *material.expose();
    DataKey::from_bytes(&mut copy)
}
