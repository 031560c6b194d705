//! `enfold worker`: works on the jobs that wait.

use std::fmt::Write as _;

use enfold::{Enfold, Result};
use enfold_jobs::ops::{self, Session, WorkOptions};
use tokio::task::JoinHandle;

use super::Context;
use crate::args::Worker;
use crate::onlooker::Onlooker;
use crate::words::some;

pub(crate) async fn run(context: &Context<'_>, args: &Worker) -> Result<()> {
    context
        .with_session_and_keys(async |session, enfold| {
            let told = tell(context, args, session, enfold).await?;
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let options = WorkOptions {
                name: format!("{host}:{}", std::process::id()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                until_idle: args.until_idle,
                only: None,
            };
            context.screen.say(&format!("Worker {} is ready.", options.name));
            let onlooker = Onlooker::new(context.screen);
            let worked = ops::work(session, &options, &onlooker).await;
            told.iter().for_each(JoinHandle::abort);
            let report = worked?;
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

/// Tells figures for Prometheus while the worker works.
#[cfg(feature = "serve")]
async fn tell(
    context: &Context<'_>,
    args: &Worker,
    session: &Session,
    enfold: &Enfold,
) -> Result<Option<JoinHandle<()>>> {
    use std::sync::Arc;

    use enfold_server::metrics::{Exporter, Listening};

    let Some(address) = args.metrics else { return Ok(None) };
    let listening = Listening::on(address)?;
    context.screen.say(&format!("Figures are at http://{}/metrics.", listening.address()?));
    let exporter = Arc::new(Exporter::new(enfold.clone(), Arc::clone(&session.db)));
    Ok(Some(tokio::spawn(listening.run(exporter, std::future::pending()))))
}

#[cfg(not(feature = "serve"))]
async fn tell(_: &Context<'_>, args: &Worker, _: &Session, _: &Enfold) -> Result<Option<JoinHandle<()>>> {
    match args.metrics {
        None => Ok(None),
        Some(_) => Err(enfold::Error::new(enfold::Code::Usage, "this program was built without the service")),
    }
}
