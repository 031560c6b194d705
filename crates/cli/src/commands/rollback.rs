//! `enfold rollback`: the way back, online.

use std::fmt::Write as _;

use enfold::Result;
use enfold::policy::Mode;
use enfold_jobs::ops::{self, RollbackReport, Selection, Session, Step, SteppedBack};

use super::Context;
use crate::args::{Rollback, WeakerMode};
use crate::onlooker::Onlooker;
use crate::words::{self, rows};

pub(crate) async fn run(context: &Context<'_>, args: &Rollback) -> Result<()> {
    context
        .with_session(async |session| {
            let selection = super::selection(&session.policy, &args.columns)?;
            match args.only_mode {
                Some(mode) => step_back(context, args, session, &selection, mode).await,
                None => roll_back(context, args, session, &selection).await,
            }
        })
        .await
}

async fn roll_back(context: &Context<'_>, args: &Rollback, session: &Session, selection: &Selection) -> Result<()> {
    let pace = super::pace(session, args.rate, args.workers)?;
    show(context, ops::plan_rollback(session, selection).await?);
    let chosen = selection.of(&session.policy);
    let mut columns = chosen.iter().flat_map(|(_, table, names)| names.iter().map(|name| &table.columns[*name]));
    let question = if columns.any(|column| column.writes.is_some()) {
        "This takes the columns above out of their envelopes: they will be stored as the steps say."
    } else {
        "This decrypts the columns above: they will be plaintext again."
    };
    context.screen.confirm(question, "decrypt", args.yes)?;
    let onlooker = Onlooker::new(context.screen);
    let report = ops::rollback(session, selection, &pace, &onlooker).await?;
    drop(onlooker);
    context.screen.result(&report, |out| write(&report, out))
}

async fn step_back(
    context: &Context<'_>,
    args: &Rollback,
    session: &Session,
    selection: &Selection,
    mode: WeakerMode,
) -> Result<()> {
    let mode = match mode {
        WeakerMode::Hybrid => Mode::Hybrid,
        WeakerMode::Legacy => Mode::Legacy,
    };
    show(context, ops::plan_step_back(session, selection, mode).await?);
    let question = "This lets the columns above take what is no envelope again.";
    context.screen.confirm(question, mode.word(), args.yes)?;
    let onlooker = Onlooker::new(context.screen);
    let report = ops::step_back(session, selection, mode, &onlooker).await?;
    drop(onlooker);
    context.screen.result(&report, |out| write_step(&report, out))
}

fn show(context: &Context<'_>, tables: Vec<(String, Vec<Step>)>) {
    for (table, steps) in tables {
        for step in steps {
            context.screen.say(&format!("{table}: {}", step.says));
        }
    }
}

pub(super) fn write(report: &RollbackReport, out: &mut String) {
    for table in &report.tables {
        let is = if table.formats.is_empty() { "plaintext again" } else { "as it was before" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}: {is}, {} converted", table.table, rows(table.rows_changed));
        for column in table.formats.keys() {
            words::readers(&format!("{}.{column}", table.table), table.readers.get(column), out);
        }
    }
}

fn write_step(report: &SteppedBack, out: &mut String) {
    let mode = report.mode.word();
    for column in &report.columns {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{column}: mode {mode}; its values stay as they are");
    }
}
