use enfold::Code;

use super::*;
use crate::database::SchemaStep;

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, org TEXT COLLATE NOCASE, email TEXT, other TEXT);";

fn form_check(key_ids: &[String]) -> SchemaStep {
    SchemaStep::AddFormCheck {
        table: table(),
        column: "email".to_owned(),
        storage: Storage::Text,
        key_ids: key_ids.to_vec(),
    }
}

#[tokio::test]
async fn every_step_may_be_run_twice_and_undone() {
    let f = fixture(&format!("{TABLE} CREATE INDEX plain ON t(email);"));
    let (column, eq) = ("email".to_owned(), "email_eq".to_owned());
    let bound = vec!["org".to_owned()];
    let steps = [
        SchemaStep::Widen { table: table(), column: column.clone() },
        SchemaStep::AddIndexColumn { table: table(), column: eq.clone() },
        SchemaStep::BuildIndex {
            table: table(),
            column: eq.clone(),
            unique: true,
            tenant: Some("org".to_owned()),
            partitions: Vec::new(),
        },
        SchemaStep::BuildIndex {
            table: table(),
            column: eq.clone(),
            unique: false,
            tenant: None,
            partitions: Vec::new(),
        },
        SchemaStep::DropPlainIndex { table: table(), index: "plain".to_owned(), kind: IndexKind::Plain },
        SchemaStep::GuardBinding { table: table(), bound, sealed: vec![column.clone()], members: Vec::new() },
        form_check(&["ab".repeat(16)]),
        SchemaStep::ValidateFormCheck { table: table(), column: column.clone() },
        SchemaStep::Rewrite { table: table() },
        SchemaStep::DropFormCheck { table: table(), column: column.clone() },
        SchemaStep::DropBindingGuard { table: table() },
        SchemaStep::DropIndexColumn { table: table(), column: eq },
        SchemaStep::RestorePlainIndexes { table: table(), sealed: Vec::new() },
    ];
    for step in steps {
        f.db.run(&step).await.unwrap();
        f.db.run(&step).await.unwrap();
    }
    let left: String = f.one("SELECT group_concat(name) FROM sqlite_schema WHERE tbl_name = 't'");
    assert_eq!(left, "t,plain");
}

#[tokio::test]
async fn dropped_indexes_come_back_as_they_were_when_nothing_they_hold_is_sealed() {
    let f = fixture(&format!(
        "{TABLE} CREATE INDEX \"it's\" ON t(lower(email)) WHERE other <> 'x';
         CREATE UNIQUE INDEX IF NOT EXISTS both ON t(email COLLATE NOCASE, other DESC);"
    ));
    let definitions = "SELECT group_concat(sql, '; ') FROM (SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 't' ORDER BY name)";
    let before: String = f.one(definitions);
    let restore = |sealed: &[&str]| SchemaStep::RestorePlainIndexes {
        table: table(),
        sealed: sealed.iter().map(|column| (*column).to_owned()).collect(),
    };
    f.db.run(&restore(&[])).await.unwrap();
    for index in ["it's", "both"] {
        f.db.run(&SchemaStep::DropPlainIndex { table: table(), index: index.to_owned(), kind: IndexKind::Plain })
            .await
            .unwrap();
    }
    assert_eq!(f.one::<Option<String>>(definitions), None);
    assert_eq!(f.one::<u32>("SELECT count(*) FROM enfold_dropped_indexes"), 2);
    f.db.run(&restore(&["other"])).await.unwrap();
    assert_eq!(f.one::<Option<String>>(definitions), None, "both hold or filter by a sealed column");

    // What somebody else wrote meanwhile may stand in the way of one, and then of that one only.
    f.app.execute("INSERT INTO t(email, other) VALUES ('a', 'b'), ('A', 'b')", []).unwrap();
    let error = f.db.run(&restore(&[])).await.unwrap_err();
    assert_eq!(error.code(), Code::PlanRefused);
    f.app.execute("DELETE FROM t WHERE email = 'A'", []).unwrap();
    f.db.run(&restore(&[])).await.unwrap();
    assert_eq!(f.one::<String>(definitions), before);
    assert_eq!(f.one::<u32>("SELECT count(*) FROM enfold_dropped_indexes"), 0);
}

#[tokio::test]
async fn the_printed_statements_are_those_that_run() {
    let f = fixture(TABLE);
    let step = form_check(&[]);
    for statement in f.db.sql(&step) {
        f.app.execute_batch(&statement).unwrap();
    }
    f.db.run(&SchemaStep::ValidateFormCheck { table: table(), column: "email".to_owned() }).await.unwrap();
    assert!(f.app.execute("INSERT INTO t(email) VALUES ('plain')", []).is_err());
}

