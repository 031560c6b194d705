//! Tries expressions of the schema (checks, index expressions, generated columns) on an envelope, instead of guessing
//! from their text what they would say.

use enfold::Result;

use super::super::ask::Ask;
use super::super::ident as quote;
use super::{Protected, Scene, members};
use crate::model::Storage;

/// Something of an envelope's form, of a given size. It does not open; only its shape is tried.
pub(super) struct Envelope {
    /// Bytes of the binary form.
    bytes: u32,
}

/// Bytes of an envelope over its plaintext, by reference and without padding (docs/format.md).
pub(super) const OVERHEAD: u32 = 99;

/// The length of what is stored for a plaintext of `plain` bytes.
pub(super) fn stored_bytes(storage: Storage, plain: u32) -> u32 {
    let binary = plain.saturating_add(OVERHEAD);
    // Unpadded base64url after the prefix `enf1:`; two more characters for the quotes of a JSON string.
    let text = || u32::try_from(u64::from(binary) * 4 / 3 + 6).unwrap_or(u32::MAX);
    match storage {
        Storage::Bytes => binary,
        Storage::Text => text(),
        Storage::Json => text().saturating_add(2),
    }
}

impl Envelope {
    /// The shortest, a usual and a long one: a check of the length that any value could pass refuses one of them.
    pub(super) fn sizes(average: u32) -> [Self; 3] {
        [OVERHEAD, OVERHEAD + average, 1 << 20].map(|bytes| Self { bytes })
    }

    /// Sizes for what is only computed from a value.
    pub(super) fn usual(average: u32) -> [Self; 2] {
        [OVERHEAD, OVERHEAD + average].map(|bytes| Self { bytes })
    }

    /// An SQL expression without a quoted value of anybody.
    pub(super) fn literal(&self, storage: Storage) -> String {
        self.distinct(storage, 0)
    }

    /// No two columns ever hold the same envelope: `which` tells them apart.
    fn distinct(&self, storage: Storage, which: i16) -> String {
        // Every class of character of base64url, so that a check of the alphabet sees all of them.
        let repeats = self.bytes / 3 + 1;
        let text = format!("'enf1:RU5G{which:05}' || pg_catalog.repeat('aZ0_x-9Q', {})", repeats / 2 + 1);
        match storage {
            Storage::Text => format!("({text})"),
            Storage::Json => format!("('\"' || {text} || '\"')"),
            Storage::Bytes => format!("pg_catalog.convert_to({text}, 'UTF8')"),
        }
    }
}

/// Whether the statement ends without an error; what it answers is not looked at.
pub(super) async fn runs(ask: &Ask<'_>, sql: &str) -> Result<bool> {
    Ok(attempt(ask, sql).await?.is_some())
}

/// Whether a condition over the table's rows takes envelopes in `columns`: on some rows as they are (the other columns
/// keep what they hold) and on a row of nothing else. An error is a no.
pub(super) async fn condition(scene: &Scene<'_>, condition: &str, columns: &[usize]) -> Result<bool> {
    let average = columns.iter().map(|at| scene.protected[*at].sizes.average).max().unwrap_or(0);
    for envelope in Envelope::sizes(average) {
        let sql =
            format!("SELECT NOT EXISTS (SELECT FROM {} WHERE ({condition}) IS FALSE)", rows(scene, &envelope, columns));
        if attempt(scene.ask, &sql).await? != Some(true) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether an expression can be computed where `columns` hold envelopes.
pub(super) async fn expression(scene: &Scene<'_>, expression: &str, columns: &[usize]) -> Result<bool> {
    let average = columns.iter().map(|at| scene.protected[*at].sizes.average).max().unwrap_or(0);
    for envelope in Envelope::usual(average) {
        let sql = format!("SELECT count({expression}) >= 0 FROM {}", rows(scene, &envelope, columns));
        if attempt(scene.ask, &sql).await? != Some(true) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn attempt(ask: &Ask<'_>, sql: &str) -> Result<Option<bool>> {
    // An expression over a long value that takes this long would take as long for every row.
    ask.set("SET LOCAL statement_timeout = '5s'").await?;
    let answer = ask.attempt(sql).await?;
    ask.set("SET LOCAL statement_timeout = 0").await?;
    Ok(answer.map(|rows| rows.first().and_then(|row| row.get::<_, Option<bool>>(0)).unwrap_or(true)))
}

/// A sub-select with the table's columns, in which `columns` hold the envelope wherever they are not NULL, and have nothing
/// beside them.
fn rows(scene: &Scene<'_>, envelope: &Envelope, columns: &[usize]) -> String {
    let (mut kept, mut alone) = (Vec::new(), Vec::new());
    for column in &scene.relation.columns {
        let name = quote(&column.name);
        let within = |p: &&Protected| p.column.number == column.number;
        let chosen = || columns.iter().map(|at| &scene.protected[*at]);
        if chosen().any(|p| p.companions.contains(&column.name)) {
            let empty = format!("NULL::{} AS {name}", column.base_type);
            kept.push(empty.clone());
            alone.push(empty);
            continue;
        }
        let found: Vec<&Protected> = chosen().filter(within).collect();
        match found.first().and_then(|p| Some((p, p.judged.storage?))) {
            Some((p, storage)) if p.within.is_some() => {
                let envelope = format!("{}::pg_catalog.jsonb", envelope.distinct(storage, p.column.number));
                let sql_type = &column.sql_type;
                kept.push(format!("({})::{sql_type} AS {name}", members::replaced(&found, &name, &envelope)));
                alone.push(format!("({})::{sql_type} AS {name}", members::alone(scene, &found, &envelope)));
            }
            Some((p, storage)) => {
                // A column that is to be widened is tried as what it becomes.
                let sql_type = if p.judged.widen { "text" } else { &column.sql_type };
                // What has a shadow is empty once its values are sealed.
                let literal = match p.shadow.as_ref().is_some_and(|shadow| !shadow.alone) {
                    true => format!("NULL::{sql_type}"),
                    false => format!("({})::{sql_type}", envelope.distinct(storage, p.column.number)),
                };
                kept.push(format!("CASE WHEN {name} IS NOT NULL THEN {literal} END AS {name}"));
                alone.push(format!("{literal} AS {name}"));
            }
            None => {
                kept.push(name.clone());
                alone.push(format!("NULL::{} AS {name}", column.base_type));
            }
        }
    }
    // Rows are read only where this role sees all of them: under row-level security the statement would fail.
    let sample = if scene.relation.readable {
        format!("(SELECT {} FROM {} LIMIT 100) UNION ALL ", kept.join(", "), scene.relation.sql_name())
    } else {
        String::new()
    };
    // The alias is the table's own name, which Postgres may print before a column.
    format!("({sample}SELECT {}) AS {}", alone.join(", "), quote(&scene.relation.name.table))
}
