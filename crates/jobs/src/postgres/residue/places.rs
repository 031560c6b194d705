//! The table's own files: old row versions, TOAST, indexes, dropped columns, materialised views.

use enfold::Result;
use tokio_postgres::Row;

use super::super::ask::{count, p};
use super::super::{ident, qualified};
use super::Search;
use super::pages::Hits;
use crate::words::Kind;

/// `elsewhere_in_table`: how often live rows of this table hold a known value in another column.
pub(super) async fn look(search: &mut Search<'_>, elsewhere_in_table: u64) -> Result<()> {
    let live = heaps(search).await?;
    dropped_columns(search, live.saturating_sub(elsewhere_in_table)).await?;
    indexes(search).await?;
    materialised_views(search).await
}

/// Says what to do with a place: nothing was found, so much was found, or nobody could look.
fn verdict(search: &Search<'_>, hits: u64, unread: bool) -> Option<Option<u64>> {
    match (search.reader.can_read() && !search.needles.is_empty() && !(unread && hits == 0), hits) {
        (false, _) => Some(None),
        (true, 0) => None,
        (true, hits) => Some(Some(hits)),
    }
}

/// Old versions in the table's and TOAST's pages. Answers how many values lie in live rows of the table.
async fn heaps(search: &mut Search<'_>) -> Result<u64> {
    let rows = search
        .ask
        .rows(
            "SELECT c.oid, c.oid::regclass::text AS name, c.reltoastrelid AS toast, pg_relation_size(c.oid) > 0 AS has_pages,
                    coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0) > 0 AS has_toast,
                    coalesce(s.n_dead_tup, 0)::int8 AS dead, coalesce(ts.n_dead_tup, 0)::int8 AS toast_dead
             FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
                  LEFT JOIN pg_stat_all_tables ts ON ts.relid = c.reltoastrelid
             WHERE c.oid = ANY ($1) AND c.relkind = 'r' ORDER BY 2",
            &[p(&search.oids)],
        )
        .await?;
    let mut live = 0;
    for row in rows {
        let name: String = row.get("name");
        let clear = format!(
            "VACUUM (FULL, ANALYZE) {name}; it locks the table, and keeps old rows while an older transaction is open in any database of the server"
        );
        if row.get("has_pages") {
            let hits = search.reader.search_heap(search.ask, row.get("oid"), &search.needles).await?;
            live += hits.live;
            heap(search, Kind::DeadRows, &name, &row, "dead", hits, &clear);
        }
        if row.get("has_toast") {
            let hits = search.reader.search_heap(search.ask, row.get("toast"), &search.needles).await?;
            heap(search, Kind::ToastRows, &name, &row, "toast_dead", hits, &clear);
        }
    }
    Ok(live)
}

fn heap(search: &mut Search<'_>, kind: Kind, name: &str, row: &Row, dead: &str, hits: Hits, clear: &str) {
    let dead = count(row, dead);
    let Some(found) = verdict(search, hits.old, hits.unread) else {
        // A long value may be compressed, and then it is not found: what is left over is told in any case.
        if hits.unknown > 0 && kind == Kind::ToastRows {
            let place = format!("{name}: {} old rows or unwiped pages in TOAST, which may be compressed", hits.unknown);
            search.found.push(kind.residue(place, None, None, clear));
        }
        return;
    };
    let place = match found {
        Some(_) if hits.partly => format!("{name}: known values in old versions, in the part of it that was read"),
        Some(_) => format!("{name}: known values in old row versions or freed room"),
        None => format!("{name}: {dead} old row versions by the statistics; its pages were not searched"),
    };
    let column = search.column().map(str::to_owned);
    search.found.push(kind.residue(place, column.as_deref(), found, clear));
}

