//! What a ring's root keys are able to do, tried: for `doctor` and whoever watches over them.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::KeyRing;
use crate::error::{Error, Result};
use crate::kms::{EncryptionContext, KeyDescription, KeyManagementService, KeyManagementServiceExt, KeyMaterial};

/// One root key of one ring, as it was found.
pub struct RootHealth {
    /// The ring's name.
    pub ring: String,
    /// The root key's URI.
    pub root: String,
    /// The tenant that holds it, as the policy spells it; none where it is a root key of the ring.
    pub tenant: Option<String>,
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
    /// Tries every root key of the ring and of its customers, all at the same time. No data key is touched: what is wrapped is drawn for it.
    pub(crate) async fn root_health(&self) -> Result<Vec<RootHealth>> {
        let context = EncryptionContext::new()
            .with(EncryptionContext::RING, self.id())?
            .with(EncryptionContext::PURPOSE, "self-test")?
            .with_labels(&self.policy.labels)?;
        // Their rights may be conditioned on it.
        let customers_context = context.clone().with(EncryptionContext::LAYER, "customer")?;
        let key = KeyMaterial::generate()?;
        let ours = self.roots.all().iter().map(|root| self.health_of(None, &*root.kms, &key, &context));
        let customers = self
            .customers()
            .all()
            .iter()
            .map(|customer| self.health_of(Some(&customer.tenant), &*customer.kms, &key, &customers_context));
        Ok(join_all(ours.chain(customers)).await)
    }

    async fn health_of(
        &self,
        tenant: Option<&String>,
        kms: &dyn KeyManagementService,
        key: &KeyMaterial,
        context: &EncryptionContext,
    ) -> RootHealth {
        let description = match kms.describer() {
            Some(describer) => Some(describer.describe().await),
            None => None,
        };
        let (ring, root) = (self.name.clone(), kms.uri().to_string());
        RootHealth { ring, root, tenant: tenant.cloned(), description, tried: try_out(kms, key, context).await }
    }
}

async fn try_out(kms: &dyn KeyManagementService, key: &KeyMaterial, context: &EncryptionContext) -> Tried {
    let began = Instant::now();
    let wrapped = match kms.wrap_one(key, context).await {
        Ok(wrapped) => wrapped,
        Err(error) => return Tried::NotWrapped(error),
    };
    let wrap = began.elapsed();
    match kms.unwrap_one(&wrapped, context).await {
        Ok(back) if subtle::ConstantTimeEq::ct_eq(&back.expose()[..], &key.expose()[..]).into() => {
            Tried::Both { wrap, unwrap: began.elapsed() - wrap }
        }
        Ok(_) => Tried::NotUnwrapped(
            Error::new(crate::Code::KmsProtocol, format!("cannot use `{}`", kms.uri()))
                .cause("it unwrapped to another key than was wrapped"),
        ),
        Err(error) => Tried::NotUnwrapped(error),
    }
}
