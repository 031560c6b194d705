//! Former data keys on their way out of use, on SQLite. One writes at a time: whoever has written down that a data key is refused
//! has waited for every writer before, so no transaction is listed.

use std::time::Duration;

use async_trait::async_trait;
use enfold::{KeyId, Result};
use rusqlite::{Connection, Row, TransactionBehavior, params};

use super::error::Doing;
use super::{Sqlite, forms, schema, steps};
use crate::database::SchemaStep;
use crate::disabling::{Disabling, Disablings, Guarded, OpenTransaction, Passed, Times, from_json, to_json};
use crate::model::{Storage, TableName};
use crate::store::Order;

const NOW_MS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

const COLUMNS: &str =
    "ring, key_id, epoch, asked_ms, acknowledged_ms, refused_ms, ended_ms, counted_ms, disabled_ms, covered, open";

fn noting() -> String {
    "note which data keys go out of use".to_owned()
}

fn reading() -> String {
    "read which data keys go out of use".to_owned()
}

#[async_trait]
impl Disablings for Sqlite {
    async fn begin(&self, ring: &str, keys: &[KeyId], epoch: u64, order: &Order) -> Result<Vec<Disabling>> {
        let (ring, keys, order) = (ring.to_owned(), keys.to_vec(), order.clone());
        let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
        self.pool
            .write(move |c| {
                schema::ensure(c)?;
                let tx = c.transaction_with_behavior(TransactionBehavior::Immediate).doing(noting)?;
                let insert = format!(
                    "INSERT INTO enfold_disablings (ring, key_id, epoch, requested_by, reason, asked_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, {NOW_MS}) ON CONFLICT (ring, key_id) DO NOTHING"
                );
                for key in &keys {
                    let values = params![ring, key.to_string(), epoch, order.by, order.reason];
                    tx.execute(&insert, values).doing(noting)?;
                }
                let found = rows(&tx)?;
                tx.commit().doing(noting)?;
                Ok(found.into_iter().filter(|one| one.ring == ring && keys.contains(&one.key)).collect())
            })
            .await
    }

    async fn all(&self) -> Result<Vec<Disabling>> {
        self.pool.read(|c| if is_there(c)? { rows(c) } else { Ok(Vec::new()) }).await
    }

    async fn refuses_in(&self, table: &TableName, columns: &[Guarded]) -> Result<bool> {
        let step = SchemaStep::RefuseKeys { table: table.clone(), columns: columns.to_vec() };
        self.pool.read(move |c| steps::all_there(c, &step)).await
    }

    async fn refuse(&self, ring: &str, keys: &[KeyId]) -> Result<()> {
        let (ring, keys) = (ring.to_owned(), keys.to_vec());
        self.pool
            .write(move |c| {
                let tx = c.transaction_with_behavior(TransactionBehavior::Immediate).doing(noting)?;
                for key in &keys {
                    let id = key.to_string();
                    for prefix in [Storage::Text, Storage::Bytes].iter().flat_map(|form| forms::prefixes(&id, *form)) {
                        // The prefix is a literal of ours: a text or a blob, as a column has it.
                        let insert = format!(
                            "INSERT INTO enfold_refused_keys (prefix, ring, key_id) VALUES ({prefix}, ?1, ?2)
                             ON CONFLICT (prefix) DO NOTHING"
                        );
                        tx.execute(&insert, params![ring, id]).doing(noting)?;
                    }
                }
                tx.commit().doing(noting)
            })
            .await
    }

    async fn open_transactions(&self) -> Result<Vec<OpenTransaction>> {
        Ok(Vec::new())
    }

