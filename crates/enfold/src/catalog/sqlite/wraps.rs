//! Replacing the wraps of data keys.

use rusqlite::{Connection, TransactionBehavior, params};

use super::{insert_wraps, must_go_by};
use crate::Result;
use crate::catalog::Swap;
use crate::db::sqlite::failure;

pub(super) fn swap(c: &mut Connection, ring: &str, swaps: &[Swap], by: Option<u64>) -> Result<Vec<bool>> {
    let doing = || format!("cannot replace wraps of data keys of ring `{ring}`");
    let tx = c.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| failure(doing(), &e))?;
    must_go_by(&tx, ring, by)?;
    let one = |swap: &Swap| -> rusqlite::Result<bool> {
        let id = swap.key.id.as_bytes();
        let changed = tx
            .prepare_cached("UPDATE enfold_data_keys SET mac = ?3 WHERE ring = ?1 AND id = ?2 AND mac = ?4")?
            .execute(params![ring, id, swap.key.mac, swap.expected])?;
        if changed == 1 {
            tx.prepare_cached("DELETE FROM enfold_data_key_wraps WHERE ring = ?1 AND key_id = ?2")?
                .execute(params![ring, id])?;
            insert_wraps(&tx, &swap.key)?;
            if let Some(layer) = &swap.key.customer {
                tx.prepare_cached(
                    "UPDATE enfold_data_keys SET customer_root = ?3, customer_wrapped = ?4, customer_sealed = ?5
                     WHERE ring = ?1 AND id = ?2",
                )?
                .execute(params![ring, id, layer.root, layer.wrapped, layer.sealed])?;
            }
        }
        Ok(changed == 1)
    };
    let changed = swaps.iter().map(one).collect::<rusqlite::Result<_>>().map_err(|e| failure(doing(), &e))?;
    tx.commit().map_err(|e| failure(doing(), &e))?;
    Ok(changed)
}
