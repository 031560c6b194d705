//! Schema steps: each run twice, in the way of nobody, and doing what it says.

use std::time::Duration;

use enfold::Code;
use enfold::db::postgres::Endpoint;
use enfold_jobs::database::{IndexKind, SchemaStep};
use enfold_jobs::model::{Goal, Storage, TableName};
use enfold_jobs::postgres::{Limits, Postgres};

use crate::world::{World, target};

fn public(table: &str) -> TableName {
    TableName { schema: "public".to_owned(), table: table.to_owned() }
}

async fn twice(world: &World, step: &SchemaStep) {
    for _ in 0..2 {
        world.store.run_step(step).await.expect("runs");
    }
}

/// What the application is told when it writes `sql`.
async fn refused(world: &World, sql: &str) -> String {
    let error = world.app.batch_execute(sql).await.expect_err("refused");
    error.code().expect("a SQLSTATE").code().to_owned()
}

#[tokio::test]
async fn widening_rewrites_nothing() {
    let world = World::with(
        "CREATE DOMAIN short AS varchar(20); CREATE TABLE \"Order\" (id int PRIMARY KEY, \"E mail\" varchar(20), code short); \
         INSERT INTO \"Order\" VALUES (1, 'a', 'b')",
    )
    .await;
    let file = "SELECT pg_relation_filenode('\"Order\"')::int8";
    let before = world.number(file).await;
    for column in ["E mail", "code"] {
        twice(&world, &SchemaStep::Widen { table: public("Order"), column: column.to_owned() }).await;
    }
    assert_eq!(world.number(file).await, before);
    let types = world.texts("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '\"Order\"'::regclass AND attnum > 1").await;
    assert_eq!(types, [Some("text".to_owned()), Some("text".to_owned())]);
}

#[tokio::test]
async fn a_step_gives_way_to_the_application_and_tries_again() {
    let world = World::with("CREATE TABLE t (id int PRIMARY KEY, note text)").await;
    let limits = Limits {
        lock_timeout: Duration::from_millis(50),
        schema_patience: Duration::from_millis(400),
        ..Limits::default()
    };
    let endpoint = Endpoint::parse_text(&world.database.url()).expect("a URL");
    let hurried = Postgres::at(endpoint, limits);
    let step = SchemaStep::AddIndexColumn { table: public("t"), column: "note_eq".to_owned() };
    let mut other = world.database.connect().await;
    let held = other.transaction().await.expect("begins");
    held.batch_execute("LOCK TABLE t IN ACCESS SHARE MODE").await.expect("holds the table");
    assert_eq!(hurried.run_step(&step).await.expect_err("the table is held").code(), Code::Busy);
    let (ran, ()) = futures_util::future::join(world.store.run_step(&step), async {
        // The step is waiting by now, or will find the lock free: both are what is meant.
        held.commit().await.expect("lets go");
    })
    .await;
    ran.expect("runs as soon as the table is free");
}

#[tokio::test]
async fn an_index_is_built_beside_writers_and_an_interrupted_one_is_built_again() {
    let world = World::with(
        "CREATE TABLE t (id int PRIMARY KEY, org int, note_eq bytea); INSERT INTO t SELECT n, 1, '\\x01' FROM generate_series(1, 3) n",
    )
    .await;
    let unique = SchemaStep::BuildIndex {
        table: public("t"),
        column: "note_eq".to_owned(),
        unique: true,
        tenant: Some("org".to_owned()),
        partitions: Vec::new(),
    };
    let error = world.store.run_step(&unique).await.expect_err("three rows are equal");
    assert_eq!(error.code(), Code::PlanRefused);
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND NOT indisprimary";
    assert_eq!(world.number(indexes).await, 0, "an invalid index would cost every write");

    // What a killed build leaves behind.
    world
        .app
        .batch_execute("CREATE UNIQUE INDEX CONCURRENTLY enfold_t_note_eq ON t (org, note_eq)")
        .await
        .expect_err("fails");
    assert_eq!(world.number(indexes).await, 1);
    world.run("UPDATE t SET note_eq = decode(lpad(to_hex(id), 2, '0'), 'hex')").await;
    twice(&world, &unique).await;
    assert_eq!(world.number(&format!("{indexes} AND indisvalid AND indisunique")).await, 1);
    assert_eq!(refused(&world, "INSERT INTO t VALUES (9, 1, '\\x01')").await, "23505");
}

