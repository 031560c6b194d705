//! Evidence: each check on a system in order, and on one in which somebody let go what it asks about.
#![cfg(feature = "sqlite")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use enfold::access::{Grant, NewEmergency, NewServiceKey, Role, Within};
use enfold::clock::Clock;
use enfold::events::{Event, EventKind, LogKey, RestoreTest, Signer};
use enfold::evidence::{Checked, Outcome, SignedEvidence};
use enfold::policy::{self, DatabaseUrl, Variables, format_operator_key};
use enfold::state::OperatorKey;
use enfold::{CallContext, Code, Enfold, Form, PayloadType, Place, Result};
use enfold_jobs::evidence::{Standard, collect, page};
use enfold_jobs::ops::{
    ApplyOptions, Pace, PlanOptions, RestoreReport, Restored, Selection, Session, Silent, apply, enforce, plan,
    test_restored,
};
use rusqlite::Connection;

use Outcome::{Met, NotChecked, NotMet};
use common::InDays;

const POLICY: &str = r#"
environment = "development"
[database]
url = "sqlite:app.db"
[trust]
operator_key_file = "op.key"
operator_key = "OPERATOR"
[events]
catalog = true
log_keys = ["LOG"]
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "ring"
[rings.main.rotation]
cadence = "90d"
[rings.main.rotation.roots]
cadence = "365d"
[tables.people.columns.email]
id = "p.email"
ring = "main"
class = "email"
"#;

struct Fixture {
    folder: tempfile::TempDir,
    app: Connection,
    policy: String,
    log_key: LogKey,
}

fn who() -> CallContext {
    CallContext::new("ada", "audit")
}

