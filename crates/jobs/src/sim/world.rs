//! The simulated database: relations of slots as Postgres has them, what the application believes to have written,
//! and the job tables. Every method is one atomic step; waiting and failing are [`super::store`]'s.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use enfold_testkit::rng::Rng;

use super::value::{COLUMNS, has_form, key_of};
use super::{Broken, DOOMED_BEFORE, Faults};
use crate::model::{Goal, JobState, Progress, RowError};
use crate::store::{JobSpec, Range, RowVersion};

/// A row version. An update makes a new one in another slot, which may lie before a sweep's cursor.
#[derive(Clone)]
pub(super) struct Tuple {
    /// The row's identity for the checker, which the database does not know.
    pub(super) logical: usize,
    pub(super) key: i64,
    pub(super) tenant: u8,
    /// What a rule compares by which rows go.
    pub(super) moment: i64,
    pub(super) cells: [Option<Vec<u8>>; COLUMNS],
    pub(super) index: Option<Vec<u8>>,
    pub(super) xmin: u32,
    /// A BEFORE trigger alters what a job writes here.
    pub(super) altering: bool,
    pub(super) lock: Option<u32>,
    /// The last [`World::tick`] at which this version came to be, or somebody got in a job's way here.
    pub(super) disturbed: u64,
}

#[derive(Clone)]
pub(super) enum Slot {
    Free,
    Live(Tuple),
    /// Where the next version of the row is, if it is in this relation and not vacuumed.
    Dead(Option<usize>),
}

/// What the application's last committed write to a row was.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) key: i64,
    pub(super) tenant: u8,
    pub(super) moment: i64,
    pub(super) values: [Option<Vec<u8>>; COLUMNS],
}

pub(super) struct Chunk {
    pub(super) range: Range,
    pub(super) cursor: u64,
    pub(super) token: i64,
    pub(super) until: Duration,
    pub(super) done: bool,
    pub(super) lock: Option<u32>,
    /// The greatest token that committed here.
    pub(super) committed: i64,
}

pub(super) struct Job {
    pub(super) spec: JobSpec,
    pub(super) state: JobState,
    pub(super) pass: u32,
    /// The last tick before the pass began, and the data key that sealed then.
    pub(super) began: u64,
    pub(super) began_under: u8,
    pub(super) progress: Progress,
    pub(super) chunks: Vec<Chunk>,
    /// By row and column.
    pub(super) errors: BTreeMap<(String, String), RowError>,
    pub(super) batch_rows: u32,
    pub(super) rate: Option<u32>,
    /// Rows that a job's transactions really changed.
    pub(super) conversions: u64,
}

impl Job {
    /// Whether an error says why a cell is not as the goal wants it: its own, or one of the whole row.
    pub(super) fn excuses(&self, tuple: &Tuple, column: usize) -> bool {
        let has = |column: String| self.errors.contains_key(&(tuple.label(), column));
        has(format!("c{column}")) || has(String::new())
    }

    /// How many rows have an error.
    pub(super) fn failed(&self) -> u64 {
        let rows: std::collections::BTreeSet<&String> = self.errors.keys().map(|(row, _)| row).collect();
        rows.len() as u64
    }
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) broken: Broken,
    pub(super) relations: Vec<Vec<Slot>>,
    pub(super) expected: BTreeMap<usize, Expected>,
    pub(super) jobs: Vec<Job>,
    pub(super) violations: Vec<String>,
    /// What was read under a version, for stores that compare badly on purpose.
    pub(super) reads: HashMap<RowVersion, Tuple>,
    pub(super) next_logical: usize,
    /// The data key that seals; every one below it is a former one.
    pub(super) key: u8,
    /// Of machines' clocks.
    pub(super) jumps: u64,
    last_tx: u32,
    ticks: u64,
}

impl World {
    pub(super) fn new(rng: Rng, faults: Faults, broken: Broken, relations: usize) -> Self {
        Self {
            rng,
            faults,
            broken,
            relations: vec![Vec::new(); relations],
            expected: BTreeMap::new(),
            jobs: Vec::new(),
            violations: Vec::new(),
            reads: HashMap::new(),
            next_logical: 0,
            key: 0,
            jumps: 0,
            last_tx: 0,
            ticks: 0,
        }
    }

    pub(super) fn begin(&mut self) -> u32 {
        self.last_tx += 1;
        self.last_tx
    }

    /// Numbers events in the order in which they took effect, as transaction ids do not.
    pub(super) fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    /// Puts a tuple into some slot of the relation: a free one anywhere, or a new one at the end.
    pub(super) fn place(&mut self, relation: usize, mut tuple: Tuple) -> usize {
        tuple.disturbed = self.tick();
        let slots = &mut self.relations[relation];
        let free: Vec<usize> = (0..slots.len()).filter(|&i| matches!(slots[i], Slot::Free)).collect();
        if !free.is_empty() && self.rng.chance(700) {
            let slot = free[self.rng.index(free.len())];
            slots[slot] = Slot::Live(tuple);
            return slot;
        }
        slots.push(Slot::Live(tuple));
        slots.len() - 1
    }

