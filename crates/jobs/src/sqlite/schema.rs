//! The job tables (`enfold_jobs`, `enfold_job_chunks`, `enfold_job_errors`, `enfold_job_workers`, `enfold_dropped_indexes`,
//! `enfold_disablings`, `enfold_refused_keys`, `enfold_column_notes`, `enfold_column_counts`) in the
//! application's own database, so that a checkpoint commits with the rows it speaks of. Versioned: a program works with every version up to its own and
//! refuses a newer one.

use enfold::{Code, Error, Result};
use rusqlite::{Connection, TransactionBehavior};

use super::error::Doing;

/// What our own tables and triggers begin with; `survey` leaves them out.
pub(super) const PREFIX: &str = "enfold_";

/// One script a version, applied in order, never changed once released.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE enfold_jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    goal TEXT NOT NULL,
    target TEXT NOT NULL,
    state TEXT NOT NULL,
    pass INTEGER NOT NULL,
    batch_rows INTEGER NOT NULL,
    rate INTEGER,
    rows_total INTEGER NOT NULL,
    last_error TEXT
);
CREATE TABLE enfold_job_chunks (
    job INTEGER NOT NULL REFERENCES enfold_jobs(id),
    chunk INTEGER NOT NULL,
    pass INTEGER NOT NULL,
    relation TEXT NOT NULL,
    -- Row ids; to_rowid is exclusive and NULL for an open end.
    from_rowid INTEGER NOT NULL,
    to_rowid INTEGER,
    cursor INTEGER NOT NULL,
    state TEXT NOT NULL,
    token INTEGER NOT NULL,
    worker TEXT,
    -- Milliseconds since 1970.
    expires_at INTEGER NOT NULL,
    rows_seen INTEGER NOT NULL,
    rows_changed INTEGER NOT NULL,
    rows_lost INTEGER NOT NULL,
    PRIMARY KEY (job, chunk)
) WITHOUT ROWID;
CREATE TABLE enfold_job_errors (
    job INTEGER NOT NULL REFERENCES enfold_jobs(id),
    row_label TEXT NOT NULL,
    column_name TEXT NOT NULL,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    settled INTEGER NOT NULL,
    PRIMARY KEY (job, row_label, column_name)
) WITHOUT ROWID;
",
    "
-- Indexes that were dropped because they held plaintext, to be made again when it comes back.
CREATE TABLE enfold_dropped_indexes (
    index_name TEXT PRIMARY KEY COLLATE NOCASE,
    table_name TEXT NOT NULL COLLATE NOCASE,
    definition TEXT NOT NULL
) WITHOUT ROWID;
",
    "
-- Who wants a job, why, and how much; when it was made and when its state last changed, in milliseconds since 1970 (0 where
-- an earlier version did not say); and the workers that wait for jobs.
ALTER TABLE enfold_jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE enfold_jobs ADD COLUMN requested_by TEXT;
ALTER TABLE enfold_jobs ADD COLUMN reason TEXT;
ALTER TABLE enfold_jobs ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE enfold_jobs ADD COLUMN changed_at INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER enfold_jobs_changed AFTER UPDATE OF state ON enfold_jobs BEGIN
    UPDATE enfold_jobs SET changed_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) WHERE id = NEW.id;
