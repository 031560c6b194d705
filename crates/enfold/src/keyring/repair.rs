//! Making the wraps that data keys lack, once the root keys are back that did not answer when they were made.

use std::sync::atomic::Ordering;

use super::KeyRing;
use crate::catalog::{DataKeyRow, KeyStatus};
use crate::{Error, Result};

/// What a look at a ring's data keys for missing wraps came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Data keys that have a wrap by every root key now and had not before.
    pub completed: u64,
    /// Data keys that still lack one.
    pub incomplete: u64,
    /// Why, the first few times.
    pub errors: Vec<String>,
}

impl KeyRing {
    /// Looks through the ring's data keys, if one was made here that lacks a wrap.
    pub(crate) async fn repair_if_due(&self) -> Result<()> {
        if self.wraps_missing.swap(false, Ordering::Relaxed) {
            match self.repair().await {
                Ok(repaired) if repaired.incomplete == 0 => {}
                still => {
                    self.wraps_missing.store(true, Ordering::Relaxed);
                    still?;
                }
            }
        }
        Ok(())
    }

    /// Looks through all of the ring's data keys. One that cannot be completed now does not hide the others.
    pub(crate) async fn repair(&self) -> Result<Repaired> {
        let (mut repaired, mut after) = (Repaired::default(), None);
        while let Some(page) = self.next_rows(&mut after).await? {
            for row in page {
                match self.complete(row).await {
                    Ok(Completed::HadAll) => {}
                    Ok(Completed::Now) => repaired.completed += 1,
                    Ok(Completed::NotYet) => repaired.incomplete += 1,
                    Err(error) => repaired.failed(&error),
                }
            }
        }
        Ok(repaired)
    }

    async fn complete(&self, mut row: DataKeyRow) -> Result<Completed> {
        // A destroyed key has no wraps on purpose, and one that is about to be gets no new ones.
        if matches!(row.status, KeyStatus::Destroying | KeyStatus::Destroyed) {
            return Ok(Completed::HadAll);
        }
        let view = self.view().await?;
        // Only a row that is as it was made is authenticated anew.
        let (view, _) = self.believe_now(&view, &row).await?;
        let Some(wrapped) = self.roots.complete(&row.wraps, &self.context(&row)?).await? else {
            return Ok(Completed::HadAll);
        };
        let expected = std::mem::take(&mut row.mac);
        row.wraps = wrapped.wraps;
        view.rows.tag(&mut row);
        // Where somebody else was there first, the next look finds what they left to do.
        let written = self.catalog.add_wraps(&row, &expected).await?;
        Ok(if written && wrapped.missing == 0 { Completed::Now } else { Completed::NotYet })
    }
}

enum Completed {
    HadAll,
    Now,
    NotYet,
}

impl Repaired {
    fn failed(&mut self, error: &Error) {
        self.incomplete += 1;
        if self.errors.len() < 5 {
            self.errors.push(error.to_string());
        }
    }
}