#[tokio::test]
async fn a_form_check_refuses_plaintext_from_every_writer() {
    let f = fixture(TABLE);
    f.app.execute("INSERT INTO t(id, email) VALUES (1, 'old@example.com'), (2, NULL)", []).unwrap();
    f.db.run(&form_check(&[])).await.unwrap();
    for refused in [
        "INSERT INTO t(email) VALUES ('new@example.com')",
        "INSERT OR REPLACE INTO t(id, email) VALUES (1, 'new@example.com')",
        "INSERT OR IGNORE INTO t(email) VALUES ('new@example.com')",
        "INSERT INTO t(id, email) VALUES (1, 'x') ON CONFLICT DO UPDATE SET email = excluded.email",
        "UPDATE t SET email = 'changed' WHERE id = 1",
        "UPDATE OR IGNORE t SET email = 'changed' WHERE id = 1",
        "UPDATE t SET email = CAST(email AS BLOB) WHERE id = 1",
        "UPDATE t SET email = 5 WHERE id = 2",
        "INSERT INTO t(email) VALUES ('')",
    ] {
        let error = f.app.execute(refused, []).unwrap_err();
        assert!(error.to_string().contains("takes envelopes only"), "{refused}: {error}");
    }
    // An update that only writes the old value back does not break on a row that is still plain.
    f.app.execute("UPDATE t SET other = 'x', email = email WHERE id = 1", []).unwrap();
    f.app.execute("INSERT INTO t(email) VALUES (?1)", [envelope(1)]).unwrap();
    f.app.execute("UPDATE t SET email = ?1 WHERE id = 2", [envelope(2)]).unwrap();
    f.app.execute("UPDATE t SET email = NULL WHERE id = 2", []).unwrap();
    let validate = SchemaStep::ValidateFormCheck { table: table(), column: "email".to_owned() };
    assert_eq!(f.db.run(&validate).await.unwrap_err().code(), Code::PlaintextFound);
    f.app.execute("UPDATE t SET email = ?1 WHERE id = 1", [envelope(3)]).unwrap();
    f.db.run(&validate).await.unwrap();
}

#[tokio::test]
async fn a_form_check_for_certain_keys_refuses_envelopes_of_others() {
    let f = fixture(TABLE);
    f.db.run(&form_check(&["ab".repeat(16), "07".repeat(16)])).await.unwrap();
    f.app.execute("INSERT INTO t(email) VALUES (?1)", [envelope(1)]).unwrap();
    f.db.run(&form_check(&["ab".repeat(16)])).await.unwrap();
    assert!(f.app.execute("INSERT INTO t(email) VALUES (?1)", [envelope(1)]).is_err());
}

#[tokio::test]
async fn bound_columns_change_only_together_with_what_is_sealed_for_them() {
    let f = fixture(TABLE);
    f.app
        .execute(
            "INSERT INTO t VALUES (1, 'acme', ?1, 'x'), (2, 'acme', 'plain', 'x'), (3, 'acme', NULL, 'x')",
            [envelope(1)],
        )
        .unwrap();
    let step = SchemaStep::GuardBinding {
        table: table(),
        bound: vec!["id".to_owned(), "org".to_owned()],
        sealed: vec!["email".to_owned()],
        members: Vec::new(),
    };
    f.db.run(&step).await.unwrap();
    // Equal under NOCASE, yet another tenant to the envelope.
    for refused in ["org = 'ACME'", "org = 'other'", "org = NULL", "id = 9", "rowid = 9"] {
        assert!(f.app.execute(&format!("UPDATE t SET {refused} WHERE id = 1"), []).is_err(), "{refused}");
    }
    f.app.execute("UPDATE t SET other = 'y', org = org WHERE id = 1", []).unwrap();
    f.app.execute("UPDATE t SET org = 'other' WHERE id > 1", []).unwrap();
    f.app.execute("UPDATE t SET org = 'other', email = ?1 WHERE id = 1", [envelope(2)]).unwrap();
}

#[tokio::test]
async fn a_unique_blind_index_says_what_stands_in_its_way() {
    let f = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, org TEXT, eq BLOB); INSERT INTO t VALUES (1, 'a', x'01'), (2, 'b', x'01');",
    );
    let step = |tenant: Option<&str>| SchemaStep::BuildIndex {
        table: table(),
        column: "eq".to_owned(),
        unique: true,
        tenant: tenant.map(str::to_owned),
        partitions: Vec::new(),
    };
    f.db.run(&step(Some("org"))).await.unwrap();
    assert_eq!(f.db.run(&step(None)).await.unwrap_err().code(), Code::PlanRefused);
}

#[tokio::test]
async fn a_rewrite_empties_the_write_ahead_log_and_the_free_pages() {
    let f = fixture(&format!("PRAGMA journal_mode = WAL; {TABLE}"));
    for i in 0..2000 {
        f.app.execute("INSERT INTO t(email) VALUES (?1)", [format!("customer{i}@example.com")]).unwrap();
    }
    f.app.execute("DELETE FROM t WHERE id > 10", []).unwrap();
    f.db.run(&SchemaStep::Rewrite { table: table() }).await.unwrap();
    assert_eq!(super::super::wal_bytes(&f.path), 0);
    assert_eq!(f.one::<i64>("PRAGMA freelist_count"), 0);
    assert_eq!(f.one::<String>("PRAGMA journal_mode"), "wal");
}
