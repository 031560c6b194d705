//! The operator's own query: whoever knows the application knows best which of its queries must stay quick.

use std::pin::pin;

use enfold::Result;
use enfold::policy::CanaryQuery;
use futures_util::TryStreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use crate::postgres::{OWN, Postgres, Purpose};

/// Runs the query, read-only and alone in its transaction, and says whether the server had to end it for its time.
/// Anything else that goes wrong with it ends the job: a canary that cannot sing guards nothing.
pub(super) async fn is_slow(db: &Postgres, query: &CanaryQuery) -> Result<bool> {
    let doing = db.doing("run the policy's `canary_query` on");
    let tx = db.begin(Purpose::Count).await?;
    // Waiting for a lock is a part of its time.
    let settings = format!(
        "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = 0",
        query.time.as_millis().clamp(1, i32::MAX as u128)
    );
    tx.batch(&doing, &settings).await?;
    // One statement by protocol, whatever its text holds. On a line of its own, for it may end with a comment.
    let sql = format!("{}\n{OWN}", query.sql);
    let answered = async {
        let none: [(&(dyn ToSql + Sync), Type); 0] = [];
        let mut rows = pin!(tx.client().query_typed_raw(&sql, none).await?);
        // Nobody looks at what it returns, and none of it is kept.
        while rows.try_next().await?.is_some() {}
        Ok(())
    };
    match answered.await {
        Ok(()) => tx.rollback().await.map(|()| false),
        Err(error) if is_timeout(&error) => tx.rollback().await.map(|()| true),
        Err(error) => Err(tx.fail(&doing, &error).hint("correct `canary_query` in the policy's `[jobs]`")),
    }
}

fn is_timeout(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}
