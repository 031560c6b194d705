//! The commands, a file each. What they share: the policy, read once with the environment, and logging set up by it.

#[cfg(feature = "serve")]
mod access_rules;
pub(crate) mod apply;
pub(crate) mod audit;
mod break_glass;
pub(crate) mod completions;
mod customers;
#[cfg(feature = "sqlite")]
pub(crate) mod demo;
pub(crate) mod discover;
pub(crate) mod doctor;
pub(crate) mod drop_reader;
pub(crate) mod drop_source;
pub(crate) mod enforce;
pub(crate) mod evidence;
pub(crate) mod explain;
pub(crate) mod index;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod passphrase;
pub(crate) mod plan;
mod prune;
pub(crate) mod reencrypt;
pub(crate) mod rollback;
#[cfg(feature = "serve")]
mod serve;
mod service_keys;
pub(crate) mod status;
pub(crate) mod value;
mod values;
pub(crate) mod verify;
pub(crate) mod worker;

use std::path::Path;

use enfold::policy::{DatabaseUrl, LogPolicy, Policy, TracePolicy, Variables};
use enfold::{CallContext, Code, Enfold, Error, Result};
use enfold_jobs::ops::{Pace, Selection, Session};

use crate::args::{Columns, Command, Global, Workers};
use crate::screen::Screen;

/// What every command is given.
pub(crate) struct Context<'a> {
    pub(crate) screen: &'a Screen,
    pub(crate) global: &'a Global,
    /// The environment, read once.
    pub(crate) variables: Variables,
}

impl Context<'_> {
    /// The policy of this run. Logging starts here, because the policy says how.
    pub(crate) fn policy(&self) -> Result<Policy> {
        let policy = enfold::policy::load(&self.global.config, &self.variables)?;
        crate::logging::init(&policy.log, &policy.traces, &self.global.log)?;
        Ok(policy)
    }

    /// For commands that start before there is a policy.
    pub(crate) fn log_without_policy(&self) -> Result<()> {
        crate::logging::init(&LogPolicy::default(), &TracePolicy::default(), &self.global.log)
    }

    /// Does `work` with the keys of `policy`, and writes down every event that waits, whatever came of the work.
    pub(crate) async fn with_keys<T>(&self, policy: Policy, work: impl AsyncFnOnce(&Enfold) -> Result<T>) -> Result<T> {
        let enfold = Enfold::open(policy).await?;
        let outcome = work(&enfold).await;
        let flushed = enfold.settle().await;
        enfold.sign_off().await;
        let value = outcome?;
        flushed.map(|()| value)
    }

    /// Does `work` with the policy, its database and its keys, and writes down the events as [`Self::with_keys`] does.
    pub(crate) async fn with_session<T>(&self, work: impl AsyncFnOnce(&Session) -> Result<T>) -> Result<T> {
        self.with_session_and_keys(async |session, _| work(session).await).await
    }

    /// As [`Self::with_session`], for what looks at the keys themselves as well.
    pub(crate) async fn with_session_and_keys<T>(
        &self,
        work: impl AsyncFnOnce(&Session, &Enfold) -> Result<T>,
    ) -> Result<T> {
        let policy = self.policy()?;
        let database = enfold_jobs::connect(&policy.database, Some(&policy.jobs)).await?;
        self.with_keys(policy, async |enfold| {
            let session = Session::over(enfold.clone(), database, &self.call(None))?;
            work(&session, enfold).await
        })
        .await
    }

    /// Who acts, for the log of events: whoever is logged in, through this command.
    pub(crate) fn call(&self, reason: Option<&str>) -> CallContext {
        CallContext {
            actor: self.variables.get("USER").or_else(|| self.variables.get("LOGNAME")).cloned(),
            reason: Some(reason.unwrap_or("enfold command").to_owned()),
            source: Some("enfold".to_owned()),
            ..CallContext::default()
        }
    }

    /// As [`Self::call`], for values that somebody takes into their own hands: the log has each of them, whatever the policy says.
    pub(crate) fn person(&self, reason: Option<&str>) -> CallContext {
        CallContext { each: true, ..self.call(reason) }
    }

    /// A URL from the command line or the environment; relative files start where the command was typed.
    pub(crate) fn database_url(&self, url: &str) -> Result<DatabaseUrl> {
        DatabaseUrl::parse(url, Path::new("")).map_err(|reason| {
            Error::new(Code::Usage, "the database URL cannot be used")
                .cause(reason)
                .hint("`postgres://user@host/database` or `sqlite:FILE`")
        })
    }
}

