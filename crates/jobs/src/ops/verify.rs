//! `verify`: opens every value of a table, and hands out the proof that enforcing asks for.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use enfold::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::foreign::recognised;
use super::observer::Observer;
use super::run::{Pace, Run};
use super::session::Session;
use super::targets::{Selection, target};
use crate::database::Counts;
use crate::model::{Goal, JobState, RowError, Target};
use crate::recognise::Recognised;
use crate::shown::count;

/// Rows with errors that a report names.
const NAMED: u32 = 100;

/// Proof that, a moment ago, every value of the target was an envelope that opens and every blind index was that of its
/// value. It has no size, cannot be copied, and only this module makes one; what it proves is tied to the very target.
#[must_use]
pub struct Verified<'t>(PhantomData<&'t Target>);

const _: () = assert!(size_of::<Verified<'static>>() == 0);

/// What `verify` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyReport {
    pub tables: Vec<TableVerified>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableVerified {
    /// The policy's name of the table.
    pub table: String,
    pub rows: u64,
    /// Rows with a value that is plaintext or does not open.
    pub failed: u64,
    /// The first of them.
    pub errors: Vec<RowError>,
    /// Where there are any: what each column's readers of other products' formats make of what is no envelope.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub readers: BTreeMap<String, Recognised>,
}

impl VerifyReport {
    /// Whether every value of every table opened.
    pub fn is_clean(&self) -> bool {
        self.failed() == 0
    }

    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Rows with a value that is plaintext or does not open.
    pub fn failed(&self) -> u64 {
        self.tables.iter().map(|table| table.failed).sum()
    }

    /// What is wrong, where something is.
    pub fn error(&self) -> Option<Error> {
        let rows = match self.failed() {
            0 => return None,
            1 => "1 row".to_owned(),
            more => format!("{} rows", count(more)),
        };
        Some(Error::new(Code::PlaintextFound, format!("a value in {rows} is plaintext or does not open")))
    }
}

/// Opens every value of the selected tables. Nothing is changed.
pub async fn verify(
    session: &Session,
    selection: &Selection,
    pace: &Pace,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let mut tables = Vec::new();
    for (name, table, columns) in selection.of(&session.policy) {
        let facts = session.db.inspect(table, Counts::LeftOut).await?;
        let target = target(name, table, &facts, &columns)?;
        let run = Run { session, observer, pace, target: &target, stop_after: None };
        let mut found = open_all(&run).await?;
        if found.failed > 0 {
            found.readers = recognised(session.db.as_ref(), &session.policy, table, &target, None).await?;
        }
        tables.push(found);
    }
    Ok(VerifyReport { tables })
}

impl<'t> Verified<'t> {
    /// Opens every value; the error names rows that are not in order.
    pub(super) async fn of(run: &Run<'t>) -> Result<Verified<'t>> {
        let found = open_all(run).await?;
        if found.failed == 0 {
            return Ok(Verified(PhantomData));
        }
        let line = format!("{} rows of `{}` are not sealed, or do not open", found.failed, found.table);
        let error = found.errors.iter().take(5).fold(Error::new(Code::PlaintextFound, line), |error, row| {
            error.cause(format!("{} `{}`: {} ({})", row.row, row.column, row.reason, row.code))
        });
        Err(error.hint("run `enfold apply` to seal what is plain; what does not open is listed by `enfold verify`"))
    }
}

async fn open_all(run: &Run<'_>) -> Result<TableVerified> {
    let store = run.session.db.store();
    // What an interrupted verification has seen may have changed since: it proves nothing, so begin at the beginning.
    if let Some(old) = run.unfinished(Goal::Verify).await? {
        let idle = [JobState::Pending, JobState::Paused, JobState::Failed];
        store.transition(old.id, &idle, JobState::Cancelled, None).await?;
    }
    let job = run.new_job(Goal::Verify).await?;
    let report = run.sweep(job, Goal::Verify).await?;
    let errors = store.row_errors(job, NAMED).await?;
    Ok(TableVerified {
        table: run.target.policy_table.clone(),
        rows: report.progress.rows_seen,
        failed: report.progress.rows_failed,
        errors,
        readers: BTreeMap::new(),
    })
}
