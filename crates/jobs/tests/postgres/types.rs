//! Types, keys and values of real tables, there and back.

use enfold_core::OwnedPart;
use enfold_jobs::model::{Goal, JobState, Storage, TargetIndex};
use enfold_jobs::store::{BATCH_BYTES, Cell, Outcome, Store};

use crate::world::{World, target};

#[tokio::test]
async fn every_type_is_sealed_and_comes_back_as_it_was() {
    let world = World::with(
        "CREATE EXTENSION citext; CREATE DOMAIN mail AS citext; CREATE DOMAIN paper AS jsonb; \
         CREATE TABLE all_types (id int PRIMARY KEY, t text, v varchar, c citext, d mail, b bytea, j json, jb jsonb, p paper); \
         INSERT INTO all_types VALUES \
           (1, 'plain', 'plain', 'Case', 'Mail', '\\x00ff01', '{\"b\": 1,  \"a\":[1, 2]}', '{\"b\": 1.00}', '[1, null]'), \
           (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
           (3, '', '', '', '', '', '\"\"', '\"\"', 'null'), \
           (4, 'é ß 漢字 🦀 ''quoted'' \\ back', 'x', 'Ω', 'ÄÖ', decode(repeat('ab', 3000), 'hex'), '\"\\u00e9\"', '\"é\"', '{}')",
    )
    .await;
    let columns = [
        ("t", Storage::Text),
        ("v", Storage::Text),
        ("c", Storage::Text),
        ("d", Storage::Text),
        ("b", Storage::Bytes),
        ("j", Storage::Json),
        ("jb", Storage::Json),
        ("p", Storage::Json),
    ];
    let all = target("all_types", &columns);
    let look = "SELECT row_to_json(a)::text FROM (SELECT id, t, v, c::text, d::text, encode(b, 'hex') b, j::text, jb::text, p::text FROM all_types) a ORDER BY id";
    let before = world.texts(look).await;

    let report = world.sweep(Goal::Protect, &all).await;
    assert_eq!((report.state, report.remaining), (JobState::Completed, Some(0)));
    let census = world.store.count_forms(&all, None).await.expect("counts");
    for (column, census) in columns.iter().zip(&census) {
        assert_eq!((census.rows, census.nulls, census.envelopes, census.plaintext), (4, 1, 3, 0), "{}", column.0);
        assert_eq!(census.by_key.get(&world.codec.sealer.key_id().to_string()), Some(&3), "{}", column.0);
    }

    let report = world.sweep(Goal::Unprotect, &all).await;
    assert_eq!((report.state, report.remaining), (JobState::Completed, Some(0)));
    assert_eq!(world.texts(look).await, before);
}

#[tokio::test]
async fn a_census_tells_plaintext_lookalikes_and_envelopes_apart_and_names_rows() {
    let world = World::with(
        "CREATE TABLE t (id int PRIMARY KEY, note text); \
         INSERT INTO t SELECT n, CASE WHEN n <= 10 THEN 'plain' WHEN n = 11 THEN 'enf1:typed by somebody' END FROM generate_series(1, 12) n",
    )
    .await;
    let t = target("t", &[("note", Storage::Text)]);
    let census = world.store.count_forms(&t, None).await.expect("counts").remove(0);
    assert_eq!((census.rows, census.nulls, census.plaintext, census.lookalikes, census.envelopes), (12, 1, 10, 1, 0));
    assert_eq!(census.examples, ["id=1", "id=2", "id=3", "id=4", "id=5"]);
    let sampled = world.store.count_forms(&t, Some(5)).await.expect("counts").remove(0);
    assert!(sampled.rows <= 5 && sampled.rows > 0);
}

#[tokio::test]
async fn keys_may_be_composite_text_uuid_or_missing() {
    for (key, columns, values) in [
        (vec!["a", "b"], "a int, b text, PRIMARY KEY (a, b)", "n, 'k' || n"),
        (vec!["k"], "k text PRIMARY KEY", "'key ' || n"),
        (vec!["u"], "u uuid PRIMARY KEY", "gen_random_uuid()"),
        (vec![], "x int", "n"),
    ] {
        let world = World::with(&format!(
            "CREATE TABLE t ({columns}, note text); INSERT INTO t SELECT {values}, 'note ' || n FROM generate_series(1, 50) n"
        ))
        .await;
        let mut t = target("t", &[("note", Storage::Text)]);
        t.key = key.iter().map(|k| (*k).to_owned()).collect();
        let lease = world.lease(&t).await;
        let batch = world.read(&lease, &t).await;
        let starts: Vec<&str> = key.iter().copied().take(1).collect();
        assert!(
            batch.rows[0].label.starts_with(starts.first().copied().unwrap_or("ctid=(0,1)")),
            "{}",
            batch.rows[0].label
        );
        assert_eq!(world.sweep(Goal::Protect, &t).await.remaining, Some(0));
    }
}

