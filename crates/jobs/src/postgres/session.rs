//! Transactions with their settings: the only way to the server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use enfold::db::postgres::failure;
use enfold::{Code, Error, Result};
use futures_util::FutureExt;
use futures_util::future::{join, join3};
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::Postgres;

/// What a transaction is for, which settles its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reads rows to be converted, or facts from the system catalogs. Read-only; refuses to see only a part of the rows.
    Read,
    /// Counts over whole tables: as `Read`, with no limit on time and with parallel workers.
    Count,
    /// Writes rows. No plan of it may scan a table.
    Write,
    /// Reads and writes Enfold's own tables.
    Own,
    /// Changes the schema, giving up soon where a lock is not free.
    Schema,
}

/// Statements of ours end with this, so that a plan tells them from an application's in pg_stat_statements.
pub(super) const OWN: &str = "/* enfold */";

/// A parameter and its type: statements are sent unprepared, so the type must be said.
pub type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// An open transaction. Dropped unfinished, it takes its connection with it, and the server rolls back.
pub struct Tx {
    client: Option<Client>,
    /// A statement failed: the server would answer COMMIT by rolling back, without an error.
    failed: AtomicBool,
    idle: Arc<Mutex<Vec<Client>>>,
    _permit: OwnedSemaphorePermit,
}

impl Postgres {
    /// Begins a transaction on a connection of the pool, or on a new one.
    pub async fn begin(&self, purpose: Purpose) -> Result<Tx> {
        let (tx, preamble) = self.not_begun(purpose).await?;
        tx.batch(&self.doing("begin a transaction on"), &preamble).await?;
        Ok(tx)
    }

    /// A transaction and the text that begins it, for callers that send their first statements without waiting for the
    /// answer. Statements are answered in the order in which their futures are first polled; whoever joins the text
    /// with others puts it first. Where it fails, the others fail too or read nothing that is used.
    pub(super) async fn not_begun(&self, purpose: Purpose) -> Result<(Tx, String)> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| Error::new(Code::Internal, "the connection pool was closed"))?;
        let client = loop {
            let pooled = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match pooled {
                // It ended while it lay in the pool: that says nothing about a new connection.
                Some(client) if client.is_closed() => {}
                Some(client) => break client,
                None => break self.endpoint.connect().await?,
            }
        };
        let tx =
            Tx { client: Some(client), failed: AtomicBool::new(false), idle: Arc::clone(&self.idle), _permit: permit };
        Ok((tx, self.preamble(purpose)))
    }

    /// A transaction of one statement, in one round trip.
    pub(super) async fn once(
        &self,
        purpose: Purpose,
        doing: &str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>> {
        let (tx, preamble) = self.not_begun(purpose).await?;
        let (begun, rows, ended) =
            join3(tx.batch(doing, &preamble), tx.query(doing, sql, params), tx.batch(doing, "COMMIT")).await;
        begun?;
        let rows = rows?;
        ended?;
        tx.give_back();
        Ok(rows)
    }

    /// Closes the connections that nobody uses.
    pub fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn doing(&self, what: &str) -> String {
        format!("cannot {what} the database `{}`", self.endpoint.database())
    }

    /// `BEGIN` and the settings, as one message.
    fn preamble(&self, purpose: Purpose) -> String {
        let lock = milliseconds(self.limits.lock_timeout);
        let statement = milliseconds(self.limits.statement_timeout);
        // Whatever the role's default is: the engine decides by row versions, not by snapshots.
        // A read takes several statements (large values come one by one) and must see one state.
        let mut text = String::from(match purpose {
            Purpose::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ",
            Purpose::Count => "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; ",
            Purpose::Write | Purpose::Own | Purpose::Schema => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; ",
        });
        let mut set = |name: &str, value: &str| text.push_str(&format!("SET LOCAL {name} = {value}; "));
        // Under row-level security a query would silently see a part of the rows; with this it fails instead.
        set("row_security", "off");
        set("lock_timeout", &lock);
        // A worker that was stopped in the middle must not keep its locks.
        set("idle_in_transaction_session_timeout", "30000");
        match purpose {
            Purpose::Count => set("statement_timeout", "0"),
            Purpose::Schema => set("statement_timeout", "0"),
            _ => set("statement_timeout", &statement),
        }
        if matches!(purpose, Purpose::Read | Purpose::Write) {
            // The plan of a batch is pinned: rows are found by their place, never by looking through the table.
            for method in ["seqscan", "bitmapscan", "hashjoin", "mergejoin", "hashagg", "memoize"] {
                set(&format!("enable_{method}"), "off");
            }
            set("enable_tidscan", "on");
            set("enable_nestloop", "on");
            set("jit", "off");
            set("max_parallel_workers_per_gather", "0");
        }
        if purpose == Purpose::Write {
            // Rows and checkpoint are one transaction: if a crash takes the last few, it takes their checkpoints too, and
            // they are converted again. What ends a pass or a job waits for the disk, and so for all that went before.
            set("synchronous_commit", "off");
            // What is deferred to the commit would fail there, where no row can be told from another.
            text.push_str("SET CONSTRAINTS ALL IMMEDIATE; ");
        }
        text
    }
}

