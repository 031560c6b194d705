//! How large values are, and what their conversion needs of the disk.

use enfold::Result;

use super::super::ask::count;
use super::{Scene, accepts};
use crate::database::{Counts, Growth};

/// Plaintext sizes of a column, in bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Sizes {
    pub average: u32,
    pub longest: u32,
}

/// Tables up to this size are measured whole, larger ones by a sample of about this size.
const WHOLE: u64 = 1 << 30;

/// Likewise where nothing is counted: enough for an average.
const WHOLE_UNCOUNTED: u64 = 8 << 20;

/// Measures every column by one pass over the table. For text and bytea no long value is fetched: `octet_length`
/// reads the size from the TOAST pointer.
pub(super) async fn measure(scene: &mut Scene<'_>) -> Result<()> {
    if !scene.relation.readable || scene.protected.is_empty() {
        return Ok(());
    }
    let lengths: Vec<String> = scene
        .protected
        .iter()
        .map(|p| {
            let name = p.value();
            let length = match p.column.base.as_str() {
                "text" | "varchar" | "bytea" => format!("octet_length({name})"),
                _ => format!("octet_length({name}::text)"),
            };
            format!("avg({length})::float8, max({length})::int8")
        })
        .collect();
    let heap = scene.relation.heap_bytes;
    let whole_up_to = match scene.counts {
        Counts::Taken => WHOLE,
        Counts::LeftOut => WHOLE_UNCOUNTED,
    };
    let sample = match heap <= whole_up_to {
        true => String::new(),
        // Small enough for a float to be exact enough: a percentage.
        false => format!(" TABLESAMPLE SYSTEM ({})", 100 * whole_up_to / heap + 1),
    };
    let sql = format!("SELECT {} FROM {}{sample}", lengths.join(", "), scene.relation.sql_name());
    let row = scene.ask.one(&sql, &[]).await?;
    for (at, protected) in scene.protected.iter_mut().enumerate() {
        let average = row.get::<_, Option<f64>>(2 * at).unwrap_or(0.0);
        let longest = row.get::<_, Option<i64>>(2 * at + 1).unwrap_or(0);
        protected.sizes = Sizes { average: whole(average), longest: u32::try_from(longest).unwrap_or(u32::MAX) };
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an average length: between 0 and 2^30")]
fn whole(average: f64) -> u32 {
    average.clamp(0.0, f64::from(u32::MAX)).round() as u32
}

/// If nothing is freed meanwhile: a new version of every row, longer by what sealing adds, and an entry of it in every
/// index (no update is heap-only once pages are full). The log carries the same, and a full image of every page that is
/// touched for the first time after a checkpoint; with REPLICA IDENTITY FULL, the old rows as well.
pub(super) fn growth(scene: &Scene<'_>) -> Growth {
    let relation = &scene.relation;
    let added: u64 = scene
        .protected
        .iter()
        .filter_map(|p| Some((p.judged.storage?, p.sizes.average)))
        .map(|(storage, average)| u64::from(accepts::stored_bytes(storage, average).saturating_sub(average)))
        .sum();
    let blind: u64 = scene.blind_indexes().map(|(_, i)| u64::from(i.bits / 8) + BLIND_ENTRY).sum();
    let rows = relation.rows * (added + blind);
    let disk = relation.heap_bytes + relation.toast_bytes + relation.index_bytes + rows;
    let images = relation.heap_bytes + relation.index_bytes;
    let old_rows = if relation.replica_identity == "f" { relation.heap_bytes } else { 0 };
    Growth { disk, wal: disk + images + old_rows }
}

/// Generation and length beside the bits in the row, and an entry of the database index over it: 8 bytes of header, 4
/// of line pointer, 8 of rounding.
const BLIND_ENTRY: u64 = 24;

/// `1.5 GB`, as a person reads it.
pub(super) fn in_words(bytes: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths /= 1024;
        unit += 1;
    }
    match (unit, tenths % 10) {
        (0, _) | (_, 0) => format!("{} {}", tenths / 10, units[unit]),
        (_, rest) => format!("{}.{rest} {}", tenths / 10, units[unit]),
    }
}

/// The rows of the table that a role can be told about, for findings that count.
pub(super) async fn rows_now(scene: &Scene<'_>, condition: &str) -> Result<u64> {
    let sql = format!("SELECT count(*) AS n FROM {} WHERE {condition}", scene.relation.sql_name());
    Ok(count(&scene.ask.one(&sql, &[]).await?, "n"))
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn sizes_are_told_in_a_persons_units() {
        assert_eq!(in_words(0), "0 bytes");
        assert_eq!(in_words(1023), "1023 bytes");
        assert_eq!(in_words(1536), "1.5 kB");
        assert_eq!(in_words(5 << 30), "5 GB");
    }
}
