//! What must be true when everybody has gone home.

use std::collections::BTreeMap;

use super::value::{COLUMNS, has_form, index, key_of, open, opens_nowhere};
use super::world::{Tuple, World};
use crate::model::Goal;

/// Adds a violation for every rule that the final state breaks. `job` is the last job, after which nobody wrote.
pub(super) fn check(world: &mut World, job: usize) {
    let goal = world.jobs[job].spec.goal;
    let mut said = Vec::new();
    let mut found: BTreeMap<usize, u32> = BTreeMap::new();
    for (_, _, tuple) in world.live() {
        *found.entry(tuple.logical).or_default() += 1;
        match world.expected.get(&tuple.logical) {
            None => said.push(format!("a deleted row came back: {}", tuple.label())),
            Some(expected) => {
                let job = &world.jobs[job];
                let (is, wanted) =
                    ((tuple.key, tuple.tenant, tuple.moment), (expected.key, expected.tenant, expected.moment));
                if is != wanted {
                    said.push(format!("{}: key, tenant or moment is not what its last writer wrote", tuple.label()));
                }
                // What was in the way of somebody goes the next time.
                let undisturbed = tuple.disturbed <= job.began && !job.excuses(tuple, 0);
                if goal == Goal::Prune && tuple.is_doomed() && undisturbed {
                    said.push(format!("{}: left though it was to go", tuple.label()));
                }
                for column in 0..COLUMNS {
                    let wanted = expected.values[column].as_deref();
                    // What is wrong with one cell excuses no other.
                    let excused = job.excuses(tuple, column);
                    if let Some(wrong) = cell((goal, world.key), tuple, column, wanted, excused) {
                        said.push(format!("{} column {column}: {wrong}", tuple.label()));
                    }
                }
                let indexed = expected.values[0].as_ref().map(|value| index(tuple.tenant, value));
                if matches!(goal, Goal::Protect | Goal::Index) && !job.excuses(tuple, 0) && tuple.index != indexed {
                    said.push(format!("{}: the blind index is not that of the value", tuple.label()));
                }
            }
        }
    }
    for logical in world.expected.keys() {
        match found.get(logical) {
            None => said.push(format!("row {logical} was lost")),
            Some(1) => {}
            Some(_) => said.push(format!("row {logical} was doubled")),
        }
    }
    for (number, job) in world.jobs.iter().enumerate() {
        if job.progress.rows_changed != job.conversions {
            let counted = job.progress.rows_changed;
            said.push(format!("job {number} counted {counted} rows and changed {}", job.conversions));
        }
    }
    world.violations.append(&mut said);
}

/// What is wrong with a cell, if anything is.
fn cell(
    (goal, key): (Goal, u8),
    tuple: &Tuple,
    column: usize,
    wanted: Option<&[u8]>,
    excused: bool,
) -> Option<&'static str> {
    let cell = match (tuple.cells[column].as_deref(), wanted) {
        (None, None) => return None,
        (None, Some(_)) | (Some(_), None) => return Some("NULL where a value was written, or the other way round"),
        (Some(cell), Some(_)) => cell,
    };
    if !has_form(cell) {
        let left_plain = goal == Goal::Protect && !excused;
        return match Some(cell) == wanted {
            true if left_plain => Some("left plain"),
            true => None,
            false => Some("not what its last writer wrote"),
        };
    }
    if goal == Goal::Prune {
        return (Some(cell) != wanted).then_some("not what its last writer wrote");
    }
    // A re-encryption looks at nothing that is under the data key of now.
    let under_former = key_of(cell).is_some_and(|under| under < key);
    if opens_nowhere(cell) && Some(cell) == wanted {
        return if excused || (goal == Goal::Reencrypt && !under_former) {
            None
        } else {
            Some("an envelope that does not open was passed over")
        };
    }
    match open(column, tuple.tenant, cell) {
        None => Some("does not open in its place"),
        Some(value) if has_form(&value) => Some("sealed twice"),
        Some(value) if Some(&value[..]) != wanted => Some("not what its last writer wrote"),
        Some(_) if goal == Goal::Unprotect && !excused => Some("left sealed"),
        Some(_) if goal == Goal::Reencrypt && under_former && !excused => Some("left under a former data key"),
        Some(_) => None,
    }
}