impl Fixture {
    /// A table that was protected and enforced so many days ago, whose log was signed.
    async fn new(days_ago: i64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let app = Connection::open(folder.path().join("app.db")).unwrap();
        app.execute_batch(
            "CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT);
             INSERT INTO people VALUES (1, 'ada@example.org'), (2, 'bob@example.org'), (3, NULL)",
        )
        .unwrap();
        let operator = OperatorKey::init(&folder.path().join("op.key")).unwrap();
        let log_key = LogKey::init(&folder.path().join("log.key")).unwrap();
        let policy = POLICY
            .replace("OPERATOR", &format_operator_key(&operator.public_key()))
            .replace("LOG", &format_operator_key(&log_key.public_key()));
        let fixture = Self { folder, app, policy, log_key };
        let past = Arc::new(InDays::new(-days_ago));
        let enfold = Enfold::builder(fixture.parsed()).clock(past).prepare().build().await.unwrap();
        let session = common::session(&enfold, &who()).await.unwrap();
        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
        enforce(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
        enfold.sign_log(&fixture.log_key).await.unwrap();
        enfold.sign_off().await;
        fixture
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn parsed(&self) -> policy::Policy {
        policy::parse(&self.policy, &self.path().join("enfold.toml"), &Variables::new()).unwrap()
    }

    async fn open(&self) -> (Enfold, Session) {
        common::open(&self.policy, self.path(), &who()).await.unwrap()
    }

    async fn collect(&self, standard: Standard) -> SignedEvidence {
        let (enfold, session) = self.open().await;
        let signed = collect(&session, &enfold, standard, &who(), &self.log_key).await.unwrap();
        let json = signed.to_json().unwrap();
        assert_eq!(SignedEvidence::verify(json.as_bytes(), &[self.log_key.public_key()]).unwrap(), signed);
        for hidden in ["ada@example.org", "enf1:", "op.key"] {
            assert!(!json.contains(hidden) && !page(&signed).contains(hidden), "{hidden}: {json}");
        }
        signed
    }

    /// The check, in whichever standard has it.
    async fn check(&self, id: &str) -> Checked {
        let of_soc2 = self.collect(Standard::Soc2).await;
        let found = of_soc2.checks.into_iter().find(|check| check.id == id);
        found.expect("a check of SOC 2")
    }

    /// Does something to the database as its administrator, whom no check of the schema holds back.
    fn sql(&self, sql: &str) {
        self.app.execute_batch("PRAGMA ignore_check_constraints = 1").unwrap();
        assert!(self.app.execute(sql, []).unwrap() > 0, "{sql}");
    }

    /// What a restored backup is, for the tests: the database as it is now, in a file of its own.
    fn restore(&self, name: &str) -> Connection {
        let path = self.path().join(name);
        self.app.execute("VACUUM INTO ?1", [path.to_str().unwrap()]).unwrap();
        let copy = Connection::open(path).unwrap();
        copy.execute_batch("PRAGMA ignore_check_constraints = 1").unwrap();
        copy
    }

    async fn test(&self, name: &str) -> Result<RestoreReport> {
        let (enfold, session) = self.open().await;
        let database = DatabaseUrl::parse(&format!("sqlite:{name}"), self.path()).unwrap();
        let restored = Restored { database, catalog: None, backup_ms: 1_750_000_000_000 };
        let live = (&session, &enfold);
        test_restored(live, &restored, &Selection::All, &Pace::default(), &who(), &Silent).await
    }

    /// The check of restored backups is not met, for this reason.
    async fn not_restored(&self, because: &str) {
        let check = self.check("restore").await;
        assert_eq!((check.outcome, check.reason.as_deref()), (NotMet, Some(because)), "{check:?}");
    }

    fn drop_triggers(&self) {
        let list = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'people'";
        let mut statement = self.app.prepare(list).unwrap();
        let names: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        for name in names {
            self.app.execute_batch(&format!("DROP TRIGGER \"{name}\"")).unwrap();
        }
    }
}

#[tokio::test]
async fn a_system_in_order_meets_what_was_looked_at_and_says_what_was_not() {
    let fixture = Fixture::new(10).await;
    let expected = BTreeMap::from([
        ("coverage", Met),
        ("modes", Met),
        ("classes", Met),
        ("sealing", Met),
        // A key in a file is for development.
        ("root-keys", NotMet),
        ("root-key-rotation", Met),
        ("data-key-rotation", Met),
        ("cadence-90-days", Met),
        ("re-encryption", NotChecked),
        ("states", Met),
        ("access", NotChecked),
        ("uses", Met),
        ("emergencies", Met),
        ("log", Met),
        ("restore", NotChecked),
    ]);
    let mut seen = BTreeMap::new();
    for standard in Standard::ALL {
        let evidence = fixture.collect(standard).await;
        assert_eq!(
            (evidence.statement.rings.as_slice(), evidence.statement.made_by.as_deref()),
            (&["r1".to_owned()][..], Some("ada"))
        );
        for check in &evidence.checks {
            let outcome = *expected.get(check.id.as_str()).unwrap_or_else(|| panic!("{check:?}"));
            assert_eq!(check.outcome, outcome, "{check:?}");
            assert_eq!(check.reason.is_some(), outcome != Met, "{check:?}");
            seen.insert(check.id.clone(), check.found.join("\n"));
        }
        for control in &evidence.controls {
            let worst = control.checks.iter().map(|id| expected[id.as_str()]).min();
            assert_eq!(Some(control.outcome), worst, "{control:?}");
        }
    }
    assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), expected.into_keys().collect::<Vec<_>>());
    assert_eq!(
        seen["coverage"].lines().next().unwrap(),
        "people.email: counted 3 rows, 2 envelopes (version 1: 2), 0 values that are none, 1 NULL"
    );
    assert!(
        seen["data-key-rotation"].starts_with("ring main: 1 data keys seal, 0 of them for longer than 90 days"),
        "{seen:?}"
    );
}

#[tokio::test]
async fn one_row_in_the_clear_is_counted_and_its_control_is_not_met() {
    let fixture = Fixture::new(10).await;
    fixture.drop_triggers();
    fixture.sql("INSERT INTO people VALUES (4, 'carla-in-the-clear')");
    let evidence = fixture.collect(Standard::Soc2).await;
    let coverage = evidence.checks.iter().find(|check| check.id == "coverage").unwrap();
    assert_eq!(coverage.outcome, NotMet);
    assert_eq!(coverage.reason.as_deref(), Some("people.email holds 1 values that are no envelopes"));
    let control = evidence.controls.iter().find(|control| control.checks.contains(&coverage.id)).unwrap();
    assert_eq!((control.id.as_str(), control.outcome), ("CC6.7", NotMet));
    assert!(!evidence.to_json().unwrap().contains("carla"));

    // What that count found is said from then on, beside what is counted now.
    fixture.sql("DELETE FROM people WHERE id = 4");
    let later = fixture.check("coverage").await;
    assert_eq!(later.outcome, Met);
    let earlier = &later.found[1];
    assert!(earlier.starts_with("people.email: 1 earlier counts are kept, from 20"), "{earlier}");
    assert!(earlier.ends_with("; 1 of them found values that are no envelopes"), "{earlier}");
}

