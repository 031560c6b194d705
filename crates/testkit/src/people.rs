//! An application as the kill tests have it: it writes rows of a table `people` that are its own, and remembers what it
//! committed. What it writes next is decided here, from a seed; how it is written is the tests', by dialect.
//!
//! A row is known by its logical number, which nobody changes; everything else of it may.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// The columns whose values are protected, in the order of [`Person::values`]: text without regard to case, text, JSON,
/// bytes.
pub const COLUMNS: [&str; 4] = ["email", "note", "body", "secret"];
/// Regions and organisations are numbers below these.
pub const REGIONS: i32 = 3;
pub const ORGANISATIONS: i32 = 3;
/// Room between the keys and logical numbers of two writers.
const SHARE: i64 = 1_000_000_000;

/// A row as its writer means it: exact bytes of the plaintext of each column.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Person {
    pub logical: i64,
    pub id: i64,
    pub org: i32,
    pub region: i32,
    /// Counts the row's writes.
    pub rev: i64,
    pub values: [Option<Vec<u8>>; 4],
}

/// What the application does next.
pub enum Write {
    Insert(Person),
    /// The row with its next revision, and the columns whose values are written; key, place and revision always are.
    Update {
        row: Person,
        columns: Vec<usize>,
    },
    Delete {
        logical: i64,
    },
}

impl Write {
    pub fn logical(&self) -> i64 {
        match self {
            Write::Insert(row) | Write::Update { row, .. } => row.logical,
            Write::Delete { logical } => *logical,
        }
    }
}

/// By logical number; a deleted row is not in it.
pub type Journal = BTreeMap<i64, Person>;

pub struct Application {
    random: Rng,
    journal: Journal,
    next: i64,
    /// Fewer rows than this are not deleted from.
    few: usize,
    writes: u64,
}

impl Application {
    /// `number`: distinct for each writer. `rows`: about how many it keeps.
    pub fn new(number: u32, seed: u64, rows: usize) -> Self {
        let next = i64::from(number + 1) * SHARE;
        Self { random: Rng::new(seed), journal: Journal::new(), next, few: rows / 2, writes: 0 }
    }

    pub fn insert(&mut self) -> Write {
        let logical = self.next;
        self.next += 1;
        let values = [0, 1, 2, 3].map(|column| self.value(column));
        Write::Insert(Person { logical, id: logical, org: self.org(), region: self.region(), rev: 1, values })
    }

    /// As many rows go as come; the rest are changes.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is no iterator")]
    pub fn next(&mut self) -> Write {
        // The youngest tenth is written all the time, and the rest so seldom that a job comes to most of it first.
        let among = if self.random.chance(998) { self.journal.len() / 10 } else { self.journal.len() };
        let row = self.random.index(among.max(1));
        let row = self.journal.values().rev().nth(row).cloned();
        match (self.random.below(12), row) {
            (0, _) | (_, None) => self.insert(),
            (1, Some(row)) if self.journal.len() > self.few => Write::Delete { logical: row.logical },
            (choice, Some(row)) => self.update(choice, row),
        }
    }

    /// The write is in the table.
    pub fn committed(&mut self, write: Write) {
        self.writes += 1;
        match write {
            Write::Insert(row) | Write::Update { row, .. } => self.journal.insert(row.logical, row),
            Write::Delete { logical } => self.journal.remove(&logical),
        };
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn writes(&self) -> u64 {
        self.writes
    }

    fn update(&mut self, choice: u64, mut row: Person) -> Write {
        row.rev += 1;
        let columns = match choice {
            // Case alone: citext and NOCASE call it equal.
            2 => {
                row.values[0] = row.values[0].take().map(flip_case);
                vec![0]
            }
            // Scale alone: jsonb calls it equal, and keeps it.
            3 => {
                let zeros = "0".repeat(1 + usize::try_from(row.rev % 7).expect("small"));
                row.values[2] = Some(format!("{{\"n\": 1.{zeros}}}").into_bytes());
                vec![2]
            }
            // Another key, of this writer's share: moved by whole steps it is this row's alone.
            4 => {
                let step = 10_000_000 * (1 + i64::try_from(self.random.below(90)).expect("small"));
                row.id = row.logical + (row.id - row.logical + step) % SHARE;
                vec![]
            }
            5 => {
                row.region = (row.region + 1) % REGIONS;
                vec![]
            }
            // Another tenant: its values are bound to that, and written again with it.
            6 => {
                row.org = (row.org + 1) % ORGANISATIONS;
                vec![0, 1, 2, 3]
            }
            // None of the protected columns: whatever they hold stays.
            7 => vec![],
            8 => {
                row.values[1] = None;
                vec![1]
            }
            9 => {
                row.values = [0, 1, 2, 3].map(|column| self.value(column));
                vec![0, 1, 2, 3]
            }
            _ => {
                let column = self.random.index(COLUMNS.len());
                row.values[column] = self.value(column);
                vec![column]
            }
        };
        Write::Update { row, columns }
    }

    fn value(&mut self, column: usize) -> Option<Vec<u8>> {
        let random = self.random.next();
        let length = usize::try_from(random % 60).expect("small");
        match (column, random % 17) {
            (_, 0) => None,
            (0, _) => Some(format!("Name{random:x}@Example.com").into_bytes()),
            (1, 1) => Some(Vec::new()),
            // Over several pages.
            (1, 2) => Some(format!("Zoë {random} ").repeat(400).into_bytes()),
            (1, _) => Some(format!("{}é{random}", "n".repeat(length)).into_bytes()),
            // As jsonb prints it.
            (2, _) => Some(format!("{{\"k\": \"{random}\", \"n\": 1.0}}").into_bytes()),
            (_, _) => Some(random.to_be_bytes().repeat(1 + length / 10)),
        }
    }

    fn org(&mut self) -> i32 {
        i32::try_from(self.random.below(ORGANISATIONS as u64)).expect("small")
    }

    fn region(&mut self) -> i32 {
        i32::try_from(self.random.below(REGIONS as u64)).expect("small")
    }
}

/// Compares the table with what the writers last committed, row by row; the number of rows.
pub fn compare(meant: impl IntoIterator<Item = Journal>, found: impl IntoIterator<Item = Person>) -> usize {
    let mut meant: Journal = meant.into_iter().flatten().collect();
    let rows = meant.len();
    for found in found {
        let logical = found.logical;
        let row = meant.remove(&logical).unwrap_or_else(|| panic!("row {logical} was deleted or is there twice"));
        assert_eq!(found, row, "row {logical} is not what its last writer wrote");
    }
    assert!(meant.is_empty(), "{} rows were lost", meant.len());
    rows
}

fn flip_case(value: Vec<u8>) -> Vec<u8> {
    let flip = |byte: u8| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
    value.into_iter().map(flip).collect()
}
