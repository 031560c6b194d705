//! The sweep's other half in the simulation: judges rows with the toy envelope.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use enfold::{Code, Error, KeyId, Result};
use enfold_core::binding::OwnedPart;

use super::Broken;
use super::store::SimStore;
use super::value::{has_form, index, is_poison, key_id, key_of, open, read, seal};
use super::world::World;
use crate::codec::{Codec, Verdict};
use crate::model::{Goal, RowError, Target};
use crate::store::{Cell, Change, Row};

pub(super) struct SimCodec {
    pub(super) store: SimStore,
}

#[async_trait]
impl Codec for SimCodec {
    async fn judge(&self, goal: Goal, _: &Target, rows: &[Row]) -> Result<Vec<Verdict>> {
        if goal == Goal::Prune {
            // No row was read but those that go.
            return Ok(rows.iter().map(|row| Verdict::Convert(Change::gone(row))).collect());
        }
        // The key service is far away as well.
        self.store.step().await.map_err(|_| Error::new(Code::KmsUnavailable, "cannot reach the key service"))?;
        Ok(rows.iter().map(|row| judge(&self.store.world, goal, row)).collect())
    }

    async fn former_keys(&self, _: &Target) -> Result<Vec<KeyId>> {
        self.store.step().await.map_err(|_| Error::new(Code::DatabaseUnavailable, "cannot reach the catalog"))?;
        Ok((0..self.store.world().key).map(key_id).collect())
    }
}

fn judge(world: &Arc<Mutex<World>>, goal: Goal, row: &Row) -> Verdict {
    let mut world = world.lock().unwrap();
    let tenant = match row.tenant {
        Some(OwnedPart::Int(n)) => u8::try_from(n).unwrap(),
        _ => 0,
    };
    let mut errors = Vec::new();
    let mut fail = |column: usize, reason: &str| {
        errors.push(RowError {
            row: row.label.clone(),
            column: format!("c{column}"),
            code: Code::OpenFailed.word().to_owned(),
            reason: reason.to_owned(),
        });
    };
    let mut cells = vec![Cell::Keep; row.cells.len()];
    // The index over the first column, if there is nothing wrong with that.
    let mut wanted = Some(None);
    for (column, cell) in row.cells.iter().enumerate() {
        let Some(cell) = cell else { continue };
        if goal == Goal::Reencrypt && key_of(cell).is_none_or(|key| key >= world.key) {
            continue;
        }
        let value = read(column, tenant, cell);
        let sealed = has_form(cell) && (goal != Goal::Protect || world.broken != Broken::SealsAgain);
        let wrong = match (goal, sealed, &value) {
            (_, _, None) => Some("does not open"),
            (Goal::Protect, false, Some(value)) | (Goal::Reencrypt, true, Some(value)) if is_poison(value) => {
                Some("cannot be sealed")
            }
            (Goal::Unprotect, true, Some(value)) if is_poison(value) => Some("cannot be unsealed"),
            (Goal::Verify, false, _) => Some("plaintext"),
            _ => None,
        };
        if column == 0 {
            wanted = wrong.is_none().then(|| value.as_ref().map(|value| index(tenant, value)));
        }
        if let Some(reason) = wrong {
            fail(column, reason);
            continue;
        }
        cells[column] = match (goal, sealed) {
            (Goal::Protect, false) => {
                let key = world.key;
                let sealed = seal(&mut world.rng, key, column, tenant, cell);
                assert!(open(column, tenant, &sealed).is_some());
                Cell::Set(Some(sealed))
            }
            (Goal::Reencrypt, true) => {
                let key = world.key;
                let value = value.expect("what does not open was told above");
                Cell::Set(Some(seal(&mut world.rng, key, column, tenant, &value)))
            }
            (Goal::Unprotect, true) => Cell::Set(value),
            _ => Cell::Keep,
        };
    }
    let indexed = match (goal, wanted) {
        (Goal::Protect | Goal::Index, Some(wanted)) if row.indexed[0] != wanted => Cell::Set(wanted),
        _ => Cell::Keep,
    };
    let nothing = indexed == Cell::Keep && cells.iter().all(|cell| *cell == Cell::Keep);
    if nothing && errors.is_empty() {
        return Verdict::Satisfied;
    }
    if nothing || (world.broken == Broken::WholeRows && !errors.is_empty()) {
        return Verdict::Failed(errors);
    }
    let (version, label) = (row.version.clone(), row.label.clone());
    Verdict::Convert(Change {
        version,
        label,
        cells,
        indexed: vec![indexed],
        beside: Vec::new(),
        versions: Vec::new(),
        errors,
    })
}
