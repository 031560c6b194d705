//! `enfold doctor` on the rights of the role that it logs in as: what is missing for which duty, with the statement that
//! gives it.

use enfold_testkit::postgres::Database;
use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::Sandbox;
use crate::postgres::shop;

/// A protected shop with the groups of `init --print-sql`, and roles that log in.
struct Scene {
    database: Database,
    admin: Client,
    shop: Sandbox,
    policy: String,
    /// The groups' prefix, and that of the roles.
    name: String,
}

impl Scene {
    async fn new() -> Self {
        let database = Database::create().await;
        let admin = database.connect().await;
        let name: String = admin.query_one("SELECT current_database()::text", &[]).await.expect("a name").get(0);
        admin
            .batch_execute(
                "CREATE TABLE users (id int, email text) PARTITION BY HASH (id);
                 CREATE TABLE users_0 PARTITION OF users FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE users_1 PARTITION OF users FOR VALUES WITH (MODULUS 2, REMAINDER 1);
                 INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 10) n",
            )
            .await
            .expect("a table");
        let shop = shop(&database, &["email"]);
        shop.ok(&["apply", "--yes"]);
        let sql = shop.ok(&["init", "--print-sql", "--role-prefix", &name]);
        admin.batch_execute(sql.stdout()).await.expect("the printed statements run");
        for of in ["worker", "app", "audit", "owner"] {
            let made = format!("CREATE ROLE {name}_the_{of} LOGIN IN ROLE {name}_{of}");
            admin.batch_execute(&made).await.expect("a role that logs in");
        }
        // Without this every role would have the right.
        let made = format!("CREATE ROLE {name}_the_guest LOGIN; REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC");
        admin.batch_execute(&made).await.expect("a role without rights");
        let policy = shop.read("enfold.toml");
        Self { database, admin, shop, policy, name }
    }

    fn become_role(&self, of: &str) {
        let url = self.database.url().replacen("postgres@", &format!("{}_the_{of}@", self.name), 1);
        self.shop.write("enfold.toml", self.policy.replace(&self.database.url(), &url));
    }

    /// What the doctor says of the rights for each duty, to the role that is logged in.
    fn rights(&self) -> Vec<Value> {
        let ran = self.shop.run(&["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        let checks = report["checks"].as_array().expect("checks").clone();
        checks.into_iter().filter(|check| check["name"].as_str().is_some_and(|n| n.starts_with("rights"))).collect()
    }

    /// By duty: application, worker, audit, owner.
    fn statuses(&self) -> Vec<String> {
        self.rights().iter().map(|check| check["status"].as_str().expect("a status").to_owned()).collect()
    }

    /// What differs from run to run.
    fn hidden(&self) -> [(&str, &str); 2] {
        [(self.name.as_str(), "shop"), (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]")]
    }

    async fn sql(&self, sql: &str) {
        self.admin.batch_execute(&sql.replace("NAME", &self.name)).await.expect("the statements run");
    }

    /// Roles outlive their database.
    async fn end(self) {
        for of in ["the_worker", "the_app", "the_audit", "the_owner", "the_guest", "worker", "app", "audit", "owner"] {
            self.sql(&format!("REASSIGN OWNED BY NAME_{of} TO postgres; DROP OWNED BY NAME_{of}; DROP ROLE NAME_{of}"))
                .await;
        }
    }
}

#[tokio::test]
async fn each_role_that_is_printed_has_every_right_of_its_duty_and_the_others_are_not_held_against_it() {
    let scene = Scene::new().await;
    let hidden = scene.hidden();
    scene.become_role("worker");
    assert_eq!(scene.statuses(), ["ok"; 4]);
    scene.shop.ok(&["doctor"]).snapshot_hiding("doctor_worker", &hidden);
    scene.become_role("app");
    assert_eq!(scene.statuses(), ["ok"; 4]);
    scene.shop.ok(&["doctor"]).snapshot_hiding("doctor_app", &hidden);
    scene.become_role("audit");
    assert_eq!(scene.statuses(), ["ok"; 4]);
    scene.become_role("owner");
    assert_eq!(scene.rights()[3]["says"], "every right is there");
    scene.end().await;
}

#[tokio::test]
async fn a_worker_may_move_data_keys_an_application_may_not_and_who_looks_may_look() {
    let mut scene = Scene::new().await;
    scene.policy = scene.policy.replace("[\"local:root.key\"]", "[\"local:second.key\", \"local:root.key\"]");
    let (rewrap, register) =
        (["keys", "rewrap", "main", "--yes"], ["keys", "register", "local:root.key", "--alias", "a"]);
    scene.become_role("app");
    for args in [&rewrap[..], &register] {
        let ran = scene.shop.run(args);
        assert!(ran.code == 1 && ran.stderr.contains("code: database-denied"), "{args:?}: {}", ran.stderr);
    }
    scene.become_role("worker");
    scene.shop.ok(&register);
    scene.shop.ok(&rewrap);
    scene.shop.ok(&["keys", "set-root", "local:root.key", "retired", "--yes"]);
    scene.shop.ok(&["keys", "rewrap", "main", "--from", "local:root.key", "--drop", "--yes"]);
    scene.become_role("audit");
    scene.shop.ok(&["keys", "wraps"]);
    for role in ["worker", "audit"] {
        scene.sql(&format!("SET ROLE NAME_the_{role}")).await;
        let sql = "SELECT count(*) FILTER (WHERE kind = 'data' AND wraps = 1), count(*) FILTER (WHERE root_alias = 'a') \
                   FROM enfold.encryption_keys";
        let seen = scene.admin.query_one(sql, &[]).await.expect("the view");
        assert!(seen.get::<_, i64>(0) > 0 && seen.get::<_, i64>(1) == 1, "{seen:?}");
        scene.sql("RESET ROLE").await;
    }
    scene.sql("SET ROLE NAME_the_app").await;
    assert!(scene.admin.query_one("SELECT count(*) FROM enfold.encryption_keys", &[]).await.is_err());
    scene.sql("RESET ROLE").await;
    scene.end().await;
}

#[tokio::test]
async fn an_auditor_reads_coverage_and_writes_nothing_into_it_and_a_worker_does() {
    let scene = Scene::new().await;
    let noted = "Noted in the view enfold.coverage.";
    scene.become_role("audit");
    assert!(!scene.shop.ok(&["audit", "--full"]).stdout().contains(noted));
    scene.sql("SET ROLE NAME_the_audit").await;
    let seen = "SELECT verified_rows, envelopes, enforced FROM enfold.coverage WHERE column_name = 'email'";
    let row = scene.admin.query_one(seen, &[]).await.expect("the view");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, Option<i64>>(1), row.get::<_, bool>(2)), (10, None, false));
    assert!(scene.admin.execute("UPDATE enfold.column_notes SET plaintext = 0", &[]).await.is_err());
    assert!(scene.admin.execute("DELETE FROM enfold.column_counts", &[]).await.is_err());
    scene.sql("RESET ROLE").await;
    scene.become_role("worker");
    assert!(scene.shop.ok(&["audit", "--full"]).stdout().contains(noted));
    let row = scene.admin.query_one(seen, &[]).await.expect("the view");
    assert_eq!(row.get::<_, Option<i64>>(1), Some(10));
    let kept =
        "SELECT envelopes, under_current, by_version::text FROM enfold.column_counts WHERE column_name = 'email'";
    let row = scene.admin.query_one(kept, &[]).await.expect("one count");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, &str>(2)), (10, 10, "{\"1\": 10}"));
    // Roles from before there was a place for counts have no right on it: the last count is noted all the same.
    scene.sql("REVOKE ALL ON enfold.column_counts FROM NAME_worker").await;
    assert!(scene.shop.ok(&["audit", "--full"]).stdout().contains(noted));
    assert_eq!(scene.admin.query(kept, &[]).await.expect("counts").len(), 1);
    scene.end().await;
}

