//! Looking at values that are no envelopes, some thousand at a time.

use enfold::Result;

use super::census::percent;
use super::{Postgres, Purpose, qualified};
use crate::model::Target;
use crate::postgres::form::Look;
use crate::postgres::held::Beside;
use crate::recognise::{Recognised, Recogniser};

/// Rows that are fetched at once.
const FETCHED: u32 = 2_000;

impl Postgres {
    /// What readers make of the values of a column that are no envelopes.
    pub(super) async fn recognise_values(
        &self,
        target: &Target,
        at: usize,
        by: &Recogniser,
        sample: Option<u64>,
    ) -> Result<Recognised> {
        let shape = self.shape_now(target).await?;
        let doing = format!("cannot look at the values of `{}`", target.policy_table);
        let held = &shape.columns[at];
        let (look, holder) = (held.base.look(), held.holder());
        let from = match sample {
            None => format!("{} t", qualified(&target.table)),
            Some(rows) => format!("{} t TABLESAMPLE SYSTEM ({})", qualified(&target.table), percent(&shape, rows)),
        };
        let limit = sample.map_or(String::new(), |rows| format!(" LIMIT {rows}"));
        let bytes = match look {
            Look::Bytes => "c::bytea",
            _ => "convert_to(c::text, 'UTF8')",
        };
        let tx = self.begin(Purpose::Count).await?;
        let beside = |(n, beside): (usize, &Beside)| (format!(", b{n}"), format!(", {} AS b{n}", beside.stored()));
        let (names, read): (String, String) = held.companions.iter().enumerate().map(beside).unzip();
        let sql = format!(
            "DECLARE enfold_values NO SCROLL CURSOR FOR SELECT {bytes}{names} FROM (SELECT {holder} AS c{read} FROM {from}{limit}) u \
             WHERE c IS NOT NULL AND NOT {}",
            look.is_envelope("c", &[])
        );
        tx.batch(&doing, &sql).await?;
        let mut found = Recognised::default();
        loop {
            let rows = tx.query(&doing, &format!("FETCH {FETCHED} FROM enfold_values"), &[]).await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let beside = (1..=held.companions.len()).map(|at| row.get::<_, Option<&[u8]>>(at));
                by.count(row.get(0), &beside.collect::<Vec<_>>(), &mut found);
            }
        }
        tx.commit().await?;
        Ok(found)
    }
}
