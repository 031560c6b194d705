//! Where changes go besides the table: publications, replica identity, slots, standbys, archives.

use enfold::Result;

use super::super::ask::{count, p};
use super::{Scene, listed, sizes};
use crate::words::Word;

pub(super) async fn findings(scene: &mut Scene<'_>) -> Result<()> {
    publications(scene).await?;
    replica_identity(scene).await?;
    slots(scene).await?;
    standbys(scene).await
}

async fn publications(scene: &mut Scene<'_>) -> Result<()> {
    let names = scene.ask.texts(PUBLICATIONS, &[p(&scene.relation.oids())]).await?;
    if !names.is_empty() {
        let table = scene.relation.sql_name();
        scene.warn(Word::Publication.finding(format!("`{table}` is published by {}", listed(&names, 5))));
    }
    // Filters came with Postgres 15, and with them this column.
    let filters = scene
        .ask
        .attempt(
            "SELECT pr.prrelid, p.pubname::text, pg_get_expr(pr.prqual, pr.prrelid), a.attname::text
             FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid
                  JOIN pg_depend d ON d.classid = 'pg_publication_rel'::regclass AND d.objid = pr.oid
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid = pr.prrelid
                  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE pr.prqual IS NOT NULL ORDER BY 2, 4",
        )
        .await?
        .unwrap_or_default();
    let (oids, names) = (scene.relation.oids(), scene.names());
    for row in filters {
        let (relation, publication, column): (u32, String, String) = (row.get(0), row.get(1), row.get(3));
        // A list of published columns depends on them too; only a filter that mentions the column judges it.
        let condition: String = row.get(2);
        if oids.contains(&relation) && names.contains(&column) && condition.contains(&column) {
            let says = format!("the publication `{publication}` filters rows by `{column}`");
            scene.refuse(Word::PublicationFilter.about(&column, says));
        }
    }
    Ok(())
}

/// `pg_publication_tables` resolves FOR ALL TABLES, schemas and partitions.
const PUBLICATIONS: &str = "
    SELECT DISTINCT t.pubname::text FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename WHERE c.oid = ANY ($1) ORDER BY 1";

async fn replica_identity(scene: &mut Scene<'_>) -> Result<()> {
    let table = scene.relation.sql_name();
    let published = scene
        .ask
        .one(
            "SELECT EXISTS (SELECT FROM pg_publication_tables t JOIN pg_publication u ON u.pubname = t.pubname AND u.pubupdate
                    JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
                    WHERE c.oid = ANY ($1)) AS updates",
            &[p(&scene.relation.oids())],
        )
        .await?
        .get::<_, bool>("updates");
    let lacks = match scene.relation.replica_identity.as_str() {
        "f" => {
            let says = format!("`{table}` has REPLICA IDENTITY FULL");
            let out = if scene.relation.key.is_empty() {
                format!(
                    "CREATE a unique index over columns that are not protected, then ALTER TABLE {table} REPLICA IDENTITY USING INDEX …"
                )
            } else {
                format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT")
            };
            scene.warn(Word::ReplicaIdentityFull.finding(says).out(out));
            false
        }
        "i" => {
            by_index(scene).await?;
            false
        }
        "n" => true,
        _ => scene.relation.key.is_empty(),
    };
    if lacks && published {
        let says = format!("`{table}` publishes updates and has no replica identity: every UPDATE fails");
        scene.refuse(Word::ReplicaIdentityMissing.finding(says));
    }
    Ok(())
}

async fn by_index(scene: &mut Scene<'_>) -> Result<()> {
    let rows = scene
        .ask
        .rows(
            "SELECT i.relname::text, a.attname::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                    JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey::int2[])
             WHERE x.indrelid = $1 AND x.indisreplident AND a.attname = ANY ($2) ORDER BY 2",
            &[p(&scene.relation.oid), p(&scene.names())],
        )
        .await?;
    for row in rows {
        let (index, column): (String, String) = (row.get(0), row.get(1));
        let says = format!("the replica identity is the index `{index}`, which holds `{column}`");
        scene.refuse(Word::ReplicaIdentityColumn.about(&column, says));
    }
    Ok(())
}

async fn slots(scene: &mut Scene<'_>) -> Result<()> {
    let rows = scene
        .ask
        .rows(
            "SELECT s.slot_name::text AS name, s.slot_type AS kind, s.active,
                    coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                             s.restart_lsn), 0)::int8 AS held
             FROM pg_replication_slots s
             WHERE NOT s.temporary AND (s.slot_type = 'physical' OR s.database = current_database()) ORDER BY 1",
            &[],
        )
        .await?;
    for row in rows {
        let (name, logical) = (row.get::<_, String>("name"), row.get::<_, String>("kind") == "logical");
        let active: bool = row.get("active");
        let state = if active { "in use" } else { "nobody reads it" };
        let word = if logical { Word::LogicalSlot } else { Word::Slot };
        let held = sizes::in_words(count(&row, "held"));
        let says = format!("the slot `{name}` ({state}) holds {held} of write-ahead log now");
        let drop = format!("SELECT pg_drop_replication_slot('{}')", name.replace('\'', "''"));
        scene.warn(if active {
            word.finding(says)
        } else {
            word.finding(says).out(format!("{drop}, if nobody will read it"))
        });
    }
    Ok(())
}

async fn standbys(scene: &mut Scene<'_>) -> Result<()> {
    let names = scene
        .ask
        .texts("SELECT coalesce(nullif(application_name, ''), 'unnamed') FROM pg_stat_replication ORDER BY 1", &[])
        .await?;
    if !names.is_empty() {
        scene.warn(Word::Standby.finding(format!("{} receive the write-ahead log", listed(&names, 5))));
    }
    let archive = scene.ask.one("SELECT current_setting('archive_mode') <> 'off' AS on", &[]).await?;
    if archive.get("on") {
        scene.warn(Word::Archive.finding("archive_mode is on"));
    }
    Ok(())
}