    async fn note(&self, ring: &str, keys: &[KeyId], passed: &Passed) -> Result<()> {
        let (ring, keys, passed) = (ring.to_owned(), keys.to_vec(), passed.clone());
        self.pool
            .write(move |c| {
                let column = passed.column();
                let set = match &passed {
                    Passed::Refused { .. } => {
                        format!("{column} = {NOW_MS}, covered = ?3, open = ?4, ended_ms = NULL, counted_ms = NULL")
                    }
                    _ => format!("{column} = coalesce({column}, {NOW_MS})"),
                };
                let sql = format!("UPDATE enfold_disablings SET {set} WHERE ring = ?1 AND key_id = ?2");
                let tx = c.transaction_with_behavior(TransactionBehavior::Immediate).doing(noting)?;
                for key in keys.iter().map(ToString::to_string) {
                    let noted = match &passed {
                        Passed::Refused { covered, open } => {
                            tx.execute(&sql, params![ring, key, to_json(covered), to_json(open)])
                        }
                        _ => tx.execute(&sql, params![ring, key]),
                    };
                    noted.doing(noting)?;
                }
                tx.commit().doing(noting)
            })
            .await
    }

    async fn replicas_before(&self, _ring: &str, _keys: &[KeyId]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn uncount(&self, ring: &str, keys: &[KeyId]) -> Result<()> {
        let sql = "UPDATE enfold_disablings SET counted_ms = NULL WHERE ring = ?1 AND key_id = ?2";
        let (ring, keys) = (ring.to_owned(), keys.to_vec());
        self.pool
            .write(move |c| {
                if is_there(c)? {
                    for key in &keys {
                        c.execute(sql, params![ring, key.to_string()]).doing(noting)?;
                    }
                }
                Ok(())
            })
            .await
    }

    async fn forget(&self, ring: &str, keys: &[KeyId]) -> Result<()> {
        let (ring, keys) = (ring.to_owned(), keys.to_vec());
        self.pool
            .write(move |c| {
                if !is_there(c)? {
                    return Ok(());
                }
                let tx = c.transaction_with_behavior(TransactionBehavior::Immediate).doing(noting)?;
                for table in ["enfold_refused_keys", "enfold_disablings"] {
                    let delete = format!("DELETE FROM {table} WHERE ring = ?1 AND key_id = ?2");
                    for key in &keys {
                        tx.execute(&delete, params![ring, key.to_string()]).doing(noting)?;
                    }
                }
                tx.commit().doing(noting)
            })
            .await
    }

    async fn refuses_any(&self) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM enfold_refused_keys)";
        self.pool
            .read(move |c| if is_there(c)? { c.query_row(sql, [], |row| row.get(0)).doing(reading) } else { Ok(false) })
            .await
    }
}

fn is_there(c: &Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'enfold_disablings')";
    c.query_row(sql, [], |row| row.get(0)).doing(reading)
}

fn rows(c: &Connection) -> Result<Vec<Disabling>> {
    let sql = format!("SELECT {COLUMNS}, {NOW_MS} FROM enfold_disablings ORDER BY asked_ms, ring, key_id");
    let mut statement = c.prepare_cached(&sql).doing(reading)?;
    let found = statement.query_map([], disabling).doing(reading)?;
    let found: Vec<Option<Disabling>> = found.collect::<rusqlite::Result<_>>().doing(reading)?;
    Ok(found.into_iter().flatten().collect())
}

/// Nothing where somebody wrote by hand what is no key.
fn disabling(row: &Row<'_>) -> rusqlite::Result<Option<Disabling>> {
    let (key, epoch): (String, i64) = (row.get(1)?, row.get(2)?);
    let (Ok(key), Ok(epoch)) = (key.parse(), u64::try_from(epoch)) else { return Ok(None) };
    let (asked_ms, now_ms): (i64, i64) = (row.get(3)?, row.get(11)?);
    Ok(Some(Disabling {
        ring: row.get(0)?,
        key,
        epoch,
        age: Duration::from_millis(u64::try_from(now_ms.saturating_sub(asked_ms)).unwrap_or(0)),
        times: Times {
            asked_ms,
            acknowledged_ms: row.get(4)?,
            refused_ms: row.get(5)?,
            ended_ms: row.get(6)?,
            counted_ms: row.get(7)?,
            disabled_ms: row.get(8)?,
        },
        covered: from_json(row.get::<_, Option<String>>(9)?.as_deref()),
        open: from_json(row.get::<_, Option<String>>(10)?.as_deref()),
    }))
}
