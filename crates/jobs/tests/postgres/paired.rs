//! Schema steps of columns with a shadow, and of members of documents.

use enfold::Code;
use enfold::policy::{Document, Member};
use enfold_jobs::database::{SchemaStep, ShadowChange};
use enfold_jobs::model::{Storage, TableName};

use crate::world::World;

fn table() -> TableName {
    TableName { schema: "public".to_owned(), table: "t".to_owned() }
}

fn shadow(change: ShadowChange) -> SchemaStep {
    SchemaStep::Shadow { table: table(), column: "it's \"born\"".to_owned(), shadow: "Born enf".to_owned(), change }
}

fn member() -> Member {
    Member {
        column: "doc".to_owned(),
        path: vec!["it's".to_owned(), "a \\ \"b\"".to_owned()],
        document: Document::Json,
        marks: std::collections::BTreeMap::new(),
    }
}

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, org int, \"it's \"\"born\"\"\" date NOT NULL, doc jsonb) PARTITION BY HASH (id); \
    CREATE TABLE t_0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
    CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
const DEFINITION: &str = "SELECT concat_ws(' ', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull) FROM pg_attribute \
    WHERE attrelid IN ('t'::regclass, 't_0'::regclass, 't_1'::regclass) AND attnum > 0 AND NOT attisdropped UNION ALL \
    SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('t'::regclass, 't_0'::regclass, 't_1'::regclass) UNION ALL \
    SELECT tgname::text FROM pg_trigger WHERE tgrelid IN ('t'::regclass, 't_0'::regclass, 't_1'::regclass) ORDER BY 1";

fn steps() -> Vec<SchemaStep> {
    let (column, key_ids) = ("b".to_owned(), vec!["ab".repeat(16)]);
    vec![
        shadow(ShadowChange::Add { storage: Storage::Bytes, required: true }),
        SchemaStep::GuardBinding {
            table: table(),
            bound: vec!["org".to_owned()],
            sealed: vec!["Born enf".to_owned()],
            members: vec![member()],
        },
        shadow(ShadowChange::Refuse),
        SchemaStep::AddMemberCheck { table: table(), column: column.clone(), member: member(), key_ids },
        shadow(ShadowChange::Validate),
        SchemaStep::ValidateFormCheck { table: table(), column: column.clone() },
        SchemaStep::DropFormCheck { table: table(), column },
        shadow(ShadowChange::Allow),
        SchemaStep::DropBindingGuard { table: table() },
        shadow(ShadowChange::Drop { required: true }),
    ]
}

#[tokio::test]
async fn each_step_run_twice_is_run_once_and_all_of_them_leave_the_table_as_it_was() {
    let world = World::with(TABLE).await;
    let before = world.texts(DEFINITION).await;
    for step in steps() {
        world.store.run_step(&step).await.unwrap_or_else(|error| panic!("{step:?}: {error:?}"));
        let once = world.texts(DEFINITION).await;
        world.store.run_step(&step).await.unwrap_or_else(|error| panic!("{step:?}: {error:?}"));
        assert_eq!(world.texts(DEFINITION).await, once, "{step:?}");
    }
    assert_eq!(world.texts(DEFINITION).await, before);
}

#[tokio::test]
async fn a_role_that_owns_nothing_finds_each_printed_step_done() {
    let world = World::with(TABLE).await;
    let (role, worker) = world.role("GRANT SELECT, UPDATE ON t TO {role}").await;
    for step in steps() {
        let refused = worker.run_step(&step).await.expect_err("only the owner may");
        assert_eq!(refused.code(), Code::DatabaseDenied, "{step:?}");
        for statement in world.store.step_sql(&step) {
            world.run(&statement).await;
        }
        worker.run_step(&step).await.unwrap_or_else(|error| panic!("{step:?} is done: {error:?}"));
    }
    world.end_role(&role).await;
}

#[tokio::test]
async fn a_trigger_that_is_another_or_switched_off_is_made_again() {
    let world = World::with("CREATE TABLE t (id int PRIMARY KEY, \"it's \"\"born\"\"\" date)").await;
    let add = shadow(ShadowChange::Add { storage: Storage::Text, required: false });
    world.store.run_step(&add).await.expect("adds");
    let both = "INSERT INTO t VALUES (1, '2000-01-01', 'enf1:')";
    let held = "SELECT count(*) FROM t WHERE \"Born enf\" IS NOT NULL";
    world.run(&format!("{both}; ALTER TABLE t DISABLE TRIGGER USER")).await;
    assert_eq!(world.number(held).await, 0);
    assert!(world.app.batch_execute("UPDATE t SET \"Born enf\" = 'x'").await.is_err(), "the check is there still");
    world.store.run_step(&add).await.expect("makes it again");
    world.run("UPDATE t SET \"Born enf\" = 'x'").await;
    assert_eq!(
        world.number("SELECT count(*) FROM t WHERE \"it's \"\"born\"\"\" IS NULL AND \"Born enf\" = 'x'").await,
        1
    );
}

#[tokio::test]
async fn a_column_that_holds_something_is_not_dropped() {
    let world = World::with("CREATE TABLE t (id int PRIMARY KEY, \"it's \"\"born\"\"\" date)").await;
    world.store.run_step(&shadow(ShadowChange::Add { storage: Storage::Text, required: false })).await.expect("adds");
    world.run("INSERT INTO t VALUES (1, NULL, 'a value'), (2, '2000-01-01', NULL)").await;
    let error = world.store.run_step(&shadow(ShadowChange::Drop { required: false })).await.expect_err("a value");
    assert_eq!(error.code(), Code::Busy);
    // The application goes on.
    world.run("UPDATE t SET \"Born enf\" = 'another' WHERE id = 1").await;
    // Without the check that nothing is in it, the source stays in any case.
    let error =
        world.store.run_step(&shadow(ShadowChange::DropSource { required: false })).await.expect_err("not enforced");
    assert_eq!(error.code(), Code::DatabaseFailed, "{error}");
    world.store.run_step(&shadow(ShadowChange::Refuse)).await.expect("new rows only");
    let error = world.store.run_step(&shadow(ShadowChange::Validate)).await.expect_err("a value");
    assert_eq!(error.code(), Code::PlaintextFound);
    let error = world.store.run_step(&shadow(ShadowChange::DropSource { required: false })).await.expect_err("a value");
    assert_eq!(error.code(), Code::Busy);
    assert_eq!(world.number("SELECT count(*) FROM t").await, 2);
}
