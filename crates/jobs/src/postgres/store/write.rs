//! Writing a batch and its checkpoint in one transaction, and finding the rows that the database will not take.

use enfold::db::postgres::failure;
use enfold::{Code, Error, Result};
use futures_util::future::{join, join_all, join3};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::jobs::signed;
use super::lease::{pass_and_chunk, prove};
use super::read::{SelectList, file_of, place_of};
use super::statement::{COPIED, READABLE, Sent, Source, Way};
use super::wire::Tid;
use crate::model::Target;
use crate::postgres::shape::{Base, Shape};
use crate::postgres::{OWN, Param, Postgres, Purpose, Tx};
use crate::store::{Cell, Change, Checkpoint, Lease, Outcome, Row, RowVersion};

pub(super) async fn batch(
    db: &Postgres,
    lease: &Lease,
    target: &Target,
    changes: &[Change],
    checkpoint: &Checkpoint,
) -> Result<Vec<Outcome>> {
    let shape = db.shape(target).await?;
    let mut order = Vec::with_capacity(changes.len());
    for (at, change) in changes.iter().enumerate() {
        order.push((place_of(&change.version)?, at));
    }
    order.sort_unstable();
    let mut open: Vec<usize> = order.into_iter().map(|(_, at)| at).collect();
    let mut outcomes = vec![Outcome::Lost; changes.len()];
    let job = Job { db, lease, target, shape: &shape };

    // Each round either commits or finds at least one row that cannot be written. What was rolled back leaves its traces
    // on the rows, so from then on they are locked first.
    let mut traces = Traces::AsRead;
    loop {
        let (tx, mut preamble) = db.not_begun(Purpose::Write).await?;
        preamble.push_str(shape.settings());
        let batch: Vec<&Change> = open.iter().map(|at| &changes[*at]).collect();
        let rejected = match job.attempt(&tx, &preamble, &batch, traces).await {
            Ok(fates) => {
                let altered = bad_rows(&fates);
                if altered.is_empty() {
                    let written = fates.iter().filter(|fate| matches!(fate, Fate::Written)).count();
                    for (at, fate) in open.iter().zip(&fates) {
                        outcomes[*at] = if matches!(fate, Fate::Written) { Outcome::Written } else { Outcome::Lost };
                    }
                    let lost = open.len() - written;
                    let mut checkpoint = checkpoint.clone();
                    checkpoint.errors.extend(changes.iter().zip(&outcomes).flat_map(|(c, outcome)| c.noted(outcome)));
                    record(tx, lease, &checkpoint, written, lost).await?;
                    return Ok(outcomes);
                }
                tx.rollback().await?;
                altered
            }
            Err(Fault::Row(_)) => {
                tx.rollback().await?;
                job.isolate(&batch).await?
            }
            Err(Fault::Other(error)) => return Err(error),
        };
        traces = Traces::OfOurs;
        if rejected.is_empty() {
            // The row that failed does not fail any more: somebody changed it meanwhile.
            return Err(busy(target));
        }
        for (at, reason) in &rejected {
            outcomes[open[*at]] = Outcome::Rejected { reason: reason.clone() };
        }
        let gone: Vec<usize> = rejected.into_iter().map(|(at, _)| at).collect();
        let mut at = 0;
        open.retain(|_| {
            at += 1;
            !gone.contains(&(at - 1))
        });
    }
}

/// What became of a row inside the transaction.
enum Fate {
    Written,
    Lost,
    Altered,
    Swallowed,
    Rewritten,
    Unreadable,
}

enum Fault {
    /// The database will not take one of the rows, for this reason.
    Row(String),
    Other(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Other(error)
    }
}

struct Job<'a> {
    db: &'a Postgres,
    lease: &'a Lease,
    target: &'a Target,
    shape: &'a Shape,
}

/// Whose traces the rows of a batch bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traces {
    /// Those that were there when they were read.
    AsRead,
    /// Of an attempt of ours that was rolled back.
    OfOurs,
}

/// Rows of a batch that are written in one statement.
struct Part<'a> {
    way: Way,
    /// Positions in the batch.
    rows: Vec<usize>,
    sent: Sent<'a>,
}

