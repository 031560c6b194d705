//! [`Database`] for SQLite: everything runs on the pool, on threads that may block.

use async_trait::async_trait;
use enfold::policy::TablePolicy;
use enfold::{Code, Result};

use super::{Sqlite, census, counts, coverage, generations, identity, inspect, prune, residue, steps, store, survey};
use crate::database::{Counts, Database, Dialect, Identity, Probe, Residue, SchemaStep, TableFacts, TableSurvey};
use crate::disabling::Disablings;
use crate::generations::IndexPlace;
use crate::model::{Census, ColumnNote, CountsSought, KeptCount, NotedColumn, TableName, Target};
use crate::prune::Prunable;
use crate::recognise::{Recognised, Recogniser};
use crate::store::{Row, Store};

#[async_trait]
impl Database for Sqlite {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    async fn identity(&self) -> Result<Identity> {
        identity::identity(self.path())
    }

    async fn survey(&self) -> Result<Vec<TableSurvey>> {
        self.pool.read(|c| survey::survey(c)).await
    }

    async fn sample(&self, table: &TableName, columns: &[String], limit: u32) -> Result<Vec<Vec<Option<String>>>> {
        let (table, columns) = (table.clone(), columns.to_vec());
        self.pool.read(move |c| survey::sample(c, &table, &columns, limit)).await
    }

    async fn inspect(&self, table: &TablePolicy, counts: Counts) -> Result<TableFacts> {
        let table = table.clone();
        self.pool.read(move |c| inspect::inspect(c, &table, counts)).await
    }

    async fn peek(&self, target: &Target, rows: u32) -> Result<Vec<Row>> {
        let target = target.clone();
        self.pool.read(move |c| store::peek(c, &target, rows)).await
    }

    async fn census(&self, target: &Target, sample: Option<u64>) -> Result<Vec<Census>> {
        let target = target.clone();
        self.pool.read(move |c| census::census(c, &target, sample)).await
    }

    async fn recognise(&self, target: &Target, at: usize, by: &Recogniser, sample: Option<u64>) -> Result<Recognised> {
        let (target, by) = (target.clone(), by.clone());
        self.pool.read(move |c| census::recognise(c, &target, at, &by, sample)).await
    }

    fn sql(&self, step: &SchemaStep) -> Vec<String> {
        steps::sql(step)
    }

    async fn look_at_index(&self, table: &TableName, column: &str) -> Result<IndexPlace> {
        let (table, column) = (table.clone(), column.to_owned());
        self.pool.read(move |c| generations::look(c, &table, &column)).await
    }

    async fn run(&self, step: &SchemaStep) -> Result<()> {
        let step = step.clone();
        self.pool.write(move |c| steps::run(c, &step)).await
    }

    async fn prunable(&self, target: &Target, counts: Counts) -> Result<Prunable> {
        let target = target.clone();
        self.pool.read(move |c| prune::look(c, &target, counts)).await
    }

    async fn now_ms(&self) -> Result<i64> {
        Ok(jiff::Timestamp::now().as_millisecond())
    }

    async fn residue(&self, target: &Target, probes: &[Probe]) -> Result<Vec<Residue>> {
        let (path, target, probes) = (self.pool.path().to_owned(), target.clone(), residue::owned(probes));
        self.pool.read(move |c| residue::residue(c, &path, &target, &probes)).await
    }

    async fn note_columns(&self, notes: &[ColumnNote]) -> Result<bool> {
        let notes = notes.to_vec();
        match self.pool.write(move |c| coverage::note(c, &notes)).await {
            // It is for people: nothing fails because somebody else writes now, or because we may not.
            Err(error) if matches!(error.code(), Code::Busy | Code::DatabaseDenied | Code::DiskFull) => Ok(false),
            noted => noted,
        }
    }

    async fn noted_columns(&self) -> Result<Vec<NotedColumn>> {
        self.pool.read(|c| coverage::noted(c)).await
    }

    async fn kept_counts(&self, sought: &CountsSought) -> Result<Vec<KeptCount>> {
        let sought = sought.clone();
        self.pool.read(move |c| counts::kept(c, &sought)).await
    }

    fn store(&self) -> &dyn Store {
        self
    }

    fn disablings(&self) -> &dyn Disablings {
        self
    }
}
