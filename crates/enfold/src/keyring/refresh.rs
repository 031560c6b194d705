//! Taking in again what the catalog says of keys, without letting go of a data key that is good.

use enfold_core::KeyId;

use super::KeyRing;
use super::roots::Provider;
use crate::{Code, Error, Result};

/// Data keys in one question to the catalog.
const BATCH: usize = 150;

impl KeyRing {
    /// The ring's state, the ids of its root keys, which data key seals where, and the row of every data key that is held:
    /// one whose row is gone or is not as it was made is let go of. No key service is asked, so that nothing is lost where
    /// it does not answer.
    pub(crate) async fn refresh(&self) -> Result<()> {
        self.look().await?;
        self.refresh_names().await?;
        self.pointers.clear();
        let view = self.view().await?;
        for ids in self.keys.held().chunks(BATCH) {
            let rows = self.catalog.keys_named(self.id(), ids).await?;
            for id in ids {
                let error = match rows.iter().find(|row| row.id == *id) {
                    None => self.not_found(*id),
                    Some(row) => match self.believe_now(&view, row).await {
                        Ok(_) => continue,
                        Err(error) => error,
                    },
                };
                self.keys.evict(id);
                self.refuse(error);
            }
        }
        Ok(())
    }

    /// The root key that an inline envelope names. An id that is not known may be a new one.
    pub(crate) async fn root_named(&self, id: KeyId) -> Result<&Provider> {
        if self.roots.by_id(id).is_none() {
            self.refresh_names().await?;
        }
        self.roots.by_id(id).ok_or_else(|| {
            Error::new(Code::KmsKeyNotFound, format!("no root key of ring `{}` has the id `{id}`", self.name))
                .cause("only root keys that the policy names are ever called")
        })
    }

    /// By which ids the catalog knows the ring's root keys: one may have got its former id back.
    pub(crate) async fn refresh_names(&self) -> Result<()> {
        self.roots.name(&self.catalog.roots().await?);
        Ok(())
    }
}