END;
CREATE TABLE enfold_job_workers (
    worker TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    job INTEGER,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;
",
    "
-- Former data keys on their way out of use, with the time at which each step was first found done (milliseconds since 1970);
-- and what values under them begin with, by which triggers refuse them.
CREATE TABLE enfold_disablings (
    ring TEXT NOT NULL,
    key_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    requested_by TEXT,
    reason TEXT,
    asked_ms INTEGER NOT NULL,
    acknowledged_ms INTEGER,
    refused_ms INTEGER,
    ended_ms INTEGER,
    counted_ms INTEGER,
    disabled_ms INTEGER,
    covered TEXT,
    open TEXT,
    PRIMARY KEY (ring, key_id)
) WITHOUT ROWID;
CREATE TABLE enfold_refused_keys (
    -- A text or a blob, as a column has it.
    prefix PRIMARY KEY NOT NULL,
    ring TEXT NOT NULL,
    key_id TEXT NOT NULL
) WITHOUT ROWID;
",
    "
-- What was last seen of each column: its ring and mode by whoever had the keys, and what an audit of every row counted.
CREATE TABLE enfold_column_notes (
    table_name TEXT NOT NULL COLLATE NOCASE,
    column_name TEXT NOT NULL COLLATE NOCASE,
    ring TEXT NOT NULL,
    mode TEXT,
    mode_seen_at TEXT,
    -- The triggers by which the table refuses plaintext in the column, as a list in JSON.
    checks TEXT NOT NULL,
    rows INTEGER,
    envelopes INTEGER,
    plaintext INTEGER,
    lookalikes INTEGER,
    nulls INTEGER,
    counted_at TEXT,
    PRIMARY KEY (table_name, column_name)
) WITHOUT ROWID;
-- For people who look with sqlite3. What is enforced is looked up now; everything else is as of the time beside it, in UTC.
CREATE VIEW enfold_coverage AS
SELECT n.table_name, n.column_name, n.ring, n.mode, n.mode_seen_at,
       (SELECT count(*) FROM sqlite_schema t JOIN json_each(n.checks) k ON t.name = k.value COLLATE NOCASE
         WHERE t.type = 'trigger' AND t.tbl_name = n.table_name COLLATE NOCASE) = json_array_length(n.checks) AS enforced,
       n.rows, n.envelopes, n.plaintext, n.lookalikes, n.nulls, n.counted_at,
       (SELECT sum(c.rows_seen) FROM enfold_job_chunks c WHERE c.job = v.id AND c.pass = v.pass) AS verified_rows,
       iif(v.id IS NULL, NULL, (SELECT count(DISTINCT e.row_label) FROM enfold_job_errors e
         WHERE e.job = v.id AND NOT e.settled AND e.column_name IN ('', n.column_name))) AS verified_failed,
       datetime(v.changed_at / 1000, 'unixepoch') AS verified_at
FROM enfold_column_notes n
LEFT JOIN enfold_jobs v ON v.id = (
    SELECT max(j.id) FROM enfold_jobs j, json_each(j.target, '$.columns') c
    WHERE j.goal = 'verify' AND j.state IN ('completed', 'completed_with_errors')
      AND json_extract(j.target, '$.table.table') = n.table_name COLLATE NOCASE
      AND json_extract(c.value, '$.name') = n.column_name COLLATE NOCASE
      -- What was taken back since is not what was verified.
      AND NOT EXISTS (SELECT 1 FROM enfold_jobs u, json_each(u.target, '$.columns') d
                       WHERE u.goal = 'unprotect' AND u.id > j.id
                         AND json_extract(u.target, '$.table.table') = n.table_name COLLATE NOCASE
                         AND json_extract(d.value, '$.name') = n.column_name COLLATE NOCASE));
",
    "
-- Counts of every row, one beside the other: how each column stood at the time. For people who look with sqlite3, too.
CREATE TABLE enfold_column_counts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    table_name TEXT NOT NULL COLLATE NOCASE,
    column_name TEXT NOT NULL COLLATE NOCASE,
    -- In UTC.
    counted_at TEXT NOT NULL,
    mode TEXT,
    enforced INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    envelopes INTEGER NOT NULL,
    plaintext INTEGER NOT NULL,
    lookalikes INTEGER NOT NULL,
    nulls INTEGER NOT NULL,
    -- Envelopes under data keys that sealed then, and by the version of the data key, as JSON; where the catalog was asked.
    under_current INTEGER,
    by_version TEXT
);
CREATE INDEX enfold_column_counts_of ON enfold_column_counts (table_name, column_name, counted_at);
",
];

/// The version from which on columns are noted.
pub(super) const WITH_COVERAGE: usize = 5;

/// The version from which on counts are kept.
pub(super) const WITH_COUNTS: usize = 6;

/// Brings the job tables to this program's version.
pub(super) fn ensure(connection: &mut Connection) -> Result<()> {
    if version(connection)? == MIGRATIONS.len() {
        return Ok(());
    }
    let what = || "create the job tables".to_owned();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(what)?;
    let present = version(&transaction)?;
    transaction
        .execute_batch("CREATE TABLE IF NOT EXISTS enfold_jobs_schema (version INTEGER NOT NULL)")
        .doing(what)?;
    for script in &MIGRATIONS[present..] {
        transaction.execute_batch(script).doing(what)?;
    }
    transaction.execute("DELETE FROM enfold_jobs_schema", []).doing(what)?;
    transaction.execute("INSERT INTO enfold_jobs_schema VALUES (?1)", [MIGRATIONS.len().to_string()]).doing(what)?;
    transaction.commit().doing(what)
}

/// The version of the job tables: 0 where there are none.
pub(super) fn version(connection: &Connection) -> Result<usize> {
    let what = || "read the version of the job tables".to_owned();
    let there: bool = connection
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'enfold_jobs_schema')",
            [],
            |row| row.get(0),
        )
        .doing(what)?;
    if !there {
        return Ok(0);
    }
    let version: i64 =
        connection.query_row("SELECT version FROM enfold_jobs_schema", [], |row| row.get(0)).doing(what)?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        return Err(Error::new(
            Code::CatalogVersion,
            format!("the job tables have version {version}, this program knows {}", MIGRATIONS.len()),
        )
        .hint("use the newer program that made them"));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_tables_are_made_once_and_a_newer_version_is_refused() {
        let mut db = Connection::open_in_memory().unwrap();
        assert_eq!(version(&db).unwrap(), 0);
        ensure(&mut db).unwrap();
        ensure(&mut db).unwrap();
        assert_eq!(version(&db).unwrap(), MIGRATIONS.len());
        db.execute("UPDATE enfold_jobs_schema SET version = 99", []).unwrap();
        assert_eq!(ensure(&mut db).unwrap_err().code(), Code::CatalogVersion);
    }
}