impl<'j> Job<'j> {
    /// Begins, proves the lease and writes all rows, in a transaction that the caller ends.
    async fn attempt(&self, tx: &Tx, preamble: &str, batch: &[&Change], traces: Traces) -> Result<Vec<Fate>, Fault> {
        let begun = tx.batch("cannot begin to write rows", preamble);
        let sent = self.sent(batch, traces);
        if sent.is_empty() {
            let (begun, proven) = join(begun, prove(tx, self.lease)).await;
            begun?;
            proven?;
            return Ok(batch.iter().map(|_| Fate::Written).collect());
        }
        if sent.iter().any(|part| part.sent.plaintext) {
            begun.await?;
            prove(tx, self.lease).await?;
            return self.update(tx, batch, &sent).await;
        }
        // All go out before the first answer comes; if the lease is lost the transaction ends without a trace.
        let (begun, proven, fates) = join3(begun, prove(tx, self.lease), self.update(tx, batch, &sent)).await;
        begun?;
        proven?;
        fates
    }

    /// What is to be sent, in one part or in two: see [`Way`].
    fn sent<'b>(&self, batch: &[&'b Change], traces: Traces) -> Vec<Part<'b>>
    where
        'j: 'b,
    {
        let all_first = self.shape.triggers_before || traces == Traces::OfOurs;
        let held = |change: &Change| matches!(change.version, RowVersion::Tuple { held: true, .. });
        let (first, at_once) = (0..batch.len()).partition::<Vec<_>, _>(|at| all_first || held(batch[*at]));
        [(Way::LockedFirst, first), (Way::AtOnce, at_once)]
            .into_iter()
            .map(|(way, rows)| {
                let changes: Vec<&Change> = rows.iter().map(|at| batch[*at]).collect();
                Part { way, sent: Sent::new(self.target, self.shape, &changes), rows }
            })
            .filter(|part| !part.sent.is_empty())
            .collect()
    }

    /// What became of each row of `batch`; one that no part writes has nothing to be written.
    async fn update(&self, tx: &Tx, batch: &[&Change], parts: &[Part<'_>]) -> Result<Vec<Fate>, Fault> {
        let mut fates: Vec<Fate> = batch.iter().map(|_| Fate::Written).collect();
        let mut ended = Vec::with_capacity(parts.len());
        if parts.iter().any(|part| part.sent.plaintext) {
            // They share a temporary table.
            for part in parts {
                ended.push(self.update_part(tx, batch, part).await);
            }
        } else {
            // The second does not wait for the first one's answer.
            ended = join_all(parts.iter().map(|part| self.update_part(tx, batch, part))).await;
        }
        for (part, ended) in parts.iter().zip(ended) {
            for (at, fate) in part.rows.iter().zip(ended?) {
                fates[*at] = fate;
            }
        }
        Ok(fates)
    }

    async fn update_part(&self, tx: &Tx, batch: &[&Change], part: &Part<'_>) -> Result<Vec<Fate>, Fault> {
        let Part { way, sent, .. } = part;
        let batch: Vec<&Change> = part.rows.iter().map(|at| batch[*at]).collect();
        let relation = &self.lease.range.relation;
        let source = if sent.plaintext { Source::Copied } else { Source::Parameters };
        let sql = format!("{} {OWN}", sent.sql(relation, self.shape, source, *way));
        let doing = || format!("cannot write rows of `{}`", self.target.policy_table);
        if source == Source::Copied {
            tx.batch(&doing(), &sent.table()).await?;
            copy(tx, sent).await.map_err(|e| Fault::Other(tx.fail(&doing(), &e)))?;
            if let Some(tries) = sent.try_texts() {
                tx.batch(&doing(), &tries).await?;
            }
        }
        let params = if source == Source::Copied { Vec::new() } else { sent.params() };
        // The update holds the table against a rewrite, so the file is what it was when the rows were found.
        let (answer, file) = join(tx.client().query_typed(&sql, &params), file_of(tx, relation)).await;
        let rows = answer.map_err(|error| fault(doing(), &error))?;
        let file = file?;
        let mut unreadable = Vec::new();
        if source == Source::Copied {
            unreadable = tx.query(&doing(), &format!("SELECT ord FROM {COPIED} WHERE NOT {READABLE}"), &[]).await?;
            // The isolation of a bad row copies again in the same transaction.
            tx.batch(&doing(), &format!("DROP TABLE {COPIED}")).await?;
        }
        let mut fates: Vec<Fate> = batch.iter().map(|_| Fate::Lost).collect();
        let mut places: Vec<(usize, Tid)> = Vec::new();
        for row in &rows {
            let at = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
            let fate = fates
                .get_mut(at)
                .ok_or_else(|| Error::new(Code::Internal, "the database named a row that was not sent"))?;
            match row.get::<_, Option<bool>>(1) {
                None if matches!(fate, Fate::Lost) => *fate = Fate::Swallowed,
                None => {}
                Some(same) => {
                    *fate = if same { Fate::Written } else { Fate::Altered };
                    places.push((at, row.get(2)));
                }
            }
        }
        for row in &unreadable {
            let at = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
            fates.get_mut(at).into_iter().for_each(|fate| *fate = Fate::Unreadable);
        }
        let moved = |change: &Change| !matches!(change.version, RowVersion::Tuple { file: read, .. } if read == file);
        if batch.iter().any(|change| moved(change)) {
            return Err(Fault::Other(busy(self.target)));
        }
        // What is gone is not there to be changed again.
        if self.shape.triggers_after && self.shape.doomed.is_none() {
            self.look_again(tx, &batch, &places, file, &mut fates).await?;
        }
        Ok(fates)
    }

    /// After triggers have run by now, and may have written a row once more.
    async fn look_again(
        &self,
        tx: &Tx,
        batch: &[&Change],
        places: &[(usize, Tid)],
        file: u32,
        fates: &mut [Fate],
    ) -> Result<(), Fault> {
        let list = SelectList::new(self.target, self.shape);
        let tids: Vec<Tid> = places.iter().map(|(_, tid)| *tid).collect();
        let rows = list.latest(tx, &self.lease.range.relation, &tids, file).await?;
        for ((at, _), row) in places.iter().zip(rows) {
            let kept = row.is_some_and(|row| holds(&row, batch[*at], self.shape));
            if matches!(fates[*at], Fate::Written) && !kept {
                fates[*at] = Fate::Rewritten;
            }
        }
        Ok(())
    }

    /// The rows that fail by themselves, found by halving in a transaction that is rolled back whatever it finds.
    async fn isolate(&self, batch: &[&Change]) -> Result<Vec<(usize, String)>> {
        let (tx, mut preamble) = self.db.not_begun(Purpose::Write).await?;
        preamble.push_str(self.shape.settings());
        let doing = format!("cannot find the row of `{}` that cannot be written", self.target.policy_table);
        tx.batch(&doing, &preamble).await?;
        let mut bad = Vec::new();
        let mut todo = Vec::new();
        todo.push(0..batch.len());
        while let Some(part) = todo.pop() {
            tx.batch(&doing, "SAVEPOINT enfold_half").await?;
            let half = &batch[part.clone()];
            match self.update(&tx, half, &self.sent(half, Traces::OfOurs)).await {
                Ok(fates) => {
                    tx.batch(&doing, "RELEASE enfold_half").await?;
                    bad.extend(bad_rows(&fates).into_iter().map(|(at, reason)| (part.start + at, reason)));
                }
                Err(Fault::Row(reason)) => {
                    tx.batch(&doing, "ROLLBACK TO enfold_half; RELEASE enfold_half").await?;
                    if part.len() == 1 {
                        bad.push((part.start, reason));
                    } else {
                        let middle = part.start + part.len() / 2;
                        todo.push(middle..part.end);
                        todo.push(part.start..middle);
                    }
                }
                Err(Fault::Other(error)) => return Err(error),
            }
        }
        tx.rollback().await?;
        Ok(bad)
    }
}

