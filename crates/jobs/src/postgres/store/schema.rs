//! Enfold's own tables for jobs, in the application's database: a checkpoint commits with the rows it speaks of.
//!
//! They have a version of their own beside the catalog's, which may live in another database.

use enfold::{Code, Error, Result};
use tokio_postgres::types::Type;

use crate::postgres::{Postgres, Purpose};

/// One entry for each version, in order; never edited once released.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE enfold.jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    goal text NOT NULL,
    target jsonb NOT NULL,
    state text NOT NULL,
    pass integer NOT NULL DEFAULT 1,
    batch_rows bigint NOT NULL,
    rate bigint,
    lease_ms bigint NOT NULL,
    rows_total bigint NOT NULL,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE enfold.job_chunks (
    job bigint NOT NULL REFERENCES enfold.jobs ON DELETE CASCADE,
    pass integer NOT NULL,
    chunk bigint NOT NULL,
    relation text NOT NULL,
    from_position bigint NOT NULL,
    to_position bigint NOT NULL,
    cursor_position bigint NOT NULL,
    done boolean NOT NULL DEFAULT false,
    token bigint NOT NULL DEFAULT 0,
    worker text,
    expires_at timestamptz,
    rows_seen bigint NOT NULL DEFAULT 0,
    rows_changed bigint NOT NULL DEFAULT 0,
    rows_lost bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (job, pass, chunk)
) WITH (fillfactor = 50);
CREATE TABLE enfold.job_errors (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job bigint NOT NULL REFERENCES enfold.jobs ON DELETE CASCADE,
    pass integer NOT NULL,
    row_label text NOT NULL,
    column_name text NOT NULL,
    code text NOT NULL,
    reason text NOT NULL,
    settled boolean NOT NULL DEFAULT false,
    noted_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX job_errors_open ON enfold.job_errors (job, id) WHERE NOT settled;
",
    "
-- Indexes that were dropped because they held plaintext, to be made again when it comes back. An index of a partitioned
-- table has a row for each partition's too.
CREATE TABLE enfold.dropped_indexes (
    index_schema text NOT NULL,
    index_name text NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    relation_schema text NOT NULL,
    relation_name text NOT NULL,
    level integer NOT NULL,
    partitioned boolean NOT NULL,
    columns text[] NOT NULL,
    definition text NOT NULL,
    constraint_definition text,
    dropped_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (index_schema, index_name)
);
",
    "
-- When the job backs off, where it is not as the policy says; and the sizes when it began.
ALTER TABLE enfold.jobs
    ADD COLUMN limits jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN database_bytes bigint,
    ADD COLUMN wal_bytes bigint;
",
    "
-- Who wants a job, why, and how much; and the workers that wait for jobs.
ALTER TABLE enfold.jobs
    ADD COLUMN priority integer NOT NULL DEFAULT 0,
    ADD COLUMN requested_by text,
    ADD COLUMN reason text;
CREATE TABLE enfold.job_workers (
    worker text PRIMARY KEY,
    version text NOT NULL,
    job bigint,
    seen_at timestamptz NOT NULL
);
-- For people who look with psql.
CREATE VIEW enfold.encryption_rotation_jobs AS
SELECT j.id, j.target ->> 'policy_table' AS table_name,
       ARRAY(SELECT c ->> 'name' FROM jsonb_array_elements(j.target -> 'columns') c) AS columns,
       j.state, j.priority, j.requested_by, j.reason, j.rows_total,
       coalesce(sum(c.rows_seen), 0)::bigint AS rows_seen, coalesce(sum(c.rows_changed), 0)::bigint AS rows_changed,
       (SELECT count(DISTINCT e.row_label) FROM enfold.job_errors e WHERE e.job = j.id AND NOT e.settled) AS rows_failed,
       j.last_error, j.created_at, j.changed_at,
       CASE WHEN j.state IN ('completed', 'completed_with_errors', 'cancelled') THEN j.changed_at END AS ended_at
FROM enfold.jobs j LEFT JOIN enfold.job_chunks c ON c.job = j.id
WHERE j.goal = 'reencrypt' GROUP BY j.id;
",
    "
-- What was last seen of each column: its ring and mode by whoever had the keys, and what an audit of every row counted.
CREATE TABLE enfold.column_notes (
    table_schema text NOT NULL,
    table_name text NOT NULL,
    column_name text NOT NULL,
    ring text NOT NULL,
    mode text,
    mode_seen_at timestamptz,
    -- The checks by which the table refuses plaintext in the column.
    checks text[] NOT NULL,
    rows bigint,
    envelopes bigint,
    plaintext bigint,
    lookalikes bigint,
    nulls bigint,
    counted_at timestamptz,
    PRIMARY KEY (table_schema, table_name, column_name)
);
-- For people who look with psql. What is enforced is looked up now; everything else is as of the time beside it.
CREATE VIEW enfold.coverage AS
SELECT n.table_schema, n.table_name, n.column_name, n.ring, n.mode, n.mode_seen_at,
       (SELECT count(*) FROM pg_catalog.pg_constraint k
          JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
         WHERE s.nspname = n.table_schema AND c.relname = n.table_name AND k.conname = ANY (n.checks) AND k.convalidated)
         = cardinality(n.checks) AS enforced,
       n.rows, n.envelopes, n.plaintext, n.lookalikes, n.nulls, n.counted_at,
       v.rows AS verified_rows, v.failed AS verified_failed, v.ended_at AS verified_at
FROM enfold.column_notes n
LEFT JOIN LATERAL (
    SELECT j.changed_at AS ended_at,
           (SELECT coalesce(sum(c.rows_seen), 0)::bigint FROM enfold.job_chunks c WHERE c.job = j.id AND c.pass = j.pass) AS rows,
           (SELECT count(DISTINCT e.row_label) FROM enfold.job_errors e
             WHERE e.job = j.id AND NOT e.settled AND e.column_name IN ('', n.column_name)) AS failed
    FROM enfold.jobs j
    WHERE j.goal = 'verify' AND j.state IN ('completed', 'completed_with_errors')
      AND j.target -> 'table' ->> 'schema' = n.table_schema AND j.target -> 'table' ->> 'table' = n.table_name
      AND j.target -> 'columns' @> jsonb_build_array(jsonb_build_object('name', n.column_name))
      -- What was taken back since is not what was verified.
      AND NOT EXISTS (SELECT FROM enfold.jobs u WHERE u.goal = 'unprotect' AND u.id > j.id AND u.target -> 'table' = j.target -> 'table'
                         AND u.target -> 'columns' @> jsonb_build_array(jsonb_build_object('name', n.column_name)))
    ORDER BY j.id DESC LIMIT 1
) v ON true;
",
    "
-- Former data keys on their way out of use, with the time at which each step was first found done (milliseconds since 1970);
-- and what values under them begin with, by which triggers refuse them.
CREATE TABLE enfold.disablings (
    ring text NOT NULL,
    key_id text NOT NULL,
    epoch bigint NOT NULL,
    requested_by text,
    reason text,
    asked_ms bigint NOT NULL,
    acknowledged_ms bigint,
    refused_ms bigint,
    ended_ms bigint,
    counted_ms bigint,
    disabled_ms bigint,
    covered text,
    open text,
    PRIMARY KEY (ring, key_id)
);
CREATE TABLE enfold.refused_keys (
    prefix text COLLATE \"C\" PRIMARY KEY,
    ring text NOT NULL,
    key_id text NOT NULL
);
CREATE INDEX refused_keys_key ON enfold.refused_keys (ring, key_id);
",
    "
-- Where the write-ahead log was when no value was found under the data key: replicas are waited for until they have applied it.
ALTER TABLE enfold.disablings ADD COLUMN counted_at pg_lsn;
",
    "
-- Counts of every row, one beside the other: how each column stood at the time. For people who look with psql, too.
CREATE TABLE enfold.column_counts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    column_name text NOT NULL,
    counted_at timestamptz NOT NULL,
    mode text,
    enforced boolean NOT NULL,
    rows bigint NOT NULL,
    envelopes bigint NOT NULL,
    plaintext bigint NOT NULL,
    lookalikes bigint NOT NULL,
    nulls bigint NOT NULL,
    -- Envelopes under data keys that sealed then, and by the version of the data key; where the catalog was asked.
    under_current bigint,
    by_version jsonb
);
CREATE INDEX column_counts_of ON enfold.column_counts (table_schema, table_name, column_name, counted_at);
",
];

