//! On a real Postgres server.

use std::sync::Mutex;

use async_trait::async_trait;
use enfold::Code;
use enfold_jobs::generations::{former_column, next_column};
use enfold_jobs::ops::{ApplyOptions, Pace, PlanOptions, RotationStage, Selection, Silent, apply, plan, rollback};
use enfold_testkit::postgres::Database;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::application::{People, Way, Written, beside, check, find, write};
use crate::world::{World, email, rotate, session};

const TABLE: &str = "public.people";
const SCHEMA: &str = "
    CREATE TABLE people (id bigint PRIMARY KEY, org bigint NOT NULL, email text);
    INSERT INTO people SELECT n, n % 3, 'person' || n || '@example.org' FROM generate_series(1, 400) n;
    ANALYZE people;";
/// The same people, in partitions.
const PARTITIONED: &str = "
    CREATE TABLE people (id bigint NOT NULL, org bigint NOT NULL, email text, PRIMARY KEY (org, id)) PARTITION BY LIST (org);
    CREATE TABLE people_0 PARTITION OF people FOR VALUES IN (0);
    CREATE TABLE people_1 PARTITION OF people FOR VALUES IN (1);
    CREATE TABLE people_2 PARTITION OF people FOR VALUES IN (2);
    INSERT INTO people SELECT n, n % 3, 'person' || n || '@example.org' FROM generate_series(1, 400) n;
    ANALYZE people;";

struct Connected {
    client: Client,
    key: &'static str,
}

