//! Writers that know only the column, only the shadow, or both: the last word is what is read, and the plan's next sweep
//! seals it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enfold::{CallContext, Form, PayloadType};
use enfold_jobs::ops::{Pace, Selection, Silent, apply, verify};

use crate::fixture::{Fixture, shadowed};

const SCHEMA: &str = "CREATE TABLE people (id int PRIMARY KEY, born date, note text);
    INSERT INTO people SELECT n, date '1950-01-01' + n FROM generate_series(1, 300) n";

impl Fixture {
    async fn sealed(&self, value: &str) -> String {
        let column = self.enfold.column("public.people.born").unwrap();
        let context = CallContext::new("test", "writing");
        let sealed =
            column.seal(&context, &self.place(), Form::Text, PayloadType::Text, value.as_bytes()).await.unwrap();
        String::from_utf8(sealed).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_statement_changes_counts_and_empties_the_other() {
    let fixture = Fixture::new(SCHEMA, &shadowed("born")).await;
    fixture.apply().await;
    let sealed = fixture.sealed("1999-09-09").await;

    // An old writer: the shadow would be stale.
    fixture.run("UPDATE people SET born = '2001-01-01' WHERE id = 1").await;
    assert_eq!(fixture.count("id = 1 AND born = '2001-01-01' AND born_enf IS NULL").await, 1);
    // A new one, on a row that is plain.
    fixture.run(&format!("UPDATE people SET born_enf = '{sealed}' WHERE id = 1")).await;
    assert_eq!(fixture.read("born", 1).await.as_deref(), Some("1999-09-09"));
    // Both at once: whoever writes the column may know nothing of the shadow.
    fixture.run(&format!("UPDATE people SET born = '2002-02-02', born_enf = '{sealed}' WHERE id = 2")).await;
    fixture.run(&format!("INSERT INTO people VALUES (1001, '2003-03-03', NULL, '{sealed}')")).await;
    assert_eq!(fixture.count("id IN (2, 1001) AND born IS NOT NULL AND born_enf IS NULL").await, 2);
    // Neither: nothing happens to the sealed value, whatever else is written.
    fixture.run("UPDATE people SET note = 'x', born = born, born_enf = born_enf WHERE id = 3").await;
    assert_eq!(fixture.read("born", 3).await.as_deref(), Some("1950-01-04"));
    // A session in which no trigger fires cannot leave both.
    let both = "SET session_replication_role = replica; UPDATE people SET born = '2004-04-04' WHERE id = 4";
    let refused = fixture.app.batch_execute(both).await;
    assert_eq!(refused.unwrap_err().code(), Some(&tokio_postgres::error::SqlState::CHECK_VIOLATION));
    fixture.run("SET session_replication_role = origin").await;

    fixture.apply().await;
    assert_eq!(fixture.count("born IS NOT NULL").await, 0);
    assert_eq!(fixture.read("born", 2).await.as_deref(), Some("2002-02-02"));
    assert_eq!(fixture.read("born", 1001).await.as_deref(), Some("2003-03-03"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_change_only_the_source_all_the_while_lose_nothing_and_leave_nothing_stale() {
    let fixture = Fixture::new(SCHEMA, &shadowed("born")).await.shared();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writing = Vec::new();
    for writer in 0..2 {
        let (client, stop) = (fixture.database.connect().await, Arc::clone(&stop));
        writing.push(tokio::spawn(async move {
            let mut last = BTreeMap::new();
            let mut n: i32 = writer;
            while !stop.load(Ordering::Relaxed) {
                n += 2;
                // Rows of its own.
                let id = (n * 37) % 300 / 2 * 2 + 1 + writer;
                let sql = "UPDATE people SET born = date '1900-01-01' + $2::int WHERE id = $1 RETURNING born::text";
                let row = client.query_opt(sql, &[&id, &n]).await.expect("an old writer is refused nothing");
                last.insert(id, row.expect("the row").get::<_, String>(0));
                tokio::task::yield_now().await;
            }
            last
        }));
    }
    // Under writers that never stop a sweep may end with rows left, and says so.
    let shown = fixture.plan().await;
    let applied = apply(&fixture.session, &shown, &Default::default(), &Silent).await;
    if let Err(error) = &applied {
        assert!(matches!(error.code(), enfold::Code::Busy | enfold::Code::PlaintextFound), "{error}");
    }
    stop.store(true, Ordering::Relaxed);
    let mut last = BTreeMap::new();
    for writer in writing {
        last.extend(writer.await.unwrap());
    }
    assert!(last.len() > 100, "they wrote");
    for (id, wanted) in &last {
        assert_eq!(fixture.read("born", *id).await.as_ref(), Some(wanted), "row {id}");
    }
    let shown = fixture.plan().await;
    apply(&fixture.session, &shown, &Default::default(), &Silent).await.unwrap();
    assert_eq!(fixture.count("born IS NOT NULL OR born_enf IS NULL").await, 0);
    for (id, wanted) in &last {
        assert_eq!(fixture.read("born", *id).await.as_ref(), Some(wanted), "row {id}");
    }
    assert!(verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uniqueness_passes_to_the_blind_index_before_the_first_value_is_sealed() {
    let unique = "[tables.\"public.people\".columns.born.indexes.eq]\ncolumn = \"born_eq\"\nunique = true\n";
    let schema = format!("{SCHEMA}; ALTER TABLE people ADD UNIQUE (born)");
    let fixture = Fixture::new(&schema, &format!("{}{unique}", shadowed("born"))).await;
    fixture.apply().await;
    // A writer that keeps the blind index beside what it seals.
    let column = fixture.enfold.column("public.people.born").unwrap();
    let context = CallContext::new("test", "writing");
    let index = column.index_to_store(&context, "eq", &fixture.place(), "1950-01-02").await.unwrap();
    let sealed = fixture.sealed("1950-01-02").await;
    let sql = "INSERT INTO people (id, born_enf, born_eq) VALUES (1000, $1, $2)";
    let error = fixture.app.execute(sql, &[&sealed, &index]).await.unwrap_err();
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION));
    // One of the old kind is found by the next sweep, which leaves the row as it is.
    fixture.run("INSERT INTO people (id, born) VALUES (1000, '1950-01-02')").await;
    let shown = fixture.plan().await;
    let error = apply(&fixture.session, &shown, &Default::default(), &Silent).await.unwrap_err();
    assert!(matches!(error.code(), enfold::Code::RowsFailed | enfold::Code::PlanRefused), "{error}");
    assert_eq!(fixture.count("id = 1000 AND born = '1950-01-02' AND born_enf IS NULL").await, 1);
    fixture.run("DELETE FROM people WHERE id = 1000").await;
    fixture.rollback().await;
    assert_eq!(fixture.count("born IS NOT NULL").await, 300);
    assert_eq!(fixture.traces().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_in_both_is_a_row_error_and_touched_by_nobody() {
    let fixture = Fixture::new(SCHEMA, &shadowed("born")).await;
    fixture.apply().await;
    let stale = fixture.sealed("1977-07-07").await;
    // Somebody took the check away, and wrote past the trigger.
    fixture
        .run(&format!(
            "ALTER TABLE people DROP CONSTRAINT enfold_one_born; SET session_replication_role = replica; \
             UPDATE people SET born = '2004-04-04', born_enf = '{stale}' WHERE id = 4; \
             UPDATE people SET born = '2004-04-05', born_enf = NULL WHERE id = 5; SET session_replication_role = origin"
        ))
        .await;
    let facts = fixture.facts().await;
    assert!(facts.refusals.iter().any(|f| f.word == "shadow-both"), "{:?}", facts.refusals);
    let shown = fixture.plan().await;
    assert!(shown.is_refused());
    let verified = verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    let mut named: Vec<(&str, &str)> =
        verified.tables[0].errors.iter().map(|e| (e.row.as_str(), e.code.as_str())).collect();
    // They come in the order of their places, which are the database's to choose.
    named.sort_unstable();
    assert_eq!(named, [("id=4", "value-invalid"), ("id=5", "plaintext-found")]);
    let error =
        enfold_jobs::ops::rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), enfold::Code::RowsFailed);
    assert_eq!(fixture.count("id = 4 AND born = '2004-04-04' AND born_enf IS NOT NULL").await, 1);
    fixture.run("UPDATE people SET born_enf = NULL WHERE id = 4").await;
    fixture.rollback().await;
    assert_eq!(fixture.count("born IS NULL").await, 0);
}
