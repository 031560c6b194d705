//! Raw pages of a relation: read in batches, searched, and what was found told apart by the row it lies in.
//!
//! The layout is that of src/include/storage/bufpage.h and src/include/access/htup_details.h, unchanged since Postgres
//! 8.3: a page header of 24 bytes, line pointers of 4 bytes up to pd_lower, rows from pd_upper on. VACUUM moves live rows
//! together and does not wipe the room it gained, which is why a page is searched whole and not by its line pointers.

use enfold::Result;

use super::super::ask::{Ask, count, p};
use super::super::{ident, literal};
use super::needles::Needles;

/// How this role can read pages.
pub(super) enum Reader {
    /// `get_raw_page` of pageinspect in this schema: the pages as the server holds them.
    Pageinspect { schema: String },
    /// The files themselves, as of the last checkpoint.
    Files,
    /// Not at all.
    Nothing,
}

/// What the pages of one relation hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hits {
    /// In rows that are live, where another column may hold them rightly.
    pub live: u64,
    /// In old row versions, and in room that was freed and not wiped.
    pub old: u64,
    /// Old row versions, and pages with bytes in freed room, whatever they hold: a compressed value is not found.
    pub unknown: u64,
    /// Not every page was looked at.
    pub partly: bool,
    /// Some could not be read.
    pub unread: bool,
}

/// A larger relation is searched in evenly spread parts: 1 GB.
const MOST_BLOCKS: u64 = 1 << 17;
const BATCH: u64 = 512;
/// Files of a relation are cut at 1 GB, which is 131,072 blocks of 8 kB.
const SEGMENT_BYTES: u64 = 1 << 30;

impl Reader {
    pub(super) async fn choose(ask: &Ask<'_>) -> Result<Self> {
        let row = ask
            .one(
                "SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
                        has_function_privilege('pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)', 'EXECUTE') AS files,
                        (SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                         WHERE e.extname = 'pageinspect') AS pageinspect",
                &[],
            )
            .await?;
        let superuser = row.get::<_, Option<bool>>("superuser").unwrap_or(false);
        Ok(match row.get::<_, Option<String>>("pageinspect") {
            Some(schema) if superuser => Reader::Pageinspect { schema },
            _ if superuser || row.get("files") => Reader::Files,
            _ => Reader::Nothing,
        })
    }

    pub(super) fn can_read(&self) -> bool {
        !matches!(self, Reader::Nothing)
    }

    /// Searches a heap (a table, TOAST, a materialised view, a catalog).
    pub(super) async fn search_heap(&self, ask: &Ask<'_>, relation: u32, needles: &Needles) -> Result<Hits> {
        // A page on the disk may be older than the one in memory: a row that is live in it need not be live.
        let trust_headers = matches!(self, Reader::Pageinspect { .. });
        self.each_page(ask, relation, |page, hits| {
            hits.unknown += left_over(page);
            for place in needles.places(page) {
                if trust_headers && in_live_row(page, place) { hits.live += 1 } else { hits.old += 1 }
            }
        })
        .await
    }

    /// Searches an index, whose entries are all the same to us.
    pub(super) async fn search_index(&self, ask: &Ask<'_>, relation: u32, needles: &Needles) -> Result<Hits> {
        self.each_page(ask, relation, |page, hits| hits.old += needles.places(page).len() as u64).await
    }

    async fn each_page(
        &self,
        ask: &Ask<'_>,
        relation: u32,
        mut see: impl FnMut(&[u8], &mut Hits) + Send,
    ) -> Result<Hits> {
        let row = ask
            .one(
                "SELECT pg_relation_size($1)::int8 AS bytes, current_setting('block_size')::int8 AS block,
                        pg_relation_filepath($1) AS path, format('%I.%I', n.nspname, c.relname) AS name
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
                &[p(&relation)],
            )
            .await?;
        let block = count(&row, "block").max(1);
        let blocks = count(&row, "bytes") / block;
        let (path, name): (Option<String>, String) = (row.get("path"), row.get("name"));
        let mut hits = Hits::default();
        for (from, to) in batches(blocks) {
            let sql = match self {
                Reader::Pageinspect { schema } => format!(
                    "SELECT {}.get_raw_page({}, 'main', n) FROM generate_series({from}, {}) n",
                    ident(schema),
                    literal(&name),
                    to - 1
                ),
                Reader::Files => file_part(path.as_deref().unwrap_or_default(), from * block, to * block),
                Reader::Nothing => break,
            };
            // It was rewritten meanwhile, or a right is missing after all.
            let Some(rows) = ask.attempt(&sql).await? else {
                hits.unread = true;
                continue;
            };
            for row in rows {
                let bytes: Option<&[u8]> = row.get(0);
                hits.unread |= bytes.is_none();
                let pages = bytes.unwrap_or_default().chunks_exact(usize::try_from(block).unwrap_or(8192));
                pages.for_each(|page| see(page, &mut hits));
            }
        }
        hits.partly = blocks > MOST_BLOCKS;
        Ok(hits)
    }
}

