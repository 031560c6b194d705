//! What a ring's root keys are and are able to do, tried: for `doctor` and whoever watches over them.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::SignedDuration;

use super::KeyRing;
use super::concerns::SLOW;
use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::kms::{
    DescribeKey, EncryptionContext, GenerateRequest, KeyDescription, KeyManagementService, KeyManagementServiceExt,
    KeyMaterial, Permission,
};

/// How often a slow service is tried again: what is slow once may be so by chance.
const SECOND_LOOKS: u32 = 2;

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
    /// The key service drew a data key; `None` where it draws none. Enfold draws its data keys itself, so it is no fault
    /// where it may not be done.
    pub drawn: Option<Result<()>>,
    /// What the process may do with it; empty where the service has no rights to ask about.
    pub permissions: Result<Vec<Permission>>,
    /// By how much the service's clock is ahead of this machine's, negative where it is behind; `None` where it is not told.
    pub clock_skew: Option<SignedDuration>,
}

/// How far a trial came.
pub enum Tried {
    /// The shortest of up to three times each.
    Both {
        wrap: Duration,
        unwrap: Duration,
    },
    /// It did not wrap, so nothing was there to unwrap.
    NotWrapped(Error),
    NotUnwrapped(Error),
}

impl Tried {
    /// Why it did not do both.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Both { .. } => None,
            Self::NotWrapped(error) | Self::NotUnwrapped(error) => Some(error),
        }
    }
}

impl RootHealth {
    /// Whether the root key is there; `None` where that cannot be told.
    pub fn exists(&self) -> Option<bool> {
        let gone = |error: &Error| error.code() == Code::KmsKeyNotFound;
        match (&self.description, &self.tried) {
            (Some(Ok(_)), _) | (_, Tried::Both { .. }) => Some(true),
            (Some(Err(error)), _) | (None, Tried::NotWrapped(error)) if gone(error) => Some(false),
            _ => None,
        }
    }

    /// The refusal by which a customer withdrew its root key; `None` where nobody did, or where it is no customer's.
    pub fn withdrawn(&self) -> Option<&Error> {
        self.tenant.as_ref()?;
        self.tried.error().filter(|error| is_withdrawal(error.code()))
    }
}

/// Whether a key service refuses as it does when its owner took a root key, or the right to use it, back.
pub(super) fn is_withdrawal(code: Code) -> bool {
    matches!(code, Code::KmsAccessDenied | Code::KmsKeyDisabled | Code::KmsKeyNotFound | Code::KmsVersionRetired)
}

impl KeyRing {
    /// Tries every root key of the ring and of its customers, all at the same time. No data key is touched: what is wrapped is drawn for it.
    pub(crate) async fn root_health(&self) -> Result<Vec<RootHealth>> {
        let context = self.trial_context()?;
        // Their rights may be conditioned on it.
        let customers_context = context.clone().with(EncryptionContext::LAYER, "customer")?;
        let key = KeyMaterial::generate()?;
        let ours = self.roots.called().map(|root| self.health_of(None, &*root.kms, &key, &context));
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
        let tried = try_out(kms, key, context, self.roots.clock()).await;
        let drawn = match kms.generator() {
            Some(generator) => {
                generator.generate(&[GenerateRequest { context }]).await.pop().map(|made| made.map(drop))
            }
            None => None,
        };
        let permissions = match kms.describer() {
            Some(describer) => describer.permissions(context).await,
            None => Ok(Vec::new()),
        };
        let clock_skew = kms.describer().and_then(DescribeKey::clock_skew);
        let (ring, root, tenant) = (self.name.clone(), kms.uri().to_string(), tenant.cloned());
        RootHealth { ring, root, tenant, description, tried, drawn, permissions, clock_skew }
    }
}

async fn try_out(
    kms: &dyn KeyManagementService,
    key: &KeyMaterial,
    context: &EncryptionContext,
    clock: &dyn Clock,
) -> Tried {
    let mut tried = try_once(kms, key, context, clock).await;
    for _ in 0..SECOND_LOOKS {
        let Tried::Both { wrap, unwrap } = tried else { break };
        if wrap < SLOW && unwrap < SLOW {
            break;
        }
        tried = match try_once(kms, key, context, clock).await {
            Tried::Both { wrap: again_wrap, unwrap: again_unwrap } => {
                Tried::Both { wrap: wrap.min(again_wrap), unwrap: unwrap.min(again_unwrap) }
            }
            failed => failed,
        };
    }
    tried
}

async fn try_once(
    kms: &dyn KeyManagementService,
    key: &KeyMaterial,
    context: &EncryptionContext,
    clock: &dyn Clock,
) -> Tried {
    let began = clock.now();
    let wrapped = match kms.wrap_one(key, context).await {
        Ok(wrapped) => wrapped,
        Err(error) => return Tried::NotWrapped(error),
    };
    let wrap = clock.now().saturating_sub(began);
    match kms.unwrap_one(&wrapped, context).await {
        Ok(back) if subtle::ConstantTimeEq::ct_eq(&back.expose()[..], &key.expose()[..]).into() => {
            Tried::Both { wrap, unwrap: clock.now().saturating_sub(began + wrap) }
        }
        Ok(_) => Tried::NotUnwrapped(
            Error::new(Code::KmsProtocol, format!("cannot use `{}`", kms.uri()))
                .cause("it unwrapped to another key than was wrapped"),
        ),
        Err(error) => Tried::NotUnwrapped(error),
    }
}
