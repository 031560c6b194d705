//! `enfold prune`: says which rows the policy's rules doom, and deletes them.

use std::fmt::Write as _;

use enfold::{Code, Error, Result};
use enfold_jobs::ops::{self, PruneReport, RulePlan};
use enfold_jobs::prune::{Along, OnDelete};

use super::Context;
use crate::args::Prune;
use crate::onlooker::Onlooker;
use crate::table::Table;
use crate::words::{count, rows};

pub(crate) async fn run(context: &Context<'_>, args: &Prune) -> Result<()> {
    context
        .with_session(async |session| {
            let pace = super::pace(session, args.rate, args.workers)?;
            let plan = ops::plan_prune(session, &args.rule).await?;
            if args.dry_run {
                return context.screen.result(&plan, |out| write_plan(context, &plan, out));
            }
            if plan.iter().any(RulePlan::has_work) {
                let mut text = String::new();
                write_plan(context, &plan, &mut text);
                context.screen.say(text.trim_end());
                settled(&plan)?;
                context.screen.confirm("This deletes these rows, and there is no way back.", "delete", args.yes)?;
            }
            let onlooker = Onlooker::new(context.screen);
            let report = ops::prune(session, &plan, &pace, &onlooker).await?;
            drop(onlooker);
            context.screen.result(&report, |out| write(&report, out))?;
            verdict(&report)
        })
        .await
}

/// Refused before anybody is asked.
fn settled(plan: &[RulePlan]) -> Result<()> {
    let mut refused = plan.iter().filter(|rule| rule.has_work() && !rule.refusals.is_empty()).peekable();
    if refused.peek().is_none() {
        return Ok(());
    }
    let mut error = Error::new(Code::PlanRefused, "rows cannot be deleted as things stand");
    for rule in refused {
        error = rule.refusals.iter().fold(error, |error, says| error.cause(format!("rule `{}`: {says}", rule.rule)));
        error = error.hint(format!("if that is meant, add the tables to `takes_along` in `[prune.{}]`", rule.rule));
    }
    Err(error.hint("nothing was deleted"))
}

fn write_plan(context: &Context<'_>, plan: &[RulePlan], out: &mut String) {
    let mut table = Table::new(&["rule", "table", "goes", "of rows", "where"]);
    for rule in plan {
        let (doomed, all) = (count(rule.doomed), count(rule.rows));
        let old = format!("{} < {}", rule.column, rule.before);
        table.row([rule.rule.clone(), rule.table.clone(), doomed, all, old]);
    }
    table.write(context.screen, out);
    // Writing to a String cannot fail.
    for rule in plan {
        for along in &rule.along {
            let _ = writeln!(out, "{}: {}", rule.rule, says_along(along));
        }
        if !rule.triggers.is_empty() {
            let _ = writeln!(out, "{}: triggers fire for each row: {}", rule.rule, rule.triggers.join(", "));
        }
        if let Some(job) = rule.goes_on {
            let _ = writeln!(out, "{}: job {} was interrupted, and goes on", rule.rule, job.0);
        }
        for refusal in &rule.refusals {
            let _ = writeln!(out, "{}: REFUSED: {refusal}", rule.rule);
        }
    }
}

fn says_along(along: &Along) -> String {
    let (table, some) = (&along.table, along.rows.map_or("rows that this role may not count".to_owned(), rows));
    let mut says = match along.on_delete {
        OnDelete::Cascade => format!("{some} of {table} would go along"),
        OnDelete::SetNull => format!("{some} of {table} would refer to nothing"),
        OnDelete::SetDefault => format!("{some} of {table} would refer to the default"),
        OnDelete::Refuse => format!("{some} of {table} would stand in the way"),
    };
    if along.unindexed {
        says.push_str("; no index finds them, so each row that goes reads the whole table");
    }
    says
}

fn write(report: &PruneReport, out: &mut String) {
    if report.rules.is_empty() {
        out.push_str("No row is old enough: there is nothing to delete.\n");
    }
    for rule in &report.rules {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}: {} of {} deleted", rule.rule, rows(rule.deleted), rule.table);
        if rule.left > rule.failed {
            let _ =
                writeln!(out, "{}: {} held by somebody, until the next time", rule.rule, rows(rule.left - rule.failed));
        }
    }
}

/// What the database would not let go: the rest is done all the same, and the exit code says that it is not all.
fn verdict(report: &PruneReport) -> Result<()> {
    let failed: u64 = report.rules.iter().map(|rule| rule.failed).sum();
    if failed == 0 {
        return Ok(());
    }
    let mut error = Error::new(Code::RowsFailed, format!("{} could not be deleted", rows(failed)));
    for rule in &report.rules {
        let said = rule.errors.iter().take(5).map(|e| format!("{} {}: {}", rule.table, e.row, e.reason));
        error = said.fold(error, Error::cause);
    }
    let jobs: Vec<String> = report.rules.iter().filter(|r| r.failed > 0).map(|r| r.job.0.to_string()).collect();
    Err(error
        .hint("rows that others refer to stay until those are gone, or until their foreign keys say ON DELETE")
        .hint(format!("`enfold jobs show {}` lists them", jobs.join("` and `enfold jobs show "))))
}
