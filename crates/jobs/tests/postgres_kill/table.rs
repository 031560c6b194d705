//! The table `people`, its policy, and what is in it, read as an application reads it.

use std::path::Path;
use std::time::Duration;

use enfold::policy::{self, Policy, Variables};
use enfold::{CallContext, Column, Enfold, Form, OpenRequest, Part, PayloadType, Place};
use enfold_core::stored::{Stored, detect};
use enfold_testkit::people::Person;
use tokio_postgres::Client;

/// The application writes the note and its shadow in one statement, whatever the mode is: so the shadow is there before
/// the first writer begins.
pub(crate) const SHADOW: &str = "ALTER TABLE people ADD COLUMN IF NOT EXISTS note_enf text";

pub(crate) const SCHEMA: &str = "CREATE EXTENSION citext; CREATE DOMAIN remark AS varchar(20000); \
    CREATE TABLE people (id bigint, org int NOT NULL, region int, logical bigint NOT NULL, rev bigint NOT NULL, \
        email citext, note remark, body jsonb, secret bytea, PRIMARY KEY (id, region)) PARTITION BY LIST (region); \
    CREATE TABLE people_0 PARTITION OF people FOR VALUES IN (0); \
    CREATE TABLE people_1 PARTITION OF people FOR VALUES IN (1); \
    CREATE TABLE people_2 PARTITION OF people FOR VALUES IN (2); \
    CREATE INDEX people_logical ON people (logical); CREATE INDEX people_note ON people (md5(note))";

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "tenant"
[tables."public.people"]
tenant = "org"
[tables."public.people".columns.email]
id = "p.email"
ring = "main"
mode = "kms"
[tables."public.people".columns.email.indexes.eq]
column = "email_eq"
normalise = ["lower"]
[tables."public.people".columns.note]
id = "p.note"
ring = "main"
mode = "kms"
shadow = "note_enf"
[tables."public.people".columns.body]
id = "p.body"
ring = "main"
mode = "kms"
[tables."public.people".columns.secret]
id = "p.secret"
ring = "main"
mode = "kms"
[jobs]
batch_rows = 12
lock_timeout = "100ms"
"#;

/// In the order of `people::COLUMNS`.
const FORMS: [(Form, PayloadType); 4] = [
    (Form::Text, PayloadType::Text),
    (Form::Text, PayloadType::Text),
    (Form::Json, PayloadType::Json),
    (Form::Bytes, PayloadType::Bytes),
];

pub(crate) fn policy(folder: &Path, url: &str) -> Policy {
    let text = POLICY.replace("DATABASE", url);
    let mut policy = policy::parse(&text, &folder.join("enfold.toml"), &Variables::new()).expect("a policy");
    // Shorter than anybody may set it, so that the next worker need not wait long for what a killed one held.
    policy.jobs.lease = Duration::from_millis(300);
    policy
}

/// The protected columns.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) columns: [Column; 4],
    pub(crate) context: CallContext,
}

impl Table {
    pub(crate) fn of(enfold: &Enfold) -> Self {
        let columns = enfold_testkit::people::COLUMNS
            .map(|name| enfold.column(&format!("public.people.{name}")).expect("a column of the policy"));
        Self { columns, context: CallContext::new("application", "test") }
    }

    /// What an application stores for a value: an envelope, or the value where the mode is `legacy`.
    pub(crate) async fn stored(&self, column: usize, org: i32, value: &[u8]) -> enfold::Result<Vec<u8>> {
        let (form, payload) = FORMS[column];
        let place = Place::tenant(Part::Int(i64::from(org)));
        self.columns[column].seal(&self.context, &place, form, payload, value).await
    }

    pub(crate) async fn index(&self, org: i32, email: &[u8]) -> enfold::Result<Vec<u8>> {
        let place = Place::tenant(Part::Int(i64::from(org)));
        self.columns[0].index_to_store(&self.context, "eq", &place, std::str::from_utf8(email).expect("text")).await
    }

    pub(crate) fn is_envelope(column: usize, stored: &[u8]) -> bool {
        matches!(detect(FORMS[column].0, stored), Stored::Envelope(_))
    }

    /// Every row as it is stored, none of it an envelope.
    pub(crate) async fn plain(&self, client: &Client) -> Vec<Person> {
        let people = rows(client).await;
        for person in &people {
            for (column, stored) in person.values.iter().enumerate() {
                let sealed = stored.as_ref().is_some_and(|stored| Self::is_envelope(column, stored));
                assert!(!sealed, "column {column} of row {} is still sealed", person.logical);
            }
        }
        people
    }

    /// Every row opened. Panics at a value that is plain, does not open, or was sealed twice, and at a blind index that is
    /// not that of its value.
    pub(crate) async fn sealed(&self, client: &Client) -> Vec<Person> {
        let mut people = rows(client).await;
        for column in 0..self.columns.len() {
            self.open(column, &mut people).await;
        }
        let indexed = "SELECT logical, email_eq FROM people";
        let indexed = client.query(indexed, &[]).await.expect("reads the blind index");
        let mut indexed: std::collections::BTreeMap<i64, Option<Vec<u8>>> =
            indexed.iter().map(|row| (row.get(0), row.get(1))).collect();
        for person in &people {
            let there = indexed.remove(&person.logical).expect("the row");
            let right = match &person.values[0] {
                Some(email) => Some(self.index(person.org, email).await.expect("an index")),
                None => None,
            };
            assert!(there == right, "the blind index of row {} is not that of its value", person.logical);
        }
        people
    }

    async fn open(&self, column: usize, people: &mut [Person]) {
        let (form, _) = FORMS[column];
        let there = |person: &&mut Person| person.values[column].is_some();
        let mut people: Vec<&mut Person> = people.iter_mut().filter(there).collect();
        let requests: Vec<OpenRequest<'_>> = people
            .iter()
            .map(|person| {
                let stored = person.values[column].as_deref().unwrap_or_default();
                assert!(Self::is_envelope(column, stored), "column {column} of row {} is plain", person.logical);
                OpenRequest { place: Place::tenant(Part::Int(i64::from(person.org))), form, stored, beside: &[] }
            })
            .collect();
        let opened = self.columns[column].open_many(&self.context, &requests).await;
        drop(requests);
        for (person, opened) in people.iter_mut().zip(opened) {
            let value = opened.unwrap_or_else(|e| panic!("row {}: {e}", person.logical)).value.to_vec();
            assert!(!Self::is_envelope(column, &value), "column {column} of row {} was sealed twice", person.logical);
            person.values[column] = Some(value);
        }
    }
}

/// Values as they are stored, as bytes.
async fn rows(client: &Client) -> Vec<Person> {
    client.batch_execute(SHADOW).await.expect("a rollback dropped it");
    let both = client.query_one("SELECT count(*) FROM people WHERE num_nonnulls(note, note_enf) > 1", &[]).await;
    assert_eq!(both.expect("counts").get::<_, i64>(0), 0, "a row has a note and another in the shadow");
    let sql = "SELECT logical, id, org, region, rev, convert_to(email::text, 'UTF8'), convert_to(coalesce(note, note_enf), 'UTF8'), \
                      convert_to(body::text, 'UTF8'), secret FROM people";
    let rows = client.query(sql, &[]).await.expect("reads the table");
    rows.iter()
        .map(|row| Person {
            logical: row.get(0),
            id: row.get(1),
            org: row.get(2),
            region: row.get(3),
            rev: row.get(4),
            values: [row.get(5), row.get(6), row.get(7), row.get(8)],
        })
        .collect()
}
