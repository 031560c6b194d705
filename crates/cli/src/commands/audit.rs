//! `enfold audit`: is any plaintext left?

use std::fmt::Write as _;

use enfold::{Code, Error, Result};
use enfold_jobs::ops::audit::ColumnStatus;
use enfold_jobs::ops::{self, AuditReport, ResidueReport, Selection};
use serde::Serialize;

use super::Context;
use crate::args::Audit;
use crate::screen::Screen;
use crate::table::Table;

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    audit: AuditReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    residue: Option<ResidueReport>,
}

pub(crate) async fn run(context: &Context<'_>, args: &Audit) -> Result<()> {
    let policy = context.policy()?;
    let database = enfold_jobs::connect(&policy.database, Some(&policy.jobs)).await?;
    let sample = (!args.full).then_some(args.sample);
    let audit = ops::audit(database.as_ref(), &policy, &Selection::All, sample).await?;
    let residue = if args.residue {
        Some(ops::residue(database.as_ref(), &policy, &Selection::All, &ops::Probes::new()).await?)
    } else {
        None
    };
    let report = Report { audit, residue };
    context.screen.result(&report, |out| {
        write(context.screen, &report.audit, out);
        if let Some(residue) = &report.residue {
            out.push('\n');
            write_residue(context.screen, residue, out);
        }
    })?;
    verdict(&report)
}

/// A leak is the result of an audit, not a failure of it: the report is printed, and the exit code is 4.
fn verdict(report: &Report) -> Result<()> {
    if report.audit.leaks() {
        let leaks = report.audit.columns.iter().filter(|c| c.status == ColumnStatus::Leaks).count();
        return Err(Error::new(
            Code::PlaintextFound,
            format!("plaintext in {leaks} of {} columns", report.audit.columns.len()),
        )
        .hint("`enfold plan` shows what protecting them takes"));
    }
    if report.residue.as_ref().is_some_and(ResidueReport::seen) {
        return Err(Error::new(Code::PlaintextFound, "copies of plaintext outside the live rows")
            .hint("each is listed with the command that clears it"));
    }
    Ok(())
}

pub(crate) fn write(screen: &Screen, report: &AuditReport, out: &mut String) {
    let mut table = Table::new(&["column", "status", "rows", "envelopes", "plaintext", "lookalikes", "null"]);
    for c in &report.columns {
        let status = match c.status {
            ColumnStatus::Encrypted => screen.good("ENCRYPTED"),
            ColumnStatus::Leaks => screen.bad("LEAKS"),
            ColumnStatus::Empty => "empty".to_owned(),
        };
        let n = &c.census;
        let counts = [n.rows, n.envelopes, n.plaintext, n.lookalikes, n.nulls].map(|n| n.to_string());
        table.row([c.column.clone(), status].into_iter().chain(counts));
    }
    table.write(screen, out);
    for c in report.columns.iter().filter(|c| !c.census.examples.is_empty()) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "plaintext in `{}`, for example in rows {}", c.column, c.census.examples.join(", "));
    }
    if !report.full {
        out.push_str("This was a sample; `enfold audit --full` looks at every row.\n");
    }
}

fn write_residue(screen: &Screen, report: &ResidueReport, out: &mut String) {
    let mut table = Table::new(&["residue", "where", "copies", "clear with"]);
    for r in report.tables.iter().flat_map(|t| &t.found) {
        let found = r.found.map_or_else(|| "cannot look".to_owned(), |n| n.to_string());
        table.row([r.kind.clone(), r.place.clone(), found, r.clear.clone()]);
    }
    if table.is_empty() {
        out.push_str("No copies of plaintext were found outside the live rows.\n");
    } else {
        table.write(screen, out);
    }
}