#[tokio::test]
async fn an_index_of_a_partitioned_table_is_built_leaf_by_leaf() {
    let world = World::with(
        "CREATE TABLE t (id int, note_eq bytea) PARTITION BY HASH (id); \
         CREATE TABLE t_0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
         CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
         INSERT INTO t SELECT n, '\\x01' FROM generate_series(1, 30) n",
    )
    .await;
    let step = SchemaStep::BuildIndex {
        table: public("t"),
        column: "note_eq".to_owned(),
        unique: false,
        tenant: None,
        partitions: Vec::new(),
    };
    twice(&world, &step).await;
    let valid = "SELECT count(*) FROM pg_index WHERE indrelid IN ('t'::regclass, 't_0'::regclass, 't_1'::regclass) AND indisvalid";
    assert_eq!(world.number(valid).await, 3);
}

#[tokio::test]
async fn indexes_and_the_constraints_over_them_are_dropped() {
    let world = World::with(
        "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b text); CREATE INDEX \"Plain\" ON t (lower(b))",
    )
    .await;
    for index in ["public.t_a_key", "public.Plain"] {
        twice(
            &world,
            &SchemaStep::DropPlainIndex { table: public("t"), index: index.to_owned(), kind: IndexKind::Plain },
        )
        .await;
    }
    assert_eq!(world.number("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass").await, 1);
}

#[tokio::test]
async fn the_form_check_takes_envelopes_under_its_keys_and_nothing_else() {
    let world = World::with(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b bytea, j json, jb jsonb); \
         INSERT INTO t VALUES (1, 'plain', '\\x01', '{\"a\":1}', '[1]')",
    )
    .await;
    let columns = [("a", Storage::Text), ("b", Storage::Bytes), ("j", Storage::Json), ("jb", Storage::Json)];
    let t = target("t", &columns);
    world.sweep(Goal::Protect, &t).await;
    world.run("CREATE TABLE sealed AS TABLE t").await;
    let step = |column: &str, storage, key_ids| SchemaStep::AddFormCheck {
        table: public("t"),
        column: column.to_owned(),
        storage,
        key_ids,
    };
    for (column, storage) in columns {
        twice(&world, &step(column, storage, vec![world.codec.sealer.key_id().to_string()])).await;
        twice(&world, &SchemaStep::ValidateFormCheck { table: public("t"), column: column.to_owned() }).await;
    }
    for bad in [
        "a = 'plain'",
        "a = ''",
        "a = 'enf1:' || repeat('A', 200)",
        "a = a || '='",
        "a = a || E'\\n'",
        "a = left(a, 100)",
        "a = overlay(a PLACING 'x' FROM 20)",
        "b = '\\x01'",
        "b = '\\xf9e9df01'",
        "b = overlay(b PLACING '\\x00' FROM 10)",
        "j = '{\"a\": 1}'",
        "j = 'null'",
        "jb = '[]'",
        "jb = '\"enf1:x\"'",
        "jb = jsonb_build_object('en', jb)",
    ] {
        assert_eq!(refused(&world, &format!("UPDATE t SET {bad}")).await, "23514", "{bad}");
    }
    world.run("UPDATE t SET a = NULL, b = NULL, j = NULL, jb = NULL").await;
    world.run("UPDATE t SET a = s.a, b = s.b, j = s.j, jb = s.jb FROM sealed s").await;
    world.run("UPDATE t SET jb = jsonb_build_object('enf', jb, 'note', 1)").await;

    // Another key: the check that is there gives way to the new one, under which the row's update is refused.
    twice(&world, &step("a", Storage::Text, vec!["00".repeat(16)])).await;
    assert_eq!(refused(&world, "UPDATE t SET id = 2").await, "23514");
    twice(&world, &step("a", Storage::Text, Vec::new())).await;
    world.run("UPDATE t SET id = 2").await;
    for (column, _) in columns {
        twice(&world, &SchemaStep::DropFormCheck { table: public("t"), column: column.to_owned() }).await;
    }
    world.run("UPDATE t SET a = 'plain'").await;
}

#[tokio::test]
async fn old_plaintext_is_found_by_the_validation() {
    let world = World::with("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'plain')").await;
    let add = SchemaStep::AddFormCheck {
        table: public("t"),
        column: "a".to_owned(),
        storage: Storage::Text,
        key_ids: Vec::new(),
    };
    world.store.run_step(&add).await.expect("is not yet checked against old rows");
    let validate = SchemaStep::ValidateFormCheck { table: public("t"), column: "a".to_owned() };
    assert_eq!(world.store.run_step(&validate).await.expect_err("plaintext").code(), Code::PlaintextFound);
}

