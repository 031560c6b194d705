//! What needs a real Postgres server: a role without rights, several workers, types that cannot hold an envelope.

use std::time::Duration;

use enfold::policy::DatabaseUrl;
use enfold_jobs::store::WorkerSign;
use enfold_testkit::postgres::Database;

use crate::harness::{Sandbox, policy};

#[tokio::test]
async fn a_role_without_rights_is_told_which_are_missing_and_changes_nothing() {
    let database = Database::create().await;
    let owner = database.connect().await;
    let role = format!("enfold_cli_{}", std::process::id());
    owner
        .batch_execute(&format!(
            "CREATE TABLE users (id int PRIMARY KEY, email text);
             INSERT INTO users VALUES (1, 'ada@example.com');
             DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN"
        ))
        .await
        .expect("a table and a role");
    let shop = Sandbox::shop();
    let url = database.url().replacen("postgres@", &format!("{role}@"), 1);
    let rest = "[catalog]\nurl = \"sqlite:catalog.db\"\n\
         [tables.\"public.users\".columns.email]\nid = \"users.email\"\nring = \"main\"\n";
    shop.write("enfold.toml", policy(&url) + rest);
    // The owner's own session may or may not be there to be seen.
    let hidden = [
        (role.as_str(), "[role]"),
        (r"(?m)^mind \[connected-application\].*\n.*\n", ""),
        (r"(?m)^connected and not registered: .*\n", ""),
    ];
    // The catalog lives elsewhere, where this role may write; an empty file is an empty SQLite database.
    shop.write("catalog.db", "");
    shop.run(&["plan"]).snapshot_hiding("no_rights_plan", &hidden);
    shop.run(&["apply", "--yes"]).snapshot_hiding("no_rights_apply", &hidden);
    shop.run(&["audit", "--full"]).snapshot_hiding("no_rights_audit", &hidden);
    let email: String = owner.query_one("SELECT email FROM users", &[]).await.expect("a row").get(0);
    assert_eq!(email, "ada@example.com");
    owner.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.expect("the role goes");
}

/// A shop whose policy is of this database, with `columns` of `public.users`.
pub(crate) fn shop(database: &Database, columns: &[&str]) -> Sandbox {
    let shop = Sandbox::shop();
    let mut policy = policy(&database.url());
    for column in columns {
        policy.push_str(&format!(
            "[tables.\"public.users\".columns.{column}]\nid = \"users.{column}\"\nring = \"main\"\n"
        ));
    }
    shop.write("enfold.toml", policy);
    shop
}

#[tokio::test]
async fn a_job_that_fails_stands_in_the_log_with_why() {
    let database = Database::create().await;
    let owner = database.connect().await;
    owner
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, email text); INSERT INTO users VALUES (1, 'ada@example.com')",
        )
        .await
        .expect("a table");
    let shop = shop(&database, &["email"]);
    shop.extend_policy("[events]\ncatalog = true\n[jobs]\ncanary_query = \"SELECT no_such_column FROM users\"\n");
    assert_ne!(shop.run(&["apply", "--yes"]).code, 0);
    let sql = "SELECT e ->> 'code', e ->> 'detail' FROM (SELECT event::jsonb e FROM enfold.events) AS log \
               WHERE e ->> 'kind' = 'job-failed'";
    let failed = owner.query(sql, &[]).await.expect("the log");
    let failed: Vec<(&str, &str)> = failed.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].0, "table-missing", "or a column of it");
    assert!(failed[0].1.contains("public.users"), "{failed:?}");
}

