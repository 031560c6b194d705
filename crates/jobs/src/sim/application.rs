//! The application that keeps using the table: updates, inserts, deletes, changes of case, keys, tenants and partitions,
//! transactions that lock a row and give it up. Old processes write what the table held before, new ones what the goal
//! wants; both believe what they wrote, and [`super::check`] holds the database to it.

use std::time::Duration;

use super::DOOMED_BEFORE;
use super::store::SimStore;
use super::value::{COLUMNS, has_form, index, opens_nowhere, other_case, pasted, seal, typed};
use super::world::{Expected, Tuple, World};
use crate::model::Goal;

/// Which code a process of the application runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Old,
    New,
}

impl Code {
    fn seals(self, goal: Goal) -> bool {
        match goal {
            Goal::Protect | Goal::Reencrypt => self == Self::New,
            Goal::Unprotect => self == Self::Old,
            Goal::Index | Goal::Verify | Goal::Prune => false,
        }
    }

    /// Old code under `Protect` has never heard of envelopes.
    fn understands_envelopes(self, goal: Goal) -> bool {
        goal != Goal::Protect || self == Self::New
    }

    fn keeps_index(self, goal: Goal) -> bool {
        goal != Goal::Unprotect && self == Self::New
    }
}

/// What one transaction does to a row.
#[derive(Clone, Copy)]
enum Act {
    Write(usize),
    /// What has the form of an envelope and opens nowhere.
    Paste(usize),
    ChangeCase(usize),
    /// Renews a row, or lets it expire.
    SetMoment,
    Touch,
    ChangeKey,
    ChangeTenant,
    MovePartition,
    Delete,
    GiveUp,
}

/// One process of the application: `operations` transactions, one after the other.
pub(super) async fn process(store: &SimStore, goal: Goal, code: Code, operations: u32) {
    for _ in 0..operations {
        let nap = store.world().rng.below(60_000);
        store.clock.sleep(Duration::from_micros(nap)).await;
        let (insert, vacuum) = {
            let mut world = store.world();
            (world.rng.chance(120), world.rng.chance(80))
        };
        if vacuum {
            store.world().vacuum();
        }
        if insert {
            insert_row(&mut store.world(), goal, code);
        } else {
            change_row(store, goal, code).await;
        }
    }
}

/// A row that the process commits at once.
pub(super) fn insert_row(world: &mut World, goal: Goal, code: Code) {
    let logical = world.expected.keys().next_back().map_or(0, |last| last + 1).max(world.next_logical);
    world.next_logical = logical + 1;
    let tenant = u8::try_from(world.rng.below(3)).unwrap();
    let bad = world.rng.chance(40).then(|| world.rng.index(COLUMNS));
    let values = std::array::from_fn(|column| match bad {
        Some(bad) if bad == column => Some(pasted(&mut world.rng)),
        _ => typed(&mut world.rng),
    });
    let tx = world.begin();
    let altering = world.faults.triggers && world.rng.chance(60);
    let mut tuple = Tuple {
        logical,
        key: 1_000 + i64::try_from(logical).unwrap(),
        tenant,
        moment: moment(world),
        cells: [const { None }; COLUMNS],
        index: None,
        xmin: tx,
        altering,
        lock: None,
        disturbed: 0,
    };
    let expected = Expected { key: tuple.key, tenant, moment: tuple.moment, values };
    for column in 0..COLUMNS {
        write_cell(world, &mut tuple, &expected, column, goal, code);
    }
    let relation = world.rng.index(world.relations.len());
    world.place(relation, tuple);
    world.expected.insert(logical, expected);
}

/// Before or after the moment before which rows go.
fn moment(world: &mut World) -> i64 {
    i64::try_from(world.rng.below(2 * DOOMED_BEFORE.unsigned_abs())).unwrap()
}

