//! `enfold init`: looks at a database, writes a first policy, makes the operators' key and the catalog.
//!
//! It changes nothing in the application's tables.

use std::path::Path;

use enfold::Enfold;
use enfold::kms::{PASSPHRASE_VARIABLE, Passphrase, PassphraseSource};
use enfold::policy::{
    ColumnDraft, DatabaseUrl, Environment, IndexDraft, Policy, PolicyDraft, RingDraft, Scheme, Scope, edit,
    parse_normaliser,
};
use enfold::{Code, Error, Result};
use enfold_discover::Finding;
use serde_json::json;

use super::Context;
use super::discover::{self, Report, TableReport};
use crate::args::{EnvironmentArg, Init};

/// The ring that a first policy begins with.
const RING: &str = "main";

/// How many rows of each table are looked at.
const SAMPLE: u32 = 500;

pub(crate) async fn run(context: &Context<'_>, args: &Init) -> Result<()> {
    if args.print_sql {
        return print_sql(context, args);
    }
    if args.prepare {
        return prepare_only(context).await;
    }
    context.log_without_policy()?;
    let config = &context.global.config;
    if config.exists() {
        return Err(Error::new(Code::Usage, format!("there is a policy at `{}` already", config.display()))
            .hint("`enfold init --prepare` makes the catalog and the keys that it asks for")
            .hint("name another file with `--config` for another policy")
            .hint("nothing was changed"));
    }
    let named = args.database.as_deref().ok_or_else(|| Error::new(Code::Usage, "no database was named"))?;
    let url = context.database_url(named)?;
    let database = enfold_jobs::connect(&url, None).await?;
    let report = discover::look(database.as_ref(), &url, SAMPLE).await?;
    let environment = match args.environment {
        EnvironmentArg::Development => Environment::Development,
        EnvironmentArg::Staging => Environment::Staging,
        EnvironmentArg::Production => Environment::Production,
    };
    let start = Start { url: named, root: &args.root, environment, confidence: args.confidence };
    let mut draft = draft(&start, &report)?;
    seal_root(&mut draft, args, context)?;
    edit::create(config, &draft)?;
    let prepared = prepare(context).await;
    let document = json!({
        "policy": config,
        "environment": environment,
        "columns": report.tables.iter().map(|t| chosen(t, args.confidence).len()).sum::<usize>(),
        "prepared": prepared.is_ok(),
    });
    context.screen.result(&document, |out| {
        discover::write(context.screen, &report, out);
        out.push_str(&format!("\nWrote {}. Read it: what it names will be protected.\n", config.display()));
        if prepared.is_ok() {
            out.push_str("Made the catalog and the operators' key. Keep the key away from applications.\n");
            out.push_str("\nNext: enfold plan\n");
        }
    })?;
    // The policy stays when the rest fails: it is what has to be read and mended.
    prepared
        .map_err(|error| error.hint("the policy stays: `enfold init --prepare` does the rest, once that is settled"))
}

/// Writes down where the passphrase of the root key is, where it is to be sealed under one; [`prepare`] then seals it.
fn seal_root(draft: &mut PolicyDraft, args: &Init, context: &Context<'_>) -> Result<()> {
    if args.passphrase_file.is_none() && !args.passphrase_env {
        return Ok(());
    }
    let Some(file) = args.root.strip_prefix("local:") else {
        return Err(Error::new(Code::Usage, format!("the root key `{}` is in no file to be sealed", args.root))
            .hint("a passphrase is for `--root local:FILE`; a key service guards its keys itself")
            .hint("nothing was changed"));
    };
    let absolute = args.passphrase_file.as_ref().map(std::path::absolute).transpose().map_err(|error| {
        Error::new(Code::FileFailed, "cannot tell where the passphrase's file is").cause(super::io_fact(&error))
    })?;
    let mut source = match absolute {
        Some(path) => PassphraseSource::File(path),
        None => PassphraseSource::Variable(PASSPHRASE_VARIABLE.to_owned()),
    };
    // Looked at before anything is written.
    source.read().and_then(Passphrase::good_for_new_keys).map_err(|error| error.hint("nothing was changed"))?;
    if let PassphraseSource::File(path) = &mut source {
        *path = within(path, &context.global.config);
    }
    draft.seal_local_root(file, &source)
}

/// A file as the policy names it: from the policy's folder on, where it is in there.
fn within(path: &Path, config: &Path) -> std::path::PathBuf {
    let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let folder = config.parent().unwrap_or(Path::new(""));
    path.strip_prefix(folder).unwrap_or(path).to_owned()
}

/// What `init` does after it has written the policy, for a policy that is there: where the tables of the catalog are made
/// by somebody else, or `init` did not come to its end.
async fn prepare_only(context: &Context<'_>) -> Result<()> {
    // Says what is wrong with the policy, and logs as it wants.
    context.policy()?;
    prepare(context).await?;
    let config = &context.global.config;
    context.screen.result(&json!({ "policy": config, "prepared": true }), |out| {
        out.push_str("The catalog, the operators' key and the rings' states are there.\n");
        out.push_str("Keep the key away from applications.\n\nNext: enfold plan\n");
    })
}

/// What a database administrator runs where Enfold's own roles may make nothing.
fn print_sql(context: &Context<'_>, args: &Init) -> Result<()> {
    let sql = setup(&context.policy()?, &args.role_prefix)?;
    context.screen.result(&json!({ "sql": sql }), |out| out.push_str(&sql))
}

#[cfg(feature = "postgres")]
fn setup(policy: &Policy, prefix: &str) -> Result<String> {
    use enfold_jobs::postgres::{RoleNames, setup};
    setup(policy, &RoleNames::new(prefix)?)
}

