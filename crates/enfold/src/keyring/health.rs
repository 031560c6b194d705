//! What a ring's root keys are able to do, tried: for `doctor` and whoever watches over them.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::KeyRing;
use super::roots::Provider;
use crate::error::{Error, Result};
use crate::kms::{EncryptionContext, KeyDescription, KeyManagementServiceExt, KeyMaterial};

/// One root key of one ring, as it was found.
pub struct RootHealth {
    /// The ring's name.
    pub ring: String,
    /// The root key's URI.
    pub root: String,
    /// What the key service says of it; `None` where a service has no such operation.
    pub description: Option<Result<KeyDescription>>,
    /// A throw-away key was wrapped and unwrapped again.
    pub tried: Tried,
}

/// How far a trial came.
pub enum Tried {
    Both {
        wrap: Duration,
        unwrap: Duration,
    },
    /// It did not wrap, so nothing was there to unwrap.
    NotWrapped(Error),
    NotUnwrapped(Error),
}

impl KeyRing {
    /// Tries every root key of the ring, all at the same time. No data key is touched: what is wrapped is drawn for it.
    pub(crate) async fn root_health(&self) -> Result<Vec<RootHealth>> {
        let context = EncryptionContext::new()
            .with(EncryptionContext::RING, self.id())?
            .with(EncryptionContext::PURPOSE, "self-test")?
            .with_labels(&self.policy.labels)?;
        let key = KeyMaterial::generate()?;
        Ok(join_all(self.roots.all().iter().map(|root| self.health_of(root, &key, &context))).await)
    }

    async fn health_of(&self, root: &Provider, key: &KeyMaterial, context: &EncryptionContext) -> RootHealth {
        let description = match root.kms.describer() {
            Some(describer) => Some(describer.describe().await),
            None => None,
        };
        let (ring, uri) = (self.name.clone(), root.kms.uri().to_string());
        RootHealth { ring, root: uri, description, tried: try_out(root, key, context).await }
    }
}

async fn try_out(root: &Provider, key: &KeyMaterial, context: &EncryptionContext) -> Tried {
    let began = Instant::now();
    let wrapped = match root.kms.wrap_one(key, context).await {
        Ok(wrapped) => wrapped,
        Err(error) => return Tried::NotWrapped(error),
    };
    let wrap = began.elapsed();
    match root.kms.unwrap_one(&wrapped, context).await {
        Ok(back) if subtle::ConstantTimeEq::ct_eq(&back.expose()[..], &key.expose()[..]).into() => {
            Tried::Both { wrap, unwrap: began.elapsed() - wrap }
        }
        Ok(_) => Tried::NotUnwrapped(
            Error::new(crate::Code::KmsProtocol, format!("cannot use `{}`", root.kms.uri()))
                .cause("it unwrapped to another key than was wrapped"),
        ),
        Err(error) => Tried::NotUnwrapped(error),
    }
}
