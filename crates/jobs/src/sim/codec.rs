//! The sweep's other half in the simulation: judges rows with the toy envelope.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use enfold::{Code, Error, Result};
use enfold_core::binding::OwnedPart;

use super::Broken;
use super::store::SimStore;
use super::value::{has_form, index, is_poison, open, read, seal};
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
        // The key service is far away as well.
        self.store.step().await.map_err(|_| Error::new(Code::KmsUnavailable, "cannot reach the key service"))?;
        Ok(rows.iter().map(|row| judge(&self.store.world, goal, row)).collect())
    }
}

fn judge(world: &Arc<Mutex<World>>, goal: Goal, row: &Row) -> Verdict {
    let mut world = world.lock().unwrap();
    let tenant = match row.tenant {
        Some(OwnedPart::Int(n)) => u8::try_from(n).unwrap(),
        _ => 0,
    };
    let failed = |reason: &str| {
        Verdict::Failed(RowError {
            row: row.label.clone(),
            column: "c".to_owned(),
            code: Code::OpenFailed.word().to_owned(),
            reason: reason.to_owned(),
        })
    };
    let mut cells = Vec::new();
    let mut first = None;
    for (column, cell) in row.cells.iter().enumerate() {
        let Some(cell) = cell else {
            cells.push(Cell::Keep);
            continue;
        };
        let Some(value) = read(column, tenant, cell) else { return failed("does not open") };
        if column == 0 {
            first = Some(value.clone());
        }
        let sealed = has_form(cell) && (goal != Goal::Protect || world.broken != Broken::SealsAgain);
        cells.push(match (goal, sealed) {
            (Goal::Protect, false) if is_poison(&value) => return failed("cannot be sealed"),
            (Goal::Unprotect, true) if is_poison(&value) => return failed("cannot be unsealed"),
            (Goal::Protect, false) => {
                let sealed = seal(&mut world.rng, column, tenant, cell);
                assert!(open(column, tenant, &sealed).is_some());
                Cell::Set(Some(sealed))
            }
            (Goal::Unprotect, true) => Cell::Set(Some(value)),
            (Goal::Verify, false) => return failed("plaintext"),
            _ => Cell::Keep,
        });
    }
    let wanted = first.map(|value| index(tenant, &value));
    let indexed = match goal {
        Goal::Protect | Goal::Index if row.indexed[0] != wanted => Cell::Set(wanted),
        _ => Cell::Keep,
    };
    if indexed == Cell::Keep && cells.iter().all(|cell| *cell == Cell::Keep) {
        return Verdict::Satisfied;
    }
    Verdict::Convert(Change { version: row.version.clone(), label: row.label.clone(), cells, indexed: vec![indexed] })
}
