//! Who is connected, and what the server writes into its log.

use enfold::Result;

use super::super::ask::{count, p};
use super::{Scene, listed};
use crate::database::Connected;
use crate::words::Word;

/// Applications whose role may read the table or one of its columns, ourselves left out.
pub(super) async fn connected(scene: &mut Scene<'_>) -> Result<Vec<Connected>> {
    // The kind of another role's session is hidden from who has not pg_read_all_stats; background workers have no role.
    let rows = scene
        .ask
        .rows(
            "SELECT coalesce(s.application_name, '') AS application, s.usename::text AS role, count(*) AS sessions
             FROM pg_stat_activity s
             WHERE s.datname = current_database() AND s.pid <> pg_backend_pid() AND coalesce(s.backend_type, 'client backend') = 'client backend'
               AND s.usesysid IS NOT NULL AND coalesce(s.application_name, '') NOT LIKE 'enfold%'
               AND (has_table_privilege(s.usesysid, $1, 'SELECT') OR has_any_column_privilege(s.usesysid, $1, 'SELECT'))
             GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
            &[p(&scene.relation.oid)],
        )
        .await?;
    let connected: Vec<Connected> = rows
        .iter()
        .map(|row| Connected {
            application: row.get("application"),
            role: row.get("role"),
            sessions: count(row, "sessions"),
        })
        .collect();
    if !connected.is_empty() {
        let names: Vec<String> = connected
            .iter()
            .map(|c| {
                if c.application.is_empty() {
                    format!("{} (no application_name)", c.role)
                } else {
                    c.application.clone()
                }
            })
            .collect();
        let sessions: u64 = connected.iter().map(|c| c.sessions).sum();
        let some = if sessions == 1 { "1 session".to_owned() } else { format!("{sessions} sessions") };
        scene.warn(Word::ConnectedApplication.finding(format!("{some} may read the table: {}", listed(&names, 8))));
    }
    Ok(connected)
}

/// Whether the server's settings, or those of a role or database, put statements or their parameters into the log.
pub(super) async fn settings(scene: &mut Scene<'_>) -> Result<()> {
    let rows = logging(scene.ask).await?;
    if !rows.is_empty() {
        scene.warn(Word::StatementLog.finding(format!("the server logs statements: {}", listed(&rows, 6))));
    }
    Ok(())
}

/// The settings that log statements, as `name = value`.
pub(in crate::postgres) async fn logging(ask: &super::super::ask::Ask<'_>) -> Result<Vec<String>> {
    // Settings of single roles and databases are in pg_db_role_setting, as `name=value`.
    ask.texts(
        "WITH set(name, value, of) AS (
             SELECT name, setting, '' FROM pg_settings
             WHERE name IN ('log_statement', 'log_min_duration_statement', 'log_min_duration_sample', 'log_transaction_sample_rate',
                            'auto_explain.log_min_duration', 'pgaudit.log', 'log_parameter_max_length_on_error')
             UNION ALL
             SELECT split_part(c, '=', 1), split_part(c, '=', 2),
                    coalesce(' for role ' || pg_get_userbyid(nullif(s.setrole, 0)), '') || coalesce(' in database ' || d.datname, '')
             FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
             WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
         )
         SELECT name || ' = ' || value || of FROM set
         WHERE (name = 'log_statement' AND value IN ('mod', 'all'))
            OR (name IN ('log_min_duration_statement', 'log_min_duration_sample', 'auto_explain.log_min_duration') AND value NOT LIKE '-%')
            OR (name = 'log_transaction_sample_rate' AND value NOT IN ('0', '0.0'))
            OR (name = 'log_parameter_max_length_on_error' AND value <> '0')
            OR (name = 'pgaudit.log' AND value NOT IN ('', 'none'))
         ORDER BY 1",
        &[],
    )
    .await
}
