//! `enfold worker`: works on the jobs that wait.

use std::fmt::Write as _;

use enfold::Result;
use enfold_jobs::ops::{self, WorkOptions};

use super::Context;
use crate::args::Worker;
use crate::onlooker::Onlooker;
use crate::words::some;

pub(crate) async fn run(context: &Context<'_>, args: &Worker) -> Result<()> {
    context
        .with_session(async |session| {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let options = WorkOptions {
                name: format!("{host}:{}", std::process::id()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                until_idle: args.until_idle,
                only: None,
            };
            context.screen.say(&format!("Worker {} is ready.", options.name));
            let onlooker = Onlooker::new(context.screen);
            let report = ops::work(session, &options, &onlooker).await?;
            drop(onlooker);
            context.screen.result(&report, |out| {
                for (job, state) in &report.ended {
                    // Writing to a String cannot fail.
                    let _ = writeln!(out, "job {}: {}", job.0, super::status::word(state));
                }
                for (job, error) in &report.failed {
                    let _ = writeln!(out, "job {}: failed: {error}", job.0);
                }
                let _ = writeln!(out, "Brought {} to their end.", some(report.ended.len(), "job"));
            })
        })
        .await
}
