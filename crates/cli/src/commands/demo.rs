//! `enfold demo`: the main job from end to end on a generated shop, with nothing to install and nothing to configure.
//!
//! It goes through the same calls as the other commands, and leaves its database and policy behind to be tried on.

use std::path::{Path, PathBuf};
use std::time::Instant;

use enfold::policy::{DatabaseUrl, Environment, edit};
use enfold::{Code, Error, Result};
use enfold_jobs::ops::{self, ApplyOptions, PlanOptions, Selection};
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use super::{Context, audit, discover, init, plan};
use crate::args::{Demo, Global};
use crate::demo::shop;
use crate::onlooker::Onlooker;
use crate::words::count;

/// What the demo leaves behind; what an earlier one left is replaced, and nothing else in the folder is touched.
const LEFT: &[&str] =
    &["app.db", "app.db-wal", "app.db-shm", "original.db", "enfold.toml", "enfold-root.key", "enfold-operator.key"];

/// The first customer with a telephone number.
const SHOWN_ROW: &str =
    "SELECT first_name, email, phone, birth_date FROM customers WHERE phone IS NOT NULL ORDER BY id LIMIT 1";

/// Discovery from this confidence on goes into the demo's policy.
const CONFIDENCE: u8 = 75;

pub(crate) async fn run(context: &Context<'_>, args: &Demo) -> Result<()> {
    let started = Instant::now();
    let files = Files::fresh(&args.dir)?;
    let screen = context.screen;

    heading(context, &format!("A shop with {} customers, in SQLite", count(u64::from(args.customers))));
    shop::build(&files.db, args.seed, args.customers)?;
    std::fs::copy(&files.db, args.dir.join("original.db"))
        .map_err(|e| file_failed("copying the shop", &files.db, &e))?;
    let before = raw_row(&files.db)?;

    heading(context, "What is sensitive");
    let url = DatabaseUrl::parse("sqlite:app.db", &args.dir)
        .map_err(|reason| Error::new(Code::Usage, "the demo's folder cannot be used").cause(reason))?;
    let database = enfold_jobs::connect(&url, None).await?;
    let found = discover::look(database.as_ref(), &url, 500).await?;
    show(context, |out| discover::write(screen, &found, out));

    let start = init::Start {
        url: "sqlite:app.db",
        root: "local:enfold-root.key",
        environment: Environment::Development,
        confidence: CONFIDENCE,
    };
    edit::create(&files.config, &init::draft(&start, &found)?)?;
    let global = Global { config: files.config.clone(), ..context.global.clone() };
    let inner = Context { screen, global: &global, variables: context.variables.clone() };
    init::prepare(&inner).await?;
    let (applied, audited) = inner
        .with_session(async |session| {
            heading(context, "The plan");
            let plan = ops::plan(session, &PlanOptions { selection: Selection::All, rewrite: true }).await?;
            show(context, |out| plan::write(screen, &plan, out));

            heading(context, "Protecting, in place");
            let onlooker = Onlooker::new(screen);
            let applied = ops::apply(session, &plan, &ApplyOptions::default(), &onlooker).await?;
            drop(onlooker);

            heading(context, "The audit, over every row");
            Ok((applied, ops::audit(session.db.as_ref(), &session.policy, &Selection::All, None).await?))
        })
        .await?;
    show(context, |out| audit::write(screen, &audited, out));

    heading(context, "One raw row, before and after");
    let after = raw_row(&files.db)?;
    show(context, |out| {
        for (name, was) in &before {
            let is = after.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v);
            out.push_str(&format!("{name:<12} {}\n{:<12} {}\n", shorten(was), "", shorten(is)));
        }
    });
    if audited.leaks() {
        return Err(Error::new(Code::PlaintextFound, "the demo left plaintext behind"));
    }
    let config = files.config.display();
    let rows: u64 = applied.tables.iter().map(|t| t.rows_changed).sum();
    let document = json!({ "config": files.config, "database": files.db, "rows_changed": rows, "audit": audited, "seconds": started.elapsed().as_secs_f64() });
    screen.result(&document, |out| {
        out.push_str(&format!(
            "\nProtected {} rows in {:.1} s. Try next:\n\n  {exe} --config {config} audit --full\n  {exe} --config {config} status\n  \
             {exe} --config {config} enforce --all\n  {exe} --config {config} rollback --all\n",
            count(rows),
            started.elapsed().as_secs_f64(),
            exe = executable(),
        ));
    })
}

struct Files {
    db: PathBuf,
    config: PathBuf,
}

impl Files {
    fn fresh(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| file_failed("making the folder", dir, &e))?;
        for name in LEFT {
            let path = dir.join(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(file_failed("replacing", &path, &e)),
                _ => {}
            }
        }
        Ok(Self { db: dir.join("app.db"), config: dir.join("enfold.toml") })
    }
}

/// One customer exactly as it lies in the file. The demo's people are made up, so they may be shown.
fn raw_row(db: &Path) -> Result<Vec<(String, String)>> {
    let failed = |_| Error::new(Code::DatabaseFailed, "reading a row of the demo's database");
    let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    let mut statement = connection.prepare(SHOWN_ROW).map_err(failed)?;
    let names: Vec<String> = statement.column_names().iter().map(|n| (*n).to_owned()).collect();
    let values = statement
        .query_row([], |row| (0..names.len()).map(|i| row.get::<_, String>(i)).collect::<Result<Vec<_>, _>>())
        .map_err(failed)?;
    Ok(names.into_iter().zip(values).collect())
}

fn shorten(value: &str) -> String {
    const SHOWN: usize = 72;
    if value.chars().count() <= SHOWN { value.to_owned() } else { value.chars().take(SHOWN).chain(['…']).collect() }
}

fn heading(context: &Context<'_>, text: &str) {
    context.screen.say(&format!("\n== {text}"));
}

fn show(context: &Context<'_>, write: impl FnOnce(&mut String)) {
    let mut text = String::new();
    write(&mut text);
    context.screen.say(text.trim_end());
}

/// How the user called us, so that what is printed can be pasted.
fn executable() -> String {
    std::env::args().next().unwrap_or_else(|| "enfold".to_owned())
}

fn file_failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::FileFailed, format!("{what} `{}`", path.display())).cause(error.kind().to_string())
}