    /// Replaces a live version by a new one, in the same relation or in another.
    pub(super) fn replace(&mut self, (relation, slot): (usize, usize), to: usize, mut tuple: Tuple, tx: u32) {
        tuple.xmin = tx;
        tuple.lock = None;
        self.relations[relation][slot] = Slot::Dead(None);
        let new = self.place(to, tuple);
        if to == relation {
            self.relations[relation][slot] = Slot::Dead(Some(new));
        }
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (usize, usize, &Tuple)> {
        self.relations.iter().enumerate().flat_map(|(relation, slots)| {
            slots.iter().enumerate().filter_map(move |(slot, s)| match s {
                Slot::Live(tuple) => Some((relation, slot, tuple)),
                _ => None,
            })
        })
    }

    pub(super) fn find(&self, logical: usize) -> Option<(usize, usize)> {
        self.live().find(|(_, _, tuple)| tuple.logical == logical).map(|(relation, slot, _)| (relation, slot))
    }

    pub(super) fn tuple(&mut self, (relation, slot): (usize, usize)) -> Option<&mut Tuple> {
        match self.relations[relation].get_mut(slot) {
            Some(Slot::Live(tuple)) => Some(tuple),
            _ => None,
        }
    }

    /// Follows the chain of versions from what was read to what is there now.
    pub(super) fn newest(&self, version: &RowVersion) -> Option<(usize, usize)> {
        let RowVersion::Tuple { block, offset, .. } = version else { return None };
        let relation = usize::from(*offset);
        let mut slot = usize::try_from(*block).unwrap();
        loop {
            match self.relations[relation].get(slot)? {
                Slot::Live(_) => return Some((relation, slot)),
                Slot::Dead(Some(next)) => slot = *next,
                Slot::Dead(None) | Slot::Free => return None,
            }
        }
    }

    /// Frees the slots of dead versions, all of them, so that new versions can come to lie before a cursor and no chain
    /// leads into a slot that was given to another row.
    pub(super) fn vacuum(&mut self) {
        for slot in self.relations.iter_mut().flatten() {
            if matches!(slot, Slot::Dead(_)) {
                *slot = Slot::Free;
            }
        }
    }

    /// Unlocks whatever the transaction held.
    pub(super) fn release(&mut self, tx: u32) {
        for slot in self.relations.iter_mut().flatten() {
            if let Slot::Live(tuple) = slot
                && tuple.lock == Some(tx)
            {
                tuple.lock = None;
            }
        }
        for chunk in self.jobs.iter_mut().flat_map(|job| &mut job.chunks) {
            if chunk.lock == Some(tx) {
                chunk.lock = None;
            }
        }
    }

    /// Cuts every relation into ranges up to its present end.
    pub(super) fn cut(&mut self) -> Vec<Chunk> {
        let width = 3 + self.rng.index(12);
        let mut chunks = Vec::new();
        for (relation, slots) in self.relations.iter().enumerate() {
            for from in (0..slots.len()).step_by(width) {
                let to = (from + width).min(slots.len()) as u64;
                let range = Range { relation: format!("p{relation}"), from: from as u64, to };
                let cursor = range.from;
                let until = Duration::ZERO;
                chunks.push(Chunk { range, cursor, token: 0, until, done: false, lock: None, committed: 0 });
            }
        }
        chunks
    }

    pub(super) fn remaining(&self, goal: Goal) -> u64 {
        self.live().filter(|(_, _, tuple)| !tuple.satisfies(goal, self.key)).count() as u64
    }

    pub(super) fn violation(&mut self, said: impl Into<String>) {
        self.violations.push(said.into());
    }
}

impl Tuple {
    pub(super) fn label(&self) -> String {
        format!("id={}", self.key)
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.moment < DOOMED_BEFORE
    }

    /// By the stored form alone, as the database would count. `key` is the one that seals.
    pub(super) fn satisfies(&self, goal: Goal, key: u8) -> bool {
        (0..COLUMNS).all(|column| self.satisfies_in(column, goal, key))
    }

    /// One column, and the index over it.
    pub(super) fn satisfies_in(&self, column: usize, goal: Goal, key: u8) -> bool {
        let cell = self.cells[column].as_deref();
        let indexed = column != 0 || cell.is_none() || self.index.is_some();
        match goal {
            Goal::Protect => cell.is_none_or(has_form) && indexed,
            Goal::Verify => cell.is_none_or(has_form),
            Goal::Unprotect => !cell.is_some_and(has_form),
            Goal::Index => indexed,
            Goal::Prune => !self.is_doomed(),
            Goal::Reencrypt => cell.and_then(key_of).is_none_or(|under| under >= key),
        }
    }
}

pub(super) fn relation_of(range: &Range) -> usize {
    range.relation[1..].parse().unwrap()
}
