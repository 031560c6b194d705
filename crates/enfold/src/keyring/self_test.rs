//! A throw-away value sealed and opened through a ring. Nothing of it is stored.

use std::sync::Arc;

use enfold_core::{Binding, DataKey, Envelope, KeyId, Opener, Padding, PayloadType, Sealer};

use super::{KeyRing, LiveKey, View};
use crate::catalog::{KeyStatus, Purpose};
use crate::kms::EncryptionContext;
use crate::policy::Salt;
use crate::{Code, Error, Result, core_error};

/// Of no column: ids of the policy have no blank.
const COLUMN: &str = "self test";
const VALUE: &[u8] = b"self-test";

/// A ring that sealed and opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfTest {
    /// The ring's name.
    pub ring: String,
    /// The data key that it was done with: one that the ring has. `None` where it has none yet: then one was drawn for it,
    /// wrapped, unwrapped and forgotten.
    pub data_key: Option<KeyId>,
}

impl KeyRing {
    /// Asks whatever an application asks: the signed state, the catalog, the cache and, on a miss, a key service.
    pub(crate) async fn self_test(self: &Arc<Self>) -> Result<SelfTest> {
        let view = self.view().await?;
        let key = self.any_that_seals(&view).await?;
        let data_key = key.as_ref().map(|key| key.id());
        match key {
            Some(key) => {
                key.spend(&self.policy.cache, 1, VALUE.len());
                self.there_and_back(key.sealer(Salt::Shared)?, key.opener()?)?;
            }
            None => {
                let (key, id) = (self.drawn().await?, KeyId::random().map_err(failed)?);
                self.there_and_back(&Sealer::new(&key, id).map_err(failed)?, &Opener::new(&key, id))?;
            }
        }
        Ok(SelfTest { ring: self.name.clone(), data_key })
    }

    async fn any_that_seals(self: &Arc<Self>, view: &Arc<View>) -> Result<Option<Arc<LiveKey>>> {
        let mut after = None;
        while let Some(page) = self.next_rows(&mut after).await? {
            // What is not as it was made is `check_rows`'s to report.
            let seals = page
                .into_iter()
                .find(|row| row.purpose == Purpose::Seal && matches!(self.believe(view, row), Ok(KeyStatus::Active)));
            if let Some(row) = seals {
                return self.by_id(view, row.id).await.map(Some);
            }
        }
        Ok(None)
    }

    /// A data key that was wrapped and came back.
    async fn drawn(&self) -> Result<DataKey> {
        let context = self.trial_context()?;
        let key = DataKey::generate().map_err(failed)?;
        let wrapped = self.roots.wrap(&key, &context).await?;
        self.roots.unwrap(&wrapped.wraps, &context).await
    }

    /// Of a key that is wrapped and unwrapped only to see whether that can be done.
    pub(super) fn trial_context(&self) -> Result<EncryptionContext> {
        EncryptionContext::new()
            .with(EncryptionContext::RING, self.id())?
            .with(EncryptionContext::PURPOSE, "self-test")?
            .with_labels(&self.policy.labels)
    }

    fn there_and_back(&self, sealer: &Sealer, opener: &Opener) -> Result<()> {
        let binding = Binding::new(self.id(), COLUMN);
        let sealed = sealer.seal(&binding, PayloadType::Bytes, Padding::None, VALUE).map_err(failed)?;
        let opened = opener.open(&Envelope::parse(&sealed).map_err(failed)?, &binding).map_err(failed)?;
        if opened.plaintext.as_slice() == VALUE {
            return Ok(());
        }
        Err(Error::new(Code::Internal, format!("ring `{}` opened something else than it had sealed", self.name)))
    }
}

fn failed(error: enfold_core::Error) -> Error {
    core_error(error, "cannot seal and open a throw-away value")
}