#[tokio::test]
async fn names_are_quoted_wherever_they_go() {
    let world = World::with(
        "CREATE SCHEMA \"Odd \"\"one\"\"\"; CREATE TABLE \"Odd \"\"one\"\"\".\"Order\" (\"the id\" int PRIMARY KEY, \"E'mail\" text); \
         INSERT INTO \"Odd \"\"one\"\"\".\"Order\" SELECT n, 'v' || n FROM generate_series(1, 30) n",
    )
    .await;
    let mut odd = target("Order", &[("E'mail", Storage::Text)]);
    odd.table.schema = "Odd \"one\"".to_owned();
    odd.key = vec!["the id".to_owned()];
    assert_eq!(world.sweep(Goal::Protect, &odd).await.remaining, Some(0));
    assert_eq!(world.sweep(Goal::Unprotect, &odd).await.remaining, Some(0));
}

#[tokio::test]
async fn tenant_and_row_key_are_read_with_their_types() {
    let world = World::with(
        "CREATE TABLE t (id bigint PRIMARY KEY, org uuid, code text, tag bytea, small smallint, note text); \
         INSERT INTO t VALUES (5, '00000000-0000-0000-0000-0000000000ff', 'é', '\\x01', -2, 'n'), (6, NULL, NULL, NULL, NULL, 'm')",
    )
    .await;
    let mut t = target("t", &[("note", Storage::Text)]);
    t.tenant = Some("org".to_owned());
    t.row_key = ["id", "code", "tag", "small"].map(str::to_owned).to_vec();
    let lease = world.lease(&t).await;
    let rows = world.read(&lease, &t).await.rows;
    let mut org = [0; 16];
    org[15] = 0xff;
    assert!(rows[0].tenant == Some(OwnedPart::Uuid(org)));
    let key = [OwnedPart::Int(5), OwnedPart::Text("é".to_owned()), OwnedPart::Bytes(vec![1]), OwnedPart::Int(-2)];
    assert!(rows[0].row_key == key);
    assert!(rows[1].tenant.is_none());
    assert!(rows[1].row_key.is_empty(), "a key with a NULL in it names no row");
}

/// The update names columns of indexes only to tell Postgres that it need not look for dead versions in them.
#[tokio::test]
async fn indexed_columns_beside_the_values_stay_as_they_are_whatever_their_kind() {
    let world = World::with(
        "CREATE TABLE people (id int PRIMARY KEY, email text, born int, \
           number int GENERATED ALWAYS AS IDENTITY, double int GENERATED ALWAYS AS (born * 2) STORED, \
           \"odd \"\"name\" text, note text); \
         CREATE INDEX ON people (born); CREATE INDEX ON people (number); CREATE INDEX ON people (double, note); \
         CREATE INDEX ON people (\"odd \"\"name\"); CREATE INDEX ON people (lower(note)); CREATE UNIQUE INDEX ON people (number, note); \
         INSERT INTO people (id, email, born, \"odd \"\"name\", note) SELECT n, 'p' || n, n, NULLIF(n, 7)::text, 'note ' || n FROM generate_series(1, 100) n",
    )
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    let others = "SELECT md5(string_agg(concat_ws('|', id, born, number, double, \"odd \"\"name\", note), ';' ORDER BY id)) FROM people";
    let before = world.texts(others).await;
    assert_eq!(world.sweep(Goal::Protect, &people).await.remaining, Some(0));
    assert_eq!(world.texts(others).await, before);
    assert_eq!(world.number("SELECT count(*) FROM people WHERE email LIKE 'enf1:%'").await, 100);
}

#[tokio::test]
async fn a_role_that_may_only_set_the_protected_column_can_sweep_a_table_with_other_indexes() {
    let world = World::with(
        "CREATE TABLE people (id int PRIMARY KEY, email text, born int); CREATE INDEX ON people (born); \
         INSERT INTO people SELECT n, 'p' || n, n FROM generate_series(1, 100) n",
    )
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    let job = world.store.create_job(&crate::world::spec(&people)).await.expect("a job");
    let (role, store) = world
        .role(
            "GRANT SELECT, UPDATE (email) ON people TO {role}; GRANT USAGE ON SCHEMA enfold TO {role}; \
             GRANT ALL ON ALL TABLES IN SCHEMA enfold TO {role}",
        )
        .await;
    let options = enfold_jobs::sweep::SweepOptions::new("worker");
    let report = enfold_jobs::sweep::sweep(&store, &world.codec, job, &options, &enfold_jobs::sweep::Unwatched)
        .await
        .expect("sweeps");
    assert_eq!(report.remaining, Some(0));
    world.end_role(&role).await;
}

/// A trigger on a column that only stands in an index must not take the sweep for a change of it.
#[tokio::test]
async fn a_trigger_on_another_column_does_not_run() {
    let world = World::with(
        "CREATE TABLE people (id int PRIMARY KEY, email text, born int); CREATE INDEX ON people (born); \
         INSERT INTO people SELECT n, 'p' || n, n FROM generate_series(1, 100) n; \
         CREATE TABLE seen (id int); \
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NULL; END $$; \
         CREATE TRIGGER born_changed AFTER UPDATE OF born ON people FOR EACH ROW EXECUTE FUNCTION see()",
    )
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    assert_eq!(world.sweep(Goal::Protect, &people).await.remaining, Some(0));
    assert_eq!(world.number("SELECT count(*) FROM seen").await, 0);
}

