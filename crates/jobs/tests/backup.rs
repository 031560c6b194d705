//! Disaster recovery on real Postgres servers: a dump of database and catalog, restored on another server, opens with the same
//! root key; an older dump is refused where a newer state is pinned; and without the root key it is said plainly that nothing
//! opens.
#![cfg(feature = "postgres")]

mod common;

use std::path::Path;
use std::process::Command;

use enfold::{CallContext, Code, Enfold, Form, Part, Place, Result, Whose};
use enfold_jobs::ops::{
    ApplyOptions, Pace, PlanOptions, Reencryption, Selection, Session, Silent, WorkOptions, apply, enforce, plan,
    plan_reencryption, request_reencryption, verify, work,
};
use enfold_testkit::postgres;
use enfold_testkit::postgres_private::Server;

const SCHEMA: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY, org int NOT NULL, email text);
    INSERT INTO users SELECT n, n % 3, 'person' || n || '@example.org' FROM generate_series(1, 300) n; ANALYZE users;";

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "tenant"
min_epoch = EPOCH
[tables."public.users"]
tenant = "org"
[tables."public.users".columns.email]
id = "u.email"
ring = "main"
[tables."public.users".columns.email.indexes.eq]
column = "email_eq"
normalise = ["lower"]
"#;

fn context() -> CallContext {
    CallContext::new("test", "recovery")
}

/// Keys and database as a machine with this folder and that server has them.
async fn open(folder: &Path, server: &Server, min_epoch: u64) -> Result<(Enfold, Session)> {
    let text = POLICY.replace("DATABASE", &server.url()).replace("EPOCH", &min_epoch.to_string());
    common::open(&text, folder, &context()).await
}

fn run(command: &mut Command) {
    let done = command.output().expect("starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn dump(server: &Server, file: &Path) {
    let port = server.port().to_string();
    run(server
        .tool("pg_dump")
        .args(["-Fc", "-h", "127.0.0.1", "-U", "postgres", "-p", &port, "-f"])
        .arg(file)
        .arg("postgres"));
}

/// The dump on a server that has never seen it.
fn restored(file: &Path) -> Server {
    let server = Server::start(&[]);
    let port = server.port().to_string();
    let to = ["-h", "127.0.0.1", "-U", "postgres", "-p", &port, "-d", "postgres", "--exit-on-error"];
    run(server.tool("pg_restore").args(to).arg(file));
    server
}

/// The e-mail of a row, found by its blind index as an application looks it up.
async fn look_up(enfold: &Enfold, server: &Server, id: i64) -> Result<String> {
    let client = postgres::connect(&server.config()).await;
    let email = enfold.column("public.users.email")?;
    let place = Place::tenant(Part::Int(id % 3));
    let index = email.index_to_store(&context(), "eq", &place, &format!("PERSON{id}@example.org")).await?;
    let org = i32::try_from(id % 3).unwrap();
    let found = client.query_one("SELECT email FROM users WHERE org = $1 AND email_eq = $2", &[&org, &index]).await;
    let stored: String = found.expect("one row").get(0);
    let opened = email.open(&context(), &place, Form::Text, stored.as_bytes()).await?;
    Ok(String::from_utf8(opened.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_restored_elsewhere_opens_with_the_root_key_and_with_nothing_else() {
    let machine = tempfile::tempdir().unwrap();
    let server = Server::start(&[]);
    let client = postgres::connect(&server.config()).await;
    client.batch_execute(SCHEMA).await.unwrap();
    let (enfold, session) = open(machine.path(), &server, 0).await.unwrap();
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
    enforce(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    let (before, after) = (server.scratch().join("before"), server.scratch().join("after"));
    dump(&server, &before);

    // Life goes on: keys are rotated, values follow, and the next backup is taken.
    enfold.operator().unwrap().rotate_many("main", Whose::Everybody, &context()).await.unwrap();
    let wanted = Reencryption::default();
    let counted = plan_reencryption(&session, &wanted).await.unwrap();
    request_reencryption(&session, &wanted, &counted).await.unwrap();
    let options = WorkOptions { name: "w".to_owned(), version: "test".to_owned(), until_idle: true, only: None };
    work(&session, &options, &Silent).await.unwrap();
    dump(&server, &after);
    let epoch = enfold.epochs().await.unwrap().into_iter().find(|ring| ring.ring == "main").unwrap().epoch;

    for (file, pinned) in [(&after, epoch), (&before, 0)] {
        let elsewhere = restored(file);
        let (enfold, session) = open(machine.path(), &elsewhere, pinned).await.unwrap();
        assert_eq!(look_up(&enfold, &elsewhere, 7).await.unwrap(), "person7@example.org");
        assert!(verify(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
        let client = postgres::connect(&elsewhere.config()).await;
        client.execute("UPDATE users SET email = 'plain' WHERE id = 1", &[]).await.expect_err("still enforced");
    }

    let elsewhere = restored(&before);
    let older = open(machine.path(), &elsewhere, epoch).await.err().expect("a newer state is pinned");
    assert_eq!(older.code(), Code::StateRolledBack);

    // Another machine has the policy and the operators' key. The root key is gone.
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(machine.path().join("enfold-operator.key"), other.path().join("enfold-operator.key")).unwrap();
    let lost = open(other.path(), &elsewhere, 0).await.err().expect("nothing opens");
    assert_eq!(lost.code(), Code::KeyFileInvalid);
    assert!(lost.to_string().contains("dev.key"), "{lost}");
    assert!(!other.path().join("dev.key").exists(), "and no other key is made in its place");
}
