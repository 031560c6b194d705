//! A pooler in transaction mode may stand between: nothing of ours stays in a session.

use enfold_jobs::model::{Goal, Storage};
use enfold_jobs::postgres::Purpose;
use enfold_jobs::store::Store;
use tokio_postgres::SimpleQueryMessage;

use crate::world::{World, target};

#[tokio::test]
async fn a_session_is_left_as_it_was_found() {
    let world = World::with(
        "CREATE TABLE people (id int PRIMARY KEY, email text); INSERT INTO people SELECT n, 'p' || n FROM generate_series(1, 50) n",
    )
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    world.sweep(Goal::Protect, &people).await;
    let job = world.sweep(Goal::Unprotect, &people).await.job;
    world.store.pressure(job).await.expect("looks");
    let tx = world.store.begin(Purpose::Own).await.expect("begins on a session that was used");
    tx.client().batch_execute("ROLLBACK").await.expect("leaves the transaction");
    let left = "SELECT 'statement ' || statement FROM pg_prepared_statements \
         UNION ALL SELECT 'setting ' || name FROM pg_settings WHERE source = 'session' \
         UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r' \
         UNION ALL SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() \
         UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE name <> ''";
    let answer = tx.client().simple_query(left).await.expect("looks");
    let found: Vec<&str> = answer
        .iter()
        .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { row.get(0) } else { None })
        .collect();
    assert_eq!(found, Vec::<&str>::new());
}
