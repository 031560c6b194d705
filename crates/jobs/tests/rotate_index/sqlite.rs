//! On SQLite.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use enfold::Code;
use enfold_jobs::ops::RotationStage;
use rusqlite::{Connection, ErrorCode, params};

use crate::application::{People, Way, Written, beside, check, find, write};
use crate::postgres::StopsAtCut;
use crate::world::{World, email, rotate, who};

struct File(Mutex<Connection>);

impl File {
    fn open(path: &PathBuf) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        Self(Mutex::new(connection))
    }

    fn count(&self, condition: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM people WHERE {condition}");
        self.0.lock().unwrap().query_row(&sql, [], |row| row.get(0)).unwrap()
    }
}

#[async_trait]
impl People for File {
    async fn insert(&self, row: &Written<'_>) -> bool {
        let sql = "INSERT INTO people (id, org, email, email_eq) VALUES (?1, ?2, ?3, ?4)";
        match self.0.lock().unwrap().execute(sql, params![row.id, row.org, row.email, row.index]) {
            Ok(_) => true,
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => false,
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn update(&self, row: &Written<'_>) {
        let sql = "UPDATE people SET email = ?2, email_eq = ?3 WHERE id = ?1";
        assert_eq!(self.0.lock().unwrap().execute(sql, params![row.id, row.email, row.index]).unwrap(), 1);
    }

    async fn upsert(&self, row: &Written<'_>) {
        let sql = "INSERT INTO people (id, org, email, email_eq) VALUES (?1, ?2, ?3, ?4) \
                   ON CONFLICT (id) DO UPDATE SET email = excluded.email, email_eq = excluded.email_eq";
        let done = self.0.lock().unwrap().execute(sql, params![row.id, row.org, row.email, row.index]);
        assert_eq!(done.unwrap(), 1);
    }

    async fn find(&self, org: i64, wanted: &[Vec<u8>]) -> Vec<i64> {
        let connection = self.0.lock().unwrap();
        let sql = "SELECT id FROM people WHERE org = ?1 AND email_eq IN (?2, ?3)";
        let mut statement = connection.prepare_cached(sql).unwrap();
        let rows = statement.query_map(params![org, wanted.first(), wanted.last()], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

async fn fixture() -> (World, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let people = "
        PRAGMA journal_mode = WAL;
        CREATE TABLE people (id INTEGER PRIMARY KEY, org INTEGER NOT NULL, email TEXT);
        WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 400)
        INSERT INTO people SELECT n, n % 3, 'person' || n || '@example.org' FROM n;";
    Connection::open(&path).unwrap().execute_batch(people).unwrap();
    (World::new("sqlite:app.db", "people", folder).await, path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_never_miss_and_uniqueness_is_never_open_while_an_index_is_rotated() {
    let (world, path) = fixture().await;
    let twice = async {
        for generation in [2, 3] {
            assert_eq!(world.rotate().await.unwrap().generation, generation);
            assert_eq!(world.look().await.stage(), RotationStage::TakenOver);
            world.look().await.drop_former(&who()).await.unwrap();
        }
    };
    let ((), done) = beside(&world, async || Box::new(File::open(&path)) as Box<dyn People>, twice).await;
    let file = File::open(&path);
    check(&file, &email(&world.enfold, &world.owner()), &done).await;
    world.verify().await;
    assert_eq!(file.count("substr(email_eq, 1, 2) <> x'0003' OR length(email_eq) <> 34"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_is_given_up_leaves_everything_as_it_was_for_whoever_writes() {
    let (world, path) = fixture().await;
    let given_up = async {
        let stopped = rotate(&world.session, &world.enfold, &world.owner(), &StopsAtCut::new()).await;
        assert_eq!(stopped.unwrap_err().code(), Code::Interrupted);
        world.look().await.give_up(&who()).await.unwrap();
    };
    let ((), done) = beside(&world, async || Box::new(File::open(&path)) as Box<dyn People>, given_up).await;
    let file = File::open(&path);
    check(&file, &email(&world.enfold, &world.owner()), &done).await;
    world.verify().await;
    assert_eq!(file.count("substr(email_eq, 1, 2) <> x'0001' OR length(email_eq) <> 34"), 0);
    assert_eq!(world.look().await.stage(), RotationStage::Settled);
}

#[tokio::test]
async fn a_statement_that_would_pass_over_a_row_of_the_same_value_is_refused_while_two_generations_live() {
    let (world, path) = fixture().await;
    let file = File::open(&path);
    let column = email(&world.enfold, &world.owner());
    rotate(&world.session, &world.enfold, &world.owner(), &StopsAtCut::new()).await.unwrap_err();
    let both = column.index_to_store(&who(), "eq", &crate::world::place(1), "PERSON1@example.org").await.unwrap();
    assert_eq!(both.len(), 68);
    for way in ["INSERT OR IGNORE INTO", "INSERT INTO"] {
        let settle = if way.contains("OR") { "" } else { " ON CONFLICT DO NOTHING" };
        let sql = format!("{way} people (id, org, email, email_eq) VALUES (9001, 1, 'x', ?1){settle}");
        let error = file.0.lock().unwrap().execute(&sql, [&both]).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ConstraintViolation), "{sql}");
    }
    let ignored = "UPDATE OR IGNORE people SET email_eq = ?1 WHERE id = 4";
    assert!(file.0.lock().unwrap().execute(ignored, [&both]).is_err());
    let replaced = "INSERT OR REPLACE INTO people (id, org, email, email_eq) VALUES (9001, 1, 'x', ?1)";
    file.0.lock().unwrap().execute(replaced, [&both]).unwrap();
    assert_eq!(find(&file, &column, 9_001, "person1@example.org").await, [9_001], "it takes the place of the other");
    assert_eq!(file.count("length(email_eq) <> 34"), 0);
    // Written back as it is, it stays whole.
    assert!(write(&file, &column, 4, "person4@example.org", Way::Update).await);
    assert_eq!(file.count("enfold_next_email_eq IS NULL AND email_eq IS NOT NULL"), 0);
}