fn file_part(path: &str, from: u64, to: u64) -> String {
    let segment = from / SEGMENT_BYTES;
    let file = if segment == 0 { path.to_owned() } else { format!("{path}.{segment}") };
    format!("SELECT pg_catalog.pg_read_binary_file({}, {}, {}, true)", literal(&file), from % SEGMENT_BYTES, to - from)
}

/// Ranges of blocks: all of them, or every so many.
fn batches(blocks: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = BATCH * blocks.div_ceil(MOST_BLOCKS).max(1);
    (0..blocks).step_by(usize::try_from(step).unwrap_or(usize::MAX)).map(move |from| (from, (from + BATCH).min(blocks)))
}

/// Old row versions of a heap's page, and one more when the room between pointers and rows is not empty.
fn left_over(page: &[u8]) -> u64 {
    let room = page.get(usize::from(u16_at(page, 12))..usize::from(u16_at(page, 14))).unwrap_or_default();
    let old = rows(page).filter(|(_, row)| !is_live(row)).count() as u64;
    old + u64::from(room.iter().any(|byte| *byte != 0))
}

/// Whether a place lies in a row that a line pointer names and whose header says that nobody replaced or deleted it.
fn in_live_row(page: &[u8], place: usize) -> bool {
    rows(page).any(|(offset, row)| (offset..offset + row.len()).contains(&place) && is_live(row))
}

/// The rows that line pointers name, with their offsets.
fn rows(page: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lower = usize::from(u16_at(page, 12));
    let pointers = page.get(24..lower.min(page.len())).unwrap_or_default().chunks_exact(4);
    pointers.map(|p| u32::from_ne_bytes([p[0], p[1], p[2], p[3]])).filter_map(|pointer| {
        // ItemIdData: 15 bits of offset, 2 of flags (1 is LP_NORMAL), 15 of length.
        let [offset, flags, length] = [pointer & 0x7fff, (pointer >> 15) & 3, pointer >> 17].map(|n| n as usize);
        if flags == 1 { Some((offset, page.get(offset..offset + length)?)) } else { None }
    })
}

/// A heap row's header: t_xmax at 4, t_infomask at 20.
fn is_live(header: &[u8]) -> bool {
    const XMIN_COMMITTED: u16 = 0x0100;
    const XMIN_INVALID: u16 = 0x0200;
    const XMAX_INVALID: u16 = 0x0800;
    const XMAX_LOCK_ONLY: u16 = 0x0080;
    if header.len() < 23 {
        return false;
    }
    let xmax = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let mask = u16_at(header, 20);
    let aborted = mask & (XMIN_INVALID | XMIN_COMMITTED) == XMIN_INVALID;
    let kept = xmax == 0 || mask & (XMAX_INVALID | XMAX_LOCK_ONLY) != 0;
    kept && !aborted
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_relation_is_read_whole_and_a_large_one_in_spread_parts() {
        assert_eq!(batches(0).count(), 0);
        assert_eq!(batches(1000).collect::<Vec<_>>(), [(0, 512), (512, 1000)]);
        let parts: Vec<_> = batches(10 * MOST_BLOCKS).collect();
        let read: u64 = parts.iter().map(|(from, to)| to - from).sum();
        assert_eq!(read, MOST_BLOCKS);
        assert!(parts.last().unwrap().0 > 9 * MOST_BLOCKS);
    }

    #[test]
    fn a_part_of_a_file_stays_within_its_segment() {
        // A batch of 512 blocks divides a segment, so that none crosses its end.
        assert_eq!(SEGMENT_BYTES % (BATCH * 8192), 0);
        assert!(file_part("base/5/7", SEGMENT_BYTES, SEGMENT_BYTES + 8192).contains("'base/5/7.1', 0, 8192"));
    }
}
