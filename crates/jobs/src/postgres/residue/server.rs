//! What lies outside the database's tables: recorded statements, logs, the write-ahead log and whoever has a copy of it.

use enfold::Result;
use zeroize::Zeroizing;

use super::super::ask::{count, p};
use super::super::ident;
use super::super::inspect::logging;
use super::Search;
use crate::words::Kind;

pub(super) async fn look(search: &mut Search<'_>) -> Result<()> {
    statement_texts(search).await?;
    log(search).await?;
    write_ahead_log(search).await?;
    receivers(search).await?;
    let clear = "let base backups, snapshots and dumps from before the conversion expire, or destroy them";
    search.found.push(Kind::BaseBackup.residue("backups outside the server", None, None, clear));
    Ok(())
}

async fn statement_texts(search: &mut Search<'_>) -> Result<()> {
    let schema = search
        .ask
        .texts("SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'", &[])
        .await?
        .pop();
    let Some(schema) = schema else { return Ok(()) };
    let place = format!("{}.pg_stat_statements", ident(&schema));
    let clear = format!("SELECT {}.pg_stat_statements_reset()", ident(&schema));
    let texts = search.ask.attempt(&format!("SELECT query, queryid IS NULL FROM {place} WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())")).await?;
    let Some(rows) = texts else {
        search.found.push(Kind::StatementTexts.residue(format!("{place}: cannot be read"), None, None, clear));
        return Ok(());
    };
    let hidden = rows.iter().any(|row| row.get::<_, bool>(1));
    let found = rows
        .iter()
        .filter_map(|row| row.get::<_, Option<String>>(0).map(Zeroizing::new))
        .filter(|text| !search.needles.places(text.as_bytes()).is_empty())
        .count();
    if found > 0 {
        let place = format!("{place}: statements with known values");
        search.found.push(Kind::StatementTexts.residue(place, None, Some(found as u64), clear));
    } else if hidden || search.needles.is_empty() {
        search.found.push(Kind::StatementTexts.residue(
            format!("{place}: not all of it could be searched"),
            None,
            None,
            clear,
        ));
    }
    Ok(())
}

async fn log(search: &mut Search<'_>) -> Result<()> {
    let settings = logging(search.ask).await?;
    let why = if settings.is_empty() {
        "statements that failed are in it with their literals".to_owned()
    } else {
        format!("statements are logged ({})", settings.join(", "))
    };
    let clear = "remove the log files from before the conversion, here and wherever they are collected";
    search.found.push(Kind::ServerLog.residue(format!("the server's log: {why}"), None, None, clear));
    Ok(())
}

async fn write_ahead_log(search: &mut Search<'_>) -> Result<()> {
    // Recycled segments keep their old bytes until they are written again: with wal_recycle off they are removed.
    let clear = "ALTER SYSTEM SET wal_recycle = off; SELECT pg_reload_conf(), pg_switch_wal(); CHECKPOINT; CHECKPOINT; then ALTER SYSTEM RESET wal_recycle";
    search.found.push(Kind::WriteAheadLog.residue("pg_wal", None, None, clear));
    let on = search.ask.one("SELECT current_setting('archive_mode') <> 'off' AS on", &[]).await?;
    if on.get("on") {
        let clear = "remove archived segments from before the end of the conversion";
        search.found.push(Kind::Archive.residue("the archive of the write-ahead log", None, None, clear));
    }
    Ok(())
}

async fn receivers(search: &mut Search<'_>) -> Result<()> {
    let slots = search
        .ask
        .rows(
            "SELECT s.slot_name::text AS name, coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                    ELSE pg_current_wal_lsn() END, s.restart_lsn), 0)::int8 AS held
             FROM pg_replication_slots s WHERE NOT s.temporary ORDER BY 1",
            &[],
        )
        .await?;
    for row in slots {
        let name: String = row.get("name");
        let place = format!("slot {name}: holds back {} bytes of the write-ahead log", count(&row, "held"));
        let clear =
            format!("let its reader catch up, or SELECT pg_drop_replication_slot('{}')", name.replace('\'', "''"));
        search.found.push(Kind::Slot.residue(place, None, None, clear));
    }
    let standbys = search
        .ask
        .texts("SELECT coalesce(nullif(application_name, ''), 'unnamed') FROM pg_stat_replication ORDER BY 1", &[])
        .await?;
    for name in standbys {
        let clear = "let it replay the rewriting of the table, then remove the segments of its pg_wal from before";
        search.found.push(Kind::Standby.residue(format!("standby {name}"), None, None, clear));
    }
    let publications = search
        .ask
        .texts(
            "SELECT DISTINCT t.pubname::text FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename WHERE c.oid = ANY ($1) ORDER BY 1",
            &[p(&search.oids)],
        )
        .await?;
    for name in publications {
        let clear = "run enfold audit --residue on every subscriber";
        search.found.push(Kind::Subscriber.residue(
            format!("subscribers of the publication {name}"),
            None,
            None,
            clear,
        ));
    }
    Ok(())
}
