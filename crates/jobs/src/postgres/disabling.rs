//! Former data keys on their way out of use, on Postgres. Times are the server's.

use std::time::Duration;

use async_trait::async_trait;
use enfold::{KeyId, Result};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::form::key_prefixes;
use super::store::schema;
use super::{Param, Postgres, Purpose};
use crate::disabling::{Disabling, Disablings, Guarded, OpenTransaction, Passed, Times, from_json, to_json};
use crate::model::TableName;
use crate::store::Order;

const NOW_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::int8";

const COLUMNS: &str =
    "ring, key_id, epoch, asked_ms, acknowledged_ms, refused_ms, ended_ms, counted_ms, disabled_ms, covered, open";

/// Every transaction holds a lock on its virtual id, which every role may see; a prepared one has no session. Backends that
/// serve no database (replication) read no rows of this one.
const OPEN: &str = "SELECT l.pid::text || ' ' || l.virtualxid, \
            'process ' || l.pid || coalesce(' (' || nullif(a.application_name, '') || ')', '') \
       FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
      WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid() \
        AND a.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
     UNION ALL \
     SELECT 'prepared ' || transaction::text, 'the prepared transaction ' || transaction::text \
       FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() \
     ORDER BY 1";

/// Where the log is, whether it was written to disk or not: a batch commits without waiting for that.
const HERE: &str = "pg_catalog.pg_current_wal_insert_lsn()";
const UNCOUNTED: &str = "counted_ms = NULL, counted_at = NULL";

/// Who receives the log and has not applied it so far, and whose slot says that it will come back and has not. Whoever only
/// keeps the log (pg_receivewal, a backup) applies nothing. Logical ones of other databases do not concern this one. How far
/// another is, a role without pg_read_all_stats is not shown, and then nothing may be concluded.
const BEFORE: &str = "WITH counted (at) AS (
         SELECT coalesce(pg_catalog.max(counted_at), pg_catalog.pg_current_wal_insert_lsn()) FROM enfold.disablings WHERE ring = $1 AND key_id = ANY($2))
     SELECT CASE WHEN r.state IS NULL THEN 'a replica of which this role may not see how far it is (pg_monitor may)'
                 ELSE 'the replica ' || pg_catalog.quote_ident(coalesce(nullif(r.application_name, ''), 'unnamed'))
                      || coalesce(' at ' || pg_catalog.host(r.client_addr), '') END
       FROM counted, pg_catalog.pg_stat_replication r LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = r.pid
      WHERE (a.datname IS NULL OR a.datname = pg_catalog.current_database()) AND (r.state IS NULL OR r.replay_lsn < at)
     UNION ALL
     SELECT 'the replica behind the replication slot ' || pg_catalog.quote_ident(s.slot_name)
            || ', which is not connected,'
       FROM counted, pg_catalog.pg_replication_slots s
      WHERE NOT s.active AND NOT s.temporary AND (s.database IS NULL OR s.database = pg_catalog.current_database())
        AND coalesce(s.confirmed_flush_lsn, s.restart_lsn) < at
     ORDER BY 1";

#[async_trait]
impl Disablings for Postgres {
    async fn begin(&self, ring: &str, keys: &[KeyId], epoch: u64, order: &Order) -> Result<Vec<Disabling>> {
        schema::ensure(self).await?;
        let doing = self.doing("note which data keys are to be disabled in");
        let (ids, epoch) = (texts(keys), i64::try_from(epoch).unwrap_or(i64::MAX));
        let insert = format!(
            "INSERT INTO enfold.disablings (ring, key_id, epoch, requested_by, reason, asked_ms) \
             SELECT $1, k, $3, $4, $5, {NOW_MS} FROM pg_catalog.unnest($2) k ON CONFLICT (ring, key_id) DO NOTHING"
        );
        let params: [Param<'_>; 5] = [
            (&ring, Type::TEXT),
            (&ids, Type::TEXT_ARRAY),
            (&epoch, Type::INT8),
            (&order.by, Type::TEXT),
            (&order.reason, Type::TEXT),
        ];
        self.once(Purpose::Own, &doing, &insert, &params).await?;
        let read = format!("SELECT {COLUMNS}, {NOW_MS} FROM enfold.disablings WHERE ring = $1 AND key_id = ANY($2)");
        let rows = self.once(Purpose::Own, &doing, &read, &params[..2]).await?;
        Ok(rows.iter().filter_map(disabling).collect())
    }

