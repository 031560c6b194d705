//! A policy, a key service and a catalog for the tests of the library.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

use std::sync::Arc;
use std::time::Duration;

use enfold::catalog::{Catalog, MemoryCatalog};
use enfold::clock::ManualClock;
use enfold::events::{Entry, Event, Sink};
use enfold::kms::MemoryKms;
use enfold::policy::{Mode, Policy, Variables};
use enfold::state::OperatorKey;
use enfold::{Builder, CallContext, Code, Column, Enfold, Form, PayloadType, Place, Result};

/// Two tables, one with tenants, and rings of every scope.
pub const POLICY: &str = r#"
environment = "staging"
[database]
url = "sqlite:unused.db"

[rings.main]
id = "ring-main"
roots = ["memory:root"]
scope = "tenant"
labels = { data_class = "personal" }

[rings.wide]
id = "ring-wide"
roots = ["memory:root"]
scope = "ring"

[rings.columns]
id = "ring-columns"
roots = ["memory:root"]
scope = "column"

[rings.records]
id = "ring-records"
roots = ["memory:root"]
scope = "record"

[rings.direct]
id = "ring-direct"
roots = ["memory:root"]
scope = "record"
record_wrap = "kms"

[tables.users]
tenant = "org"
row_key = ["id"]

[tables.users.columns.email]
id = "users.email"
ring = "main"
[tables.users.columns.email.indexes.eq]
column = "email_eq"
normalise = ["trim", "lower"]

[tables.users.columns.name]
id = "users.name"
ring = "main"
bind_row = true

[tables.notes.columns.text]
id = "notes.text"
ring = "wide"
padding = 64
salt = "each"
[tables.notes.columns.title]
id = "notes.title"
ring = "columns"
lookalikes = "plaintext"
[tables.notes.columns.secret]
id = "notes.secret"
ring = "records"
[tables.notes.columns.locked]
id = "notes.locked"
ring = "direct"

[values.token]
id = "value.token"
ring = "wide"
"#;

/// Everything that a second process shares with the first.
pub struct World {
    pub dir: tempfile::TempDir,
    pub catalog: Arc<dyn Catalog>,
    pub kms: Arc<MemoryKms>,
    pub clock: Arc<ManualClock>,
    pub sink: Arc<Recorder>,
}

#[derive(Default)]
pub struct Recorder(pub std::sync::Mutex<Vec<Event>>);

#[async_trait::async_trait]
impl Sink for Recorder {
    async fn write(&self, batch: &[Entry]) -> Result<()> {
        self.0.lock().unwrap().extend(batch.iter().map(|entry| entry.event.clone()));
        Ok(())
    }
}

impl World {
    pub fn new() -> Self {
        Self::over(Arc::new(MemoryCatalog::new()))
    }

    pub fn over(catalog: Arc<dyn Catalog>) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            catalog,
            kms: Arc::new(MemoryKms::new("root").unwrap()),
            clock: Arc::new(ManualClock::new()),
            sink: Arc::default(),
        }
    }

    pub fn policy(&self, text: &str) -> Policy {
        enfold::policy::parse(text, &self.dir.path().join("enfold.toml"), &Variables::default()).unwrap()
    }

    pub fn builder(&self) -> Builder {
        self.builder_for(self.policy(POLICY))
    }

    pub fn builder_for(&self, policy: Policy) -> Builder {
        self.watching(policy).without_watch()
    }

    /// Of a process that looks at its rings twice a second of tokio's time.
    pub fn watching(&self, policy: Policy) -> Builder {
        Enfold::builder(policy)
            .catalog(Arc::clone(&self.catalog))
            .provider(Arc::clone(&self.kms) as _)
            .clock(Arc::clone(&self.clock) as _)
            .sink(Arc::clone(&self.sink) as _)
    }

    /// A process of the operators: makes what is missing.
    pub async fn operators(&self) -> Enfold {
        self.builder().prepare().build().await.unwrap()
    }

    /// A process of an application, which trusts the operators' public key.
    pub async fn application(&self) -> Result<Enfold> {
        self.builder().build().await
    }

    pub fn operator_key(&self) -> OperatorKey {
        OperatorKey::load(&self.dir.path().join("enfold-operator.key")).unwrap()
    }

    /// Long enough for every process to look at the states again.
    pub fn next_look(&self) {
        self.clock.advance(Duration::from_millis(1001));
    }

    pub async fn refusals(&self, enfold: &Enfold) -> Vec<String> {
        enfold.flush().await.unwrap();
        self.refused()
    }

    pub fn refused(&self) -> Vec<String> {
        self.sink.0.lock().unwrap().iter().filter_map(|e| e.code.clone()).collect()
    }
}

pub fn who() -> CallContext {
    CallContext::new("test", "a test")
}

pub async fn seal(column: &Column, place: Place<'_>, value: &str) -> Result<Vec<u8>> {
    column.seal(&who(), &place, Form::Text, PayloadType::Text, value.as_bytes()).await
}

pub async fn open(column: &Column, place: Place<'_>, stored: &[u8]) -> Result<String> {
    let opened = column.open(&who(), &place, Form::Text, stored).await?;
    Ok(String::from_utf8(opened.value.to_vec()).unwrap())
}

pub async fn set_mode(enfold: &Enfold, column: &str, mode: Mode) {
    enfold.operator().unwrap().set_mode(column, mode).await.unwrap();
}

pub fn code<T>(result: Result<T>) -> Code {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.code(),
    }
}
