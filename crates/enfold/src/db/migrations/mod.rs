//! Versioned schema changes, for the catalog and for whoever keeps tables beside it.
//!
//! A migration is applied once, in order, each in a transaction of its own, and recorded with the SHA-256 of its text:
//! a text that changed after it was applied is refused, because two databases of one version would differ. A schema
//! newer than the program is refused too: the program cannot know what the newer tables mean.

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use aws_lc_rs::digest::{SHA256, digest};

use crate::{Code, Error, Result};

/// One schema change of a series.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// From 1, without gaps.
    pub version: u32,
    pub name: &'static str,
    pub sql: &'static str,
}

/// What the database says was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub version: u32,
    pub checksum: Vec<u8>,
}

impl Migration {
    /// SHA-256 of the text.
    pub fn checksum(&self) -> Vec<u8> {
        digest(&SHA256, self.sql.as_bytes()).as_ref().to_vec()
    }
}

/// Which migrations are still to be applied, in order. `series` names the set of tables in errors.
pub fn pending<'a>(series: &str, all: &'a [Migration], applied: &[Applied]) -> Result<&'a [Migration]> {
    for (row, expected) in applied.iter().zip(1u32..) {
        let Some(known) = all.get(expected as usize - 1) else {
            return Err(newer(series, all, applied));
        };
        if row.version != expected || row.checksum != known.checksum() {
            return Err(Error::new(
                Code::CatalogVersion,
                format!("migration {} of `{series}` in the database is not the one of this program", row.version),
            )
            .hint("run the program version that created the schema, or restore the schema from its backup"));
        }
    }
    Ok(&all[applied.len()..])
}

/// Whether this program can work with what was applied. `oldest` is the first version that it still understands: new
/// code runs with the previous schema, so that a deploy need not wait for a migration.
pub fn usable(series: &str, all: &[Migration], oldest: u32, applied: &[Applied]) -> Result<()> {
    pending(series, all, applied)?;
    if applied.len() < oldest as usize {
        let found = if applied.is_empty() { "no schema".to_owned() } else { format!("version {}", applied.len()) };
        return Err(Error::new(
            Code::CatalogVersion,
            format!("the catalog has {found} for `{series}`; this program needs {oldest} or later"),
        )
        .hint("run `enfold init` to create or upgrade it"));
    }
    Ok(())
}

fn newer(series: &str, all: &[Migration], applied: &[Applied]) -> Error {
    Error::new(
        Code::CatalogVersion,
        format!("the schema of `{series}` has version {}; this program knows {} at most", applied.len(), all.len()),
    )
    .hint("run the newer `enfold` that made it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Migration] =
        &[Migration { version: 1, name: "one", sql: "a" }, Migration { version: 2, name: "two", sql: "b" }];

    fn applied(n: usize) -> Vec<Applied> {
        ALL[..n].iter().map(|m| Applied { version: m.version, checksum: m.checksum() }).collect()
    }

    #[test]
    fn what_was_applied_is_not_applied_again() {
        let names = |n| pending("t", ALL, &applied(n)).unwrap().iter().map(|m| m.name).collect::<Vec<_>>();
        assert_eq!(names(0), ["one", "two"]);
        assert_eq!(names(1), ["two"]);
        assert!(names(2).is_empty());
    }

    #[test]
    fn a_schema_newer_than_the_program_is_refused() {
        let mut rows = applied(2);
        rows.push(Applied { version: 3, checksum: vec![7; 32] });
        let error = pending("t", ALL, &rows).unwrap_err();
        assert_eq!(error.code(), Code::CatalogVersion);
        assert!(error.message().contains("version 3"));
    }

    #[test]
    fn a_migration_whose_text_changed_is_refused() {
        let mut rows = applied(2);
        rows[0].checksum[0] ^= 1;
        assert_eq!(pending("t", ALL, &rows).unwrap_err().code(), Code::CatalogVersion);
    }

    #[test]
    fn new_code_runs_with_the_previous_schema_and_not_with_an_older_one() {
        assert!(usable("t", ALL, 1, &applied(1)).is_ok());
        assert!(usable("t", ALL, 1, &applied(2)).is_ok());
        assert_eq!(usable("t", ALL, 2, &applied(1)).unwrap_err().code(), Code::CatalogVersion);
        assert_eq!(usable("t", ALL, 1, &[]).unwrap_err().code(), Code::CatalogVersion);
    }
}
