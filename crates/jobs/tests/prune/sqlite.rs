//! On SQLite.

use enfold::Code;
use enfold_jobs::ops::{Pace, Silent, plan_prune, prune};
use enfold_jobs::prune::OnDelete;
use rusqlite::Connection;

use crate::fixture::{Fixture, rule};

struct Shop {
    folder: tempfile::TempDir,
    app: Connection,
}

impl Shop {
    fn new(schema: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let app = Connection::open(folder.path().join("app.db")).unwrap();
        app.execute_batch(schema).unwrap();
        Self { folder, app }
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("app.db").display())
    }

    fn count(&self, sql: &str) -> u32 {
        self.app.query_row(&format!("SELECT count(*) FROM {sql}"), [], |row| row.get(0)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_and_numbers_say_since_when_and_what_is_neither_stays() {
    let shop = Shop::new(
        "CREATE TABLE tokens (id INTEGER PRIMARY KEY, at, used_ms INTEGER, state TEXT);
         WITH RECURSIVE n(n) AS (SELECT -50 UNION ALL SELECT n + 1 FROM n WHERE n < 50)
         INSERT INTO tokens (at, used_ms, state) SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now', format('%d hours', -n)),
           unixepoch('now') * 1000 - n * 3600000 - 60000, iif(n % 2, 'used', NULL) FROM n;
         INSERT INTO tokens (at) VALUES (NULL), ('12:00'), ('now'), ('2460000'), (5), ('never'), (x'3230303030313031');
         INSERT INTO tokens (at, state) VALUES ('2001-02-03 04:05:06', 'used'), ('2001-02-03', 'used')",
    );
    let rules = [
        rule("a", "tokens", "at", "older_than = \"10h\"\nonly.state = [\"used\"]"),
        rule("b", "tokens", "used_ms", "older_than = \"20h\"\nunit = \"milliseconds\""),
    ];
    let fixture = Fixture::new(&shop.url(), &rules.concat()).await;
    let doomed: Vec<u64> = fixture.plan().await.iter().map(|rule| rule.doomed).collect();
    // Of 11 to 49 the odd ones, and two of the year 2001; of 20 to 50 all.
    assert_eq!((doomed, shop.count("tokens")), (vec![22, 31], 110));
    let report = fixture.prune().await;
    assert_eq!(report.rules.iter().map(|rule| rule.deleted).collect::<Vec<_>>(), [22, 16]);
    assert_eq!((shop.count("tokens"), shop.count("tokens WHERE used_ms IS NULL")), (72, 7));
    assert_eq!(fixture.logged("rule `a`").await, 22);
    assert!(fixture.prune().await.rules.is_empty());
    let unknown = rule("bad", "tokens", "elsewhere", "older_than = \"1d\"");
    let error = plan_prune(&Fixture::new(&shop.url(), &unknown).await.session, &[]).await.unwrap_err();
    assert_eq!(error.code(), Code::TableMissing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_along_is_named_and_what_is_referred_to_stays() {
    let shop = Shop::new(
        "CREATE TABLE tokens (id INTEGER PRIMARY KEY, at INTEGER NOT NULL);
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 40) INSERT INTO tokens SELECT n, iif(n <= 30, 1, 99999999999) FROM n;
         CREATE TABLE uses (id INTEGER PRIMARY KEY, token INTEGER REFERENCES Tokens ON DELETE CASCADE);
         INSERT INTO uses SELECT id, id FROM tokens;
         CREATE TABLE receipts (token INTEGER PRIMARY KEY REFERENCES tokens (id));
         INSERT INTO receipts VALUES (3), (35);
         CREATE TRIGGER watch AFTER DELETE ON tokens WHEN OLD.id = 9 BEGIN SELECT RAISE(ABORT, 'kept'); END;
         CREATE TRIGGER skip BEFORE DELETE ON tokens WHEN OLD.id = 10 BEGIN SELECT RAISE(IGNORE); END",
    );
    let with = |lines: &str| rule("old", "tokens", "at", &format!("older_than = \"1d\"\nunit = \"seconds\"\n{lines}"));
    let refused = Fixture::new(&shop.url(), &with("")).await;
    let plan = refused.plan().await;
    let found: Vec<_> =
        plan[0].along.iter().map(|one| (one.table.as_str(), one.on_delete, one.rows, one.unindexed)).collect();
    assert_eq!(found, [("receipts", OnDelete::Refuse, Some(1), false), ("uses", OnDelete::Cascade, Some(30), true)]);
    assert_eq!(plan[0].triggers, ["skip", "watch"]);
    let error = prune(&refused.session, &plan, &Pace::default(), &Silent).await.unwrap_err();
    assert_eq!((error.code(), shop.count("tokens")), (Code::PlanRefused, 40));

    let fixture = Fixture::new(&shop.url(), &with("takes_along = [\"uses\"]")).await;
    let report = fixture.prune().await;
    let rule = &report.rules[0];
    assert_eq!((rule.deleted, rule.failed, rule.left), (27, 3, 3));
    assert_eq!((shop.count("tokens"), shop.count("tokens WHERE id IN (3, 9, 10)"), shop.count("uses")), (13, 3, 13));
}
