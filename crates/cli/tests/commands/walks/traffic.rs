//! Applications at work: each reads rows and opens what it finds, and changes others, until it is told to stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enfold::kms::{AwsKms, AwsOptions, KeyUri, StaticCredentials};
use enfold::policy::{self, Variables};
use enfold::{CallContext, Code, Column, Enfold, Form, Part, PayloadType, Place};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::Walk;

/// A column that applications use: rows have a `bigint` in `id`.
#[derive(Clone)]
pub(super) struct Field {
    pub(super) table: &'static str,
    pub(super) column: &'static str,
    pub(super) form: Form,
    pub(super) before: Before,
    /// The column of its blind index `eq`, which applications write with a sealed value.
    pub(super) index: Option<&'static str>,
    /// A column of whole numbers that says whose the row is, where values are bound to it.
    pub(super) tenant: Option<&'static str>,
}

/// How the team's application writes a value while the column is not Enfold's yet.
#[derive(Clone)]
pub(super) enum Before {
    /// Enfold writes it as it is.
    Plain,
    /// An expression of SQL over `$1`, the value.
    Sql(&'static str),
    /// It only reads meanwhile.
    Nothing,
    /// Values as a library made them, with what they hold.
    Made(Arc<Vec<(String, String)>>),
}

/// What applications came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) read: u64,
    pub(super) sealed: u64,
    pub(super) as_before: u64,
}

pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Done>>,
}

impl Field {
    fn name(&self) -> String {
        format!("public.{}.{}", self.table, self.column)
    }

    /// Whose the row is; NULL where nobody asks.
    fn owner(&self) -> String {
        self.tenant.map_or("NULL::bigint".to_owned(), |column| format!("t.{column}::bigint"))
    }

    /// The stored bytes.
    fn stored(&self) -> String {
        match self.form {
            Form::Bytes => format!("t.{}", self.column),
            Form::Text | Form::Json => format!("convert_to(t.{}::text, 'UTF8')", self.column),
        }
    }

    /// Bytes behind `$1` as the column takes them.
    fn cast(&self) -> &'static str {
        match self.form {
            Form::Bytes => "$1::bytea",
            Form::Text => "convert_from($1::bytea, 'UTF8')",
            Form::Json => "convert_from($1::bytea, 'UTF8')::jsonb",
        }
    }

    /// Writes a value by `expression` over `$1`, and what it is, in one transaction; with its index value where it has one.
    async fn write(&self, db: &Client, id: i64, expression: &str, stored: &(dyn ToSql + Sync), value: &str) {
        self.write_with(db, id, expression, stored, value, None).await;
    }

    async fn write_with(
        &self,
        db: &Client,
        id: i64,
        expression: &str,
        stored: &(dyn ToSql + Sync),
        value: &str,
        index: Option<&[u8]>,
    ) {
        let index_too = match (self.index, index) {
            (Some(column), Some(_)) => format!(", {column} = $5::bytea"),
            _ => String::new(),
        };
        let sql = format!(
            "WITH changed AS (UPDATE {} t SET {} = {expression}{index_too} WHERE id = $2 RETURNING 1)
             INSERT INTO truth SELECT $3::text, $2, $4::text FROM changed
             ON CONFLICT (field, id) DO UPDATE SET value = excluded.value",
            self.table, self.column
        );
        let name = self.name();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![stored, &id, &name, &value];
        if !index_too.is_empty() {
            parameters.push(&index);
        }
        db.execute(&sql, &parameters).await.expect("a value is written");
    }

    /// As the team's application writes it.
    async fn write_as_before(&self, db: &Client, id: i64, value: &str) {
        match &self.before {
            Before::Nothing => {}
            Before::Plain => self.write(db, id, self.cast(), &value.as_bytes(), value).await,
            Before::Sql(expression) => self.write(db, id, expression, &value, value).await,
            Before::Made(values) => {
                let (stored, value) = &values[usize::try_from(id).expect("an id") % values.len()];
                self.write(db, id, self.cast(), &stored.as_bytes(), value).await;
            }
        }
    }
}

impl Walk {
    /// Writes every row that is there as the team's application did.
    pub(super) async fn fill(&self, field: &Field) {
        let rows = self.db.query(&format!("SELECT id FROM {}", field.table), &[]).await.expect("rows");
        for id in rows.iter().map(|row| row.get::<_, i64>(0)) {
            field.write_as_before(&self.db, id, &format!("{} of {id}", field.column)).await;
        }
        self.db.batch_execute(&format!("ANALYZE {}", field.table)).await.expect("analysed");
    }

    /// Writes what the team's application made of a value.
    pub(super) async fn write_made(&self, field: &Field, id: i64, stored: &str, value: &str) {
        field.write(&self.db, id, field.cast(), &stored.as_bytes(), value).await;
    }

