//! What a plan says about real tables on a real server: a test for every word.
#![cfg(feature = "postgres")]

mod dependents;
mod fingerprint;
mod queries;
mod receivers;
mod refusals;
mod types;

use std::collections::BTreeMap;

use enfold::db::postgres::Endpoint;
use enfold::policy::{ColumnPolicy, IndexPolicy, Lookalikes, Mode, Salt, TablePolicy};
use enfold_jobs::database::{Counts, Database as _, Finding, TableFacts};
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_testkit::postgres::Database;
use tokio_postgres::Client;

/// A database of its own, reached as its owner and through Enfold.
pub struct Fixture {
    pub db: Database,
    pub owner: Client,
    pub postgres: Postgres,
}

impl Fixture {
    pub async fn new(schema: &str) -> Self {
        let db = Database::create().await;
        let owner = db.connect().await;
        owner.batch_execute(schema).await.expect("the test's schema");
        let postgres = at(&db.url());
        Self { db, owner, postgres }
    }

    pub async fn sql(&self, sql: &str) {
        self.owner.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    pub async fn facts(&self, policy: &TablePolicy) -> TableFacts {
        self.postgres.inspect(policy, Counts::Taken).await.expect("facts")
    }
}

pub fn at(url: &str) -> Postgres {
    Postgres::at(Endpoint::parse_text(url).expect("a URL"), Limits::default())
}

/// A policy for columns of a table in `public`.
pub fn policy(table: &str, columns: &[&str]) -> TablePolicy {
    TablePolicy {
        name: format!("public.{table}"),
        tenant: None,
        row_key: Vec::new(),
        triggers: BTreeMap::new(),
        columns: columns.iter().map(|c| ((*c).to_owned(), column(c))).collect(),
        indexes: BTreeMap::new(),
    }
}

fn column(name: &str) -> ColumnPolicy {
    ColumnPolicy {
        id: format!("id-{name}"),
        class: None,
        ring: "main".into(),
        mode: Mode::Kms,
        min_mode: Mode::Legacy,
        bind_row: false,
        padding: None,
        salt: Salt::Shared,
        lookalikes: Lookalikes::Refuse,
        reads: vec![],
        writes: None,
        companions: BTreeMap::new(),
        same_as: None,
        shadow: None,
        member: None,
        indexes: BTreeMap::new(),
    }
}

/// A unique blind index over one column.
pub fn blind(column: &str) -> IndexPolicy {
    IndexPolicy {
        column: format!("{column}_index"),
        over: vec![column.to_owned()],
        normalise: Vec::new(),
        bits: 256,
        unique: true,
        cross_tenant: false,
    }
}

pub fn words(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.word.as_str()).collect()
}

#[track_caller]
pub fn refuses<'a>(facts: &'a TableFacts, word: &str) -> &'a Finding {
    let found = facts.refusals.iter().find(|f| f.word == word);
    found.unwrap_or_else(|| panic!("no refusal `{word}` among {:?}", facts.refusals))
}

#[track_caller]
pub fn warns<'a>(facts: &'a TableFacts, word: &str) -> &'a Finding {
    let found = facts.warnings.iter().find(|f| f.word == word);
    found.unwrap_or_else(|| panic!("no warning `{word}` among {:?}", words(&facts.warnings)))
}

#[track_caller]
pub fn silent(facts: &TableFacts, word: &str) {
    let all: Vec<&Finding> = facts.refusals.iter().chain(&facts.warnings).filter(|f| f.word == word).collect();
    assert!(all.is_empty(), "{all:?}");
}