/// The columns that were named, or all of them with `--all`; neither is an error, so that nothing is done by omission.
pub(crate) fn selection(policy: &Policy, columns: &Columns) -> Result<Selection> {
    match (columns.all, columns.columns.is_empty()) {
        (true, _) => Ok(Selection::All),
        (false, false) => Selection::columns(policy, &columns.columns),
        (false, true) => Err(Error::new(Code::Usage, "no column was named")
            .hint("name columns as `table.column`, or say `--all`")
            .hint("nothing was changed")),
    }
}

/// How fast, checked before anybody is asked.
pub(crate) fn pace(session: &Session, rate: Option<u32>, workers: Workers) -> Result<Pace> {
    let pace = Pace { rate, workers: workers.workers, ..Pace::default() };
    pace.check(session.db.dialect()).map(|()| pace)
}

/// What the system said about a file, in words.
pub(crate) fn io_fact(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        kind => kind.to_string(),
    }
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<()> {
    match command {
        Command::Init(args) => init::run(context, &args).await,
        Command::Discover(args) => discover::run(context, &args).await,
        Command::Plan(args) => plan::run(context, &args).await,
        Command::Apply(args) => apply::run(context, &args).await,
        Command::Status => status::run(context).await,
        Command::Audit(args) => audit::run(context, &args).await,
        Command::Enforce(args) => enforce::run(context, &args).await,
        Command::DropSource(args) => drop_source::run(context, &args).await,
        Command::DropReader(args) => drop_reader::run(context, &args).await,
        Command::Rollback(args) => rollback::run(context, &args).await,
        Command::Verify(args) => verify::run(context, &args).await,
        Command::Seal(args) => value::seal(context, &args).await,
        Command::Open(args) => value::open(context, &args).await,
        Command::Keys(args) => keys::run(context, &args).await,
        Command::Index(args) => index::run(context, &args).await,
        Command::Reencrypt(args) => reencrypt::run(context, &args).await,
        Command::Prune(args) => prune::run(context, &args).await,
        Command::Jobs(args) => jobs::run(context, &args).await,
        Command::Log(args) => log::run(context, &args).await,
        Command::Evidence(args) => evidence::run(context, &args).await,
        Command::Worker(args) => worker::run(context, &args).await,
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(context, &args).await,
        #[cfg(not(feature = "serve"))]
        Command::Serve(_) => Err(Error::new(Code::Usage, "this program was built without the service")),
        #[cfg(feature = "serve")]
        Command::AccessRules(args) => access_rules::run(context, &args),
        #[cfg(not(feature = "serve"))]
        Command::AccessRules(_) => Err(Error::new(Code::Usage, "this program was built without the service")),
        Command::ServiceKeys(args) => service_keys::run(context, &args).await,
        Command::BreakGlass(args) => break_glass::run(context, &args).await,
        Command::Doctor => doctor::run(context).await,
        #[cfg(feature = "sqlite")]
        Command::Demo(args) => demo::run(context, &args).await,
        #[cfg(not(feature = "sqlite"))]
        Command::Demo(_) => {
            Err(Error::new(Code::Usage, "this program was built without SQLite, which the demo runs on"))
        }
        Command::Inspect(args) => inspect::run(context.screen, &args),
        Command::Passphrase(args) => passphrase::run(context, &args),
        Command::Explain(args) => explain::run(context.screen, &args),
        Command::Completions(args) => completions::run(context.screen, &args),
    }
}
