//! Questions to the catalogs: one transaction, one sentence for errors, parameters whose types are known.

use enfold::Result;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::session::{OWN, Param, Tx};

/// A transaction with the sentence that an error of it begins with.
pub(super) struct Ask<'a> {
    pub(super) tx: &'a Tx,
    doing: String,
}

impl<'a> Ask<'a> {
    pub(super) fn new(tx: &'a Tx, doing: impl Into<String>) -> Self {
        Self { tx, doing: doing.into() }
    }

    pub(super) async fn rows(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        self.tx.query(&self.doing, sql, params).await
    }

    pub(super) async fn one(&self, sql: &str, params: &[Param<'_>]) -> Result<Row> {
        self.tx.one(&self.doing, sql, params).await
    }

    pub(super) async fn set(&self, sql: &str) -> Result<()> {
        self.tx.batch(&self.doing, sql).await
    }

    /// The first column of every row.
    pub(super) async fn texts(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<String>> {
        Ok(self.rows(sql, params).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Asks what may fail, and goes on as if it had not been asked: `None` then. The answer's first column, or nothing.
    pub(super) async fn attempt(&self, sql: &str) -> Result<Option<Vec<Row>>> {
        self.set("SAVEPOINT enfold_try").await?;
        let answer = self.tx.client().query_typed(&format!("{sql} {OWN}"), &[]).await;
        // A lost connection fails here.
        self.set("ROLLBACK TO SAVEPOINT enfold_try; RELEASE SAVEPOINT enfold_try").await?;
        Ok(answer.ok())
    }
}

/// A parameter with the Postgres type that goes with its Rust type.
pub(super) fn p<T: Typed>(value: &T) -> Param<'_> {
    (value, T::TYPE)
}

pub(super) trait Typed: ToSql + Sync {
    const TYPE: Type;
}

impl Typed for u32 {
    const TYPE: Type = Type::OID;
}
impl Typed for Vec<u32> {
    const TYPE: Type = Type::OID_ARRAY;
}
impl Typed for String {
    const TYPE: Type = Type::TEXT;
}
impl Typed for Vec<String> {
    const TYPE: Type = Type::TEXT_ARRAY;
}
impl Typed for Vec<i16> {
    const TYPE: Type = Type::INT2_ARRAY;
}
impl Typed for i64 {
    const TYPE: Type = Type::INT8;
}

/// A count that Postgres gives as int8; it is never negative where this is used.
pub(super) fn count(row: &Row, column: &str) -> u64 {
    row.get::<_, Option<i64>>(column).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}