    async fn all(&self) -> Result<Vec<Disabling>> {
        let doing = self.doing("read which data keys are to be disabled in");
        if !self.has_disablings(&doing).await? {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT {COLUMNS}, {NOW_MS} FROM enfold.disablings ORDER BY asked_ms, ring, key_id");
        let rows = self.once(Purpose::Own, &doing, &sql, &[]).await?;
        Ok(rows.iter().filter_map(disabling).collect())
    }

    async fn refuses_in(&self, table: &TableName, columns: &[Guarded]) -> Result<bool> {
        self.is_refused_in(table, columns).await
    }

    async fn refuse(&self, ring: &str, keys: &[KeyId]) -> Result<()> {
        let doing = self.doing("have values under former data keys refused in");
        let rows =
            keys.iter().flat_map(|key| key_prefixes(&[*key]).into_iter().map(|prefix| (prefix, key.to_string())));
        let (prefixes, ids): (Vec<String>, Vec<String>) = rows.unzip();
        let sql = "INSERT INTO enfold.refused_keys (prefix, ring, key_id) \
                   SELECT p, $1, k FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) u (p, k) \
                   ON CONFLICT (prefix) DO NOTHING";
        let params: [Param<'_>; 3] = [(&ring, Type::TEXT), (&prefixes, Type::TEXT_ARRAY), (&ids, Type::TEXT_ARRAY)];
        self.once(Purpose::Own, &doing, sql, &params).await.map(|_| ())
    }

    async fn open_transactions(&self) -> Result<Vec<OpenTransaction>> {
        let rows = self.once(Purpose::Own, &self.doing("list the open transactions of"), OPEN, &[]).await?;
        Ok(rows.iter().map(|row| OpenTransaction { mark: row.get(0), says: row.get(1) }).collect())
    }

    async fn note(&self, ring: &str, keys: &[KeyId], passed: &Passed) -> Result<()> {
        let doing = self.doing("note how far data keys are on their way out of use in");
        let (ids, column) = (texts(keys), passed.column());
        let mut params: Vec<Param<'_>> = vec![(&ring, Type::TEXT), (&ids, Type::TEXT_ARRAY)];
        let lists;
        let set = match passed {
            Passed::Refused { covered, open } => {
                lists = (to_json(covered), to_json(open));
                params.extend([(&lists.0 as _, Type::TEXT), (&lists.1 as _, Type::TEXT)]);
                format!("{column} = {NOW_MS}, covered = $3, open = $4, ended_ms = NULL, {UNCOUNTED}")
            }
            // Behind the count: what was committed until then is before this place in the log.
            Passed::Counted => {
                format!("{column} = coalesce({column}, {NOW_MS}), counted_at = coalesce(counted_at, {HERE})")
            }
            _ => format!("{column} = coalesce({column}, {NOW_MS})"),
        };
        let sql = format!("UPDATE enfold.disablings SET {set} WHERE ring = $1 AND key_id = ANY($2)");
        self.once(Purpose::Own, &doing, &sql, &params).await.map(|_| ())
    }

    async fn replicas_before(&self, ring: &str, keys: &[KeyId]) -> Result<Vec<String>> {
        let params: [Param<'_>; 2] = [(&ring, Type::TEXT), (&texts(keys), Type::TEXT_ARRAY)];
        let doing = self.doing("look how far the replicas are of");
        let rows = self.once(Purpose::Own, &doing, BEFORE, &params).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn uncount(&self, ring: &str, keys: &[KeyId]) -> Result<()> {
        let doing = self.doing("note what needs data keys again in");
        if !self.has_disablings(&doing).await? {
            return Ok(());
        }
        let params: [Param<'_>; 2] = [(&ring, Type::TEXT), (&texts(keys), Type::TEXT_ARRAY)];
        let sql = format!("UPDATE enfold.disablings SET {UNCOUNTED} WHERE ring = $1 AND key_id = ANY($2)");
        self.once(Purpose::Own, &doing, &sql, &params).await.map(|_| ())
    }

    async fn forget(&self, ring: &str, keys: &[KeyId]) -> Result<()> {
        let doing = self.doing("have values under data keys taken again in");
        if !self.has_disablings(&doing).await? {
            return Ok(());
        }
        let ids = texts(keys);
        let params: [Param<'_>; 2] = [(&ring, Type::TEXT), (&ids, Type::TEXT_ARRAY)];
        let tx = self.begin(Purpose::Own).await?;
        for table in ["refused_keys", "disablings"] {
            let sql = format!("DELETE FROM enfold.{table} WHERE ring = $1 AND key_id = ANY($2)");
            tx.query(&doing, &sql, &params).await?;
        }
        tx.commit().await
    }

    async fn refuses_any(&self) -> Result<bool> {
        let doing = self.doing("look which data keys are refused in");
        if !self.has_disablings(&doing).await? {
            return Ok(false);
        }
        let sql = "SELECT EXISTS (SELECT FROM enfold.refused_keys)";
        let rows = self.once(Purpose::Own, &doing, sql, &[]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }
}

impl Postgres {
    async fn has_disablings(&self, doing: &str) -> Result<bool> {
        let sql = "SELECT pg_catalog.to_regclass('enfold.disablings') IS NOT NULL";
        let rows = self.once(Purpose::Own, doing, sql, &[]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }
}

fn texts(keys: &[KeyId]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

/// Nothing where somebody wrote by hand what is no key.
fn disabling(row: &Row) -> Option<Disabling> {
    let (asked_ms, now_ms): (i64, i64) = (row.get(3), row.get(11));
    Some(Disabling {
        ring: row.get(0),
        key: row.get::<_, &str>(1).parse().ok()?,
        epoch: u64::try_from(row.get::<_, i64>(2)).ok()?,
        age: Duration::from_millis(u64::try_from(now_ms.saturating_sub(asked_ms)).unwrap_or(0)),
        times: Times {
            asked_ms,
            acknowledged_ms: row.get(4),
            refused_ms: row.get(5),
            ended_ms: row.get(6),
            counted_ms: row.get(7),
            disabled_ms: row.get(8),
        },
        covered: from_json(row.get(9)),
        open: from_json(row.get(10)),
    })
}
