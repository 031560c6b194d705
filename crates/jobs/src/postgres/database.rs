//! [`Database`] for Postgres: each method is done elsewhere; here they meet.

use std::collections::BTreeMap;

use async_trait::async_trait;
use enfold::policy::TablePolicy;
use enfold::{Code, Error, Result};

use super::store::peek;
use super::{Postgres, Purpose};
use crate::database::{Counts, Database, Dialect, Identity, Probe, Residue, SchemaStep, TableFacts, TableSurvey};
use crate::disabling::Disablings;
use crate::generations::IndexPlace;
use crate::model::{Census, ColumnNote, CountsSought, KeptCount, NotedColumn, TableName, Target, TargetColumn};
use crate::prune::Prunable;
use crate::recognise::{Recognised, Recogniser};
use crate::store::{Row, Store};
use crate::words::Word;

/// A physical copy has the system's identifier too, and never the moment at which the server was started, to the microsecond.
const IDENTITY: &str = "
    SELECT d.datname::text, c.system_identifier || '/' || d.oid,
        (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8::text,
        pg_is_in_recovery() OR EXISTS (SELECT FROM pg_subscription s WHERE s.subdbid = d.oid AND s.subenabled)
    FROM pg_database d, pg_control_system() c WHERE d.datname = current_database()";

#[async_trait]
impl Database for Postgres {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    async fn identity(&self) -> Result<Identity> {
        let doing = self.doing("identify");
        let rows = self.once(Purpose::Read, &doing, IDENTITY, &[]).await?;
        let row = rows.first().ok_or_else(|| Error::new(Code::Internal, doing).cause("it has no name"))?;
        let lasting: String = row.get(1);
        let running = format!("{lasting}/{}", row.get::<_, String>(2));
        Ok(Identity { name: row.get(0), running, lasting, follows: row.get(3) })
    }

    async fn survey(&self) -> Result<Vec<TableSurvey>> {
        self.survey_tables().await
    }

    async fn sample(&self, table: &TableName, columns: &[String], limit: u32) -> Result<Vec<Vec<Option<String>>>> {
        self.sample_values(table, columns, limit).await
    }

    async fn inspect(&self, table: &TablePolicy, counts: Counts) -> Result<TableFacts> {
        let mut facts = self.inspect_table(table, counts).await?;
        if counts == Counts::Taken && countable(&facts) {
            let target = everything(table, &facts);
            let counted = self.count_forms(&target, None).await?;
            // Counted is better than estimated.
            facts.rows = counted.first().map_or(facts.rows, |census| census.rows);
            for (column, census) in target.columns.iter().zip(counted) {
                let fact = facts.columns.iter_mut().find(|fact| fact.name == column.name);
                fact.into_iter().for_each(|fact| fact.census = census.clone());
            }
        }
        Ok(facts)
    }

    async fn peek(&self, target: &Target, rows: u32) -> Result<Vec<Row>> {
        peek::rows(self, target, rows).await
    }

    async fn census(&self, target: &Target, sample: Option<u64>) -> Result<Vec<Census>> {
        self.count_forms(target, sample).await
    }

    async fn recognise(&self, target: &Target, at: usize, by: &Recogniser, sample: Option<u64>) -> Result<Recognised> {
        self.recognise_values(target, at, by, sample).await
    }

    fn sql(&self, step: &SchemaStep) -> Vec<String> {
        self.step_sql(step)
    }

    async fn look_at_index(&self, table: &TableName, column: &str) -> Result<IndexPlace> {
        Postgres::look_at_index(self, table, column).await
    }

    async fn run(&self, step: &SchemaStep) -> Result<()> {
        self.run_step(step).await
    }

    async fn residue(&self, target: &Target, probes: &[Probe]) -> Result<Vec<Residue>> {
        self.residue_of(target, probes).await
    }

    async fn prunable(&self, target: &Target, counts: Counts) -> Result<Prunable> {
        self.look_at_doomed(target, counts).await
    }

    async fn now_ms(&self) -> Result<i64> {
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
        let rows = self.once(Purpose::Own, &self.doing("read the clock of"), sql, &[]).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    async fn note_columns(&self, notes: &[ColumnNote]) -> Result<bool> {
        self.write_column_notes(notes).await
    }

    async fn noted_columns(&self) -> Result<Vec<NotedColumn>> {
        self.read_column_notes().await
    }

    async fn kept_counts(&self, sought: &CountsSought) -> Result<Vec<KeptCount>> {
        self.read_kept_counts(sought).await
    }

    fn store(&self) -> &dyn Store {
        self
    }

    fn disablings(&self) -> &dyn Disablings {
        self
    }
}

/// Whether every row can be read: a count of a part would be wrong, and the refusal says so already.
fn countable(facts: &TableFacts) -> bool {
    let stands_in_the_way = [Word::NotATable, Word::ForeignPartition, Word::RowSecurityHides, Word::MissingRight];
    !facts.refusals.iter().any(|finding| stands_in_the_way.iter().any(|word| word.word() == finding.word))
}

/// The columns that can hold envelopes, for a count: without what values are bound to.
fn everything(policy: &TablePolicy, facts: &TableFacts) -> Target {
    let columns = facts.columns.iter().filter_map(|fact| {
        let column = policy.columns.get(&fact.name)?;
        let (id, member) = (column.id.clone(), column.member.clone());
        let shadow = fact.shadow.as_ref().map(|shadow| shadow.column.clone());
        Some(TargetColumn {
            name: fact.name.clone(),
            id,
            storage: fact.storage?,
            shadow,
            member,
            companions: BTreeMap::new(),
            writes: None,
        })
    });
    Target {
        table: facts.table.clone(),
        policy_table: policy.name.clone(),
        columns: columns.collect(),
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: facts.key.clone(),
        leaving: enfold::Leaving::default(),
        prune: None,
    }
}
