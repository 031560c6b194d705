//! Copies of plaintext that an in-place conversion leaves behind: where they are, how many were found, and the statement
//! that clears each. Finds nothing by changing nothing: it only reads.
//!
//! Three ways of looking. *Pages*: a superuser's session reads the raw pages of the table, its TOAST, its indexes, its
//! materialised views and the planner's statistics, and searches them for values that are known to have been in the
//! columns. *Rows*: other columns of the database are compared with the same values, here and not in the server, so that
//! no value becomes a parameter. *Names*: what cannot be looked into (logs, archives, backups) is named. Where this
//! role may not look, the place is named without a count: not found is never said for not looked.

mod copies;
mod needles;
mod pages;
mod places;
mod server;
mod statistics;

use enfold::{Code, Error, Result};
use zeroize::Zeroizing;

use super::ask::{Ask, p};
use super::{Postgres, Purpose, qualified};
use crate::database::{Probe, Residue};
use crate::model::{Storage, Target};
use needles::Needles;
use pages::Reader;

/// What is being looked for, and where.
struct Search<'a> {
    ask: &'a Ask<'a>,
    target: &'a Target,
    /// The table and its partitions.
    oids: Vec<u32>,
    columns: Vec<String>,
    needles: Needles,
    reader: Reader,
    found: Vec<Residue>,
}

impl Postgres {
    /// See [`crate::database::Database::residue`].
    pub async fn residue_of(&self, target: &Target, probes: &[Probe]) -> Result<Vec<Residue>> {
        let tx = self.begin(Purpose::Count).await?;
        let ask = Ask::new(&tx, format!("cannot look for residue of `{}`", target.policy_table));
        // Every name is printed in full.
        ask.set("SET LOCAL search_path = ''").await?;
        let mut search = Search {
            oids: oids(&ask, target).await?,
            columns: target.columns.iter().map(|c| c.name.clone()).collect(),
            needles: Needles::new(&values(target, probes)),
            reader: Reader::choose(&ask).await?,
            found: Vec::new(),
            target,
            ask: &ask,
        };
        // The scan of live rows comes first: it leaves the hints in their headers that tell old versions from live ones.
        let in_this_table = copies::look(&mut search).await?;
        places::look(&mut search, in_this_table).await?;
        statistics::look(&mut search).await?;
        server::look(&mut search).await?;
        let found = search.found;
        tx.rollback().await?;
        Ok(found)
    }
}

impl Search<'_> {
    fn column(&self) -> Option<&str> {
        match self.columns.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }
}

async fn oids(ask: &Ask<'_>, target: &Target) -> Result<Vec<u32>> {
    let rows = ask
        .rows(
            "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2
             UNION ALL
             SELECT t.relid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_partition_tree(c.oid) t
             WHERE n.nspname = $1 AND c.relname = $2 AND t.isleaf AND t.relid <> c.oid",
            &[p(&target.table.schema), p(&target.table.table)],
        )
        .await?;
    if rows.is_empty() {
        return Err(Error::new(Code::TableMissing, format!("the table `{}` is not there", qualified(&target.table))));
    }
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The values as they would lie elsewhere. Of a JSON document, its strings: jsonb is stored in a form of its own.
fn values(target: &Target, probes: &[Probe]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut values = Vec::new();
    for probe in probes {
        let json = target.columns.iter().any(|c| c.name == probe.column && c.storage == Storage::Json);
        match serde_json::from_slice::<serde_json::Value>(&probe.value) {
            Ok(document) if json => strings(document, &mut values),
            _ => values.push(Zeroizing::new(probe.value.to_vec())),
        }
    }
    values
}

fn strings(document: serde_json::Value, values: &mut Vec<Zeroizing<Vec<u8>>>) {
    match document {
        serde_json::Value::String(text) => values.push(Zeroizing::new(text.into_bytes())),
        serde_json::Value::Array(items) => items.into_iter().for_each(|item| strings(item, values)),
        serde_json::Value::Object(members) => members.into_iter().for_each(|(_, member)| strings(member, values)),
        _ => {}
    }
}