#[tokio::test]
async fn a_right_that_was_taken_from_a_role_is_named_with_the_statement_that_gives_it_back() {
    let scene = Scene::new().await;
    let hidden = scene.hidden();
    scene.become_role("worker");
    for (taken, from) in [
        ("UPDATE ON users_1", "worker"),
        ("SELECT, DELETE ON enfold.job_chunks", "worker"),
        ("UPDATE (mac) ON enfold.data_keys", "worker"),
        ("TEMPORARY ON DATABASE NAME", "worker"),
    ] {
        scene.sql(&format!("REVOKE {taken} FROM NAME_{from}")).await;
        assert_eq!(scene.statuses()[1], "warning", "{taken}");
    }
    scene.sql("REVOKE pg_monitor FROM NAME_worker; ALTER TABLE users ENABLE ROW LEVEL SECURITY").await;
    scene.shop.ok(&["doctor"]).snapshot_hiding("doctor_rights_taken", &hidden);
    gives_back(&scene, 1).await;
    // Of an application, which then can do nothing.
    scene.become_role("app");
    scene.sql("REVOKE INSERT ON enfold.events, enfold.data_keys FROM NAME_app").await;
    assert_eq!(scene.statuses()[0], "failed");
    gives_back(&scene, 0).await;
    scene.end().await;
}

#[tokio::test]
async fn what_is_printed_for_a_role_without_rights_is_all_that_it_needs() {
    let scene = Scene::new().await;
    let hidden = scene.hidden();
    scene.become_role("guest");
    scene.shop.run(&["doctor"]).snapshot_hiding("doctor_no_rights", &hidden);
    assert_eq!(scene.statuses(), ["failed", "failed", "warning", "warning"]);
    gives_back(&scene, 1).await;
    scene.shop.ok(&["apply", "--yes"]);
    scene.end().await;
}

/// Runs the hints of a duty as an administrator; nothing is missing for it then.
async fn gives_back(scene: &Scene, duty: usize) {
    let check = scene.rights().remove(duty);
    for hint in check["hints"].as_array().expect("hints") {
        scene.sql(hint.as_str().expect("a statement")).await;
    }
    let now = scene.rights().remove(duty);
    assert_eq!((&now["status"], &now["says"]), (&"ok".into(), &"every right is there".into()), "{now}");
}
