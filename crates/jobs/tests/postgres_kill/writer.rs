//! An application that writes its own rows as fast as it can and remembers what it committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use enfold_core::stored::encode;
use enfold_core::{Binding, Form, Padding, PayloadType};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls};

use crate::codec::OneKey;
use crate::journal::{Journal, Meant};
use crate::rng::Rng;

const REGIONS: u64 = 3;
/// Room between the keys and logical numbers of two writers.
const SHARE: i64 = 1_000_000_000;

pub(crate) struct Writer {
    config: Config,
    client: Option<Client>,
    codec: OneKey,
    random: Rng,
    stop: Arc<AtomicBool>,
    journal: Journal,
    next: i64,
    writes: u64,
}

enum Write {
    Insert(Meant),
    Update(Meant),
    Delete,
}

impl Writer {
    pub(crate) fn new(config: Config, number: u32, seed: u64, stop: Arc<AtomicBool>) -> Self {
        let codec = OneKey::new(crate::KEY);
        let next = i64::from(number + 1) * SHARE;
        Self { config, client: None, codec, random: Rng::new(seed), stop, journal: Journal::default(), next, writes: 0 }
    }

    pub(crate) async fn fill(&mut self, rows: u32) {
        for _ in 0..rows {
            self.insert(false).await;
        }
    }