async fn dropped_columns(search: &mut Search<'_>, live: u64) -> Result<()> {
    let rows = search
        .ask
        .rows(
            "SELECT a.attrelid::regclass::text AS name, count(*) AS columns FROM pg_attribute a
             WHERE a.attrelid = ANY ($1) AND a.attisdropped AND a.attnum > 0 AND pg_relation_size(a.attrelid) > 0 GROUP BY 1 ORDER BY 1",
            &[p(&search.oids)],
        )
        .await?;
    for row in rows {
        let name: String = row.get("name");
        // The old versions are told already; here are those that live rows still carry.
        let Some(found) = verdict(search, live, false) else { continue };
        let place = format!(
            "{name}: {} dropped columns, whose values stay in rows that were not rewritten",
            count(&row, "columns")
        );
        let clear = format!("VACUUM (FULL, ANALYZE) {name}");
        search.found.push(Kind::DroppedColumn.residue(place, None, found, clear));
    }
    Ok(())
}

async fn indexes(search: &mut Search<'_>) -> Result<()> {
    let blind: Vec<String> = search.target.indexes.iter().map(|i| i.column.clone()).collect();
    let rows = search
        .ask
        .rows(
            "SELECT DISTINCT x.indexrelid AS oid, x.indexrelid::regclass::text AS name, x.indrelid::regclass::text AS on_table,
                    k.conname::text AS constraint_name
             FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid AND i.relkind = 'i'
                  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attname = ANY ($2)
                  LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x')
             WHERE x.indrelid = ANY ($1) AND NOT EXISTS (SELECT FROM pg_attribute b WHERE b.attrelid = x.indrelid
                   AND b.attname = ANY ($3) AND b.attnum = ANY (x.indkey::int2[]))
               AND (a.attnum = ANY (x.indkey::int2[]) OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                    AND d.objid = x.indexrelid AND d.refobjid = x.indrelid AND d.refobjsubid = a.attnum))
             ORDER BY 2",
            &[p(&search.oids), p(&search.columns), p(&blind)],
        )
        .await?;
    for row in rows {
        let name: String = row.get("name");
        let hits = search.reader.search_index(search.ask, row.get("oid"), &search.needles).await?;
        let Some(found) = verdict(search, hits.old, hits.unread) else { continue };
        let place = match found {
            Some(_) => format!("{name}: known values in its entries"),
            None => format!("{name}: an index over the column; its pages were not searched"),
        };
        let clear = match row.get::<_, Option<String>>("constraint_name") {
            Some(constraint) => {
                format!("ALTER TABLE {} DROP CONSTRAINT {}", row.get::<_, String>("on_table"), ident(&constraint))
            }
            None => format!("DROP INDEX CONCURRENTLY {name}, or REINDEX INDEX CONCURRENTLY {name}"),
        };
        let column = search.column().map(str::to_owned);
        search.found.push(Kind::OldIndex.residue(place, column.as_deref(), found, clear));
    }
    Ok(())
}

async fn materialised_views(search: &mut Search<'_>) -> Result<()> {
    let rows = search
        .ask
        .rows(
            "WITH RECURSIVE above(oid) AS (
                 SELECT unnest($1::oid[])
                 UNION
                 SELECT r.ev_class FROM above v JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid
                      AND d.classid = 'pg_rewrite'::regclass JOIN pg_rewrite r ON r.oid = d.objid
             )
             SELECT c.oid, c.oid::regclass::text AS name FROM above v JOIN pg_class c ON c.oid = v.oid
             WHERE c.relkind = 'm' AND pg_relation_size(c.oid) > 0 ORDER BY 2",
            &[p(&search.oids)],
        )
        .await?;
    for row in rows {
        let name: String = row.get("name");
        let hits = search.reader.search_heap(search.ask, row.get("oid"), &search.needles).await?;
        let Some(found) = verdict(search, hits.live + hits.old, hits.unread) else { continue };
        let place = format!("{name}: a materialised view over {}", qualified(&search.target.table));
        search.found.push(Kind::MaterialisedView.residue(
            place,
            None,
            found,
            format!("REFRESH MATERIALIZED VIEW {name}"),
        ));
    }
    Ok(())
}
