//! Disaster recovery on real Postgres servers: a dump of database and catalog, restored on another server, opens with the same
//! root key; an older dump is refused where a newer state is pinned; without the root key it is said plainly that nothing opens; and
//! what passes for a restored backup.
#![cfg(feature = "postgres")]

mod common;

use std::path::Path;
use std::process::Command;

use enfold::evidence::{Checked, Outcome};
use enfold::policy::DatabaseUrl;
use enfold::{CallContext, Code, Enfold, Form, Part, Place, Result, Whose};
use enfold_jobs::evidence::{Standard, collect, signer};
use enfold_jobs::ops::{
    ApplyOptions, Pace, PlanOptions, Reencryption, RestoreReport, Restored, Selection, Session, Silent, WorkOptions,
    apply, enforce, plan, plan_reencryption, request_reencryption, test_restored, verify, work,
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
[events]
catalog = true
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

/// A table that was protected and enforced.
async fn enforced(folder: &Path, server: &Server) -> (Enfold, Session) {
    let client = postgres::connect(&server.config()).await;
    client.batch_execute(SCHEMA).await.unwrap();
    let (enfold, session) = open(folder, server, 0).await.unwrap();
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
    enforce(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    (enfold, session)
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
    let (enfold, session) = enforced(machine.path(), &server).await;
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

/// The live system, and what is tested beside it.
struct Live {
    enfold: Enfold,
    session: Session,
}

impl Live {
    async fn test(&self, url: &str) -> Result<RestoreReport> {
        let database = DatabaseUrl::parse(url, Path::new("")).unwrap();
        let restored = Restored { database, catalog: None, backup_ms: 1_750_000_000_000 };
        let live = (&self.session, &self.enfold);
        test_restored(live, &restored, &Selection::All, &Pace::default(), &context(), &Silent).await
    }

    /// It is refused, and nothing is on record: evidence is as it was.
    async fn refused(&self, url: &str, because: &str) {
        let before = self.evidence().await;
        let error = self.test(url).await.expect_err("it is no restored backup");
        assert_eq!(error.code(), Code::Usage, "{error}");
        assert!(error.to_string().contains(because), "{error}");
        let after = self.evidence().await;
        assert_eq!((after.outcome, after.found), (before.outcome, before.found));
    }

    /// What evidence says of restored backups.
    async fn evidence(&self) -> Checked {
        let signer = signer(&self.enfold).await.unwrap();
        let all = collect(&self.session, &self.enfold, Standard::Soc2, &context(), &*signer).await.unwrap();
        all.checks.into_iter().find(|check| check.id == "restore").expect("a check")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_is_on_record_and_neither_the_live_database_nor_a_replica_passes_for_one() {
    let machine = tempfile::tempdir().unwrap();
    let server = Server::start(&[]);
    let (enfold, session) = enforced(machine.path(), &server).await;
    let live = Live { enfold, session };
    assert_eq!(live.evidence().await.outcome, Outcome::NotChecked);

    live.refused(&server.url(), "`postgres` is the live database").await;
    live.refused(&server.url().replace("127.0.0.1", "localhost"), "is the live database").await;
    let standby = server.standby();
    live.refused(&standby.url(), "it is a replica").await;

    let file = server.scratch().join("dump");
    dump(&server, &file);
    let elsewhere = restored(&file);
    let report = live.test(&elsewhere.url()).await.unwrap();
    assert_eq!((report.restored.rows, report.restored.failed), (300, 0));
    assert_eq!(report.restored.columns, [("public.users.email".to_owned(), 300)].into());
    let evidence = live.evidence().await;
    assert_eq!(evidence.outcome, Outcome::Met, "{evidence:?}");
    assert!(evidence.found[0].contains("read a backup of 2025-06-15T15:06:40Z, restored to postgres: 300 rows, 0 of"));
    assert_eq!(evidence.found[1], "public.users.email: 300 envelopes");

    // What one value has lost is seen, and so is a catalog that is not there.
    let client = postgres::connect(&elsewhere.config()).await;
    let other = "UPDATE users SET email = (SELECT email FROM users WHERE id = 2) WHERE id = 1";
    client.execute(other, &[]).await.expect("an envelope of another tenant passes for one");
    let report = live.test(&elsewhere.url()).await.unwrap();
    assert_eq!((report.restored.failed, report.verified.is_clean()), (1, false));
    let evidence = live.evidence().await;
    assert_eq!(evidence.outcome, Outcome::NotMet);
    assert_eq!(evidence.reason.as_deref(), Some("the newest restore test failed (code `plaintext-found`)"));
    client.batch_execute("DELETE FROM enfold.data_key_wraps; DELETE FROM enfold.data_keys").await.unwrap();
    live.test(&elsewhere.url()).await.expect_err("there is no data key");
    assert_eq!(live.evidence().await.outcome, Outcome::NotMet);

    // A physical copy has the identifier of its system, and is another server once it goes its own way.
    let client = postgres::connect(&standby.config()).await;
    client.execute("SELECT pg_promote()", &[]).await.unwrap();
    live.test(&standby.url()).await.unwrap();
    let evidence = live.evidence().await;
    assert_eq!(evidence.outcome, Outcome::Met, "{evidence:?}");

    // What follows the live one by itself, table by table, is a replica as well. Nothing need arrive for that.
    let subscribe = "CREATE SUBSCRIPTION s CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)";
    client.batch_execute(subscribe).await.unwrap();
    live.test(&standby.url()).await.expect("a subscription that is off takes nothing over");
    client.batch_execute("ALTER SUBSCRIPTION s ENABLE").await.unwrap();
    live.refused(&standby.url(), "it is a replica").await;

    // Another system under the same policy and the same operators' key has rings of its own.
    let other = Server::start(&[]);
    enforced(machine.path(), &other).await;
    live.refused(&other.url(), "ring `main` of the restored copy is another").await;
}