#[async_trait]
impl People for Connected {
    async fn insert(&self, row: &Written<'_>) -> bool {
        let sql = "INSERT INTO people (id, org, email, email_eq) VALUES ($1, $2, $3, $4)";
        match self.client.execute(sql, &[&row.id, &row.org, &row.email, &row.index]).await {
            Ok(_) => true,
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => false,
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn update(&self, row: &Written<'_>) {
        let sql = "UPDATE people SET email = $2, email_eq = $3 WHERE id = $1";
        assert_eq!(self.client.execute(sql, &[&row.id, &row.email, &row.index]).await.unwrap(), 1);
    }

    async fn upsert(&self, row: &Written<'_>) {
        let sql = format!(
            "INSERT INTO people (id, org, email, email_eq) VALUES ($1, $2, $3, $4) \
             ON CONFLICT ({}) DO UPDATE SET email = EXCLUDED.email, email_eq = EXCLUDED.email_eq",
            self.key
        );
        assert_eq!(self.client.execute(&sql, &[&row.id, &row.org, &row.email, &row.index]).await.unwrap(), 1);
    }

    async fn find(&self, org: i64, wanted: &[Vec<u8>]) -> Vec<i64> {
        let sql = "SELECT id FROM people WHERE org = $1 AND email_eq = ANY ($2)";
        self.client.query(sql, &[&org, &wanted]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

struct Fixture {
    world: World,
    database: Database,
    admin: Client,
    key: &'static str,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(SCHEMA, "id").await
    }

    async fn with(schema: &str, key: &'static str) -> Self {
        let database = Database::create().await;
        let admin = database.connect().await;
        admin.batch_execute(schema).await.unwrap();
        let world = World::new(&database.url(), TABLE, tempfile::tempdir().unwrap()).await;
        Self { world, database, admin, key }
    }

    async fn people(&self) -> Box<dyn People> {
        Box::new(Connected { client: self.database.connect().await, key: self.key })
    }

    async fn columns(&self) -> Vec<String> {
        let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnum > 0 \
                   AND NOT attisdropped AND attname LIKE '%email_eq' ORDER BY 1";
        self.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn indexes(&self) -> Vec<String> {
        let sql = "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
                   WHERE i.indrelid = 'people'::regclass AND c.relname LIKE 'enfold%' ORDER BY 1";
        self.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

/// Rotates, drops the former generation and rotates again, while writers go on.
async fn rotated_twice(fixture: &Fixture) {
    let twice = async {
        for generation in [2, 3] {
            let rotated = fixture.world.rotate().await.unwrap();
            assert_eq!((rotated.former_generation, rotated.generation), (generation - 1, generation));
            assert!(rotated.rows_filled > 0);
            let look = fixture.world.look().await;
            assert_eq!(look.stage(), RotationStage::TakenOver);
            assert_eq!(fixture.world.rotate().await.unwrap_err().code(), Code::PlanRefused, "the former one is there");
            look.drop_former(&crate::world::who()).await.unwrap();
        }
    };
    let ((), done) = beside(&fixture.world, async || fixture.people().await, twice).await;
    let column = email(&fixture.world.enfold, &fixture.world.owner());
    check(&*fixture.people().await, &column, &done).await;
    fixture.world.verify().await;
    assert_eq!(fixture.columns().await, ["email_eq"]);
    let standing = fixture.world.standing().await;
    assert_eq!((standing.now.generation, standing.next), (3, None));
    let sql = "SELECT count(*) FROM people WHERE substring(email_eq FROM 1 FOR 2) <> '\\x0003' OR octet_length(email_eq) <> 34";
    assert_eq!(fixture.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_never_miss_and_uniqueness_is_never_open_while_an_index_is_rotated() {
    let fixture = Fixture::new().await;
    rotated_twice(&fixture).await;
    assert_eq!(fixture.indexes().await, ["enfold_people_email_eq"]);
    // The way back takes what the rotation left with it.
    rollback(&fixture.world.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert!(fixture.columns().await.is_empty() && fixture.indexes().await.is_empty());
    let left = "SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = 'enfold'::regnamespace) + \
                (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'people'::regclass AND NOT tgisinternal)";
    assert_eq!(fixture.admin.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_of_a_partitioned_table_is_rotated_as_well() {
    let fixture = Fixture::with(PARTITIONED, "org, id").await;
    rotated_twice(&fixture).await;
    let sql =
        "SELECT count(*) FROM pg_class WHERE relname ~ '^enfold_people(_[012])?_email_eq$' AND relkind IN ('i', 'I')";
    assert_eq!(fixture.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_is_given_up_leaves_everything_as_it_was_for_whoever_writes() {
    let fixture = Fixture::new().await;
    let begun_and_given_up = async {
        // Stops when it has filled some of the rows.
        let stopped =
            rotate(&fixture.world.session, &fixture.world.enfold, &fixture.world.owner(), &StopsAtCut::new()).await;
        assert_eq!(stopped.unwrap_err().code(), Code::Interrupted);
        let look = fixture.world.look().await;
        assert_eq!(look.stage(), RotationStage::Begun);
        let shown = plan(&fixture.world.session, &PlanOptions::default()).await.unwrap();
        let refused = apply(&fixture.world.session, &shown, &ApplyOptions::default(), &Silent).await;
        assert!(
            shown.tables.iter().all(|table| table.steps.is_empty()) || refused.unwrap_err().code() == Code::PlanRefused
        );
        look.give_up(&crate::world::who()).await.unwrap();
        assert_eq!(fixture.world.look().await.stage(), RotationStage::Settled);
    };
    let ((), done) = beside(&fixture.world, async || fixture.people().await, begun_and_given_up).await;
    let column = email(&fixture.world.enfold, &fixture.world.owner());
    check(&*fixture.people().await, &column, &done).await;
    fixture.world.verify().await;
    assert_eq!(fixture.columns().await, ["email_eq"]);
    assert_eq!(fixture.world.standing().await.now.generation, 1);
    assert_eq!(fixture.world.look().await.give_up(&crate::world::who()).await.unwrap_err().code(), Code::Usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_rules_take_over_with_their_generation_or_are_refused_where_they_make_two_rows_equal() {
    let fixture = Fixture::new().await;
    let (world, people) = (&fixture.world, fixture.people().await);
    let operator = world.enfold.operator().unwrap();
    operator.sign_index(&world.owner(), "eq", &crate::world::who()).await.unwrap();
    // By `lower` these two differ, and by `last:3` everybody is equal: never for a unique index, so by `trim`.
    let column = email(&world.enfold, &world.owner());
    for (id, value) in [(9_000, "Ann@example.org"), (9_003, " ann@example.org")] {
        assert!(write(&*people, &column, id, value, Way::Insert).await);
    }
    let trimming = world.process(r#"["lower", "trim"]"#).await;
    let trimming_session = session(&trimming).await;
    let refused = rotate(&trimming_session, &trimming, &world.owner(), &Silent).await.unwrap_err();
    assert_eq!(refused.code(), Code::PlanRefused, "{refused}");
    assert_eq!(find(&*people, &column, 9_000, "ann@example.org").await, [9_000], "nobody is the worse for it");
    write(&*people, &column, 9_003, "bob@example.org", Way::Update).await;
    let rotated = rotate(&trimming_session, &trimming, &world.owner(), &Silent).await.unwrap();
    assert_eq!(rotated.generation, 2);
    // The process with the former policy goes by what was signed.
    assert_eq!(find(&*people, &column, 9_000, "  ANN@example.org ").await, [9_000]);
    world.verify().await;
}

#[tokio::test]
async fn what_would_go_wrong_is_refused_before_anything_is_changed() {
    let fixture = Fixture::new().await;
    let (world, admin) = (&fixture.world, &fixture.admin);
    let refused = async |what: &str| {
        let error = world.rotate().await.unwrap_err();
        assert_eq!(error.code(), Code::PlanRefused);
        assert!(error.causes().any(|cause| cause.contains(what)), "{error:?}");
        assert_eq!(fixture.columns().await, ["email_eq"]);
        assert_eq!(world.standing().await.next, None);
    };
    admin.batch_execute("CREATE VIEW found AS SELECT id, email_eq FROM people").await.unwrap();
    refused("view found").await;
    admin.batch_execute("DROP VIEW found; CREATE INDEX own ON people (email_eq, id)").await.unwrap();
    refused("index own").await;
    admin.batch_execute("DROP INDEX own").await.unwrap();
    // A policy that was changed before its rules were signed.
    let other = world.process(r#"["lower", "nfkc"]"#).await;
    let other_session = session(&other).await;
    let error = rotate(&other_session, &other, &world.owner(), &Silent).await.unwrap_err();
    assert!(error.causes().any(|cause| cause.contains("400 of 400") || cause.contains("200 of 200")), "{error:?}");
    assert_eq!(fixture.columns().await, ["email_eq"]);
}

#[tokio::test]
async fn rights_on_the_column_and_values_that_were_computed_before_the_cut_survive_it() {
    let fixture = Fixture::new().await;
    let (world, people) = (&fixture.world, fixture.people().await);
    let role = format!("enfold_reader_{}", std::process::id());
    let grant = format!("CREATE ROLE {role}; GRANT SELECT (id, email_eq) ON people TO {role}");
    fixture.admin.batch_execute(&grant).await.unwrap();
    let rotation = world.look().await;
    let column = email(&world.enfold, &world.owner());
    let one =
        column.index_to_store(&crate::world::who(), "eq", &crate::world::place(0), "late@example.org").await.unwrap();
    let steps: Vec<String> = rotation.steps().into_iter().map(|step| step.says).collect();
    assert_eq!(steps.len(), 9, "{steps:?}");
    let stopped = rotate(&world.session, &world.enfold, &world.owner(), &StopsAtCut::new()).await;
    assert_eq!(stopped.unwrap_err().code(), Code::Interrupted);
    let both =
        column.index_to_store(&crate::world::who(), "eq", &crate::world::place(0), "late@example.org").await.unwrap();
    world.rotate().await.unwrap();

    let row = |id, index| Written { id, org: 0, email: "x", index };
    assert!(people.insert(&row(9_000, &both)).await, "kept as far as it is of the generation in force");
    assert_eq!(find(&*people, &column, 9_000, "late@example.org").await, [9_000]);
    assert!(!people.insert(&row(9_003, &both)).await, "and unique");
    let alone =
        fixture.admin.execute("INSERT INTO people (id, org, email, email_eq) VALUES (9006, 0, 'x', $1)", &[&one]).await;
    assert_eq!(alone.unwrap_err().code(), Some(&SqlState::INTEGRITY_CONSTRAINT_VIOLATION));
    let may = format!("SELECT has_column_privilege('{role}', 'people', 'email_eq', 'SELECT')");
    assert!(fixture.admin.query_one(&may, &[]).await.unwrap().get::<_, bool>(0));
    assert_eq!(fixture.columns().await, ["email_eq".to_owned(), former_column("email_eq")]);
    assert!(!fixture.columns().await.contains(&next_column("email_eq")));
    world.look().await.drop_former(&crate::world::who()).await.unwrap();
    fixture.admin.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

/// Asks to stop before the cut.
pub(crate) struct StopsAtCut(Mutex<bool>);

impl StopsAtCut {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(false))
    }
}

impl enfold_jobs::ops::Observer for StopsAtCut {
    fn step(&self, event: &enfold_jobs::ops::StepEvent) {
        if event.says.starts_with("index the rows") {
            *self.0.lock().unwrap() = true;
        }
    }

    fn progress(&self, _: &enfold_jobs::ops::SweepEvent) {}

    fn stop_requested(&self) -> bool {
        *self.0.lock().unwrap()
    }
}
