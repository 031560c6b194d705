use enfold::policy::TriggerChoice;

use super::*;

fn words(found: &[crate::database::Finding]) -> Vec<(&str, Option<&str>)> {
    found.iter().map(|f| (f.word.as_str(), f.column.as_deref())).collect()
}

#[tokio::test]
async fn what_is_not_counted_is_the_same_table_with_the_same_refusals() {
    let f = fixture(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b, c BLOB, d INTEGER CHECK (d <> 'x'));
         INSERT INTO t (a, b, c, d) VALUES ('x', 'y', x'01', 1), ('z', 'y', x'02', 2)",
    );
    let policy = policy(&["a", "b", "c", "d"]);
    let counted = f.facts(&policy).await;
    let uncounted = f.db.inspect(&policy, Counts::LeftOut).await.unwrap();
    assert_eq!(counted.columns[0].census.plaintext, 2);
    assert!(uncounted.columns.iter().all(|column| column.census == crate::model::Census::default()));
    assert_eq!((counted.rows, uncounted.rows), (2, 0));
    assert_eq!(counted.fingerprint, uncounted.fingerprint);
    let storage = |facts: &TableFacts| facts.columns.iter().map(|c| (c.name.clone(), c.storage)).collect::<Vec<_>>();
    assert_eq!(storage(&counted), storage(&uncounted));
    assert_eq!(words(&counted.refusals), words(&uncounted.refusals));
    assert!(!counted.refusals.is_empty());
}

async fn refusals(schema: &str, column: &str) -> Vec<String> {
    let facts = fixture(schema).facts(&policy(&[column])).await;
    assert!(facts.refusals.iter().all(|f| f.way_out.is_some()));
    facts.refusals.iter().map(|f| f.word.clone()).collect()
}

#[tokio::test]
async fn shadows_and_members_are_refused_and_hide_no_other_column() {
    let f = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, born DATE, profile JSON); INSERT INTO t VALUES (1, 'x', '2000-01-01', '{}')",
    );
    let mut policy = policy(&["a", "born", "email"]);
    policy.columns.get_mut("born").unwrap().shadow = Some("born_enf".to_owned());
    let member = enfold::policy::Member {
        column: "profile".to_owned(),
        path: vec!["email".to_owned()],
        document: enfold::policy::Document::Json,
        marks: BTreeMap::new(),
    };
    policy.columns.get_mut("email").unwrap().member = Some(member);
    let facts = f.facts(&policy).await;
    let wanted = [("shadow-dialect", Some("born")), ("typed-value", Some("born")), ("json-path", Some("email"))];
    assert_eq!(words(&facts.refusals), wanted);
    let storage: Vec<_> = facts.columns.iter().map(|c| (c.name.as_str(), c.storage.is_some())).collect();
    assert_eq!(storage, [("a", true), ("born", false), ("email", false)]);
    assert_eq!(facts.columns[0].census.plaintext, 1);
}

#[tokio::test]
async fn columns_that_hold_text_blobs_or_json_are_taken() {
    let f = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b VARCHAR(20) COLLATE NOCASE, c BLOB, d JSON, e, f CHAR(3));
         INSERT INTO t VALUES (1, 'x', 'yy', x'00', '{}', 'text', 'abc');",
    );
    let facts = f.facts(&policy(&["a", "b", "c", "d", "e", "f"])).await;
    assert_eq!(facts.refusals, []);
    let storage: Vec<_> = facts.columns.iter().map(|c| c.storage.unwrap()).collect();
    let expected = [Storage::Text, Storage::Text, Storage::Bytes, Storage::Json, Storage::Text, Storage::Text];
    assert_eq!(storage, expected);
    assert_eq!((facts.rows, facts.key.as_slice()), (1, ["id".to_owned()].as_slice()));
    assert_eq!((facts.columns[1].average_bytes, facts.columns[1].census.plaintext), (2, 1));
    assert!(facts.bytes > 0 && facts.growth.disk > 0);
}

#[tokio::test]
async fn types_that_cannot_hold_an_envelope_are_refused() {
    for declared in ["INTEGER", "REAL", "DECIMAL(10,2)", "DATE", "BOOLEAN", "STRING", "DATETIME"] {
        assert_eq!(refusals(&format!("CREATE TABLE t(a {declared});"), "a").await, ["typed-value"], "{declared}");
    }
    let mixed = "CREATE TABLE t(a BLOB); INSERT INTO t VALUES ('x'), (x'00');";
    assert_eq!(refusals(mixed, "a").await, ["typed-value"]);
}