#[tokio::test]
async fn two_workers_share_a_table_and_convert_each_row_once() {
    let database = Database::create().await;
    let owner = database.connect().await;
    // Each partition is a range of its own at least.
    owner
        .batch_execute(
            "CREATE TABLE users (id int, email text) PARTITION BY HASH (id);
             CREATE TABLE users_0 PARTITION OF users FOR VALUES WITH (MODULUS 4, REMAINDER 0);
             CREATE TABLE users_1 PARTITION OF users FOR VALUES WITH (MODULUS 4, REMAINDER 1);
             CREATE TABLE users_2 PARTITION OF users FOR VALUES WITH (MODULUS 4, REMAINDER 2);
             CREATE TABLE users_3 PARTITION OF users FOR VALUES WITH (MODULUS 4, REMAINDER 3);
             INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 4000) n",
        )
        .await
        .expect("a table");
    let shop = shop(&database, &["email"]);
    let rows = async |condition: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM users WHERE {condition}");
        owner.query_one(&sql, &[]).await.expect("counted").get(0)
    };
    // What the last job of a goal says of its workers: how many there were that did something, and rows by outcome.
    let worked = async |goal: &str| -> (i64, i64, i64) {
        let sql = "SELECT count(DISTINCT worker) FILTER (WHERE rows_seen > 0), sum(rows_changed)::int8, sum(rows_lost)::int8 \
             FROM enfold.job_chunks WHERE job = (SELECT max(id) FROM enfold.jobs WHERE goal = $1)";
        let row = owner.query_one(sql, &[&goal]).await.expect("a job");
        (row.get(0), row.get(1), row.get(2))
    };
    // Makes the tables of jobs. Nobody comes to the end of a range before the other has one.
    let url = DatabaseUrl::parse(&database.url(), &shop.path("")).expect("a URL");
    let store = enfold_jobs::connect(&url, None).await.expect("connects");
    let sign = WorkerSign { name: "a test".to_owned(), version: "-".to_owned(), job: None, seen: Duration::ZERO };
    store.store().sign_of_life(&sign).await.expect("a sign of life");
    store.store().sign_off(&sign.name).await.expect("signs off");
    owner
        .batch_execute(
            "CREATE FUNCTION wait_for_both() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 WHILE NOT EXISTS (SELECT FROM enfold.job_chunks c WHERE c.job = NEW.job AND c.worker <> NEW.worker) LOOP
                     PERFORM pg_sleep(0.02);
                 END LOOP;
                 RETURN NEW; END $$;
             CREATE TRIGGER wait_for_both BEFORE UPDATE ON enfold.job_chunks FOR EACH ROW
             WHEN (NEW.done AND NOT OLD.done) EXECUTE FUNCTION wait_for_both()",
        )
        .await
        .expect("a trigger");
    shop.ok(&["apply", "--yes", "--workers", "2"]);
    assert_eq!(rows("email NOT LIKE 'enf1:%'").await, 0);
    assert_eq!(worked("protect").await, (2, 4000, 0));
    assert_eq!(worked("verify").await, (2, 0, 0));
    shop.ok(&["enforce", "--all", "--yes", "--workers", "2"]);
    assert_eq!(worked("verify").await, (2, 0, 0));
    shop.ok(&["rollback", "--all", "--yes", "--workers", "2"]);
    assert_eq!(rows("email = 'person' || id || '@example.com'").await, 4000);
    assert_eq!(worked("unprotect").await, (2, 4000, 0));
}

#[tokio::test]
async fn a_column_of_a_type_that_cannot_hold_an_envelope_does_not_hide_the_others_from_an_audit() {
    let database = Database::create().await;
    let owner = database.connect().await;
    owner
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, email text, born date);
             INSERT INTO users VALUES (1, 'ada@example.com', '1815-12-10')",
        )
        .await
        .expect("a table");
    let both = shop(&database, &["born", "email"]);
    both.run(&["audit", "--full"]).snapshot("audit_refused_and_leaking");
    // Protected, the other column is clean, and the audit still is not.
    let email = shop(&database, &["email"]);
    email.ok(&["apply", "--yes"]);
    email.ok(&["audit", "--full"]);
    both.run(&["audit", "--full"]).snapshot("audit_refused");
    both.run(&["audit", "--full", "--json"]).snapshot("audit_refused_json");
    // The copies of a column that can be looked for are.
    assert_eq!(both.run(&["audit", "--residue"]).code, 4);
}

#[tokio::test]
async fn a_date_goes_to_its_shadow_and_the_empty_column_goes_when_its_name_was_typed() {
    let database = Database::create().await;
    let owner = database.connect().await;
    owner
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, born date NOT NULL);
             INSERT INTO users SELECT n, date '1815-12-10' + n FROM generate_series(1, 20) n",
        )
        .await
        .expect("a table");
    let shop = shop(&database, &["born"]);
    shop.write("enfold.toml", shop.read("enfold.toml") + "shadow = \"born_enf\"\n");
    let hidden =
        [(r"(?m)^mind \[connected-application\].*\n.*\n", ""), (r"(?m)^connected and not registered: .*\n", "")];
    shop.run(&["plan"]).snapshot_hiding("shadow_plan", &hidden);
    shop.ok(&["apply", "--yes"]);
    shop.run(&["drop-source", "public.users.born", "--yes"]).snapshot("drop_source_not_enforced");
    shop.ok(&["audit", "--full"]);
    shop.ok(&["enforce", "--all", "--yes"]);
    shop.run(&["drop-source", "public.users.born"]).snapshot("drop_source_unconfirmed");
    shop.run(&["drop-source", "public.users.born", "--yes"]).snapshot("drop_source");
    let left = "SELECT string_agg(attname || ' ' || attnotnull, ', ' ORDER BY attnum) FROM pg_attribute \
                WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped";
    assert_eq!(owner.query_one(left, &[]).await.expect("columns").get::<_, String>(0), "id true, born_enf true");
    shop.ok(&["verify", "--all"]);
    shop.ok(&["audit", "--full"]);
}