/// Serialises migrations of programs that start together.
const MIGRATION_LOCK: i64 = 0x656e_666f_6c64_6a62;

/// `CREATE SCHEMA IF NOT EXISTS` asks for CREATE on the database even where the schema is there.
pub(in crate::postgres) const MAKE_SCHEMA: &str = "DO $enfold$ BEGIN IF pg_catalog.to_regnamespace('enfold') IS NULL THEN \
     CREATE SCHEMA IF NOT EXISTS enfold; END IF; END $enfold$";

const MAKE_VERSIONS: &str = "CREATE TABLE IF NOT EXISTS enfold.job_schema (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";

/// What [`ensure`] does, as statements for people who run it themselves. Run twice, they do nothing.
pub(in crate::postgres) fn script() -> Vec<String> {
    let migrations = MIGRATIONS.iter().enumerate().map(|(index, sql)| {
        let version = index + 1;
        format!(
            "DO $enfold$ BEGIN IF NOT EXISTS (SELECT FROM enfold.job_schema WHERE version = {version}) THEN{sql}\
             INSERT INTO enfold.job_schema (version) VALUES ({version}); END IF; END $enfold$"
        )
    });
    [MAKE_SCHEMA, MAKE_VERSIONS].map(str::to_owned).into_iter().chain(migrations).collect()
}

