//! `enfold plan`: what would be done, what it costs, what is refused and what to know first. It changes nothing.

use std::fmt::Write as _;

use enfold::{Code, Error, Result};
use enfold_jobs::database::Finding;
use enfold_jobs::ops::plan::{Readers, TablePlan};
use enfold_jobs::ops::{self, Plan, PlanOptions, Selection, Session};

use super::Context;
use crate::args;
use crate::screen::Screen;
use crate::table::Table;
use crate::words::{self, about, bytes, count, some};

pub(crate) async fn run(context: &Context<'_>, args: &args::Plan) -> Result<()> {
    context
        .with_session(async |session| {
            let selection = Selection::tables(&session.policy, &args.table)?;
            let options = PlanOptions { selection, rewrite: args.rewrite };
            let plan = ops::plan(session, &options).await?;
            if let Some(file) = &args.save {
                std::fs::write(file, plan.to_json()?).map_err(|e| {
                    Error::new(Code::FileFailed, format!("saving the plan to `{}`", file.display()))
                        .cause(e.kind().to_string())
                })?;
            }
            context.screen.result(&plan, |out| {
                if args.print_sql {
                    write_sql(&plan, out);
                } else {
                    write(context.screen, &plan, out);
                    next(&plan, args, out);
                }
            })?;
            if plan.is_refused() { Err(refused(&plan)) } else { Ok(()) }
        })
        .await
}

/// Makes the plan that `apply` asks about.
pub(crate) async fn make(session: &Session, tables: &[String], rewrite: bool) -> Result<Plan> {
    let selection = Selection::tables(&session.policy, tables)?;
    ops::plan(session, &PlanOptions { selection, rewrite }).await
}

/// The refusal of a plan as an error, for whoever asked for it to be carried out or looked for its exit code.
pub(crate) fn refused(plan: &Plan) -> Error {
    let refusals: usize = plan.tables.iter().map(|t| t.refusals.len()).sum();
    let mut error =
        Error::new(Code::PlanRefused, format!("the plan refuses {} until that is settled", some(refusals, "thing")));
    for (table, finding) in plan.tables.iter().flat_map(|t| t.refusals.iter().map(move |f| (t, f))) {
        error = error.cause(format!("{}: {}", place(&table.name, finding), finding.says));
    }
    for way in plan.tables.iter().flat_map(|t| &t.refusals).filter_map(|f| f.way_out.as_ref()) {
        error = error.hint(way);
    }
    error.hint("docs/reference/plan-findings.md explains every refusal").hint("nothing was changed")
}

/// Writing to a String cannot fail: the results of `write!` are let go in this file.
pub(crate) fn write(screen: &Screen, plan: &Plan, out: &mut String) {
    for table in &plan.tables {
        write_table(screen, table, out);
        out.push('\n');
    }
    let rows: u64 = plan.tables.iter().filter(|t| !t.steps.is_empty()).map(|t| t.rows).sum();
    let seconds: u64 = plan.tables.iter().map(|t| t.estimate.seconds).sum();
    let _ = writeln!(
        out,
        "In all: {}, {} calls to the key service, {}.",
        words::rows(rows),
        count(plan.kms_calls()),
        about(seconds)
    );
}

fn write_table(screen: &Screen, plan: &TablePlan, out: &mut String) {
    let _ = writeln!(out, "{}  {}, {}", screen.bold(&plan.name), words::rows(plan.rows), bytes(plan.bytes));
    let mut table = Table::new(&["column", "type", "mode", "plaintext", "envelopes", "what"]);
    for c in &plan.columns {
        let what = if c.converts { "protect" } else { "as it is" };
        table.row([
            format!("{}{}", c.name, c.class.as_ref().map(|k| format!(" ({k})")).unwrap_or_default()),
            c.sql_type.clone(),
            format!("{} -> {}", c.mode.word(), c.wanted.word()),
            count(c.census.plaintext),
            count(c.census.envelopes),
            what.to_owned(),
        ]);
    }
    table.write(screen, out);
    for c in &plan.columns {
        words::readers(&format!("{}.{}", plan.name, c.name), c.readers.as_ref(), out);
    }
    for finding in &plan.refusals {
        write_finding(&screen.bad("refused"), &plan.name, finding, out);
    }
    for finding in &plan.warnings {
        write_finding("mind", &plan.name, finding, out);
    }
    write_readers(&plan.readers, out);
    if plan.steps.is_empty() {
        return;
    }
    out.push_str("steps\n");
    for (i, step) in plan.steps.iter().enumerate() {
        let _ = writeln!(out, "  {:>2}. {}", i + 1, step.says);
        if !step.locks.is_empty() {
            let _ = writeln!(out, "      locks: {}", step.locks);
        }
    }
    let e = &plan.estimate;
    let _ = writeln!(
        out,
        "costs\n  {} key-service calls{}; values grow by {}; disk {} and write-ahead log {} at most; {} at {} rows/s",
        count(e.kms.keys + e.kms.values),
        if e.kms.exact { "" } else { " or more (tenants were sampled)" },
        bytes(e.grows),
        bytes(plan.growth.disk),
        bytes(plan.growth.wal),
        about(e.seconds),
        count(e.rows_per_second)
    );
}

fn place(table: &str, finding: &Finding) -> String {
    finding.column.as_ref().map_or_else(|| table.to_owned(), |column| format!("{table}.{column}"))
}

fn write_finding(kind: &str, table: &str, finding: &Finding, out: &mut String) {
    let _ = writeln!(out, "{kind} [{}] {}: {}", finding.word, place(table, finding), finding.says);
    if let Some(way) = &finding.way_out {
        let _ = writeln!(out, "  way out: {way}");
    }
}

fn write_readers(readers: &Readers, out: &mut String) {
    for reader in &readers.ready {
        let _ = writeln!(out, "reader {} {} is ready for envelopes", reader.name, reader.version);
    }
    for reader in &readers.behind {
        let _ = writeln!(out, "reader {} {} is NOT ready for envelopes", reader.name, reader.version);
    }
    for c in readers.connected.iter().filter(|c| !readers.ready.iter().any(|r| r.name == c.application)) {
        let name = if c.application.is_empty() { "(no application name)" } else { &c.application };
        let sessions = some(usize::try_from(c.sessions).unwrap_or(usize::MAX), "session");
        let _ = writeln!(out, "connected and not registered: {name}, role {}, {sessions}", c.role);
    }
}

fn write_sql(plan: &Plan, out: &mut String) {
    for step in plan.tables.iter().flat_map(|t| &t.steps).filter(|s| !s.sql.is_empty()) {
        let _ = writeln!(out, "-- {}\n-- locks: {}", step.says, step.locks);
        for sql in &step.sql {
            let _ = writeln!(out, "{};", sql.trim_end_matches(';'));
        }
    }
}

fn next(plan: &Plan, args: &args::Plan, out: &mut String) {
    if plan.is_refused() {
        return;
    }
    let line = match (&args.save, plan.has_changes()) {
        (_, false) => "Nothing to do: every column is as the policy wants it.".to_owned(),
        (Some(file), true) => format!("Next: enfold apply {}", file.display()),
        (None, true) => "Next: enfold apply".to_owned(),
    };
    let _ = writeln!(out, "{line}");
}
