//! `enfold apply`: carries a plan out, after asking.

use std::fmt::Write as _;
use std::path::Path;

use enfold::{Code, Error, Result};
use enfold_jobs::ops::run::Pace;
use enfold_jobs::ops::{self, Applied, ApplyOptions, ApplyReport, Plan};

use super::{Context, plan};
use crate::args::Apply;
use crate::onlooker::Onlooker;
use crate::words::rows;

pub(crate) async fn run(context: &Context<'_>, args: &Apply) -> Result<()> {
    context
        .with_session(async |session| {
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
            let options = ApplyOptions { pace: Pace { rate: args.rate, ..Pace::default() }, canary: args.canary };
            let onlooker = Onlooker::new(context.screen);
            let report = ops::apply(session, &plan, &options, &onlooker).await?;
            drop(onlooker);
            context.screen.result(&report, |out| write(&report, args, out))
        })
        .await
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

fn write(report: &ApplyReport, args: &Apply, out: &mut String) {
    for table in &report.tables {
        let line = match table.outcome {
            Applied::Protected => format!("{}: protected, {} converted", table.table, rows(table.rows_changed)),
            Applied::Canary => format!("{}: canary, {} converted", table.table, rows(table.rows_changed)),
            Applied::NothingToDo => format!("{}: nothing to do", table.table),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{line}");
    }
    out.push_str(if args.canary.is_some() {
        "\nNext: look at the application, then `enfold apply` for the rest, or `enfold rollback --all` to take it back\n"
    } else {
        "\nNext: enfold audit --full, then enfold enforce --all\n"
    });
}
