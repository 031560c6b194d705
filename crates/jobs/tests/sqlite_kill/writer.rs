//! An application that knows nothing of envelopes and writes as fast as it can, keeping a journal of what it committed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

/// A row as its writer means it: exact bytes of the plaintext of each column, in the target's order.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meant {
    pub(crate) id: i64,
    pub(crate) rev: i64,
    pub(crate) values: [Option<Vec<u8>>; 4],
}

/// By logical number; a deleted row is not in it.
pub(crate) type Journal = BTreeMap<i64, Meant>;

pub(crate) struct Writer {
    path: PathBuf,
    number: u32,
    random: Rng,
    stop: Arc<AtomicBool>,
    journal: Journal,
    next: i64,
}

impl Writer {
    pub(crate) fn new(path: &Path, number: u32, seed: u64, stop: Arc<AtomicBool>) -> Self {
        Self { path: path.to_owned(), number, random: Rng::new(seed), stop, journal: Journal::new(), next: 0 }
    }

    /// Fills in so many rows, then changes its own rows until it is stopped; the journal and the number of writes.
    pub(crate) fn run(mut self, rows: u32) -> (Journal, u64) {
        let db = Connection::open(&self.path).expect("opens");
        db.busy_timeout(Duration::from_secs(60)).expect("waits");
        db.execute_batch("PRAGMA synchronous = OFF").expect("is set");
        db.execute_batch("BEGIN IMMEDIATE").expect("begins");
        for _ in 0..rows {
            self.insert(&db);
        }
        db.execute_batch("COMMIT").expect("commits");
        let mut writes = u64::from(rows);
        while !self.stop.load(Ordering::Relaxed) {
            self.step(&db, rows);
            writes += 1;
        }
        (self.journal, writes)
    }

    fn step(&mut self, db: &Connection, rows: u32) {
        let at = usize::try_from(self.random.below(self.journal.len() as u64)).expect("fits");
        let Some((logical, mut meant)) = self.journal.iter().nth(at).map(|(l, m)| (*l, m.clone())) else {
            return self.insert(db);
        };
        match self.random.below(10) {
            0 | 1 => return self.insert(db),
            // As many go as come.
            2 | 3 if self.journal.len() > rows as usize / 2 => {
                self.execute(db, "DELETE FROM people WHERE logical = ?1", params![logical]);
                self.journal.remove(&logical);
                return;
            }
            // Another row id: the row moves to the end of the table.
            4 => {
                meant.id = db
                    .query_row(
                        "UPDATE people SET id = (SELECT max(id) + 1 FROM people) WHERE logical = ?1 RETURNING id",
                        [logical],
                        |row| row.get(0),
                    )
                    .expect("moves");
            }
            // The case alone, which the column's collation calls equal.
            5 => {
                let email = meant.values[0].as_ref().map(|e| String::from_utf8_lossy(e).to_uppercase());
                self.execute(db, "UPDATE people SET email = ?2 WHERE logical = ?1", params![logical, email]);
                meant.values[0] = email.map(String::into_bytes);
            }
            // Not our columns: whatever they hold stays.
            6 => {
                meant.rev += 1;
                self.execute(db, "UPDATE people SET rev = ?2 WHERE logical = ?1", params![logical, meant.rev]);
            }
            _ => {
                meant.rev += 1;
                meant.values = self.values(logical, meant.rev);
                let [email, note, body] = [0, 1, 2].map(|i| text(&meant.values[i]));
                self.execute(
                    db,
                    "UPDATE people SET rev = ?2, email = ?3, note = ?4, body = ?5, secret = ?6 WHERE logical = ?1",
                    params![logical, meant.rev, email, note, body, meant.values[3]],
                );
            }
        }
        self.journal.insert(logical, meant);
    }

    fn insert(&mut self, db: &Connection) {
        let logical = i64::from(self.number) * 1_000_000_000 + self.next;
        self.next += 1;
        let values = self.values(logical, 0);
        let [email, note, body] = [0, 1, 2].map(|i| text(&values[i]));
        self.execute(
            db,
            "INSERT INTO people(logical, rev, email, note, body, secret) VALUES (?1, 0, ?2, ?3, ?4, ?5)",
            params![logical, email, note, body, values[3]],
        );
        self.journal.insert(logical, Meant { id: db.last_insert_rowid(), rev: 0, values });
    }

    fn execute(&self, db: &Connection, sql: &str, values: &[&dyn rusqlite::ToSql]) {
        let changed =
            db.prepare_cached(sql).and_then(|mut s| s.execute(values)).expect("the application's write goes through");
        assert_eq!(changed, 1, "writer {} changes its own rows only", self.number);
    }

    fn values(&mut self, logical: i64, rev: i64) -> [Option<Vec<u8>>; 4] {
        let email = format!("person{logical}.{rev}@example.com").into_bytes();
        let note = match self.random.below(6) {
            0 => None,
            1 => Some(String::new()),
            // Over several pages.
            2 => Some(format!("Zoë {logical}/{rev} ").repeat(400)),
            _ => Some(format!("note {rev} of {logical}")),
        };
        let body = format!("{{\"b\": {rev}, \"a\":{logical}}}").into_bytes();
        let secret = (self.random.below(3) > 0).then(|| vec![u8::try_from(rev & 0x7f).expect("fits"); 9]);
        [Some(email), note.map(String::into_bytes), Some(body), secret]
    }
}

fn text(bytes: &Option<Vec<u8>>) -> Option<&str> {
    bytes.as_deref().map(|b| std::str::from_utf8(b).expect("a text"))
}

/// A small generator, so that a run's choices come from one printed number.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}
