//! Counts by stored form: what a column holds, and how far a goal is.

use enfold::{KeyId, Result};
use tokio_postgres::types::Type;

use super::form::{self, Look};
use super::held::{Held, Source};
use super::shape::Shape;
use super::{Postgres, Purpose, Tx, ident, literal, qualified};
use crate::model::{Census, Goal, Target};

/// How many rows with plaintext a census names.
const EXAMPLES: u32 = 5;

impl Postgres {
    /// One census for each column of the target. `sample`: about as many rows, from blocks spread over the table.
    pub async fn count_forms(&self, target: &Target, sample: Option<u64>) -> Result<Vec<Census>> {
        let shape = self.shape_now(target).await?;
        let doing = format!("cannot count what `{}` holds", target.policy_table);
        let from = match sample {
            None => format!("{} t", qualified(&target.table)),
            Some(rows) => format!("{} t TABLESAMPLE SYSTEM ({})", qualified(&target.table), percent(&shape, rows)),
        };
        let limit = sample.map_or(String::new(), |rows| format!(" LIMIT {rows}"));
        let tx = self.begin(Purpose::Count).await?;
        let mut all = Vec::with_capacity(target.columns.len());
        for held in &shape.columns {
            let look = held.base.look();
            // What a source holds is plaintext whatever it looks like.
            let source = held.source.as_ref().map_or("false".to_owned(), Source::is_filled);
            let sql = format!(
                "SELECT CASE WHEN s THEN 'plain' WHEN c IS NULL THEN 'null' WHEN {envelope} THEN {key} WHEN {like} THEN 'like' ELSE 'plain' END, \
                        count(*) \
                 FROM (SELECT {holder} AS c, {source} AS s FROM {from}{limit}) u GROUP BY 1",
                holder = held.holder(),
                envelope = look.is_envelope("c", &[]),
                key = look.key_prefix("c"),
                like = look.begins_like("c"),
            );
            let mut census = Census::default();
            for row in tx.query(&doing, &sql, &[]).await? {
                let (what, count): (String, i64) = (row.get(0), row.get(1));
                let count = u64::try_from(count).unwrap_or(0);
                census.rows += count;
                match what.as_str() {
                    "null" => census.nulls += count,
                    "like" => census.lookalikes += count,
                    "plain" => census.plaintext += count,
                    prefix => {
                        census.envelopes += count;
                        *census.by_key.entry(form::key_of(prefix).unwrap_or_default()).or_default() += count;
                    }
                }
            }
            if census.plaintext > 0 {
                census.examples = examples(&tx, &doing, target, held).await?;
            }
            all.push(census);
        }
        tx.commit().await?;
        Ok(all)
    }