#[tokio::test]
async fn tables_that_cannot_be_swept_are_refused() {
    assert_eq!(refusals("CREATE TABLE t(a TEXT PRIMARY KEY) WITHOUT ROWID;", "a").await, ["without-rowid"]);
    assert_eq!(refusals("CREATE VIEW t AS SELECT 'x' AS a;", "a").await, ["not-a-table"]);
    assert_eq!(refusals("CREATE VIRTUAL TABLE t USING fts5(a);", "a").await, ["not-a-table"]);
    assert_eq!(refusals("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(a TEXT);", "a").await, ["encoding"]);
}

#[tokio::test]
async fn what_relies_on_the_values_is_refused() {
    let cases = [
        ("CREATE TABLE t(a TEXT PRIMARY KEY);", "primary-key"),
        ("CREATE TABLE t(a TEXT UNIQUE);", "unique-without-blind-index"),
        ("CREATE TABLE t(a TEXT); CREATE UNIQUE INDEX i ON t(lower(a));", "unique-without-blind-index"),
        ("CREATE TABLE p(k TEXT PRIMARY KEY); CREATE TABLE t(a TEXT REFERENCES p(k));", "foreign-key"),
        ("CREATE TABLE t(a TEXT DEFAULT 'nobody@example.com');", "plaintext-default"),
        ("CREATE TABLE t(b TEXT, a TEXT AS (lower(b)) STORED);", "generated-itself"),
        ("CREATE TABLE t(a TEXT CHECK (length(a) <= 40)); INSERT INTO t VALUES ('x');", "check-constraint"),
        ("CREATE TABLE t(a TEXT CHECK (a LIKE '%@%'));", "check-constraint"),
        ("CREATE TABLE t(a TEXT, b TEXT, CHECK (a <> b OR instr(a, '@'))); INSERT INTO t VALUES ('x@', 'x@');", ""),
    ];
    for (schema, word) in cases.iter().filter(|(_, word)| !word.is_empty()) {
        assert!(refusals(schema, "a").await.contains(&(*word).to_owned()), "{schema}");
    }
    let referenced = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE); CREATE TABLE c(r TEXT REFERENCES t(a));";
    assert!(refusals(referenced, "a").await.contains(&"referenced-key".to_owned()));
}

#[tokio::test]
async fn a_default_is_never_repeated() {
    let facts = fixture("CREATE TABLE t(a TEXT DEFAULT 'ada@example.com');").facts(&policy(&["a"])).await;
    assert!(!format!("{:?}", facts.refusals).contains("ada@"));
}

#[tokio::test]
async fn checks_that_take_envelopes_only_warn() {
    let f = fixture(
        "CREATE TABLE t(a TEXT CHECK (a <> ''), b TEXT CHECK (length(b) < 9)); INSERT INTO t VALUES ('x', 'y');",
    );
    let facts = f.facts(&policy(&["a"])).await;
    assert_eq!(facts.refusals, []);
    assert!(words(&facts.warnings).contains(&("check-blind", Some("a"))));
}

#[tokio::test]
async fn a_unique_blind_index_replaces_uniqueness() {
    let f = fixture("CREATE TABLE t(a TEXT UNIQUE);");
    let mut policy = policy(&["a"]);
    policy.columns.get_mut("a").unwrap().indexes.insert("eq".to_owned(), blind_index("a", true));
    let facts = f.facts(&policy).await;
    assert_eq!(facts.refusals, []);
    assert!(words(&facts.warnings).contains(&("columns-added", None)));
}

#[tokio::test]
async fn triggers_wait_for_the_policys_word() {
    let f = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT); CREATE TABLE history(a TEXT);
         CREATE TRIGGER keep AFTER UPDATE ON t BEGIN INSERT INTO history VALUES (OLD.a); END;
         CREATE TRIGGER other AFTER UPDATE OF b ON t BEGIN SELECT 1; END;
         CREATE TRIGGER added AFTER INSERT ON t BEGIN SELECT 1; END;
         CREATE TRIGGER elsewhere AFTER INSERT ON history BEGIN UPDATE t SET a = NEW.a; END;",
    );
    let mut policy = policy(&["a"]);
    let facts = f.facts(&policy).await;
    assert_eq!(facts.row_triggers, ["keep"]);
    assert_eq!(words(&facts.refusals), [("row-trigger", None)]);
    assert!(words(&facts.warnings).contains(&("function-reads", Some("a"))));
    policy.triggers.insert("keep".to_owned(), TriggerChoice::Fire);
    let facts = f.facts(&policy).await;
    assert_eq!(facts.refusals, []);
    assert!(words(&facts.warnings).contains(&("row-trigger", None)));
}