    /// Until it is told to stop: what it means the table to hold, and how much it wrote.
    pub(crate) async fn run(mut self) -> (Journal, u64) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.random.below(12) {
                0 => self.insert(true).await,
                1 => self.delete().await,
                choice => self.update(choice).await,
            }
        }
        (self.journal, self.writes)
    }

    async fn insert(&mut self, may_seal: bool) {
        let logical = self.next;
        self.next += 1;
        let values = [0, 1, 2, 3].map(|column| self.value(column));
        let region = i32::try_from(self.random.below(REGIONS)).expect("small");
        let sealed = may_seal && self.random.below(3) == 0;
        self.write(logical, Write::Insert(Meant { id: logical, region, rev: 1, values }), sealed).await;
    }

    async fn delete(&mut self) {
        let logical = self.any();
        self.write(logical, Write::Delete, false).await;
    }

    async fn update(&mut self, choice: u64) {
        let logical = self.any();
        let mut row = self.journal.0[&logical].clone();
        row.rev += 1;
        match choice {
            // Case alone: citext calls it equal.
            2 | 3 => row.values[0] = row.values[0].take().map(flip_case),
            // Scale alone: jsonb calls it equal, and keeps it.
            4 | 5 => {
                let zeros = "0".repeat(1 + usize::try_from(row.rev % 7).expect("small"));
                row.values[2] = Some(format!("{{\"n\": 1.{zeros}}}").into_bytes());
            }
            6 => row.id += 10_000_000 + i64::try_from(self.random.below(1000)).expect("small") * 10_000_000,
            7 => row.region = (row.region + 1) % i32::try_from(REGIONS).expect("small"),
            8 => row.values[1] = None,
            _ => {
                let column = usize::try_from(self.random.below(4)).expect("small");
                row.values[column] = self.value(column);
            }
        }
        // Keys must stay distinct: a key of this writer's share, moved by whole steps, is its row's alone.
        if choice == 6 {
            row.id = logical + (row.id - logical) % SHARE;
        }
        let sealed = self.random.below(3) == 0;
        self.write(logical, Write::Update(row), sealed).await;
    }

    fn any(&mut self) -> i64 {
        let at = usize::try_from(self.random.below(self.journal.0.len() as u64)).expect("small");
        *self.journal.0.keys().nth(at).expect("within")
    }

    fn value(&mut self, column: usize) -> Option<Vec<u8>> {
        let random = self.random.next();
        let length = usize::try_from(random % 60).expect("small");
        match column {
            _ if random.is_multiple_of(17) => None,
            0 => Some(format!("Name{random:x}@Example.com").into_bytes()),
            1 => Some(format!("{}é{random}", "n".repeat(length)).into_bytes()),
            2 => Some(format!("{{\"k\": \"{random}\", \"n\": 1.0}}").into_bytes()),
            _ => Some(random.to_be_bytes().repeat(1 + length / 10)),
        }
    }

    /// Writes until it is known to be committed or the row is known to be as before.
    async fn write(&mut self, logical: i64, write: Write, sealed: bool) {
        let before = self.journal.0.get(&logical).map(|row| row.rev);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "the server does not come back");
            match self.try_write(logical, &write, sealed).await {
                Ok(()) => break,
                Err(error) => {
                    let state = error.code().map(|state| state.code().to_owned());
                    // 57P0x: the server goes down or comes up. No state: the connection broke.
                    assert!(
                        state.as_deref().is_none_or(|s| s.starts_with("57P0")),
                        "the application was refused: {state:?}"
                    );
                    self.client = None;
                    if self.is_done(logical, &write, before).await {
                        break;
                    }
                }
            }
        }
        self.writes += 1;
        match write {
            Write::Insert(row) | Write::Update(row) => self.journal.0.insert(logical, row),
            Write::Delete => self.journal.0.remove(&logical),
        };
    }

    /// After a connection broke: whether the write is in the table.
    async fn is_done(&mut self, logical: i64, write: &Write, before: Option<i64>) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "the server does not come back");
            if let Ok(client) = self.client().await
                && let Ok(rows) = client.query("SELECT rev FROM people WHERE logical = $1", &[&logical]).await
            {
                let now: Option<i64> = rows.first().map(|row| row.get(0));
                return match write {
                    Write::Insert(row) | Write::Update(row) => now == Some(row.rev),
                    Write::Delete => now.is_none() && before.is_some(),
                };
            }
            self.client = None;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn try_write(&mut self, logical: i64, write: &Write, sealed: bool) -> Result<(), tokio_postgres::Error> {
        let (sql, row) = match write {
            Write::Insert(row) => (
                "INSERT INTO people (logical, id, region, rev, email, note, body, secret) \
                 VALUES ($1, $2, $3, $4, $5::text, $6, $7::text::jsonb, $8)",
                row,
            ),
            Write::Update(row) => (
                "UPDATE people SET id = $2, region = $3, rev = $4, email = $5::text, note = $6, body = $7::text::jsonb, \
                 secret = $8 WHERE logical = $1",
                row,
            ),
            Write::Delete => {
                let client = self.client().await?;
                let deleted = client.execute("DELETE FROM people WHERE logical = $1", &[&logical]).await?;
                assert_eq!(deleted, 1, "row {logical} was not there to delete");
                return Ok(());
            }
        };
        let [email, note, body, secret] = [0, 1, 2, 3].map(|column| self.stored(column, &row.values[column], sealed));
        let [email, note, body] = [email, note, body].map(|v| v.map(|v| String::from_utf8(v).expect("text")));
        let params: [&(dyn ToSql + Sync); 8] =
            [&logical, &row.id, &row.region, &row.rev, &email, &note, &body, &secret];
        let client = self.client().await?;
        let written = client.execute(sql, &params).await?;
        assert_eq!(written, 1, "row {logical} was not there to write");
        Ok(())
    }

    /// As an old writer (plain) or a writer in hybrid mode (sealed) stores it.
    fn stored(&self, column: usize, value: &Option<Vec<u8>>, sealed: bool) -> Option<Vec<u8>> {
        let value = value.as_ref()?;
        if !sealed {
            return Some(value.clone());
        }
        let (name, form) =
            [("email", Form::Text), ("note", Form::Text), ("body", Form::Json), ("secret", Form::Bytes)][column];
        let binding = Binding::new("ring", &format!("id-{name}"));
        let sealed = self.codec.sealer.seal(&binding, PayloadType::Bytes, Padding::None, value).expect("seals");
        Some(encode(form, sealed))
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

fn flip_case(value: Vec<u8>) -> Vec<u8> {
    let flip = |byte: u8| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
    value.into_iter().map(flip).collect()
}