#[tokio::test]
async fn a_first_policy_names_a_shadow_where_the_type_has_no_room_and_nowhere_else() {
    let database = Database::create().await;
    let owner = database.connect().await;
    owner
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, email varchar(80), date_of_birth date);
             INSERT INTO users SELECT n, 'person' || n || '@example.com', date '1950-01-01' + n FROM generate_series(1, 100) n",
        )
        .await
        .expect("a table");
    let shop = Sandbox::empty();
    shop.ok(&["init", "--database", &database.url(), "--environment", "development"]);
    let policy = shop.read("enfold.toml");
    assert!(policy.contains("shadow = \"date_of_birth_enf\""), "{policy}");
    assert_eq!(policy.matches("shadow = ").count(), 1, "{policy}");
    shop.ok(&["apply", "--yes"]);
    shop.ok(&["audit", "--full"]);
}

/// Where nobody who runs Enfold may make tables: the policy is written, an administrator runs what it prints, and the
/// worker makes the keys.
#[tokio::test]
async fn an_administrator_makes_the_tables_and_the_worker_then_the_keys() {
    let database = Database::create().await;
    let admin = database.connect().await;
    let name: String = admin.query_one("SELECT current_database()::text", &[]).await.expect("a name").get(0);
    admin
        .batch_execute(&format!(
            "CREATE TABLE users (id int PRIMARY KEY, email text);
             INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 100) n;
             CREATE ROLE {name}_reader LOGIN; GRANT SELECT ON users TO {name}_reader;
             REVOKE CREATE ON DATABASE {name} FROM PUBLIC"
        ))
        .await
        .expect("a table and a role");
    let shop = Sandbox::shop();
    let url = |of: &str| database.url().replacen("postgres@", &format!("{name}_{of}@"), 1);
    let hidden = [(name.as_str(), "[database]"), (r"127\.0\.0\.1:\d+", "[server]")];
    let begun = shop.run(&["init", "--database", &url("reader"), "--environment", "staging"]);
    begun.snapshot_hiding("init_without_rights", &hidden);

    let sql = shop.ok(&["init", "--print-sql", "--role-prefix", &name]).stdout;
    admin.batch_execute(&String::from_utf8(sql).expect("text")).await.expect("the printed statements run");
    let login = format!("CREATE ROLE {name}_login LOGIN IN ROLE {name}_worker");
    admin.batch_execute(&login).await.expect("a worker");
    let policy = shop.read("enfold.toml").replace(&url("reader"), &url("login"));
    shop.write("enfold.toml", policy);
    shop.run(&["init", "--prepare"]).snapshot("init_prepare");
    let prepared = shop.read("enfold.toml");
    assert!(prepared.contains("operator_key = ") && prepared.contains("min_epoch = 1"), "{prepared}");
    shop.ok(&["init", "--prepare"]);
    assert_eq!(shop.read("enfold.toml"), prepared, "what is there is left as it is");
    shop.ok(&["plan"]);

    // A key that is lost is not replaced by another that nobody trusts.
    std::fs::remove_file(shop.path("enfold-operator.key")).expect("it was there");
    shop.run(&["init", "--prepare"]).snapshot_hiding("init_prepare_without_the_key", &hidden);
    assert_eq!(shop.read("enfold.toml"), prepared);
    let gone = ["reader", "login", "owner", "worker", "app", "audit"]
        .map(|of| format!("DROP OWNED BY {name}_{of} CASCADE; DROP ROLE {name}_{of}"));
    admin.batch_execute(&gone.join("; ")).await.expect("the roles go");
}

