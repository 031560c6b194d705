//! Searching the bytes of the database file, its write-ahead log and its journal, and saying whose pages they are.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use enfold::{Code, Error, Result};
use rusqlite::Connection;

use super::super::beside;
use super::super::error::Doing;
use super::super::names::same;
use super::matcher::Matcher;
use super::{Found, add};
use crate::model::Target;
use crate::words::Kind;

const BLOCK: usize = 1 << 20;

pub(super) fn search(
    connection: &Connection,
    path: &Path,
    target: &Target,
    matcher: &Matcher,
    live: &BTreeSet<String>,
    found: &mut Found,
) -> Result<()> {
    for suffix in ["-wal", "-journal"] {
        let log = beside(path, suffix);
        scan(&log, matcher, |_, column| add(found, Kind::RollbackLog, log.display().to_string(), Some(column), 1))?;
    }
    let page_size: i64 =
        connection.query_row("PRAGMA page_size", [], |row| row.get(0)).doing(|| "read the page size".to_owned())?;
    let mut hits: HashMap<(u64, &str), u64> = HashMap::new();
    scan(path, matcher, |at, column| *hits.entry((at / page_size.cast_unsigned() + 1, column)).or_default() += 1)?;
    if hits.is_empty() {
        return Ok(());
    }
    let owners = owners(connection)?;
    for ((page, column), n) in hits {
        match owners.get(&page) {
            None => add(found, Kind::FreePages, "free pages", Some(column), n),
            // Live values lie in these pages, and were reported as such (or are the audit's to report).
            Some(owner) if live.iter().any(|table| same(table, &owner.table)) => {}
            Some(owner) if owner.name.starts_with("sqlite_stat") => {
                add(found, Kind::Statistics, owner.name.clone(), Some(column), n);
            }
            Some(owner) if !same(&owner.name, &owner.table) && same(&owner.table, &target.table.table) => {
                add(found, Kind::OldIndex, owner.name.clone(), Some(column), n);
            }
            Some(owner) => {
                add(found, Kind::FreePages, format!("unwiped room in pages of {}", owner.name), Some(column), n);
            }
        }
    }
    Ok(())
}

/// The table or index that a page belongs to.
struct Owner {
    name: String,
    /// The table itself, or the one that an index is of.
    table: String,
}

fn owners(connection: &Connection) -> Result<HashMap<u64, Owner>> {
    connection
        .prepare("SELECT d.pageno, d.name, coalesce(s.tbl_name, d.name) FROM dbstat d LEFT JOIN sqlite_schema s ON s.name = d.name")
        .and_then(|mut s| {
            s.query_map([], |row| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), Owner { name: row.get(1)?, table: row.get(2)? }))
            })?
            .collect()
        })
        .doing(|| "find the owners of pages".to_owned())
}

/// Reads a file in overlapping blocks; a file that is not there holds nothing.
fn scan<'a>(path: &Path, matcher: &'a Matcher, mut hit: impl FnMut(u64, &'a str)) -> Result<()> {
    let failed = |error: &std::io::Error| {
        Error::new(Code::FileFailed, format!("cannot search the bytes of `{}`", path.display()))
            .cause(error.kind().to_string())
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    let overlap = matcher.overlap().saturating_sub(1);
    let (mut block, mut start) = (Vec::with_capacity(BLOCK + overlap), 0u64);
    loop {
        let kept = block.len();
        let read = Read::by_ref(&mut file).take(BLOCK as u64).read_to_end(&mut block).map_err(|e| failed(&e))?;
        matcher.search(&block, |at, len, column| {
            // A piece that ends within the kept part was found before.
            if at + len > kept {
                hit(start + at as u64, column);
            }
        });
        if read == 0 || block.len() == kept {
            return Ok(());
        }
        let keep = overlap.min(block.len());
        let dropped = block.len() - keep;
        block.drain(..dropped);
        start += dropped as u64;
    }
}