#[tokio::test]
async fn values_of_megabytes_do_not_make_a_batch_grow() {
    // 20 rows of 3 MiB: more than a batch may hold, among small ones.
    let world = World::with(
        "CREATE TABLE t (id int PRIMARY KEY, note text); \
         INSERT INTO t SELECT n, CASE WHEN n % 5 = 0 THEN repeat(md5(n::text), 98304) ELSE 'small' END FROM generate_series(1, 100) n",
    )
    .await;
    let t = target("t", &[("note", Storage::Text)]);
    let digests = "SELECT md5(note) FROM t ORDER BY id";
    let before = world.texts(digests).await;
    let lease = world.lease(&t).await;
    let batch = world.store.read(&lease, &t, 0, 1000).await.expect("reads");
    let bytes: usize = batch.rows.iter().flat_map(|row| row.cells.iter().flatten()).map(Vec::len).sum();
    assert!(bytes <= BATCH_BYTES && batch.rows.len() < 100 && batch.next.is_some(), "{bytes} bytes");
    assert_eq!(world.sweep(Goal::Protect, &t).await.remaining, Some(0));
    assert_eq!(world.sweep(Goal::Unprotect, &t).await.remaining, Some(0));
    assert_eq!(world.texts(digests).await, before);
}

#[tokio::test]
async fn some_rows_may_keep_a_column_and_indexes_are_set_beside_the_values() {
    let world = World::with(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text, a_eq bytea); INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', NULL), (3, NULL, 'b3')",
    )
    .await;
    let mut t = target("t", &[("a", Storage::Text), ("b", Storage::Text)]);
    t.indexes.push(TargetIndex {
        name: "eq".to_owned(),
        column: "a_eq".to_owned(),
        over: vec![0],
        unique: false,
        generation: None,
    });
    let lease = world.lease(&t).await;
    let rows = world.read(&lease, &t).await.rows;
    assert_eq!(world.store.remaining(Goal::Index, &t).await.expect("counts"), 2);
    let mut changes = world.seal(&t, &rows).await;
    changes[0].indexed[0] = Cell::Set(Some(vec![1, 2]));
    changes[1].indexed[0] = Cell::Set(Some(vec![3]));
    assert_eq!(world.write(&lease, &t, &changes).await, [Outcome::Written, Outcome::Written, Outcome::Written]);
    assert_eq!(world.store.remaining(Goal::Protect, &t).await.expect("counts"), 0);
    assert_eq!(
        world.texts("SELECT encode(a_eq, 'hex') FROM t ORDER BY id").await,
        [Some("0102".to_owned()), Some("03".to_owned()), None]
    );
    assert_eq!(world.number("SELECT count(*) FROM t WHERE b IS NULL AND id = 2 OR a IS NULL AND id = 3").await, 2);
}

#[tokio::test]
async fn a_type_that_cannot_hold_an_envelope_is_refused() {
    let world =
        World::with("CREATE TABLE t (id int PRIMARY KEY, born date); INSERT INTO t VALUES (1, '2000-01-01')").await;
    let t = target("t", &[("born", Storage::Text)]);
    let error = world.store.create_job(&crate::world::spec(&t)).await.expect_err("a date");
    assert_eq!(error.code(), enfold::Code::TypeRefused);
}

/// A trigger that changes nothing may see a batch in which some rows keep what others set.
#[tokio::test]
async fn under_a_trigger_a_column_that_some_rows_keep_may_be_set_in_others_and_is_guarded_in_the_rest() {
    let world = World::with(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text); INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', NULL), (3, NULL, 'b3'); \
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF OLD.id = 2 THEN NEW.b := NEW.c; END IF; RETURN NEW; END'; \
         ALTER TABLE t ADD COLUMN c text; CREATE TRIGGER nothing BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nothing()",
    )
    .await;
    let t = target("t", &[("a", Storage::Text), ("b", Storage::Text)]);
    let outcomes = world.race(&t, async |_| {}).await;
    assert_eq!(outcomes, [Outcome::Written, Outcome::Written, Outcome::Written]);
    // One that writes where the row was to keep what it had is found.
    world
        .run(
            "ALTER TABLE t DISABLE TRIGGER nothing; UPDATE t SET a = 'x', b = CASE WHEN id <> 2 THEN 'y' END, c = 'from elsewhere'; \
             ALTER TABLE t ENABLE TRIGGER nothing",
        )
        .await;
    let outcomes = world.race(&t, async |_| {}).await;
    let count = |of: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| of(outcome)).count();
    assert_eq!(count(|outcome| *outcome == Outcome::Written), 2, "{outcomes:?}");
    assert_eq!(count(|outcome| matches!(outcome, Outcome::Rejected { .. })), 1, "{outcomes:?}");
}
