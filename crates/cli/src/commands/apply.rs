//! `enfold apply`: carries a plan out, after asking.

use std::fmt::Write as _;
use std::path::Path;

use enfold::{Code, Error, Result};
use enfold_jobs::ops::{self, Applied, ApplyOptions, ApplyReport, Observer, Plan, Selection};
use serde::Serialize;

use super::{Context, plan};
use crate::args::Apply;
use crate::onlooker::Onlooker;
use crate::words::rows;

pub(crate) async fn run(context: &Context<'_>, args: &Apply) -> Result<()> {
    context
        .with_session(async |session| {
            let pace = super::pace(session, args.rate, args.workers)?;
            let plan = match &args.plan {
                Some(file) => read(file)?,
                None => plan::make(session, &args.table, args.rewrite).await?,
            };
            if plan.is_refused() {
                return Err(plan::refused(&plan));
            }
            if plan.has_changes() {
                show(context, &plan);
                context.screen.confirm("This converts the columns above, in place and online.", "apply", args.yes)?;
            }
            let onlooker = Onlooker::new(context.screen);
            let options = ApplyOptions { pace, canary: args.canary };
            let report = ops::apply(session, &plan, &options, &onlooker).await?;
            if report.tables.iter().all(|table| table.outcome != Applied::Canary) {
                return end(context, onlooker, &report, None);
            }
            let next = Next::of(args, &plan);
            let question = format!(
                "The canary is out: {} converted so far. Look at the application.\n`{GO_ON}` converts the rest; `{TAKE_BACK}` \
                 decrypts {}; `{LEAVE}` leaves everything as it is now.",
                rows(report.tables.iter().map(|table| table.rows_changed).sum()),
                next.columns.join(", "),
            );
            let words = [GO_ON, TAKE_BACK, LEAVE];
            let stopped = || onlooker.stop_requested();
            let answer = if args.yes { None } else { context.screen.choose(&question, &words, stopped).await };
            match answer.as_deref() {
                Some(GO_ON) => {
                    let options = ApplyOptions { canary: None, ..options };
                    let report = ops::apply(session, &plan, &options, &onlooker).await?;
                    end(context, onlooker, &report, None)
                }
                Some(TAKE_BACK) => {
                    let selection = Selection::columns(&session.policy, &next.columns)?;
                    let report = ops::rollback(session, &selection, &options.pace, &onlooker).await?;
                    drop(onlooker);
                    context.screen.result(&report, |out| super::rollback::write(&report, out))
                }
                _ => end(context, onlooker, &report, Some(next)),
            }
        })
        .await
}

const GO_ON: &str = "go on";
const TAKE_BACK: &str = "take back";
const LEAVE: &str = "leave";

/// What can be done about a canary that is out.
#[derive(Serialize)]
struct Next {
    /// The columns that were being converted.
    #[serde(skip)]
    columns: Vec<String>,
    go_on: String,
    take_back: String,
}

impl Next {
    fn of(args: &Apply, plan: &Plan) -> Self {
        let begun = plan.tables.iter().filter(|table| !table.steps.is_empty());
        let columns: Vec<String> = begun
            .flat_map(|table| {
                let converts = table.columns.iter().filter(|column| column.converts);
                converts.map(|column| format!("{}.{}", table.name, column.name))
            })
            .collect();
        let mut go_on = "enfold apply".to_owned();
        if let Some(file) = &args.plan {
            go_on.push_str(&format!(" {}", file.display()));
        }
        args.table.iter().for_each(|table| go_on.push_str(&format!(" --table {table}")));
        if args.rewrite {
            go_on.push_str(" --rewrite");
        }
        let take_back = format!("enfold rollback {}", columns.join(" "));
        Self { columns, go_on, take_back }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    report: &'a ApplyReport,
    /// When a canary is out.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
}

fn end(context: &Context<'_>, onlooker: Onlooker<'_>, report: &ApplyReport, next: Option<Next>) -> Result<()> {
    drop(onlooker);
    let report = Report { report, next };
    context.screen.result(&report, |out| write(&report, out))
}

fn read(file: &Path) -> Result<Plan> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Error::new(Code::FileFailed, format!("reading the plan `{}`", file.display()))
            .cause(super::io_fact(&e))
            .hint("`enfold plan --save FILE` makes one")
    })?;
    Plan::from_json(&text)
}

/// The plan goes to standard error here: it is talk before a question, not the result.
fn show(context: &Context<'_>, plan: &Plan) {
    let mut text = String::new();
    plan::write(context.screen, plan, &mut text);
    context.screen.say(text.trim_end());
}

fn write(Report { report, next }: &Report<'_>, out: &mut String) {
    for table in &report.tables {
        let line = match table.outcome {
            Applied::Protected => format!("{}: protected, {} converted", table.table, rows(table.rows_changed)),
            Applied::Canary => format!("{}: canary, {} converted", table.table, rows(table.rows_changed)),
            Applied::NothingToDo => format!("{}: nothing to do", table.table),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{line}");
    }
    match next {
        None => out.push_str("\nNext: enfold audit --full, then enfold enforce --all\n"),
        Some(next) => {
            let _ = writeln!(
                out,
                "\nThe rest waits. Look at the application, then\n  to go on:           {}\n  to take them back:  {}",
                next.go_on, next.take_back
            );
        }
    }
}