/// Puts the expected value into the cell as this code stores it. What was pasted as an envelope goes in as it is.
fn write_cell(world: &mut World, tuple: &mut Tuple, expected: &Expected, column: usize, goal: Goal, code: Code) {
    let value = expected.values[column].clone();
    if column == 0 && code.keeps_index(goal) {
        tuple.index = value.as_ref().map(|value| index(tuple.tenant, value));
    }
    tuple.cells[column] = value.map(|value| match code.seals(goal) && !opens_nowhere(&value) {
        true => {
            // Now and then a process that has not looked since the last rotation.
            let behind = goal == Goal::Reencrypt && world.rng.chance(100);
            let key = world.key.saturating_sub(u8::from(behind));
            seal(&mut world.rng, key, column, tuple.tenant, &value)
        }
        false => value,
    });
}

async fn change_row(store: &SimStore, goal: Goal, code: Code) {
    let (logical, act, tx) = {
        let mut world = store.world();
        let all: Vec<usize> = world.expected.keys().copied().collect();
        if all.is_empty() {
            return;
        }
        let logical = all[world.rng.index(all.len())];
        let column = world.rng.index(COLUMNS);
        let act = match world.rng.below(12) {
            0 if world.rng.chance(150) => Act::Paste(column),
            0..4 if goal == Goal::Prune => Act::SetMoment,
            0..4 => Act::Write(column),
            4 => Act::ChangeCase(column),
            5 => Act::Touch,
            6 => Act::ChangeKey,
            7 | 8 => Act::ChangeTenant,
            9 => Act::MovePartition,
            10 => Act::Delete,
            _ => Act::GiveUp,
        };
        let tx = world.begin();
        (logical, act, tx)
    };
    // Waits for its turn, as UPDATE does, and then sees the newest version.
    let place = loop {
        {
            let mut world = store.world();
            let Some(place) = world.find(logical) else { return };
            let now = world.tick();
            let tuple = world.tuple(place).expect("found just now");
            if tuple.lock.is_none() {
                tuple.lock = Some(tx);
                tuple.disturbed = now;
                break place;
            }
        }
        store.clock.sleep(Duration::from_micros(300)).await;
    };
    let think = store.world().rng.below(20_000);
    store.clock.sleep(Duration::from_micros(think)).await;
    commit(&mut store.world(), place, act, tx, goal, code);
}

fn commit(world: &mut World, place: (usize, usize), act: Act, tx: u32, goal: Goal, code: Code) {
    let mut tuple = world.tuple(place).expect("our lock holds it").clone();
    let mut expected = world.expected[&tuple.logical].clone();
    let mut to = place.0;
    match act {
        Act::GiveUp => return world.release(tx),
        Act::Delete => {
            world.relations[place.0][place.1] = super::world::Slot::Dead(None);
            world.expected.remove(&tuple.logical);
            return;
        }
        Act::Write(column) => {
            expected.values[column] = typed(&mut world.rng);
            write_cell(world, &mut tuple, &expected, column, goal, code);
        }
        Act::Paste(column) => {
            expected.values[column] = Some(pasted(&mut world.rng));
            write_cell(world, &mut tuple, &expected, column, goal, code);
        }
        Act::ChangeCase(column) => {
            expected.values[column] = expected.values[column].as_deref().map(other_case);
            write_cell(world, &mut tuple, &expected, column, goal, code);
        }
        Act::SetMoment => {
            tuple.moment = moment(world);
            expected.moment = tuple.moment;
        }
        Act::Touch => {}
        Act::ChangeKey => {
            tuple.key = 100_000 + i64::from(tx);
            expected.key = tuple.key;
        }
        Act::ChangeTenant => {
            let holds_envelopes = tuple.cells.iter().flatten().any(|cell| has_form(cell));
            if holds_envelopes && !code.understands_envelopes(goal) {
                // The binding guard refuses it.
                return world.release(tx);
            }
            tuple.tenant = (tuple.tenant + 1) % 3;
            expected.tenant = tuple.tenant;
            if code.understands_envelopes(goal) && (holds_envelopes || code.seals(goal)) {
                for column in 0..COLUMNS {
                    write_cell(world, &mut tuple, &expected, column, goal, code);
                }
            }
        }
        Act::MovePartition => to = (place.0 + 1) % world.relations.len(),
    }
    world.expected.insert(tuple.logical, expected);
    world.replace(place, to, tuple, tx);
}