#[tokio::test]
async fn a_data_key_that_is_older_than_the_policy_wants_is_named_with_its_ring() {
    let fixture = Fixture::new(100).await;
    let check = fixture.check("data-key-rotation").await;
    assert_eq!(check.outcome, NotMet);
    assert_eq!(check.reason.as_deref(), Some("ring main: 1 data keys are due"));
    assert_eq!(fixture.check("root-key-rotation").await.outcome, Met, "their cadence is another");
}

#[tokio::test]
async fn a_root_key_that_is_due_is_not_met() {
    let fixture = Fixture::new(366).await;
    let check = fixture.check("root-key-rotation").await;
    assert_eq!(check.outcome, NotMet);
    assert!(check.reason.unwrap().contains("has been due by the policy's cadence since"));
}

#[tokio::test]
async fn an_event_that_was_changed_is_found_and_a_log_that_nobody_signed_is_not_vouched_for() {
    let mut fixture = Fixture::new(10).await;
    let signed = fixture.policy.clone();
    fixture.policy =
        signed.lines().filter(|line| !line.starts_with("log_keys")).fold(String::new(), |all, line| all + line + "\n");
    let check = fixture.check("log").await;
    assert_eq!(check.outcome, NotChecked, "nobody's signature is believed: {check:?}");
    fixture.policy = signed;
    assert_eq!(fixture.check("log").await.outcome, Met);
    fixture.sql("UPDATE enfold_events SET event = replace(event, '\"count\":', '\"count\":1') WHERE id = (SELECT min(id) FROM enfold_events WHERE seq = 2)");
    let check = fixture.check("log").await;
    assert_eq!(check.outcome, NotMet);
    assert_eq!(check.reason.as_deref(), Some("chains that are not as they were written and signed: 1"));
    fixture.sql("DELETE FROM enfold_log_checkpoints");
    fixture.sql("DELETE FROM enfold_events");
    assert_eq!(fixture.check("log").await.outcome, NotChecked, "a chain that begins anew has no checkpoint");
}

#[tokio::test]
async fn who_may_both_see_values_and_change_keys_is_named() {
    let fixture = Fixture::new(10).await;
    let (enfold, _session) = fixture.open().await;
    let make = async |name: &str, roles: &[Role]| {
        let grants = roles.iter().map(|role| Grant::of(*role)).collect();
        let expires_ms = InDays::new(30).unix_ms();
        let wanted = NewServiceKey { name: name.to_owned(), grants, expires_ms, instead: false };
        enfold.operator().unwrap().make_service_key(&wanted, &who()).await.unwrap();
    };
    make("shop", &[Role::App]).await;
    let check = fixture.check("access").await;
    assert_eq!(check.outcome, Met);
    assert!(check.found[0].starts_with("service key shop: role app, until "), "{check:?}");
    make("both", &[Role::Reader, Role::Admin]).await;
    let check = fixture.check("access").await;
    assert_eq!(check.outcome, NotMet);
    assert_eq!(check.reason.as_deref(), Some("service key both may both see values and change keys"));
}

#[tokio::test]
async fn an_emergency_that_waits_for_its_review_is_counted_until_it_has_it() {
    let fixture = Fixture::new(10).await;
    let (enfold, _session) = fixture.open().await;
    let wanted = NewEmergency { lasts: Duration::from_secs(600), within: Within::default() };
    let by = |actor: &str| CallContext::new(actor, "a test");
    let id = enfold.ask_emergency(&wanted, &by("ann")).await.unwrap().id;
    enfold.decide_emergency(&id, true, &by("bob")).await.unwrap();
    enfold.end_emergency(&id, &by("bob")).await.unwrap();
    enfold.flush().await.unwrap();
    let check = fixture.check("emergencies").await;
    assert_eq!((check.outcome, check.reason.as_deref()), (NotMet, Some("emergencies that wait for their review: 1")));
    enfold.review_emergency(&id, &by("bob")).await.unwrap();
    assert_eq!(fixture.check("emergencies").await.outcome, Met);
}

