//! Indexes and unique constraints that protecting drops, and their way back.

use enfold::Code;
use enfold_jobs::database::{IndexKind, SchemaStep};
use enfold_jobs::model::TableName;

use crate::world::World;

fn public(table: &str) -> TableName {
    TableName { schema: "public".to_owned(), table: table.to_owned() }
}

fn drop_index(table: &str, index: &str) -> SchemaStep {
    SchemaStep::DropPlainIndex { table: public(table), index: format!("public.{index}"), kind: IndexKind::Plain }
}

fn restore(table: &str, sealed: &[&str]) -> SchemaStep {
    SchemaStep::RestorePlainIndexes {
        table: public(table),
        sealed: sealed.iter().map(|column| (*column).to_owned()).collect(),
    }
}

/// Every index and every constraint of an index, valid or not.
async fn definitions(world: &World) -> Vec<Option<String>> {
    let sql = "SELECT concat_ws(' | ', i.indexdef, x.indisvalid, pg_get_constraintdef(k.oid)) FROM pg_indexes i \
               JOIN pg_index x ON x.indexrelid = format('%I.%I', i.schemaname, i.indexname)::regclass \
               LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid \
               WHERE i.schemaname = 'public' ORDER BY 1";
    world.texts(sql).await
}

const TABLE: &str = "
    CREATE EXTENSION citext;
    CREATE TABLE \"T able\" (id int PRIMARY KEY, a text UNIQUE, b citext, \"C\" varchar(40), d text,
        CONSTRAINT later UNIQUE (b, d) DEFERRABLE INITIALLY DEFERRED);
    CREATE UNIQUE INDEX \"Plain \"\" ON\" ON \"T able\" (lower(\"C\"), d DESC NULLS LAST) INCLUDE (id) WHERE d <> 'x ONLY y';
    CREATE INDEX words ON \"T able\" USING gin (to_tsvector('simple', a)) WITH (fastupdate = off);
    CREATE INDEX pattern ON \"T able\" (a text_pattern_ops);
    INSERT INTO \"T able\" SELECT n, 'a' || n, 'b' || n, 'c' || n, 'd' FROM generate_series(1, 50) n;";
const INDEXES: [&str; 5] = ["T able_a_key", "later", "Plain \" ON", "words", "pattern"];

#[tokio::test]
async fn indexes_and_constraints_come_back_exactly_as_they_were() {
    let world = World::with(TABLE).await;
    let before = definitions(&world).await;
    world.store.run_step(&restore("T able", &[])).await.expect("nothing is on record, not even a table for it");
    for index in INDEXES {
        for _ in 0..2 {
            world.store.run_step(&drop_index("T able", index)).await.expect("drops");
        }
    }
    assert_eq!(definitions(&world).await.len(), 1);
    let printed = world.store.step_sql(&restore("T able", &[]));
    let statements = world.texts(&printed[0]).await;
    assert!(
        statements
            .contains(&Some("ALTER TABLE public.\"T able\" ADD CONSTRAINT \"T able_a_key\" UNIQUE (a)".to_owned()))
    );
    for statement in statements.iter().flatten() {
        world.app.batch_execute(&format!("BEGIN; {statement}; ROLLBACK")).await.expect("is a statement");
    }
    world.run("UPDATE \"T able\" SET b = 'B' || id").await;
    for _ in 0..2 {
        world.store.run_step(&restore("T able", &[])).await.expect("restores");
    }
    assert_eq!(definitions(&world).await, before);
    assert_eq!(world.number("SELECT count(*) FROM enfold.dropped_indexes").await, 0);
}

#[tokio::test]
async fn an_index_that_the_printed_statements_dropped_comes_back_too() {
    let world = World::with(TABLE).await;
    let before = definitions(&world).await;
    for index in ["Plain \" ON", "words", "pattern"] {
        // Twice: the record of an index that is gone stays.
        for _ in 0..2 {
            for statement in world.store.step_sql(&drop_index("T able", index)) {
                world.run(&statement).await;
            }
        }
    }
    assert_eq!(definitions(&world).await.len(), before.len() - 3);
    // The job tables that were printed are those that a worker makes.
    world.store.run_step(&drop_index("T able", "later")).await.expect("drops");
    world.store.run_step(&restore("T able", &[])).await.expect("restores");
    assert_eq!(definitions(&world).await, before);
}