/// Whether there is a place for workers' signs of life.
pub(super) async fn has_workers(db: &Postgres) -> Result<bool> {
    let sql = "SELECT pg_catalog.to_regclass('enfold.job_workers') IS NOT NULL";
    let rows = db.once(Purpose::Own, &db.doing("look for Enfold's job tables in"), sql, &[]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Makes the tables, or brings them to the present version. Run twice, it does nothing.
pub(in crate::postgres) async fn ensure(db: &Postgres) -> Result<()> {
    let doing = db.doing("make Enfold's job tables in");
    let tx = db.begin(Purpose::Own).await?;
    tx.query(&doing, "SELECT pg_catalog.pg_advisory_xact_lock($1)", &[(&MIGRATION_LOCK, Type::INT8)]).await?;
    let row = tx
        .one(
            &doing,
            "SELECT pg_catalog.to_regnamespace('enfold') IS NULL, pg_catalog.to_regclass('enfold.job_schema') IS NULL",
            &[],
        )
        .await?;
    if row.get(0) {
        tx.batch(&doing, MAKE_SCHEMA).await?;
    }
    if row.get(1) {
        tx.batch(&doing, MAKE_VERSIONS).await?;
    }
    let row = tx.one(&doing, "SELECT coalesce(max(version), 0) FROM enfold.job_schema", &[]).await?;
    let there = usize::try_from(row.get::<_, i32>(0)).unwrap_or(0);
    if there > MIGRATIONS.len() {
        return Err(Error::new(Code::CatalogVersion, "the job tables were made by a newer Enfold")
            .cause(format!("their version is {there}, and this program knows {}", MIGRATIONS.len()))
            .hint("run the newer program"));
    }
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(there) {
        tx.batch(&doing, sql).await?;
        let version = i32::try_from(index + 1).unwrap_or(i32::MAX);
        tx.query(&doing, "INSERT INTO enfold.job_schema (version) VALUES ($1)", &[(&version, Type::INT4)]).await?;
    }
    tx.commit().await
}
