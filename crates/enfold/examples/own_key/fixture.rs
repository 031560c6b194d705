//! A key that somebody uses, as the conformance suite sees it: nothing about it may be changed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use enfold::kms::conformance::{Arranged, Case, Change, Fixture, Trouble};
use enfold::kms::{KeyManagementService, KeyManagementServiceExt, Registry};
use enfold::policy::{Environment, KeyServices};
use enfold::{Code, Result};

/// One key, or two to see that wraps of the one do not open under the other.
pub(crate) struct OwnKeys {
    name: String,
    keys: Vec<Arc<dyn KeyManagementService>>,
    next: AtomicUsize,
    may_describe: bool,
}

impl OwnKeys {
    /// Reached as a policy for production would reach them.
    pub(crate) async fn new(name: &str, uris: &[String], services: KeyServices) -> Result<Self> {
        let mut builder = Registry::builder(Environment::Production, Path::new("")).services(services);
        for uri in uris {
            builder = builder.root(uri.parse()?, false);
        }
        let registry = builder.build().await?;
        let keys = uris.iter().map(|uri| registry.get(&uri.parse()?).cloned()).collect::<Result<Vec<_>>>()?;
        let mut may_describe = true;
        for kms in &keys {
            if let Some(describer) = kms.describer() {
                may_describe &= !matches!(describer.describe().await, Err(e) if e.code() == Code::KmsAccessDenied);
            }
        }
        Ok(Self { name: name.to_owned(), keys, next: AtomicUsize::new(0), may_describe })
    }
}

#[async_trait]
impl Fixture for OwnKeys {
    fn name(&self) -> String {
        self.name.clone()
    }

    /// In turn, so that a case which asks for two gets two.
    async fn key(&self) -> Arc<dyn KeyManagementService> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.keys.len();
        self.keys[at].clone()
    }

    async fn trouble(&self, _: &Arc<dyn KeyManagementService>, _: Trouble) -> Arranged {
        Arranged::Impossible("a key that somebody uses is not brought into trouble")
    }

    async fn versions(&self, _: &Arc<dyn KeyManagementService>, _: Change) -> Arranged {
        Arranged::Impossible("a key that somebody uses is not rotated")
    }

    fn lacks(&self, case: Case) -> Option<&'static str> {
        match case {
            Case::WrongKey if self.keys.len() < 2 => Some("no other key was named"),
            // The suite asks for the newest version before it has one made.
            Case::Describe | Case::Rotated | Case::OldVersion | Case::RetiredVersion if !self.may_describe => {
                Some("whoever runs this may not ask about the key")
            }
            Case::DisabledAndEnabled | Case::DeletionCancelled | Case::RotatedByUs | Case::RotatedByItself => {
                Some("a key that somebody uses is not changed")
            }
            _ => None,
        }
    }
}
