//! Applying migrations to Postgres, in the schema `enfold`. Statements are sent unprepared: a pooler in transaction mode
//! may stand between.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Transaction};

use super::{Applied, Migration, pending, usable};
use crate::Result;
use crate::db::postgres::failure;
use crate::hex::hex;

/// Each with the question whether it is there: `IF NOT EXISTS` asks for the right to make it even where it is.
const IN_SCHEMA: (&str, &str) = ("SELECT to_regnamespace('enfold') IS NOT NULL", "CREATE SCHEMA IF NOT EXISTS enfold");
const IN_TABLE: (&str, &str) = (
    "SELECT to_regclass('enfold.migrations') IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS enfold.migrations (
         series text NOT NULL, version int NOT NULL, name text NOT NULL, checksum bytea NOT NULL,
         applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (series, version))",
);

/// Brings a series of tables in the schema `enfold` up to date. Processes that start together wait for each other on an
/// advisory lock, so each migration runs once.
pub async fn migrate(client: &mut Client, series: &str, all: &[Migration]) -> Result<()> {
    let doing = || format!("cannot bring the tables of `{series}` up to date");
    let tx = client.transaction().await.map_err(|e| failure(doing(), &e))?;
    tx.batch_execute("SELECT pg_advisory_xact_lock(hashtext('enfold.migrations'))")
        .await
        .map_err(|e| failure(doing(), &e))?;
    for (look, make) in [IN_SCHEMA, IN_TABLE] {
        let row = tx.query_typed_one(look, &[]).await.map_err(|e| failure(doing(), &e))?;
        if !row.get::<_, bool>(0) {
            tx.batch_execute(make).await.map_err(|e| {
                failure(doing(), &e)
                    .hint("the role needs CREATE on the database; or have an administrator run what `enfold init --print-sql` prints")
            })?;
        }
    }
    for migration in pending(series, all, &applied(&tx, series).await?)? {
        let doing = || format!("cannot apply migration {} (`{}`) of `{series}`", migration.version, migration.name);
        tx.batch_execute(migration.sql).await.map_err(|e| failure(doing(), &e))?;
        let version = i32::try_from(migration.version).unwrap_or(i32::MAX);
        tx.execute_typed(
            "INSERT INTO enfold.migrations (series, version, name, checksum) VALUES ($1, $2, $3, $4)",
            &[
                (&series, Type::TEXT),
                (&version, Type::INT4),
                (&migration.name, Type::TEXT),
                (&migration.checksum(), Type::BYTEA),
            ],
        )
        .await
        .map_err(|e| failure(doing(), &e))?;
    }
    tx.commit().await.map_err(|e| failure(doing(), &e))
}

/// What [`migrate`] does, as statements for people who run it themselves. Run twice, they do nothing.
pub fn script(series: &str, all: &[Migration]) -> Vec<String> {
    let series = series.replace('\'', "''");
    let migrations = all.iter().map(|Migration { version, name, sql }| {
        let checksum = Migration { version: *version, name, sql }.checksum();
        let checksum = hex(&checksum);
        format!(
            "DO $enfold$ BEGIN IF NOT EXISTS (SELECT FROM enfold.migrations WHERE series = '{series}' AND version = {version}) THEN\n\
             {};\nINSERT INTO enfold.migrations (series, version, name, checksum) \
             VALUES ('{series}', {version}, '{}', decode('{checksum}', 'hex')); END IF; END $enfold$",
            sql.trim_end().trim_end_matches(';'),
            name.replace('\'', "''")
        )
    });
    [IN_SCHEMA.1, IN_TABLE.1].map(str::to_owned).into_iter().chain(migrations).collect()
}

/// Whether this program can work with the tables of `series` as they are.
pub async fn check(client: &mut Client, series: &str, all: &[Migration], oldest: u32) -> Result<()> {
    let doing = || format!("cannot read the schema version of `{series}`");
    let exists: bool = client
        .query_typed_one("SELECT to_regclass('enfold.migrations') IS NOT NULL", &[])
        .await
        .map_err(|e| failure(doing(), &e))?
        .get(0);
    if !exists {
        return usable(series, all, oldest, &[]);
    }
    let tx = client.transaction().await.map_err(|e| failure(doing(), &e))?;
    usable(series, all, oldest, &applied(&tx, series).await?)
}

async fn applied(tx: &Transaction<'_>, series: &str) -> Result<Vec<Applied>> {
    let sql = "SELECT version, checksum FROM enfold.migrations WHERE series = $1 ORDER BY version";
    let rows = tx
        .query_typed(sql, &[(&series, Type::TEXT)])
        .await
        .map_err(|e| failure(format!("cannot read the schema version of `{series}`"), &e))?;
    Ok(rows
        .iter()
        .map(|r| Applied { version: u32::try_from(r.get::<_, i32>(0)).unwrap_or(0), checksum: r.get(1) })
        .collect())
}

#[cfg(test)]
mod tests {
    use enfold_testkit::postgres::Database;

    use super::*;
    use crate::Code;
    use crate::db::postgres::Endpoint;

    #[tokio::test]
    async fn processes_that_start_together_apply_each_migration_once() {
        const ALL: &[Migration] = &[Migration { version: 1, name: "t", sql: "CREATE TABLE enfold.t (n int)" }];
        let db = Database::create().await;
        let endpoint = Endpoint::parse_text(&db.url()).unwrap();
        let starts = (0..4).map(|_| async {
            let mut client = endpoint.connect().await.unwrap();
            migrate(&mut client, "test", ALL).await
        });
        for result in futures_util::future::join_all(starts).await {
            result.unwrap();
        }
        let mut client = endpoint.connect().await.unwrap();
        check(&mut client, "test", ALL, 1).await.unwrap();
        assert_eq!(check(&mut client, "test", &[], 0).await.unwrap_err().code(), Code::CatalogVersion);
    }

    #[tokio::test]
    async fn where_everything_is_there_a_role_that_may_only_read_finds_nothing_to_do() {
        const ALL: &[Migration] = &[Migration { version: 1, name: "t", sql: "CREATE TABLE enfold.t (n int)" }];
        let db = Database::create().await;
        let owner = Endpoint::parse_text(&db.url()).unwrap();
        let mut client = owner.connect().await.unwrap();
        migrate(&mut client, "test", ALL).await.unwrap();
        let name: String = client.query_typed_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
        let role = format!("{name}_reader");
        client
            .batch_execute(&format!(
                "CREATE ROLE {role}; GRANT USAGE ON SCHEMA enfold TO {role}; \
                 GRANT SELECT ON enfold.migrations TO {role}; SET ROLE {role}"
            ))
            .await
            .unwrap();
        let ran = migrate(&mut client, "test", ALL).await;
        client.batch_execute(&format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
        ran.unwrap();
    }
}
