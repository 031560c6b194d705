//! The planner's statistics: they hold values of the column, and the catalog holds old versions of them.

use enfold::Result;
use zeroize::Zeroizing;

use super::super::ask::p;
use super::super::qualified;
use super::Search;
use crate::hex::hex;
use crate::model::Storage;
use crate::words::Kind;

pub(super) async fn look(search: &mut Search<'_>) -> Result<()> {
    columns(search).await?;
    extended(search).await?;
    catalog_pages(search).await
}

/// Whether a value that the statistics print has the beginning of an envelope. Bytes are printed in hexadecimal; an
/// expression such as lower() may have folded the case.
fn is_sealed(storage: Storage, printed: &str) -> bool {
    let printed = printed.to_ascii_lowercase();
    match storage {
        Storage::Text => printed.starts_with("enf1:"),
        Storage::Json => printed.starts_with("\"enf1:") || printed.contains("\"enf\": \"enf1:"),
        Storage::Bytes => printed.strip_prefix("\\x").is_some_and(|hex| hex.starts_with(&magic())),
    }
}

fn magic() -> String {
    hex(&enfold_core::layout::MAGIC)
}

async fn columns(search: &mut Search<'_>) -> Result<()> {
    // Of a document the statistics have whole ones, whose other members are plaintext rightly.
    for column in search.target.columns.iter().filter(|column| column.member.is_none()) {
        // An expression index has statistics of its own, under the index's name.
        let rows = search
            .ask
            .rows(
                "SELECT format('%I.%I', s.schemaname, s.tablename) AS name,
                        coalesce(s.most_common_vals::text::text[], '{}') || coalesce(s.histogram_bounds::text::text[], '{}') AS vals
                 FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
                      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
                 WHERE (c.oid = ANY ($1) AND s.attname = $2)
                    OR c.oid IN (SELECT x.indexrelid FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attname = $2
                                 JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid AND d.refobjid = x.indrelid
                                      AND d.refobjsubid = a.attnum WHERE x.indrelid = ANY ($1) AND x.indexprs IS NOT NULL)",
                &[p(&search.oids), p(&column.name)],
            )
            .await?;
        let plain: usize = rows
            .iter()
            .map(|row| {
                let values: Vec<Option<Zeroizing<String>>> =
                    row.get::<_, Vec<Option<String>>>("vals").into_iter().map(|v| v.map(Zeroizing::new)).collect();
                values.iter().flatten().filter(|value| !is_sealed(column.storage, value)).count()
            })
            .sum();
        let table = qualified(&search.target.table);
        if plain > 0 {
            let place = format!("pg_statistic: most common values and histogram of {table}");
            let residue =
                Kind::Statistics.residue(place, Some(&column.name), Some(plain as u64), format!("ANALYZE {table}"));
            search.found.push(residue);
        }
    }
    Ok(())
}

async fn extended(search: &mut Search<'_>) -> Result<()> {
    // Of a document the statistics have whole ones, whose other members are plaintext rightly.
    for column in search.target.columns.iter().filter(|column| column.member.is_none()) {
        let rows = search
            .ask
            .rows(
                "SELECT format('%I.%I', n.nspname, s.stxname) AS name, format('%I.%I', v.schemaname, v.tablename) AS on_table,
                        ARRAY(SELECT v.most_common_vals[i][array_position(v.attnames::text[], $2)] FROM generate_subscripts(v.most_common_vals, 1) i) AS vals,
                        v.statistics_name IS NULL AS hidden
                 FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
                      JOIN pg_attribute a ON a.attrelid = s.stxrelid AND a.attname = $2
                      LEFT JOIN pg_stats_ext v ON v.statistics_schemaname = n.nspname AND v.statistics_name = s.stxname
                 WHERE s.stxrelid = ANY ($1) AND a.attnum = ANY (s.stxkeys::int2[]) ORDER BY 1",
                &[p(&search.oids), p(&column.name)],
            )
            .await?;
        for row in rows {
            let name: String = row.get("name");
            let values: Vec<Option<Zeroizing<String>>> =
                row.get::<_, Vec<Option<String>>>("vals").into_iter().map(|v| v.map(Zeroizing::new)).collect();
            let plain = values.iter().flatten().filter(|value| !is_sealed(column.storage, value)).count();
            if plain > 0 {
                let place = format!("{name}: extended statistics with most common values");
                let clear = format!("DROP STATISTICS {name}, or ANALYZE {}", row.get::<_, String>("on_table"));
                search.found.push(Kind::ExtendedStatistics.residue(
                    place,
                    Some(&column.name),
                    Some(plain as u64),
                    clear,
                ));
            }
        }
    }
    Ok(())
}

/// ANALYZE replaces rows of these catalogs, and their old versions stay like those of any table.
async fn catalog_pages(search: &mut Search<'_>) -> Result<()> {
    if !search.reader.can_read() || search.needles.is_empty() {
        let clear = "VACUUM (FULL) pg_catalog.pg_statistic, as a superuser";
        search.found.push(Kind::CatalogPages.residue("pg_catalog.pg_statistic: not searched", None, None, clear));
        return Ok(());
    }
    let rows = search
        .ask
        .rows(
            "SELECT c.oid, c.reltoastrelid AS toast, c.oid::regclass::text AS name FROM pg_class c
             WHERE c.oid IN ('pg_catalog.pg_statistic'::regclass, 'pg_catalog.pg_statistic_ext_data'::regclass)",
            &[],
        )
        .await?;
    for row in rows {
        let name: String = row.get("name");
        let mut old = 0;
        for relation in [row.get::<_, u32>("oid"), row.get::<_, u32>("toast")] {
            old += search.reader.search_heap(search.ask, relation, &search.needles).await?.old;
        }
        if old > 0 {
            let place = format!("{name}: known values in old versions of statistics");
            search.found.push(Kind::CatalogPages.residue(
                place,
                None,
                Some(old),
                format!("VACUUM (FULL) pg_catalog.{}", name.trim_start_matches("pg_catalog.")),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_statistics_print_is_told_from_an_envelope() {
        assert!(is_sealed(Storage::Text, "enf1:AAAA"));
        assert!(is_sealed(Storage::Text, "ENF1:AAAA"));
        assert!(!is_sealed(Storage::Text, "ada@example.org"));
        assert!(is_sealed(Storage::Json, "\"enf1:AAAA\""));
        assert!(!is_sealed(Storage::Json, "{\"a\": 1}"));
        assert!(is_sealed(Storage::Bytes, &format!("\\x{}00", magic())));
        assert!(!is_sealed(Storage::Bytes, "\\x00"));
    }
}