#[tokio::test]
async fn an_update_that_only_the_application_can_run_is_refused() {
    let schema = "CREATE TABLE t(a TEXT); CREATE TRIGGER g AFTER UPDATE ON t BEGIN SELECT app_function(NEW.a); END;";
    assert!(refusals(schema, "a").await.contains(&"update-fails".to_owned()));
}

#[tokio::test]
async fn indexes_views_and_full_text_tables_over_the_column_are_named() {
    let f = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT, g TEXT AS (upper(a)));
         CREATE INDEX plain ON t(a); CREATE INDEX expression ON t(lower(a)); CREATE INDEX partial ON t(b) WHERE a IS NOT NULL;
         CREATE INDEX other ON t(b); CREATE VIEW v AS SELECT a FROM t; CREATE VIEW w AS SELECT b FROM t;
         CREATE VIRTUAL TABLE words USING fts5(a, content='t', content_rowid='id');",
    );
    let facts = f.facts(&policy(&["a"])).await;
    let names: Vec<_> = facts.indexes.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["partial", "expression", "plain"]);
    let found = words(&facts.warnings);
    for word in ["index-useless", "view", "full-text", "generated-recomputed"] {
        assert!(found.contains(&(word, Some("a"))), "{word}: {found:?}");
    }
    assert_eq!(found.iter().filter(|(w, _)| *w == "view").count(), 1);
    assert_eq!(facts.index_count, 4);
}

#[tokio::test]
async fn bound_columns_are_looked_at() {
    let f = fixture(
        "CREATE TABLE o(k TEXT PRIMARY KEY); CREATE TABLE t(k TEXT, org TEXT REFERENCES o(k) ON UPDATE CASCADE, a TEXT);",
    );
    let mut policy = policy(&["a"]);
    policy.tenant = Some("org".to_owned());
    policy.row_key = vec!["k".to_owned()];
    let found = f.facts(&policy).await;
    let found = words(&found.warnings);
    for expected in [("bound-cascade", Some("org")), ("bound-nullable", Some("org")), ("row-key-not-unique", None)] {
        assert!(found.contains(&expected), "{expected:?}: {found:?}");
    }
    policy.tenant = Some("nobody".to_owned());
    assert_eq!(f.db.inspect(&policy, Counts::Taken).await.unwrap_err().code(), enfold::Code::TableMissing);
}

#[tokio::test]
async fn the_fingerprint_changes_with_the_table_and_not_with_our_own_steps() {
    let f = fixture("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); CREATE INDEX plain ON t(a);");
    let mut policy = policy(&["a"]);
    policy.columns.get_mut("a").unwrap().indexes.insert("eq".to_owned(), blind_index("a", false));
    let before = f.facts(&policy).await.fingerprint;
    for step in [
        crate::database::SchemaStep::AddIndexColumn { table: table(), column: "a_eq".to_owned() },
        crate::database::SchemaStep::DropPlainIndex {
            table: table(),
            index: "plain".to_owned(),
            kind: IndexKind::Plain,
        },
        crate::database::SchemaStep::AddFormCheck {
            table: table(),
            column: "a".to_owned(),
            storage: Storage::Text,
            key_ids: vec![],
        },
    ] {
        f.db.run(&step).await.unwrap();
    }
    assert_eq!(f.facts(&policy).await.fingerprint, before);
    f.app.execute_batch("CREATE TRIGGER g AFTER UPDATE ON t BEGIN SELECT 1; END;").unwrap();
    let with_trigger = f.facts(&policy).await.fingerprint;
    assert_ne!(with_trigger, before);
    f.app.execute_batch("DROP TRIGGER g; ALTER TABLE t ADD COLUMN more TEXT").unwrap();
    assert_ne!(f.facts(&policy).await.fingerprint, before);
}