/// What `init --print-sql` prints is all that a worker, an application and an auditor need, and no more than they should
/// have.
#[tokio::test]
async fn each_role_that_is_printed_can_do_its_work_and_nothing_beyond_it() {
    let database = Database::create().await;
    let admin = database.connect().await;
    let name: String = admin.query_one("SELECT current_database()::text", &[]).await.expect("a name").get(0);
    let prefix = format!("odd \"' {name}");
    admin
        .batch_execute(
            "CREATE TABLE users (id int, email text) PARTITION BY HASH (id);
             CREATE TABLE users_0 PARTITION OF users FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE users_1 PARTITION OF users FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 100) n",
        )
        .await
        .expect("a table");
    let shop = shop(&database, &["email"]);
    let sql = shop.ok(&["init", "--print-sql", "--role-prefix", &prefix]).stdout;
    let sql = String::from_utf8(sql).expect("text");
    for _ in 0..2 {
        admin.batch_execute(&sql).await.expect("the printed statements run, twice too");
    }
    let policy = shop.read("enfold.toml");
    let quoted = |of: &str| format!("\"{}_{of}\"", prefix.replace('"', "\"\""));
    for of in ["worker", "app", "audit"] {
        let made = format!("CREATE ROLE {name}_{of} LOGIN IN ROLE {}", quoted(of));
        admin.batch_execute(&made).await.expect("a role that logs in");
    }
    let become_role = |of: &str| {
        let url = database.url().replacen("postgres@", &format!("{name}_{of}@"), 1);
        shop.write("enfold.toml", policy.replace(&database.url(), &url));
    };
    become_role("worker");
    shop.ok(&["apply", "--yes"]);
    let plain =
        admin.query_one("SELECT count(*) FROM users WHERE email NOT LIKE 'enf1:%'", &[]).await.expect("counted");
    assert_eq!(plain.get::<_, i64>(0), 0);
    become_role("app");
    let sealed = shop.pipe(&["seal", "public.users.email"], b"ada@example.com");
    assert_eq!(sealed.code, 0, "{}", sealed.stderr);
    let opened = shop.pipe(&["open", "public.users.email"], &sealed.stdout);
    assert_eq!((opened.code, opened.stdout.trim_ascii()), (0, &b"ada@example.com"[..]), "{}", opened.stderr);
    become_role("audit");
    shop.ok(&["audit", "--full"]);

    // As SQLSTATE: insufficient_privilege.
    let may_not = async |of: &str, sql: &str| {
        let whole = format!("BEGIN; SET LOCAL ROLE {name}_{of}; {sql}");
        let said = admin.batch_execute(&whole).await.map_err(|e| e.code().map(|c| c.code().to_owned()));
        admin.batch_execute("ROLLBACK").await.expect("goes back");
        assert_eq!(said, Err(Some("42501".to_owned())), "{of}: {sql}");
    };
    for sql in [
        "UPDATE enfold.ring_states SET epoch = 1",
        "INSERT INTO enfold.ring_states VALUES ('r', 1, '', '')",
        "DELETE FROM enfold.ring_states",
        "UPDATE enfold.data_keys SET status = 'destroyed'",
        "DELETE FROM enfold.data_key_wraps",
        "DELETE FROM enfold.events",
        "CREATE TABLE enfold.mine ()",
    ] {
        may_not("app", sql).await;
    }
    let tables = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                  WHERE n.nspname IN ('enfold', 'public') AND c.relkind IN ('r', 'p') ORDER BY 1";
    let tables: Vec<String> = admin.query(tables, &[]).await.expect("tables").iter().map(|row| row.get(0)).collect();
    assert!(tables.contains(&"public.users_1".to_owned()) && tables.contains(&"enfold.jobs".to_owned()), "{tables:?}");
    for table in tables {
        may_not("audit", &format!("INSERT INTO {table} DEFAULT VALUES")).await;
        may_not("audit", &format!("DELETE FROM {table}")).await;
        let writes = format!("SELECT has_any_column_privilege('{name}_audit', '{table}', 'UPDATE')");
        assert!(!admin.query_one(&writes, &[]).await.expect("an answer").get::<_, bool>(0), "{table}");
    }
    for role in [format!("{name}_worker"), format!("{name}_app"), format!("{name}_audit")] {
        admin.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.expect("it goes");
    }
    for role in ["owner", "worker", "app", "audit"].map(quoted) {
        admin.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.expect("it goes");
    }
}
