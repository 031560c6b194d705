//! Blind indexes, command by command; and a rotation that is killed after each of its steps.

use std::io::{BufRead as _, BufReader};

use enfold::policy::Variables;
use enfold::{CallContext, Enfold, Form, PayloadType, Place};
use enfold_testkit::postgres::{Database, connect};
use rusqlite::params;
use serde_json::Value;

use crate::harness::{Sandbox, policy};

const INDEX: &str = "users.email.eq";
const PEOPLE: i64 = 300;
/// Commands wait for processes that cannot look at the state for as long as this.
const HASTE: &str = "[events]\ncatalog = true\n[rings.main.cache]\nmax_unseen = \"1s\"\n";

/// The shop, protected, with a unique blind index by these rules.
fn shop() -> Sandbox {
    let shop = Sandbox::shop();
    shop.write("enfold.toml", policy("sqlite:app.db") + HASTE + &table("users", r#"["lower"]"#));
    shop.ok(&["apply", "--yes"]);
    shop
}

fn table(name: &str, rules: &str) -> String {
    format!(
        "[tables.\"{name}\".columns.email]\nid = \"users.email\"\nring = \"main\"\n\
         [tables.\"{name}\".columns.email.indexes.eq]\ncolumn = \"email_eq\"\nunique = true\nnormalise = {rules}\n"
    )
}

#[test]
fn an_index_is_rotated_step_by_step() {
    let shop = shop();
    shop.run(&["index", "list"]).snapshot("index_list");
    shop.run(&["index", "sign", "--reason", "first"]).snapshot("index_sign");
    // Other rules from now on, which take effect with the generation that is made by them.
    shop.write("enfold.toml", shop.read("enfold.toml").replace(r#"["lower"]"#, r#"["trim", "lower"]"#));
    shop.run(&["index", "list"]).snapshot("index_list_differs");
    shop.run(&["index", "rotate", INDEX, "--dry-run"]).snapshot("index_rotate_dry_run");
    let rotate = ["index", "rotate", INDEX, "--reason", "blanks"];
    shop.run(&rotate).snapshot("index_rotate_unconfirmed");
    shop.run(&[&rotate[..], &["--yes"]].concat()).snapshot("index_rotate");
    shop.run(&[&rotate[..], &["--yes"]].concat()).snapshot("index_rotate_again");
    shop.ok(&["verify", "--all"]);
    let drop = ["index", "drop-former", INDEX, "--reason", "blanks"];
    shop.run(&drop).snapshot("index_drop_former_unconfirmed");
    let (code, said, stdout) = shop.in_a_terminal(&drop, &[("to go on: ", INDEX)]);
    assert_eq!((code, stdout.contains("is dropped")), (0, true), "{said}");
    shop.run(&[&drop[..], &["--yes"]].concat()).snapshot("index_drop_former_again");
    shop.run(&["index", "list", "--json"]).snapshot("index_list_json");
    let events: i64 = shop
        .database()
        .query_row(
            "SELECT count(*) FROM enfold_events WHERE event LIKE '%\"index\"%' AND event LIKE '%\"blanks\"%'",
            [],
            |row| row.get(0),
        )
        .expect("the log of events");
    assert_eq!(events, 2, "begun, and taken over");
    let keys: Value = serde_json::from_slice(&shop.ok(&["keys", "list", "--json"]).stdout).expect("JSON");
    let status = |scope: &str| {
        let keys = keys["keys"].as_array().expect("a list");
        keys.iter().find(|key| key["scope"] == scope).map(|key| key["status"].to_string())
    };
    assert_eq!(status("index:users.email/eq").as_deref(), Some("\"disabled\""));
    assert_eq!(status("index.2:users.email/eq").as_deref(), Some("\"active\""));
    shop.ok(&["rollback", "--all", "--yes"]);
    let left = "SELECT count(*) FROM pragma_table_info('users') WHERE name LIKE '%email_eq'";
    assert_eq!(shop.database().query_row(left, [], |row| row.get::<_, i64>(0)).expect("a count"), 0);
}

#[test]
fn a_ring_is_rotated_with_its_indexes() {
    let shop = shop();
    let rotate = ["keys", "rotate", "main", "--reason", "yearly", "--yes", "--reencrypt", "--indexes"];
    shop.run(&rotate).snapshot("rotate_with_indexes");
    shop.ok(&["worker", "--until-idle"]);
    shop.ok(&["verify", "--all"]);
}

#[test]
fn mistakes_in_what_is_done_with_indexes_are_said() {
    let shop = shop();
    shop.run(&["index", "rotate", "users.email.qe", "--reason", "x", "--yes"]).snapshot("index_unknown");
    shop.run(&["index", "give-up", INDEX, "--reason", "x", "--yes"]).snapshot("index_give_up_nothing");
    shop.sql("CREATE VIEW found AS SELECT id, email_eq FROM users");
    shop.run(&["index", "rotate", INDEX, "--reason", "x", "--yes"]).snapshot("index_refused");
}

/// The application between two attempts: every row is found, and nobody twice.
struct Application {
    enfold: Enfold,
    table: &'static str,
    known: Vec<(i64, String)>,
}

impl Application {
    async fn open(shop: &Sandbox, table: &'static str) -> Self {
        let policy = enfold::policy::load(&shop.path("enfold.toml"), &Variables::new()).expect("a policy");
        let known = (1..=PEOPLE).map(|id| (id, format!("person{id}@example.org"))).collect();
        Self { enfold: Enfold::open(policy).await.expect("it opens"), table, known }
    }

    fn context() -> CallContext {
        CallContext::new("test", "between two attempts")
    }

    async fn wanted(&self, email: &str) -> Vec<Vec<u8>> {
        let column = self.enfold.column(&format!("{}.email", self.table)).expect("the column");
        column.lookup(&Self::context(), "eq", &Place::none(), email).await.expect("what to look for")
    }

    /// An envelope, and what is stored beside it.
    async fn row(&self, email: &str) -> (String, Vec<u8>) {
        let column = self.enfold.column(&format!("{}.email", self.table)).expect("the column");
        let (form, payload) = (Form::Text, PayloadType::Text);
        let sealed = column.seal(&Self::context(), &Place::none(), form, payload, email.as_bytes()).await;
        let index = column.index_to_store(&Self::context(), "eq", &Place::none(), email).await.expect("its index");
        (String::from_utf8(sealed.expect("an envelope")).expect("text"), index)
    }

    /// Inserts somebody, and tries to insert a known one again; `insert` says whether it was, and `find` who is found.
    async fn go_on(
        &mut self,
        insert: impl AsyncFn(i64, String, Vec<u8>) -> bool,
        find: impl AsyncFn(Vec<Vec<u8>>) -> Vec<i64>,
    ) {
        let id = self.known.len() as i64 + 1;
        let fresh = format!("later{id}@example.org");
        let (sealed, index) = self.row(&fresh).await;
        assert!(insert(id, sealed, index).await, "nobody has {fresh}");
        self.known.push((id, fresh));
        for (id, email) in &self.known {
            assert_eq!(find(self.wanted(email).await).await, [*id], "{email}");
        }
        for (_, email) in self.known.iter().rev().take(20) {
            let (sealed, index) = self.row(&email.to_uppercase()).await;
            assert!(!insert(100_000, sealed, index).await, "{email} is twice in the table");
        }
    }
}

/// Kills a rotation when it has said that so many steps are done, from the first step to the last; then lets it end.
async fn killed_after_each_step(
    shop: &Sandbox,
    table: &'static str,
    insert: impl AsyncFn(i64, String, Vec<u8>) -> bool,
    find: impl AsyncFn(Vec<Vec<u8>>) -> Vec<i64>,
) {
    let mut application = Application::open(shop, table).await;
    let index = format!("{table}.email.eq");
    let rotate = ["index", "rotate", &index, "--reason", "killed", "--yes"];
    for steps in 1..=8 {
        let mut child = shop.start(&rotate);
        let said = BufReader::new(child.stderr.take().expect("a pipe"));
        let done = said.lines().map_while(Result::ok).filter(|line| line.contains("  done")).take(steps).count();
        child.kill().expect("killed");
        child.wait().expect("it is gone");
        if done < steps {
            // What is left after the cut is one step, and it was taken.
            assert!(steps == 8, "it ended after {done} steps");
            break;
        }
        application.go_on(&insert, &find).await;
    }
    let ended = shop.run(&rotate);
    assert!(ended.code == 0 || ended.stderr.contains("former generation is still in the table"), "{}", ended.stderr);
    application.go_on(&insert, &find).await;
    shop.ok(&["index", "drop-former", &index, "--reason", "killed", "--yes"]);
    shop.ok(&["verify", "--all"]);
    application.go_on(&insert, &find).await;
}

#[tokio::test]
async fn a_rotation_that_is_killed_after_any_step_goes_on_on_sqlite() {
    let shop = Sandbox::empty();
    shop.sql(&format!(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT);
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {PEOPLE})
         INSERT INTO people SELECT n, 'person' || n || '@example.org' FROM n"
    ));
    shop.write("enfold.toml", policy("sqlite:app.db") + HASTE + &table("people", r#"["lower"]"#));
    shop.ok(&["apply", "--yes"]);
    let database = shop.database();
    let insert = async |id: i64, sealed: String, index: Vec<u8>| {
        let sql = "INSERT INTO people (id, email, email_eq) VALUES (?1, ?2, ?3)";
        database.execute(sql, params![id, sealed, index]).is_ok()
    };
    let find = async |wanted: Vec<Vec<u8>>| {
        let mut found = database.prepare("SELECT id FROM people WHERE email_eq IN (?1, ?2)").expect("a query");
        let rows = found.query_map(params![wanted.first(), wanted.last()], |row| row.get(0)).expect("an answer");
        rows.collect::<Result<Vec<i64>, _>>().expect("ids")
    };
    killed_after_each_step(&shop, "people", insert, find).await;
}

#[tokio::test]
async fn a_rotation_that_is_killed_after_any_step_goes_on_on_postgres() {
    let (server, shop) = (Database::create().await, Sandbox::empty());
    let client = connect(&server.config()).await;
    let sql = format!(
        "CREATE TABLE people (id bigint PRIMARY KEY, email text);
         INSERT INTO people SELECT n, 'person' || n || '@example.org' FROM generate_series(1, {PEOPLE}) n"
    );
    client.batch_execute(&sql).await.expect("a table");
    shop.write("enfold.toml", policy(&server.url()) + HASTE + &table("public.people", r#"["lower"]"#));
    shop.ok(&["apply", "--yes"]);
    let insert = async |id: i64, sealed: String, index: Vec<u8>| {
        let sql = "INSERT INTO people (id, email, email_eq) VALUES ($1, $2, $3)";
        client.execute(sql, &[&id, &sealed, &index]).await.is_ok()
    };
    let find = async |wanted: Vec<Vec<u8>>| {
        let rows =
            client.query("SELECT id FROM people WHERE email_eq = ANY ($1)", &[&wanted]).await.expect("an answer");
        rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>()
    };
    killed_after_each_step(&shop, "public.people", insert, find).await;
}
