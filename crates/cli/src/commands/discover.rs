//! `enfold discover`: which columns hold personal or secret data. Values are looked at and never shown.

use std::fmt::Write as _;

use enfold::policy::DatabaseUrl;
use enfold::{Code, Error, Result};
use enfold_discover::{ColumnInput, Finding, TableInput, classify};
use enfold_jobs::database::{Database, TableSurvey};
use enfold_jobs::model::TableName;
use serde::Serialize;

use super::Context;
use crate::args::Discover;
use crate::screen::Screen;
use crate::table::Table;
use crate::words::some;

/// What was found in one database.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) database: String,
    pub(crate) tables: Vec<TableReport>,
    pub(crate) columns_looked_at: usize,
}

#[derive(Serialize)]
pub(crate) struct TableReport {
    /// As the policy would name it.
    pub(crate) table: String,
    pub(crate) rows: u64,
    pub(crate) findings: Vec<Finding>,
    #[serde(skip)]
    pub(crate) survey: TableSurvey,
}

pub(crate) async fn run(context: &Context<'_>, args: &Discover) -> Result<()> {
    let url = match &args.database {
        Some(url) => context.database_url(url)?,
        None => context.policy()?.database,
    };
    let database = enfold_jobs::connect(&url, None).await?;
    let report = look(database.as_ref(), &url, args.sample).await?;
    context.screen.result(&report, |out| write(context.screen, &report, out))
}

/// Surveys and samples every table.
pub(crate) async fn look(database: &dyn Database, url: &DatabaseUrl, sample: u32) -> Result<Report> {
    let mut tables = Vec::new();
    let mut columns_looked_at = 0;
    for survey in database.survey().await? {
        let names: Vec<String> = survey.columns.iter().map(|c| c.name.clone()).collect();
        columns_looked_at += names.len();
        let rows = database.sample(&survey.table, &names, sample).await?;
        let input = input(&survey, &rows);
        // Google's telephone metadata is compiled on first use and a sample takes a while to judge.
        let findings = tokio::task::spawn_blocking(move || classify(&input))
            .await
            .map_err(|_| Error::new(Code::Internal, "judging a sample of values failed"))?;
        tables.push(TableReport { table: policy_name(&survey.table), rows: survey.rows, findings, survey });
    }
    Ok(Report { database: url.display(), tables, columns_looked_at })
}

/// `schema.table`, or `table` where there is no schema.
pub(crate) fn policy_name(table: &TableName) -> String {
    if table.schema.is_empty() { table.table.clone() } else { format!("{}.{}", table.schema, table.table) }
}

fn input(survey: &TableSurvey, rows: &[Vec<Option<String>>]) -> TableInput {
    let columns = survey.columns.iter().enumerate().map(|(i, column)| ColumnInput {
        name: column.name.clone(),
        sql_type: column.sql_type.clone(),
        comment: column.comment.clone(),
        primary_key: column.primary_key,
        references: column.references.clone(),
        values: rows.iter().map(|row| row.get(i).cloned().flatten()).collect(),
    });
    TableInput { name: survey.table.table.clone(), comment: survey.comment.clone(), columns: columns.collect() }
}

pub(crate) fn write(screen: &Screen, report: &Report, out: &mut String) {
    let mut table = Table::new(&["column", "class", "confidence", "evidence"]);
    for t in &report.tables {
        for f in &t.findings {
            let path = f.path.as_deref().map(|p| format!(" {p}")).unwrap_or_default();
            table.row([
                format!("{}.{}{path}", t.table, f.column),
                f.class.to_string(),
                format!("{} %", f.confidence),
                evidence(f),
            ]);
        }
    }
    let found: usize = report.tables.iter().map(|t| t.findings.len()).sum();
    if found > 0 {
        table.write(screen, out);
        out.push('\n');
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{} in {} of {}, as far as names and samples show.",
        some(found, "finding"),
        some(report.columns_looked_at, "column"),
        some(report.tables.len(), "table")
    );
}

fn evidence(finding: &Finding) -> String {
    let e = &finding.evidence;
    let mut parts = Vec::new();
    if let Some(named) = &e.named {
        parts.push(format!("named `{named}`"));
    }
    if e.sampled > 0 {
        parts.push(format!("{} of {} values", e.matched, e.sampled));
    }
    parts.join(", ")
}