#[cfg(not(feature = "postgres"))]
fn setup(_: &Policy, _: &str) -> Result<String> {
    Err(Error::new(Code::Usage, "cannot print SQL for Postgres").cause("this program was built without that database"))
}

/// Makes the catalog and the operators' key, and pins the key's public half and the rings' epochs in the policy.
pub(crate) async fn prepare(context: &Context<'_>) -> Result<()> {
    let config = &context.global.config;
    let policy = enfold::policy::load(config, &context.variables)?;
    let enfold = Enfold::builder(policy).prepare().build().await?;
    enfold.flush().await?;
    edit::set_operator_key(config, &enfold.operator()?.public_key())?;
    for ring in enfold.epochs().await? {
        edit::set_min_epoch(config, &ring.ring, ring.epoch)?;
    }
    enfold.sign_off().await;
    Ok(())
}

/// What a first policy starts from.
pub(crate) struct Start<'a> {
    pub(crate) url: &'a str,
    pub(crate) root: &'a str,
    pub(crate) environment: Environment,
    pub(crate) confidence: u8,
}

pub(crate) fn draft(start: &Start<'_>, report: &Report) -> Result<PolicyDraft> {
    let mut draft = PolicyDraft::new(&url_for_file(start.url)?, start.environment);
    let roots = [start.root.to_owned()];
    draft.add_ring(&RingDraft { name: RING, roots: &roots, scope: Scope::Column, labels: &[] })?;
    for table in &report.tables {
        for column in chosen(table, start.confidence) {
            add(&mut draft, table, &column)?;
        }
    }
    Ok(draft)
}

/// A password does not go into a file that people commit.
fn url_for_file(url: &str) -> Result<String> {
    let parsed = DatabaseUrl::parse(url, Path::new(""))
        .map_err(|reason| Error::new(Code::Usage, "the database URL cannot be used").cause(reason))?;
    Ok(if parsed.scheme() == Scheme::Postgres && parsed.display() != parsed.expose_with_password() {
        "${ENFOLD_DATABASE_URL}".to_owned()
    } else {
        url.to_owned()
    })
}

/// A column with what was found in it: one finding, or several paths of a document.
struct Chosen<'a> {
    name: &'a str,
    findings: Vec<&'a Finding>,
}

fn chosen(table: &TableReport, confidence: u8) -> Vec<Chosen<'_>> {
    let mut columns: Vec<Chosen<'_>> = Vec::new();
    for finding in table.findings.iter().filter(|f| f.confidence >= confidence) {
        match columns.iter_mut().find(|c| c.name == finding.column) {
            Some(column) => column.findings.push(finding),
            None => columns.push(Chosen { name: &finding.column, findings: vec![finding] }),
        }
    }
    columns
}

fn add(draft: &mut PolicyDraft, table: &TableReport, chosen: &Chosen<'_>) -> Result<()> {
    let first = chosen.findings[0];
    let document = first.path.is_some();
    let class = if document { "document" } else { first.class.word() };
    let column = table.survey.columns.iter().find(|c| c.name == chosen.name);
    let unique = column.is_some_and(|column| column.unique);
    // Only there has a table a schema.
    let postgres = !table.survey.table.schema.is_empty();
    let shadow = column.filter(|column| postgres && needs_shadow(&column.sql_type));
    let mut normalise = Vec::new();
    for word in if document { &[] } else { first.class.lookup() } {
        normalise.push(
            parse_normaliser(word)
                .map_err(|e| Error::new(Code::Internal, "a normaliser that discovery proposes").cause(e))?,
        );
    }
    // Looked up by (a login, a caller's number), or unique now, which only an index can go on to see to.
    let indexes = if unique || !normalise.is_empty() {
        vec![IndexDraft { name: "eq", normalise: &normalise, unique, cross_tenant: true, ..IndexDraft::default() }]
    } else {
        Vec::new()
    };
    draft.add_column(&ColumnDraft {
        table: &table.table,
        column: chosen.name,
        class: Some(class),
        ring: RING,
        shadow: shadow.map(|column| format!("{}_enf", column.name)),
        indexes,
        comment: Some(comment(chosen)),
        ..ColumnDraft::default()
    })
}

/// Whether Postgres' type of this name has no room for an envelope and can be kept in a shadow. Of others a plan says what
/// is to be done.
fn needs_shadow(sql_type: &str) -> bool {
    const TYPES: &[&str] = &[
        "bigint",
        "boolean",
        "character",
        "cidr",
        "date",
        "double precision",
        "inet",
        "integer",
        "interval",
        "macaddr",
        "macaddr8",
        "numeric",
        "real",
        "smallint",
        "time",
        "timestamp",
        "uuid",
    ];
    // `timestamp(3) with time zone`, `character(8)`; `character varying` has room.
    let bare = sql_type.split(['(', '[']).next().unwrap_or(sql_type);
    let bare = bare.split(" with").next().unwrap_or(bare).trim();
    sql_type.ends_with("[]") || TYPES.contains(&bare)
}

fn comment(chosen: &Chosen<'_>) -> String {
    let parts: Vec<String> = chosen
        .findings
        .iter()
        .map(|f| {
            let path = f.path.as_deref().map(|p| format!("{p} ")).unwrap_or_default();
            format!("{path}{}, {} %", f.class, f.confidence)
        })
        .collect();
    format!("Found: {}.", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::needs_shadow;

    #[test]
    fn types_that_have_no_room_for_an_envelope_are_known_by_their_names() {
        for known in
            ["date", "numeric(12,2)", "timestamp(3) with time zone", "time without time zone", "character(8)", "text[]"]
        {
            assert!(needs_shadow(known), "{known}");
        }
        for other in ["text", "character varying(80)", "bytea", "jsonb", "public.email", "citext", "money"] {
            assert!(!needs_shadow(other), "{other}");
        }
    }
}
