//! A look at some rows, read as a sweep reads them, without a job: nothing is leased, and nothing is recorded.

use enfold::Result;

use super::read;
use super::wire::Tid;
use crate::model::{JobId, Target};
use crate::postgres::Postgres;
use crate::postgres::shape::Leaf;
use crate::store::{BATCH_BYTES, Lease, Range, Row};

/// Places in the table at which rows are read.
const PLACES: u64 = 16;

/// At most `rows` rows, from places spread over the blocks of all partitions; fewer where their cells come to more than
/// a batch may hold.
pub(in crate::postgres) async fn rows(db: &Postgres, target: &Target, rows: u32) -> Result<Vec<Row>> {
    let shape = db.shape_now(target).await?;
    let blocks: u64 = shape.leaves.iter().map(|leaf| leaf.blocks).sum();
    let places = PLACES.min(u64::from(rows)).min(blocks);
    let (mut found, mut bytes) = (Vec::new(), 0);
    for place in 0..places {
        let (from, to) = (blocks * place / places, blocks * (place + 1) / places);
        // What earlier places had too few rows for is left to the later ones.
        let share = (u64::from(rows) - found.len() as u64).div_ceil(places - place);
        let mut wanted = u32::try_from(share).unwrap_or(u32::MAX);
        for range in within(&shape.leaves, from, to) {
            if wanted == 0 || bytes >= BATCH_BYTES {
                break;
            }
            let cursor = range.from;
            let batch = read::range(db, &unleased(range), target, cursor, wanted).await?;
            wanted = wanted.saturating_sub(u32::try_from(batch.rows.len()).unwrap_or(u32::MAX));
            bytes += batch.rows.iter().flat_map(|row| row.cells.iter().flatten()).map(Vec::len).sum::<usize>();
            found.extend(batch.rows);
        }
    }
    Ok(found)
}

/// The parts of tables that hold the blocks from `from` up to `to`, all tables counted one after another.
fn within(leaves: &[Leaf], from: u64, to: u64) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut begins = 0;
    for leaf in leaves {
        let ends = begins + leaf.blocks;
        let (first, last) = (from.max(begins), to.min(ends));
        if first < last {
            let position =
                |block: u64| Tid { block: u32::try_from(block - begins).unwrap_or(u32::MAX), offset: 0 }.position();
            ranges.push(Range { relation: leaf.relation.clone(), from: position(first), to: position(last) });
        }
        begins = ends;
    }
    ranges
}

/// Reading asks a lease for its range only; what writes would refuse this one, for there is no such job.
fn unleased(range: Range) -> Lease {
    let cursor = range.from;
    Lease { job: JobId(0), chunk: 0, token: 0, worker: String::new(), range, cursor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_on_from_one_partition_to_the_next() {
        let leaf = |relation: &str, blocks| Leaf { relation: relation.to_owned(), blocks, rows: None };
        let leaves = [leaf("a", 3), leaf("empty", 0), leaf("b", 4)];
        let found: Vec<_> = within(&leaves, 2, 6).into_iter().map(|r| (r.relation, r.from >> 16, r.to >> 16)).collect();
        assert_eq!(found, [("a".to_owned(), 2, 3), ("b".to_owned(), 0, 3)]);
    }
}