async fn copy(tx: &Tx, sent: &Sent<'_>) -> Result<(), tokio_postgres::Error> {
    let sink = tx.client().copy_in(&sent.copy()).await?;
    let mut writer = std::pin::pin!(BinaryCopyInWriter::new(sink, &sent.copy_types()));
    for at in 0..sent.len() {
        let ord = i64::try_from(at + 1).unwrap_or(i64::MAX);
        writer.as_mut().write(&sent.copy_row(at, &ord)).await?;
    }
    writer.as_mut().finish().await?;
    Ok(())
}

/// Records the progress and commits.
async fn record(tx: Tx, lease: &Lease, checkpoint: &Checkpoint, written: usize, lost: usize) -> Result<()> {
    let doing = "cannot record the progress of a range";
    let (pass, chunk) = pass_and_chunk(lease.chunk);
    if !checkpoint.errors.is_empty() {
        let field = |of: fn(&crate::model::RowError) -> &String| checkpoint.errors.iter().map(of).collect::<Vec<_>>();
        tx.query(
            doing,
            "INSERT INTO enfold.job_errors (job, pass, row_label, column_name, code, reason) \
             SELECT $1, $2, r, c, w, s FROM unnest($3, $4, $5, $6) AS u (r, c, w, s)",
            &[
                (&lease.job.0, Type::INT8),
                (&pass, Type::INT4),
                (&field(|e| &e.row), Type::TEXT_ARRAY),
                (&field(|e| &e.column), Type::TEXT_ARRAY),
                (&field(|e| &e.code), Type::TEXT_ARRAY),
                (&field(|e| &e.reason), Type::TEXT_ARRAY),
            ],
        )
        .await?;
    }
    let count = |n: usize| signed(u64::try_from(n).unwrap_or(u64::MAX));
    let (cursor, seen, written, lost) =
        (checkpoint.cursor.map(signed), signed(checkpoint.rows_seen), count(written), count(lost));
    let params: [Param<'_>; 7] = [
        (&lease.job.0, Type::INT8),
        (&pass, Type::INT4),
        (&chunk, Type::INT8),
        (&cursor, Type::INT8),
        (&seen, Type::INT8),
        (&written, Type::INT8),
        (&lost, Type::INT8),
    ];
    let sql = "UPDATE enfold.job_chunks SET cursor_position = coalesce($4, to_position), done = $4 IS NULL, \
                      rows_seen = rows_seen + $5, rows_changed = rows_changed + $6, rows_lost = rows_lost + $7 \
               WHERE job = $1 AND pass = $2 AND chunk = $3";
    tx.commit_with(doing, sql, &params).await
}