impl Tx {
    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("present until the transaction ends")
    }

    /// Runs a query; `doing` is the line of the error if it fails.
    pub async fn query(&self, doing: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        self.client().query_typed(&format!("{sql} {OWN}"), params).await.map_err(|e| self.fail(doing, &e))
    }

    pub async fn one(&self, doing: &str, sql: &str, params: &[Param<'_>]) -> Result<Row> {
        let mut rows = self.query(doing, sql, params).await?;
        match rows.pop() {
            Some(row) if rows.is_empty() => Ok(row),
            _ => Err(Error::new(Code::Internal, doing).cause("the query did not give exactly one row")),
        }
    }

    /// Statements without parameters or results.
    pub async fn batch(&self, doing: &str, sql: &str) -> Result<()> {
        self.client().batch_execute(sql).await.map_err(|e| self.fail(doing, &e))
    }

    /// Notes that the transaction cannot commit any more, and puts the failure into our words.
    pub fn fail(&self, doing: &str, error: &tokio_postgres::Error) -> Error {
        self.failed.store(true, Ordering::Relaxed);
        failure(doing, error)
    }

    pub async fn commit(self) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::new(Code::Internal, "a transaction in which a statement failed was to be committed"));
        }
        self.end("COMMIT").await
    }

    pub async fn rollback(self) -> Result<()> {
        self.end("ROLLBACK").await
    }

    /// Commits in the same round trip as a last statement, whose failure makes the server roll back.
    pub(super) async fn commit_with(self, doing: &str, sql: &str, params: &[Param<'_>]) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::new(Code::Internal, "a transaction in which a statement failed was to be committed"));
        }
        let (done, ended) = join(self.query(doing, sql, params), self.batch(doing, "COMMIT")).await;
        done?;
        ended?;
        self.give_back();
        Ok(())
    }

    /// Ends a transaction that only read, without waiting for the answer: whoever uses the connection next waits for it.
    pub(super) fn commit_unheard(self) {
        // The first poll sends it.
        if self.client().batch_execute("COMMIT").now_or_never().is_none_or(|ended| ended.is_ok()) {
            self.give_back();
        }
    }

    async fn end(self, how: &str) -> Result<()> {
        self.client().batch_execute(how).await.map_err(|e| failure("cannot end a transaction", &e))?;
        self.give_back();
        Ok(())
    }

    /// Back to the pool, with no transaction open.
    fn give_back(mut self) {
        let client = self.client.take();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(client);
    }
}

fn milliseconds(duration: Duration) -> String {
    // 0 would mean "no limit".
    duration.as_millis().clamp(1, i32::MAX as u128).to_string()
}
