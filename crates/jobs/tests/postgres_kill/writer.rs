//! An application on Postgres that writes as fast as it can, through the library: in the clear while the signed mode is
//! `legacy`, envelopes with their blind index from then on.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use enfold::error::Retry;
use enfold_testkit::people::{Application, COLUMNS, Journal, Person, Write};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls};

use crate::table::Table;

/// For how long a server that restarts is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How each column takes a text or bytes.
const CASTS: [&str; 4] = ["::citext", "", "::jsonb", ""];

pub(crate) struct Writer {
    config: Config,
    client: Option<Client>,
    table: Table,
    application: Application,
}

/// The values of a write as they are stored.
#[derive(Default)]
struct Stored {
    /// By column, for those that are written.
    values: Vec<(usize, Option<Vec<u8>>)>,
    /// The blind index, where the email is written as an envelope. A new NULL has a NULL for an index, if there is one.
    index: Option<Option<Vec<u8>>>,
}

impl Writer {
    pub(crate) fn new(config: Config, table: Table, number: u32, seed: u64, rows: usize) -> Self {
        Self { config, client: None, table, application: Application::new(number, seed, rows) }
    }

    pub(crate) async fn fill(&mut self, rows: usize) {
        for _ in 0..rows {
            let write = self.application.insert();
            self.write(write).await;
        }
    }

    /// Until it is told to stop.
    pub(crate) async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            let write = self.application.next();
            self.write(write).await;
        }
        self
    }

    pub(crate) fn journal(&self) -> &Journal {
        self.application.journal()
    }

    pub(crate) fn writes(&self) -> u64 {
        self.application.writes()
    }

    /// Writes until it is known to be committed.
    async fn write(&mut self, write: Write) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "the server does not come back");
            let stored = self.stored(&write).await;
            match self.try_write(&write, &stored).await {
                Ok(()) => break,
                Err(error) => {
                    let state = error.code().map(|state| state.code().to_owned());
                    // 57P0x: the server goes down or comes up. No state: the connection broke.
                    assert!(
                        state.as_deref().is_none_or(|s| s.starts_with("57P0")),
                        "the application was refused: {error:?}"
                    );
                    self.client = None;
                    if self.is_done(&write).await {
                        break;
                    }
                }
            }
        }
        self.application.committed(write);
    }

    /// Through the library, as the mode is now.
    async fn stored(&self, write: &Write) -> Stored {
        let (row, columns) = match write {
            Write::Insert(row) => (row, vec![0, 1, 2, 3]),
            Write::Update { row, columns } => (row, columns.clone()),
            Write::Delete { .. } => return Stored::default(),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.seal(row, &columns).await {
                Ok(stored) => return stored,
                // The catalog is on the server that restarts.
                Err(error) => {
                    assert!(error.code().retry() == Retry::Later && Instant::now() < deadline, "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    async fn seal(&self, row: &Person, columns: &[usize]) -> enfold::Result<Stored> {
        let mut stored = Stored::default();
        for &column in columns {
            let value = match &row.values[column] {
                Some(value) => Some(self.table.stored(column, row.org, value).await?),
                None => None,
            };
            if let (0, Some(email), Some(written)) = (column, &row.values[0], &value)
                && Table::is_envelope(0, written)
            {
                stored.index = Some(Some(self.table.index(row.org, email).await?));
            } else if column == 0
                && value.is_none()
                && self.table.columns[0].mode().await? > enfold::policy::Mode::Legacy
            {
                stored.index = Some(None);
            }
            stored.values.push((column, value));
        }
        Ok(stored)
    }

    async fn try_write(&mut self, write: &Write, stored: &Stored) -> Result<(), tokio_postgres::Error> {
        let logical = write.logical();
        let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&logical, Type::INT8)];
        let (mut names, mut places) = (vec![], vec![]);
        let mut texts: Vec<(usize, Option<&str>)> = vec![];
        if let Write::Insert(row) | Write::Update { row, .. } = write {
            let key: [(&str, &(dyn ToSql + Sync), Type); 4] = [
                ("id", &row.id, Type::INT8),
                ("org", &row.org, Type::INT4),
                ("region", &row.region, Type::INT4),
                ("rev", &row.rev, Type::INT8),
            ];
            for (name, value, kind) in key {
                params.push((value, kind));
                names.push(name);
                places.push(format!("${}", params.len()));
            }
            texts = stored.values.iter().filter(|(column, _)| *column < 3).map(text).collect();
        }
        for (column, value) in &stored.values {
            match texts.iter().find(|(of, _)| of == column) {
                Some((_, text)) => params.push((text, Type::TEXT)),
                None => params.push((value, Type::BYTEA)),
            }
            let sent = format!("${}{}", params.len(), CASTS[*column]);
            let sealed = value.as_ref().is_some_and(|value| Table::is_envelope(*column, value));
            // Of the note and its shadow the one is written, and the other emptied.
            match (COLUMNS[*column], sealed) {
                ("note", false) => {
                    names.extend(["note", "note_enf"]);
                    places.extend([sent, "NULL".to_owned()]);
                }
                ("note", true) => {
                    names.extend(["note_enf", "note"]);
                    places.extend([sent, "NULL".to_owned()]);
                }
                (name, _) => {
                    names.push(name);
                    places.push(sent);
                }
            }
        }
        if let Some(index) = &stored.index {
            params.push((index, Type::BYTEA));
            names.push("email_eq");
            places.push(format!("${}", params.len()));
        }
        let mut sql = String::new();
        match write {
            Write::Insert(_) => {
                let _ = write!(
                    sql,
                    "INSERT INTO people (logical, {}) VALUES ($1, {})",
                    names.join(", "),
                    places.join(", ")
                );
            }
            Write::Update { .. } => {
                let set: Vec<String> =
                    names.iter().zip(&places).map(|(name, place)| format!("{name} = {place}")).collect();
                let _ = write!(sql, "UPDATE people SET {} WHERE logical = $1", set.join(", "));
            }
            Write::Delete { .. } => sql.push_str("DELETE FROM people WHERE logical = $1"),
        }
        sql.push_str(" RETURNING logical");
        let written = self.client().await?.query_typed(&sql, &params).await?;
        assert_eq!(written.len(), 1, "row {logical} was not there to write");
        Ok(())
    }

    /// After a connection broke: whether the write is in the table.
    async fn is_done(&mut self, write: &Write) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "the server does not come back");
            let sql = "SELECT rev FROM people WHERE logical = $1";
            if let Ok(client) = self.client().await
                && let Ok(rows) = client.query_typed(sql, &[(&write.logical(), Type::INT8)]).await
            {
                let now: Option<i64> = rows.first().map(|row| row.get(0));
                return match write {
                    Write::Insert(row) | Write::Update { row, .. } => now == Some(row.rev),
                    Write::Delete { .. } => now.is_none(),
                };
            }
            self.client = None;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn client(&mut self) -> Result<&Client, tokio_postgres::Error> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let (client, connection) = self.config.connect(NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            self.client = Some(client);
        }
        Ok(self.client.as_ref().expect("just made"))
    }
}

fn text((column, value): &(usize, Option<Vec<u8>>)) -> (usize, Option<&str>) {
    (*column, value.as_deref().map(|value| std::str::from_utf8(value).expect("text")))
}
