//! The main job on a database that nobody here wrote: Chinook, a music shop, on Postgres with its foreign keys.
#![cfg(feature = "postgres")]

use std::collections::BTreeSet;

use enfold::policy::{self, Mode, Variables};
use enfold::{CallContext, Enfold};
use enfold_discover::{ColumnInput, Finding, TableInput, classify};
use enfold_jobs::database::{Probe, TableSurvey};
use enfold_jobs::ops::audit::ColumnStatus;
use enfold_jobs::ops::{
    ApplyOptions, Pace, PlanOptions, Probes, Selection, Session, Silent, apply, audit, enforce, plan, residue,
    rollback, verify,
};
use enfold_testkit::{chinook, postgres::Database};
use tokio_postgres::Client;

struct Shop {
    _folder: tempfile::TempDir,
    _db: Database,
    app: Client,
    session: Session,
}

const CUSTOMER: &[&str] =
    &["firstname", "lastname", "company", "address", "city", "state", "country", "postalcode", "phone", "fax", "email"];

impl Shop {
    async fn open() -> Self {
        let db = Database::create().await;
        let app = db.connect().await;
        chinook::load(&app).await;
        let folder = tempfile::tempdir().unwrap();
        let policy =
            policy::parse(&policy_text(&db.url()), &folder.path().join("enfold.toml"), &Variables::new()).unwrap();
        let enfold = Enfold::open(policy).await.unwrap();
        let database = enfold_jobs::connect(&enfold.policy().database, None).await.unwrap();
        let session = Session::over(enfold, database, &CallContext::new("test", "conversion")).unwrap();
        Self { _folder: folder, _db: db, app, session }
    }

    /// Every value of the tables of the policy, in order.
    async fn values(&self) -> Vec<String> {
        let mut all = Vec::new();
        for table in ["customer", "employee", "invoice"] {
            let sql = format!("SELECT to_jsonb(t) - 'email_index' FROM chinook_{table} t ORDER BY id");
            all.extend(
                self.app
                    .query(&sql, &[])
                    .await
                    .unwrap()
                    .iter()
                    .map(|row| row.get::<_, serde_json::Value>(0).to_string()),
            );
        }
        all
    }
}

/// Every text column of a customer, some of an employee, the address on an invoice.
fn policy_text(url: &str) -> String {
    let mut text = format!(
        "environment = \"development\"\n[database]\nurl = \"{url}\"\n[rings.people]\nid = \"ring-people\"\nroots = [\"local:dev.key\"]\nscope = \"column\"\n"
    );
    let tables: [(&str, &[&str]); 3] = [
        ("customer", CUSTOMER),
        ("employee", &["lastname", "firstname", "address", "phone", "email"]),
        ("invoice", &["billingaddress", "billingcity", "billingpostalcode"]),
    ];
    for (table, columns) in tables {
        for column in columns {
            text.push_str(&format!(
                "[tables.\"public.chinook_{table}\".columns.{column}]\nid = \"{table}-{column}\"\nring = \"people\"\nmode = \"kms\"\n"
            ));
        }
    }
    text.push_str(
        "[tables.\"public.chinook_customer\".columns.email.indexes.login]\ncolumn = \"email_index\"\nnormalise = [\"email\"]\nunique = true\n",
    );
    text
}

fn input(survey: &TableSurvey, rows: &[Vec<Option<String>>]) -> TableInput {
    let columns = survey.columns.iter().enumerate().map(|(at, column)| ColumnInput {
        name: column.name.clone(),
        sql_type: column.sql_type.clone(),
        comment: column.comment.clone(),
        primary_key: column.primary_key,
        references: column.references.clone(),
        values: rows.iter().map(|row| row[at].clone()).collect(),
    });
    TableInput { name: survey.table.table.clone(), comment: survey.comment.clone(), columns: columns.collect() }
}

async fn discover(shop: &Shop) -> Vec<(String, Finding)> {
    let mut found = Vec::new();
    for table in shop.session.db.survey().await.unwrap() {
        let names: Vec<String> = table.columns.iter().map(|c| c.name.clone()).collect();
        let rows = shop.session.db.sample(&table.table, &names, 500).await.unwrap();
        found.extend(classify(&input(&table, &rows)).into_iter().map(|f| (table.table.table.clone(), f)));
    }
    found
}