#[tokio::test]
async fn a_bound_column_changes_only_together_with_the_envelopes() {
    let world = World::with(
        "CREATE EXTENSION citext; \
         CREATE TABLE t (id int PRIMARY KEY, org citext, a text, b bytea, j jsonb, other int); \
         INSERT INTO t VALUES (1, 'one', 'a', '\\x01', '1', 0), (2, 'one', 'a', NULL, NULL, 0), (3, 'one', NULL, NULL, NULL, 0), (4, 'one', NULL, '\\x01', NULL, 0)",
    )
    .await;
    let t = target("t", &[("a", Storage::Text), ("b", Storage::Bytes), ("j", Storage::Json)]);
    world.sweep(Goal::Protect, &t).await;
    let guard = SchemaStep::GuardBinding {
        table: public("t"),
        bound: vec!["org".to_owned()],
        sealed: ["a", "b", "j"].map(str::to_owned).to_vec(),
        members: Vec::new(),
    };
    twice(&world, &guard).await;
    for id in [1, 2, 4] {
        assert_eq!(refused(&world, &format!("UPDATE t SET org = 'two' WHERE id = {id}")).await, "23000", "row {id}");
    }
    assert_eq!(refused(&world, "UPDATE t SET org = 'ONE' WHERE id = 1").await, "23000", "citext calls it equal");
    world.run("UPDATE t SET org = 'two' WHERE id = 3").await;
    world.run("UPDATE t SET other = 1").await;
    world.run("UPDATE t SET org = 'one' WHERE id = 1").await;
    assert_eq!(refused(&world, "UPDATE t SET org = 'two', a = a || 'x' WHERE id = 1").await, "23000", "b and j stay");
    world.run("UPDATE t SET org = 'two', a = 'new' WHERE id = 2").await;
    // A trigger that fires after the first guard does not get past the second.
    world
        .run(
            "CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.org := 'moved'; RETURN NEW; END $$; \
             CREATE TRIGGER zz_move BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION move()",
        )
        .await;
    assert_eq!(refused(&world, "UPDATE t SET other = 2 WHERE id = 1").await, "23000");
    world.run("DROP TRIGGER zz_move ON t").await;
    // The guard is ours: the store need not look for what it might do to a row.
    assert_eq!(world.sweep(Goal::Unprotect, &t).await.remaining, Some(0));
    twice(&world, &SchemaStep::DropBindingGuard { table: public("t") }).await;
    world.run("UPDATE t SET org = 'three'").await;
}

#[tokio::test]
async fn a_row_with_envelopes_does_not_move_to_another_tenants_partition() {
    let world = World::with(
        "CREATE TABLE t (id int, org int, a text) PARTITION BY LIST (org); \
         CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2); \
         INSERT INTO t VALUES (1, 1, 'a')",
    )
    .await;
    let t = target("t", &[("a", Storage::Text)]);
    world.sweep(Goal::Protect, &t).await;
    let guard = SchemaStep::GuardBinding {
        table: public("t"),
        bound: vec!["org".to_owned()],
        sealed: vec!["a".to_owned()],
        members: Vec::new(),
    };
    twice(&world, &guard).await;
    assert_eq!(refused(&world, "UPDATE t SET org = 2").await, "23000");
}

#[tokio::test]
async fn a_rewrite_leaves_no_old_row_version_in_the_files() {
    let world = World::with(
        "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT n, 'plain' FROM generate_series(1, 500) n",
    )
    .await;
    let t = target("t", &[("a", Storage::Text)]);
    world.sweep(Goal::Protect, &t).await;
    let before = world.number("SELECT pg_relation_filenode('t')::int8").await;
    world.store.run_step(&SchemaStep::Rewrite { table: public("t") }).await.expect("rewrites");
    assert_ne!(world.number("SELECT pg_relation_filenode('t')::int8").await, before);
    let error = SchemaStep::Rewrite { table: public("gone") };
    assert_eq!(world.store.run_step(&error).await.expect_err("no table").code(), Code::TableMissing);
}