    /// A handle of its own, as another process has. `key` of AWS, and those of readers, are signed in to with what every server
    /// there takes.
    pub(super) async fn application(&self, key: &str) -> Enfold {
        let path = self.shop.path("enfold.toml");
        let policy = policy::parse(&self.shop.read("enfold.toml"), &path, &Variables::new()).expect("a policy");
        let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
        let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
        let readers = policy.readers.values().filter_map(|reader| reader.roots.as_ref());
        let mut keys: BTreeSet<KeyUri> = readers.flat_map(|roots| roots.uris.iter().cloned()).collect();
        keys.insert(key.parse().expect("a URI"));
        keys.retain(|key| key.as_str().starts_with("aws-kms:"));
        let mut builder = Enfold::builder(policy).application("walk", "1");
        for key in &keys {
            builder = builder.provider(Arc::new(AwsKms::open(key, &options).await.expect("a key")));
        }
        builder.build().await.expect("it starts")
    }

    /// Two applications begin to work on these columns.
    pub(super) async fn traffic(&self, key: &str, fields: &[Field]) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for _ in 0..2 {
            let enfold = self.application(key).await;
            let columns = fields.iter().map(|field| (field.clone(), enfold.column(&field.name()).expect("a column")));
            let db = self.database.connect().await;
            workers.push(tokio::spawn(work(db, columns.collect(), Arc::clone(&stop))));
        }
        Traffic { stop, workers }
    }

    /// Opens every value there is, with a handle that has seen nothing before.
    pub(super) async fn everything_opens(&self, key: &str, fields: &[Field]) -> u64 {
        let enfold = self.application(key).await;
        let mut read = 0;
        for field in fields {
            let column = enfold.column(&field.name()).expect("a column");
            read += read_some(&self.db, field, &column, i64::MAX).await;
        }
        read
    }
}

impl Traffic {
    /// Until it has ended; what was done.
    pub(super) async fn end(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Done::default();
        for worker in self.workers {
            let done = worker.await.expect("no read failed");
            all.read += done.read;
            all.sealed += done.sealed;
            all.as_before += done.as_before;
        }
        all
    }
}

async fn work(db: Client, columns: Vec<(Field, Column)>, stop: Arc<AtomicBool>) -> Done {
    let mut done = Done::default();
    let mut turn = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for (field, column) in &columns {
            done.read += read_some(&db, field, column, 15).await;
            turn += 1;
            let pick = format!("SELECT id, {} FROM {} t ORDER BY random() LIMIT 1", field.owner(), field.table);
            let row = db.query_one(&pick, &[]).await.expect("a row");
            let (id, place): (i64, Place<'_>) = (row.get(0), place(row.get(1)));
            let value = format!("{} of {id}, changed {turn} times", field.column);
            match column.seal(&who(), &place, field.form, PayloadType::Text, value.as_bytes()).await {
                Ok(stored) => {
                    let is_sealed = enfold_core::text::decode(&String::from_utf8_lossy(&stored)).is_ok()
                        || stored.starts_with(&enfold_core::layout::MAGIC);
                    if is_sealed {
                        let index = match field.index {
                            Some(_) => Some(column.index_to_store(&who(), "eq", &place, &value).await.expect("a key")),
                            None => None,
                        };
                        field.write_with(&db, id, field.cast(), &stored, &value, index.as_deref()).await;
                        done.sealed += 1;
                    } else {
                        field.write(&db, id, field.cast(), &stored, &value).await;
                        done.as_before += 1;
                    }
                }
                // Enfold does not write the team's format.
                Err(error) => {
                    assert_eq!(error.code(), Code::PlaintextRefused, "{error}");
                    field.write_as_before(&db, id, &value).await;
                    done.as_before += 1;
                }
            }
        }
    }
    done
}

/// Opens up to `rows` values, any of them, and compares each with what it is.
async fn read_some(db: &Client, field: &Field, column: &Column, rows: i64) -> u64 {
    let sql = format!(
        "SELECT {}, v.value, {} FROM {} t JOIN truth v ON v.field = $1 AND v.id = t.id ORDER BY random() LIMIT $2",
        field.stored(),
        field.owner(),
        field.table
    );
    let found = db.query(&sql, &[&field.name(), &rows]).await.expect("rows");
    for row in &found {
        let (stored, is): (Vec<u8>, String) = (row.get(0), row.get(1));
        let opened = column.open(&who(), &place(row.get(2)), field.form, &stored).await;
        let value = opened.unwrap_or_else(|error| panic!("cannot read {}: {error}", field.name())).value;
        assert!(value[..] == *is.as_bytes(), "another value of {} than was written", field.name());
    }
    found.len() as u64
}

fn place(tenant: Option<i64>) -> Place<'static> {
    tenant.map_or(Place::none(), |tenant| Place::tenant(Part::Int(tenant)))
}

fn who() -> CallContext {
    CallContext::new("walk", "work")
}