#[tokio::test]
async fn values_that_somebody_without_a_name_opened_are_counted() {
    let fixture = Fixture::new(10).await;
    let opened = |check: &Checked| {
        let ours = check.found.iter().find_map(|line| line.strip_prefix("ada: open "));
        ours.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    // The conversion opened what it had sealed.
    let before = opened(&fixture.check("uses").await);
    let (enfold, _session) = fixture.open().await;
    let column = enfold.column("people.email").unwrap();
    let (place, form) = (Place::none(), Form::Text);
    let stored = column.seal(&who(), &place, form, PayloadType::Text, b"dora@example.org").await.unwrap();
    column.open(&who(), &place, form, &stored).await.unwrap();
    enfold.flush().await.unwrap();
    let check = fixture.check("uses").await;
    assert_eq!(check.outcome, Met);
    assert_eq!(opened(&check), before + 1, "{check:?}");
    column.open(&CallContext::default(), &place, form, &stored).await.unwrap();
    enfold.flush().await.unwrap();
    let check = fixture.check("uses").await;
    assert_eq!(check.outcome, NotMet);
    assert_eq!(check.reason.as_deref(), Some("1 values were opened by callers that did not say who they are"));
}

#[tokio::test]
async fn a_backup_counts_as_read_if_every_value_of_every_column_opened_in_a_copy_of_it() {
    let mut fixture = Fixture::new(10).await;
    let copy = fixture.restore("copy.db");
    fixture.test("copy.db").await.unwrap();
    let check = fixture.check("restore").await;
    assert_eq!(check.outcome, Met, "{check:?}");
    let line = ": ada read a backup of 2025-06-15T15:06:40Z, restored to copy.db: 3 rows, 0 of them with a value that is \
                plaintext or does not open, in ";
    assert!(check.found[0].contains(line), "{check:?}");
    assert_eq!(check.found[1], "people.email: 2 envelopes");

    copy.execute("UPDATE people SET email = substr(email, 1, length(email) - 1) || 'A' WHERE id = 1", []).unwrap();
    let report = fixture.test("copy.db").await.unwrap();
    assert_eq!((report.restored.rows, report.restored.failed), (3, 1));
    fixture.not_restored("the newest restore test failed (code `plaintext-found`)").await;

    copy.execute("DELETE FROM people", []).unwrap();
    fixture.test("copy.db").await.unwrap();
    fixture.not_restored("no value of people.email was in the backup").await;

    fixture.restore("again.db");
    fixture.test("again.db").await.unwrap();
    assert_eq!(fixture.check("restore").await.outcome, Met);
    fixture.app.execute_batch("ALTER TABLE people ADD COLUMN phone TEXT").unwrap();
    fixture.policy += "[tables.people.columns.phone]\nid = \"p.phone\"\nring = \"main\"\n";
    fixture.not_restored("people.phone was not read").await;
    fixture.restore("with_phone.db");
    fixture.test("with_phone.db").await.unwrap();
    assert_eq!(fixture.check("restore").await.outcome, Met, "a column without a value has none in its backup");
}

#[tokio::test]
async fn the_live_database_is_no_backup_under_any_of_its_names() {
    let fixture = Fixture::new(10).await;
    std::fs::hard_link(fixture.path().join("app.db"), fixture.path().join("hard.db")).unwrap();
    std::os::unix::fs::symlink("app.db", fixture.path().join("soft.db")).unwrap();
    for name in ["app.db", "hard.db", "soft.db"] {
        let error = fixture.test(name).await.expect_err("it is live");
        assert_eq!(error.code(), Code::Usage, "{name}: {error}");
        assert!(error.message().ends_with("is the live database, and no backup of it that was restored"), "{error}");
    }
    let check = fixture.check("restore").await;
    assert_eq!((check.outcome, check.reason.as_deref()), (NotChecked, Some("no restore test is in the log")));
}

#[tokio::test]
async fn a_catalog_of_its_own_is_restored_and_read_with_the_rows() {
    let mut fixture = Fixture::new(10).await;
    fixture.restore("keys.db");
    fixture.policy = fixture.policy.replace("[trust]", "[catalog]\nurl = \"sqlite:keys.db\"\n[trust]");
    let rows = fixture.restore("copy.db");
    rows.execute_batch("DELETE FROM enfold_data_key_wraps; DELETE FROM enfold_data_keys").unwrap();
    let error = fixture.test("copy.db").await.expect_err("the catalog is elsewhere");
    assert_eq!(error.code(), Code::Usage, "{error}");

    let (enfold, session) = fixture.open().await;
    let at = |name: &str| DatabaseUrl::parse(&format!("sqlite:{name}"), fixture.path()).unwrap();
    let test = async |catalog: &str| {
        let restored = Restored { database: at("copy.db"), catalog: Some(at(catalog)), backup_ms: 1_750_000_000_000 };
        let live = (&session, &enfold);
        test_restored(live, &restored, &Selection::All, &Pace::default(), &who(), &Silent).await
    };
    let error = test("keys.db").await.expect_err("it is the live catalog");
    assert_eq!(error.message(), "`keys.db` is the live database, and no backup of it that was restored");
    std::fs::copy(fixture.path().join("keys.db"), fixture.path().join("restored_keys.db")).unwrap();
    assert_eq!(test("restored_keys.db").await.unwrap().restored.failed, 0);
    assert_eq!(fixture.check("restore").await.outcome, Met);
    // The rows are there, and the data keys in the backup of the catalog are not.
    let keys = Connection::open(fixture.path().join("restored_keys.db")).unwrap();
    keys.execute_batch("DELETE FROM enfold_data_key_wraps; DELETE FROM enfold_data_keys WHERE purpose = 'seal'")
        .unwrap();
    test("restored_keys.db").await.expect_err("there is nothing to unwrap");
    assert_eq!(fixture.check("restore").await.outcome, NotMet);
}

#[tokio::test]
async fn a_restore_test_is_of_this_database_and_no_older_than_the_policy_wants() {
    let mut fixture = Fixture::new(10).await;
    let (enfold, session) = fixture.open().await;
    let live = session.db.identity().await.unwrap().lasting;
    let test = RestoreTest {
        database: "copy.db".to_owned(),
        live,
        backup_ms: 1_750_000_000_000,
        took_ms: 1,
        rows: 3,
        failed: 0,
        columns: [("people.email".to_owned(), 2)].into(),
    };
    let log = async |days_ago: i64, test: RestoreTest| {
        let event = Event::new(EventKind::RestoreTested, 3).restored(test);
        session.keys.log(Event { at_ms: event.at_ms - days_ago * 86_400_000, ..event });
        enfold.flush().await.unwrap();
    };
    log(91, test.clone()).await;
    fixture
        .not_restored("the newest restore test is older than the policy wants (`evidence.restore_test_every`)")
        .await;
    fixture.policy += "[evidence]\nrestore_test_every = \"120d\"\n";
    assert_eq!(fixture.check("restore").await.outcome, Met);
    log(1, RestoreTest { live: "elsewhere".to_owned(), ..test }).await;
    fixture.not_restored("it was of a backup of another database than this one").await;
}

#[tokio::test]
async fn what_the_operators_did_not_sign_is_not_met_and_what_hangs_on_it_was_not_checked() {
    let fixture = Fixture::new(10).await;
    let (enfold, session) = fixture.open().await;
    let state = "SELECT count(*) FROM enfold_ring_states";
    assert!(fixture.app.query_row(state, [], |row| row.get::<_, i64>(0)).unwrap() > 0);
    fixture.sql("UPDATE enfold_ring_states SET signature = zeroblob(64)");
    let signed = collect(&session, &enfold, Standard::Soc2, &who(), &fixture.log_key).await.unwrap();
    let of = |id: &str| signed.checks.iter().find(|check| check.id == id).unwrap();
    assert_eq!(of("states").outcome, NotMet);
    assert!(of("states").reason.as_deref().unwrap().contains("state-tampered"));
    assert!(
        signed
            .checks
            .iter()
            .filter(|check| check.outcome == Met)
            .all(|check| check.id != "modes" && check.id != "sealing")
    );
}
