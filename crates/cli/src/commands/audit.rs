//! `enfold audit`: is any plaintext left?

use std::fmt::Write as _;
use std::sync::Arc;

use enfold::policy::Policy;
use enfold::{Code, Error, Result};
use enfold_jobs::database::{Database, Dialect};
use enfold_jobs::ops::audit::{ColumnAudit, ColumnStatus};
use enfold_jobs::ops::{self, AuditReport, ResidueReport, Selection, Session};
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
    #[serde(skip_serializing_if = "Option::is_none")]
    probes: Option<Searched>,
}

/// What the search for copies went by.
#[derive(Serialize)]
struct Searched {
    /// Values that were opened and looked for.
    values: usize,
    /// Why there are none, where they could not be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    without: Option<String>,
}

/// Rows of each table whose values are looked for: enough to meet what is copied by the table, few enough to open soon.
const PROBED_ROWS: u32 = 200;

pub(crate) async fn run(context: &Context<'_>, args: &Audit) -> Result<()> {
    let policy = context.policy()?;
    let database = enfold_jobs::connect(&policy.database, Some(&policy.jobs)).await?;
    let sample = (!args.full).then_some(args.sample);
    let audit = match sample {
        Some(_) => ops::audit(database.as_ref(), &policy, &Selection::All, sample).await?,
        None => {
            // An auditor's role may have no right there; then nobody knows the versions of data keys.
            let catalog = enfold::catalog::connect(&policy.catalog).await.ok();
            ops::full_audit(database.as_ref(), catalog.as_deref(), &policy, &Selection::All).await?
        }
    };
    let (mut residue, mut searched) = (None, None);
    if args.residue {
        let (probes, without) = match probes(context, &policy, Arc::clone(&database), &audit).await {
            Ok(probes) => (probes, None),
            // An auditor's role may look at stored bytes without a key; it learns what can be learnt so.
            Err(error) => (ops::Probes::new(), Some(error.message().to_owned())),
        };
        residue = Some(ops::residue(database.as_ref(), &policy, &Selection::All, &probes).await?);
        searched = Some(Searched { values: probes.values().map(Vec::len).sum(), without });
    }
    let report = Report { audit, residue, probes: searched };
    let view = match database.dialect() {
        Dialect::Postgres => "enfold.coverage",
        Dialect::Sqlite => "enfold_coverage",
    };
    context.screen.result(&report, |out| {
        write(context.screen, &report.audit, out);
        if report.audit.noted {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "Noted in the view {view}.");
        }
        if let Some(residue) = &report.residue {
            out.push('\n');
            write_residue(context.screen, residue, out);
        }
        if let Some(searched) = &report.probes {
            write_searched(searched, out);
        }
    })?;
    verdict(&report)
}

/// Plaintext values of some rows. Keys are asked for only where something is sealed.
async fn probes(
    context: &Context<'_>,
    policy: &Policy,
    database: Arc<dyn Database>,
    audit: &AuditReport,
) -> Result<ops::Probes> {
    let sealed = |column: &ColumnAudit| column.census.envelopes > 0 || column.status == ColumnStatus::Foreign;
    if !audit.columns.iter().any(sealed) {
        return Ok(ops::Probes::new());
    }
    context
        .with_keys(policy.clone(), async |enfold| {
            let session = Session::over(enfold.clone(), database, &context.call(None))?;
            ops::probes(&session, &Selection::All, PROBED_ROWS).await
        })
        .await
}

/// A leak is the result of an audit, not a failure of it: the report is printed, and the exit code is 4.
fn verdict(report: &Report) -> Result<()> {
    let (all, leaks) = (report.audit.columns.len(), report.audit.count(ColumnStatus::Leaks));
    let refused = report.audit.count(ColumnStatus::Refused);
    let foreign = report.audit.count(ColumnStatus::Foreign);
    if leaks > 0 {
        let mut error = Error::new(Code::PlaintextFound, format!("plaintext in {leaks} of {all} columns"));
        if refused > 0 {
            error = error.cause(format!("{refused} more cannot hold envelopes, so what they hold is plaintext too"));
        }
        return Err(error.hint("`enfold plan` shows what protecting them takes"));
    }
    if refused > 0 {
        // A policy that asks for what cannot be is not met, and an auditor must not read it as clean.
        let line = format!("{refused} of {all} columns cannot hold envelopes, so what they hold is plaintext");
        return Err(Error::new(Code::PlaintextFound, line)
            .hint("`enfold plan` says the way out for each; until then leave them out of the policy"));
    }
    if foreign > 0 {
        let line = format!("another product encrypted values of {foreign} of {all} columns");
        return Err(Error::new(Code::PlaintextFound, line)
            .cause("none of them is plaintext by its form; under which key each is, nobody looked")
            .hint("`enfold plan` shows what it takes to make envelopes of them"));
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
            ColumnStatus::Foreign => screen.bad("FOREIGN"),
            ColumnStatus::Empty => "empty".to_owned(),
            ColumnStatus::Refused => screen.bad("REFUSED"),
        };
        let n = &c.census;
        let counted = |n: u64| if c.status == ColumnStatus::Refused { "-".to_owned() } else { n.to_string() };
        let counts = [n.rows, n.envelopes, n.plaintext, n.lookalikes, n.nulls].map(counted);
        table.row([c.column.clone(), status].into_iter().chain(counts));
    }
    table.write(screen, out);
    for (c, reason) in report.columns.iter().filter_map(|c| Some((c, c.reason.as_ref()?))) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "`{}` was not looked at: {reason}", c.column);
    }
    let leaks = |c: &&ColumnAudit| c.status != ColumnStatus::Foreign && !c.census.examples.is_empty();
    for c in report.columns.iter().filter(leaks) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "plaintext in `{}`, for example in rows {}", c.column, c.census.examples.join(", "));
    }
    for c in &report.columns {
        crate::words::readers(&c.column, c.readers.as_ref(), out);
    }
    if !report.full {
        out.push_str("This was a sample; `enfold audit --full` looks at every row.\n");
    }
}

fn write_searched(searched: &Searched, out: &mut String) {
    if searched.values > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "Copies of {} opened values were looked for.", searched.values);
        return;
    }
    out.push_str("No sealed value was opened, so copies of values were not looked for.\n");
    if let Some(reason) = &searched.without {
        let _ = writeln!(out, "The reason: {reason}");
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