#[tokio::test]
async fn what_holds_a_sealed_column_waits() {
    let world = World::with(TABLE).await;
    for index in INDEXES {
        world.store.run_step(&drop_index("T able", index)).await.expect("drops");
    }
    // Held, computed from, filtered by.
    world.store.run_step(&restore("T able", &["a", "d"])).await.expect("restores");
    assert_eq!(definitions(&world).await.len(), 1);
    world.store.run_step(&restore("T able", &["d"])).await.expect("restores");
    assert_eq!(definitions(&world).await.len(), 4);
    world.store.run_step(&restore("T able", &["b"])).await.expect("restores");
    assert_eq!(definitions(&world).await.len(), 5);
}

#[tokio::test]
async fn between_the_record_and_the_end_of_a_drop_nothing_is_lost() {
    let world = World::with(TABLE).await;
    let before = definitions(&world).await;
    world.store.run_step(&drop_index("T able", "pattern")).await.expect("drops");
    // Recorded and not yet dropped; then dropped half, which leaves it invalid.
    world.run("CREATE INDEX pattern ON \"T able\" (a text_pattern_ops)").await;
    world.store.run_step(&restore("T able", &[])).await.expect("restores");
    assert_eq!(definitions(&world).await, before);
    world.store.run_step(&drop_index("T able", "pattern")).await.expect("drops");
    world.run("CREATE INDEX pattern ON \"T able\" (a text_pattern_ops)").await;
    world.run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pattern'::regclass").await;
    world.store.run_step(&restore("T able", &[])).await.expect("restores");
    assert_eq!(definitions(&world).await, before);
    // Made, and the constraint not yet put upon it.
    world.store.run_step(&drop_index("T able", "T able_a_key")).await.expect("drops");
    world.run("CREATE UNIQUE INDEX \"T able_a_key\" ON \"T able\" (a)").await;
    world.store.run_step(&restore("T able", &[])).await.expect("restores");
    assert_eq!(definitions(&world).await, before);
}

#[tokio::test]
async fn a_unique_index_that_cannot_come_back_is_named_and_stays_on_record() {
    let world = World::with(TABLE).await;
    let before = definitions(&world).await;
    world.store.run_step(&drop_index("T able", "T able_a_key")).await.expect("drops");
    world.run("UPDATE \"T able\" SET a = 'secret twin' WHERE id < 3").await;
    let error = world.store.run_step(&restore("T able", &[])).await.expect_err("two rows are equal");
    assert_eq!(error.code(), Code::PlanRefused);
    let said = format!("{error} {error:?}");
    assert!(said.contains("T able_a_key") && !said.contains("secret"), "{said}");
    assert_eq!(definitions(&world).await.len(), before.len() - 1, "an invalid index would cost every write");
    world.run("UPDATE \"T able\" SET a = 'a' || id").await;
    world.store.run_step(&restore("T able", &[])).await.expect("restores");
    assert_eq!(definitions(&world).await, before);
}

#[tokio::test]
async fn indexes_of_partitioned_tables_come_back_with_those_of_their_partitions() {
    let world = World::with(
        "CREATE TABLE t (id int, a text, UNIQUE (id, a)) PARTITION BY HASH (id); \
         CREATE TABLE t_0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
         CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY HASH (id); \
         CREATE TABLE t_10 PARTITION OF t_1 FOR VALUES WITH (MODULUS 1, REMAINDER 0); \
         CREATE INDEX plain ON t (lower(a)); \
         INSERT INTO t SELECT n, 'a' || n FROM generate_series(1, 30) n",
    )
    .await;
    let before = definitions(&world).await;
    let tree = "SELECT string_agg(relid::text || ' of ' || coalesce(parentrelid::text, ''), ', ' ORDER BY relid::text) \
                FROM pg_partition_tree('plain')";
    let attached = world.texts(tree).await;
    for index in ["plain", "t_id_a_key"] {
        world.store.run_step(&drop_index("t", index)).await.expect("drops");
    }
    assert_eq!(definitions(&world).await.len(), 0);
    for _ in 0..2 {
        world.store.run_step(&restore("t", &[])).await.expect("restores");
    }
    assert_eq!(definitions(&world).await, before);
    assert_eq!(world.texts(tree).await, attached);
}