fn bad_rows(fates: &[Fate]) -> Vec<(usize, String)> {
    let reason = |fate: &Fate| match fate {
        Fate::Written | Fate::Lost => None,
        Fate::Altered => Some("a trigger altered the row as it was written; what was stored is not what was sent"),
        Fate::Swallowed => Some("a trigger or rule did not let the row be written"),
        Fate::Unreadable => Some("what was sealed is no value of the column's type"),
        Fate::Rewritten => Some("a trigger changed the row again after it was written"),
    };
    fates.iter().enumerate().filter_map(|(at, fate)| Some((at, reason(fate)?.to_owned()))).collect()
}

fn holds(row: &Row, change: &Change, shape: &Shape) -> bool {
    let same = |stored: &Option<Vec<u8>>, cell: &Cell, base: Base| match cell {
        Cell::Keep => true,
        Cell::Set(sent) if stored == sent => true,
        // jsonb keeps a document in its own spelling.
        Cell::Set(Some(sent)) if base == Base::Jsonb => stored.as_ref().is_some_and(|stored| {
            let parsed = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
            parsed(stored).is_some() && parsed(stored) == parsed(sent)
        }),
        Cell::Set(_) => false,
    };
    let cells = row.cells.iter().zip(&change.cells).zip(&shape.columns).all(|((s, c), held)| same(s, c, held.base));
    let others = row.indexed.iter().zip(&change.indexed).chain(row.beside.iter().zip(&change.beside));
    cells && others.into_iter().all(|(s, c)| same(s, c, Base::Bytea))
}

/// Sorts a failed statement: one row's fault, something that fewer rows or another moment avoids, or neither.
fn fault(doing: String, error: &tokio_postgres::Error) -> Fault {
    let Some(db) = error.as_db_error() else { return Fault::Other(failure(doing, error)) };
    match *db.code() {
        SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::LOCK_NOT_AVAILABLE
        | SqlState::QUERY_CANCELED => {
            let fact = format!("Postgres answered SQLSTATE {}", db.code().code());
            Fault::Other(Error::new(Code::Busy, doing).cause(fact))
        }
        // Data exceptions, constraints, WITH CHECK OPTION, an exception raised by a trigger, an index row too large.
        _ if ["22", "23", "44", "P0", "54"].contains(&&db.code().code()[..2]) => {
            let reason = failure("", error).causes().next().unwrap_or("refused").to_owned();
            Fault::Row(reason)
        }
        _ => Fault::Other(failure(doing, error)),
    }
}

fn busy(target: &Target) -> Error {
    Error::new(Code::Busy, format!("the rows of `{}` moved while they were written", target.policy_table))
}