    /// Rows that do not satisfy the goal by their stored form.
    pub(crate) async fn count_remaining(&self, goal: Goal, target: &Target) -> Result<u64> {
        let shape = self.shape_now(target).await?;
        let Some(open) = unsatisfied(goal, target, &shape) else { return Ok(0) };
        let tx = self.begin(Purpose::Count).await?;
        let sql = format!("SELECT count(*) FROM {} t WHERE {open}", qualified(&target.table));
        let row = tx.one(&format!("cannot count what is left of `{}`", target.policy_table), &sql, &[]).await?;
        tx.commit().await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// Rows with an envelope under one of `keys` in a column of the target.
    pub(crate) async fn count_rows_under(&self, target: &Target, keys: &[KeyId]) -> Result<u64> {
        if keys.is_empty() {
            return Ok(0);
        }
        let shape = self.shape_now(target).await?;
        let under =
            shape.columns.iter().map(|held| format!("{} = ANY ($1)", held.base.look().key_prefix(&held.holder())));
        let under = under.collect::<Vec<_>>().join(" OR ");
        let sql = format!("SELECT count(*) FROM {} t WHERE {under}", qualified(&target.table));
        let tx = self.begin(Purpose::Count).await?;
        let doing = format!("cannot count what is under former data keys in `{}`", target.policy_table);
        let row = tx.one(&doing, &sql, &[(&form::key_prefixes(keys), Type::TEXT_ARRAY)]).await?;
        tx.commit().await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// Whether a Postgres role sees every row of a table: row-level security makes counts wrong, so it must.
    pub async fn sees_all_rows(&self, target: &Target) -> Result<bool> {
        let tx = self.begin(Purpose::Read).await?;
        let name = qualified(&target.table);
        let row = tx
            .one(
                "cannot look up row-level security",
                "SELECT NOT pg_catalog.row_security_active($1::regclass::oid)",
                &[(&name, Type::TEXT)],
            )
            .await?;
        tx.commit().await?;
        Ok(row.get(0))
    }
}

/// The first rows that hold plaintext, as people name rows. Values of keys are shown where no key is protected.
async fn examples(tx: &Tx, doing: &str, target: &Target, held: &Held) -> Result<Vec<String>> {
    let protected = target.key.iter().any(|key| target.columns.iter().any(|c| c.name == *key));
    let label = if target.key.is_empty() || protected {
        "'ctid=' || t.ctid::text".to_owned()
    } else {
        let parts: Vec<String> =
            target.key.iter().map(|key| format!("{} || t.{}::text", literal(&format!("{key}=")), ident(key))).collect();
        parts.join(" || ',' || ")
    };
    let (holder, look) = (held.holder(), held.base.look());
    let like = format!("({} OR {})", look.is_envelope(&holder, &[]), look.begins_like(&holder));
    let sql =
        format!("SELECT {label} FROM {} t WHERE {} LIMIT {EXAMPLES}", qualified(&target.table), held.is_plain(&like));
    Ok(tx.query(doing, &sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// `None`: the goal asks for nothing of this target.
fn unsatisfied(goal: Goal, target: &Target, shape: &Shape) -> Option<String> {
    let envelope = |held: &Held| held.base.look().is_shaped_like_envelope(&held.holder());
    let plain = || shape.columns.iter().map(|held| held.is_plain(&envelope(held)));
    // An index over several columns has no value where one of them is NULL.
    let unindexed = || {
        target.indexes.iter().map(|index| {
            let values: Vec<String> = index.over.iter().map(|at| shape.columns[*at].is_filled()).collect();
            format!("(t.{} IS NULL AND {})", ident(&index.column), values.join(" AND "))
        })
    };
    let conditions: Vec<String> = match goal {
        Goal::Protect => {
            let accompanied = shape.columns.iter().filter_map(Held::is_accompanied);
            plain().chain(accompanied).chain(unindexed()).collect()
        }
        Goal::Verify => plain().collect(),
        Goal::Unprotect => {
            let sealed = |held: &Held| format!("({} IS NOT NULL AND {})", held.holder(), envelope(held));
            shape.columns.iter().map(sealed).collect()
        }
        Goal::Index => unindexed().collect(),
        Goal::Prune => shape.doomed.iter().cloned().collect(),
        // Which keys are former ones no stored form says.
        Goal::Reencrypt => Vec::new(),
    };
    (!conditions.is_empty()).then(|| conditions.join(" OR "))
}

/// Half as much again as is needed by the planner's estimate, for SYSTEM takes whole blocks.
pub(super) fn percent(shape: &Shape, rows: u64) -> f64 {
    let total: u64 = shape.leaves.iter().map(|leaf| leaf.rows.unwrap_or(0)).sum();
    #[allow(clippy::cast_precision_loss, reason = "a share, to be rounded in any case")]
    let share = if total == 0 { 100.0 } else { 150.0 * rows as f64 / total as f64 };
    share.clamp(0.0001, 100.0)
}

impl super::shape::Base {
    pub(crate) fn look(self) -> Look {
        match self {
            Self::Text => Look::Text,
            Self::Bytea => Look::Bytes,
            Self::Json => Look::Json,
            Self::Jsonb => Look::Jsonb,
        }
    }
}