#[tokio::test]
async fn steps_are_printed_as_they_are_run() {
    let world = World::with("CREATE TABLE t (id int PRIMARY KEY, org int, a varchar(9))").await;
    let steps = [
        SchemaStep::Widen { table: public("t"), column: "a".to_owned() },
        SchemaStep::AddIndexColumn { table: public("t"), column: "a_eq".to_owned() },
        SchemaStep::BuildIndex {
            table: public("t"),
            column: "a_eq".to_owned(),
            unique: true,
            tenant: Some("org".to_owned()),
            partitions: Vec::new(),
        },
        SchemaStep::GuardBinding {
            table: public("t"),
            bound: vec!["org".to_owned()],
            sealed: vec!["a".to_owned()],
            members: Vec::new(),
        },
        SchemaStep::AddFormCheck {
            table: public("t"),
            column: "a".to_owned(),
            storage: Storage::Text,
            key_ids: vec!["ab".repeat(16)],
        },
        SchemaStep::ValidateFormCheck { table: public("t"), column: "a".to_owned() },
        SchemaStep::DropFormCheck { table: public("t"), column: "a".to_owned() },
        SchemaStep::DropBindingGuard { table: public("t") },
        SchemaStep::DropPlainIndex {
            table: public("t"),
            index: "public.enfold_t_a_eq".to_owned(),
            kind: IndexKind::Plain,
        },
        SchemaStep::DropIndexColumn { table: public("t"), column: "a_eq".to_owned() },
        SchemaStep::Rewrite { table: public("t") },
    ];
    for step in &steps {
        let statements = world.store.step_sql(step);
        assert!(!statements.is_empty());
        for statement in statements {
            world.run(&statement).await;
        }
    }
}

/// What a database administrator ran from the printed plan is not run again by a worker, which does not own the table.
#[tokio::test]
async fn a_role_that_owns_nothing_finds_each_printed_step_done() {
    let world = World::with(
        "CREATE TABLE t (id int PRIMARY KEY, org int, a varchar(9)); \
         CREATE TABLE p (id int, p_eq bytea) PARTITION BY HASH (id); \
         CREATE TABLE p_0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
         CREATE TABLE p_1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    )
    .await;
    let (role, worker) = world.role("GRANT SELECT, UPDATE ON t, p TO {role}").await;
    let build = |table: &str, column: &str, partitions: &[&str]| SchemaStep::BuildIndex {
        table: public(table),
        column: column.to_owned(),
        unique: false,
        tenant: None,
        partitions: partitions.iter().map(|name| public(name)).collect(),
    };
    for step in [
        SchemaStep::Widen { table: public("t"), column: "a".to_owned() },
        SchemaStep::AddIndexColumn { table: public("t"), column: "a_eq".to_owned() },
        build("t", "a_eq", &[]),
        build("p", "p_eq", &["p_0", "p_1"]),
        SchemaStep::GuardBinding {
            table: public("t"),
            bound: vec!["org".to_owned()],
            sealed: vec!["a".to_owned()],
            members: Vec::new(),
        },
        SchemaStep::AddFormCheck {
            table: public("t"),
            column: "a".to_owned(),
            storage: Storage::Text,
            key_ids: vec!["ab".repeat(16)],
        },
        SchemaStep::ValidateFormCheck { table: public("t"), column: "a".to_owned() },
        SchemaStep::DropFormCheck { table: public("t"), column: "a".to_owned() },
        SchemaStep::DropBindingGuard { table: public("t") },
        SchemaStep::DropPlainIndex {
            table: public("t"),
            index: "public.enfold_t_a_eq".to_owned(),
            kind: IndexKind::Plain,
        },
        SchemaStep::DropIndexColumn { table: public("t"), column: "a_eq".to_owned() },
    ] {
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
async fn a_guard_that_is_another_or_switched_off_is_made_again() {
    let world = World::with("CREATE TABLE t (id int PRIMARY KEY, org int, dep int, a text, b text)").await;
    let guard = |bound: &[&str], sealed: &[&str]| SchemaStep::GuardBinding {
        table: public("t"),
        bound: bound.iter().map(|c| (*c).to_owned()).collect(),
        sealed: sealed.iter().map(|c| (*c).to_owned()).collect(),
        members: Vec::new(),
    };
    let fires = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass AND tgenabled = 'O' \
                 AND pg_get_triggerdef(oid) LIKE '%dep%'";
    twice(&world, &guard(&["org"], &["a"])).await;
    assert_eq!(world.number(fires).await, 0);
    twice(&world, &guard(&["org", "dep"], &["a"])).await;
    assert_eq!(world.number(fires).await, 2);
    world.run("ALTER TABLE t DISABLE TRIGGER enfold_guard").await;
    twice(&world, &guard(&["org", "dep"], &["a"])).await;
    assert_eq!(world.number(fires).await, 2);
    world.run("DROP TRIGGER enfold_guard_after ON t").await;
    twice(&world, &guard(&["org", "dep"], &["a"])).await;
    assert_eq!(world.number(fires).await, 2);
    twice(&world, &guard(&["org", "dep"], &["a", "b"])).await;
    let both = "SELECT count(*) FROM pg_proc WHERE proname = 'guard_public_t' AND prosrc LIKE '%OLD.\"b\"%'";
    assert_eq!(world.number(both).await, 1);
}