#[tokio::test]
async fn the_shop_is_surveyed_with_its_keys() {
    let shop = Shop::open().await;
    let survey = shop.session.db.survey().await.unwrap();
    let rows: Vec<_> = survey.iter().map(|t| (t.table.table.trim_start_matches("chinook_"), t.rows)).collect();
    assert_eq!(
        rows,
        [
            ("album", 347),
            ("artist", 275),
            ("customer", 59),
            ("employee", 8),
            ("genre", 25),
            ("invoice", 412),
            ("invoiceline", 2240),
            ("mediatype", 5),
            ("playlist", 18),
            ("playlisttrack", 8715),
            ("track", 3503),
        ]
    );
    let refers: BTreeSet<_> = survey.iter().flat_map(|t| &t.columns).filter_map(|c| c.references.as_deref()).collect();
    assert!(refers.contains("public.chinook_customer.id") && refers.contains("public.chinook_employee.id"));
    assert_eq!(survey.iter().flat_map(|t| &t.columns).filter(|c| c.references.is_some()).count(), 11);
}

#[tokio::test]
async fn discovery_finds_the_people_and_nothing_in_the_music() {
    let shop = Shop::open().await;
    let found = discover(&shop).await;
    let columns: BTreeSet<String> = found.iter().map(|(table, f)| format!("{table}.{}", f.column)).collect();
    for table in ["customer", "employee"] {
        for column in ["firstname", "lastname", "address", "postalcode", "phone", "fax", "email"] {
            assert!(
                columns.contains(&format!("chinook_{table}.{column}")),
                "{table}.{column} is not among {columns:?}"
            );
        }
    }
    assert!(
        columns.contains("chinook_employee.birthdate") && columns.contains("chinook_invoice.billingaddress"),
        "{columns:?}"
    );
    let music = ["artist", "album", "track", "genre", "mediatype", "playlist", "playlisttrack", "invoiceline"];
    let wrong: Vec<_> =
        found.iter().filter(|(table, _)| music.iter().any(|m| table == &format!("chinook_{m}"))).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn the_shop_is_protected_enforced_audited_and_given_back() {
    let shop = Shop::open().await;
    let before = shop.values().await;
    shop.app.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    let shown = plan(&shop.session, &PlanOptions { rewrite: true, ..PlanOptions::default() }).await.unwrap();
    assert!(!shown.is_refused(), "{:?}", shown.tables.iter().flat_map(|t| &t.refusals).collect::<Vec<_>>());
    assert!(shown.tables.iter().all(|t| t.warnings.iter().any(|w| w.word == "widened")));

    apply(&shop.session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
    assert!(verify(&shop.session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
    let again = plan(&shop.session, &PlanOptions::default()).await.unwrap();
    let own: Vec<_> = again.tables.iter().flat_map(|t| &t.warnings).filter(|w| w.word.starts_with("query-")).collect();
    assert!(own.is_empty(), "a plan warns of the application's statements, not of the job's: {own:?}");
    enforce(&shop.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();

    let audited = audit(&*shop.session.db, &shop.session.policy, &Selection::All, None).await.unwrap();
    assert!(audited.full && audited.columns.iter().all(|c| c.status == ColumnStatus::Encrypted), "{audited:?}");
    let row = shop.app.query_one("SELECT * FROM chinook_customer WHERE id = 1", &[]).await.unwrap();
    for column in CUSTOMER {
        assert!(row.get::<_, String>(*column).starts_with("enf1:"), "{column}");
    }
    let plain = shop.app.execute("UPDATE chinook_customer SET city = 'Oslo' WHERE id = 2", &[]).await.unwrap_err();
    assert_eq!(plain.code().unwrap().code(), "23514", "the database itself refuses plaintext");
    let leaked: i64 =
        shop.app.query_one("SELECT count(*) FROM chinook_customer WHERE email LIKE '%@%'", &[]).await.unwrap().get(0);
    assert_eq!(leaked, 0);

    rollback(&shop.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert!(shop.values().await == before, "every value is what it was");
    let email = shop.session.keys.modes(&["public.chinook_customer.email".into()]).await.unwrap();
    assert_eq!(email, [Mode::Legacy]);
}

#[tokio::test]
async fn addresses_of_customers_are_found_again_on_their_invoices() {
    let shop = Shop::open().await;
    let addresses =
        shop.app.query("SELECT address FROM chinook_customer WHERE address IS NOT NULL", &[]).await.unwrap();
    let probes = addresses
        .iter()
        .map(|row| Probe { column: "address".into(), value: row.get::<_, String>(0).into_bytes().into() })
        .collect();
    let table = "public.chinook_customer";
    let only = Selection::columns(&shop.session.policy, &[format!("{table}.address")]).unwrap();
    let report = residue(&*shop.session.db, &shop.session.policy, &only, &Probes::from([(table.to_owned(), probes)]))
        .await
        .unwrap();
    let same: Vec<_> = report.tables[0]
        .found
        .iter()
        .filter(|r| r.kind == "same-values")
        .map(|r| (r.column.as_deref(), r.found))
        .collect();
    assert_eq!(same, [(Some("billingaddress"), Some(412))], "every invoice says where its customer lives");
}
