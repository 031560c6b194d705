//! The command line: what may be typed. Secrets never are; they come by file, standard input or environment.

mod break_glass;
mod destroy;
mod evidence;
mod index;
mod log;
mod prune;
mod reencrypt;
mod root_keys;
mod service;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::break_glass::BreakGlass;
pub(crate) use self::destroy::{Destroy, VerifyCertificate};
pub(crate) use self::evidence::{Evidence, EvidenceCommand, VerifyEvidence};
pub(crate) use self::index::{EndIndex, Index, RotateIndex, SignIndex};
pub(crate) use self::log::{ExportLog, InitLog, Log, Opened, PruneLog, SignLog, VerifyLog};
pub(crate) use self::prune::Prune;
pub(crate) use self::reencrypt::{Disable, Enable, JobSet, Jobs, Reencrypt, Rotate, SetMinimum, Uses, Worker};
pub(crate) use self::root_keys::{ImportKey, ListKeys, Register, Rewrap, RootStateArg, RotateRoot, SetRoot, ShowKey};
pub(crate) use self::service::{AccessRules, CreateServiceKey, RevokeServiceKey, Serve, ServiceKeys};

/// A build on the FIPS module says so.
const VERSION: &str =
    if cfg!(feature = "fips") { concat!(env!("CARGO_PKG_VERSION"), " (FIPS)") } else { env!("CARGO_PKG_VERSION") };

/// Encrypts the sensitive columns of a running database, under keys that a key service keeps.
#[derive(Parser, Debug)]
#[command(name = "enfold", version = VERSION, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The policy file.
    #[arg(long, short, global = true, env = "ENFOLD_CONFIG", default_value = "enfold.toml", value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// Print the result, or the error, as one JSON document.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto)]
    pub(crate) color: Colour,

    /// Log level, for all or for a part: `debug`, `kms=debug`. May be given more than once.
    #[arg(long, global = true, value_name = "[PART=]LEVEL")]
    pub(crate) log: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Look at a database, write a first policy and make the operators' key.
    Init(Init),
    /// Say which columns hold personal or secret data.
    Discover(Discover),
    /// Say what would be done, how long it takes and what is refused.
    Plan(Plan),
    /// Convert the columns of the policy while the application goes on.
    Apply(Apply),
    /// Show modes, counts, jobs and readers.
    Status,
    /// Look at the stored bytes and say whether any plaintext is left.
    Audit(Audit),
    /// Have the database refuse plaintext.
    Enforce(Enforce),
    /// Drop a column whose values are all in its shadow, for good.
    DropSource(DropSource),
    /// Sign that no value needs a reader of another product's format any more, when a count says so: then it may leave the
    /// policy, and its key with it. Needs the operators' key.
    DropReader(DropReader),
    /// Take columns back to what they were, online.
    Rollback(Rollback),
    /// Open every stored value and say which do not open.
    Verify(Verify),
    /// Show what an envelope says about itself, without a key.
    Inspect(Inspect),
    /// Seal a value read from standard input, or many.
    Seal(Value),
    /// Open an envelope read from standard input, or many.
    Open(Value),
    /// Look at data keys and root keys, rotate them, and move data keys from one root key to another.
    #[command(subcommand)]
    Keys(Keys),
    /// Look at blind indexes, and rotate them.
    #[command(subcommand)]
    Index(Index),
    /// Have workers bring what is under former data keys under those of now.
    Reencrypt(Reencrypt),
    /// Delete the rows that the policy's rules doom.
    Prune(Prune),
    /// Look at jobs, and steer them.
    #[command(subcommand)]
    Jobs(Jobs),
    /// Work on jobs that wait, as one of any number on any machines.
    Worker(Worker),
    /// Look at the log of events: sign it, take it elsewhere, verify it, ask it who opened what.
    #[command(subcommand)]
    Log(Log),
    /// Look at what the controls of a standard ask for, and sign what was found, for an auditor.
    Evidence(Evidence),
    /// Serve the API: seal and open values for programs that call it over HTTP.
    Serve(Serve),
    /// Say which programs the service lets in, and what each may do.
    #[command(subcommand)]
    ServiceKeys(ServiceKeys),
    /// Look at access that people have in emergencies, and end it.
    #[command(subcommand)]
    BreakGlass(BreakGlass),
    /// Look at the rules that narrow what roles grant to the service's callers.
    #[command(subcommand)]
    AccessRules(AccessRules),
    /// Check configuration, database rights and keys.
    Doctor,
    /// Change the passphrase of a `local:` root key, and not the key.
    Passphrase(Passphrase),
    /// Explain an error code.
    Explain(Explain),
    /// Run the main job on a generated shop.
    Demo(Demo),
    /// Print completions for a shell.
    Completions(Completions),
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// The database, as `postgres://…` or `sqlite:FILE`. A password is better left to ENFOLD_DATABASE_URL.
    #[arg(
        long,
        env = "ENFOLD_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        required_unless_present_any = ["print_sql", "prepare"]
    )]
    pub(crate) database: Option<String>,
    /// The root key: `aws-kms://…`, `gcp-kms://…`, `azure-kv://…`, `vault://…`, `pkcs11:…` or `local:FILE` (development, or
    /// no key service in reach).
    #[arg(long, value_name = "URI", default_value = "local:enfold-root.key")]
    pub(crate) root: String,
    /// Seal the file of a `local:` root key under the passphrase in this file, which only its owner may read.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["passphrase_env", "print_sql", "prepare"])]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Seal it under the passphrase in the environment variable ENFOLD_LOCAL_PASSPHRASE.
    #[arg(long, conflicts_with_all = ["print_sql", "prepare"])]
    pub(crate) passphrase_env: bool,
    /// Where this policy runs.
    #[arg(long, value_enum, default_value_t = EnvironmentArg::Production)]
    pub(crate) environment: EnvironmentArg,
    /// Take findings from this confidence on, in percent.
    #[arg(long, default_value_t = 75, value_parser = clap::value_parser!(u8).range(50..=100))]
    pub(crate) confidence: u8,
    /// For the policy that is there, make what is missing of the catalog, the operators' key and the rings' states.
    #[arg(long, conflicts_with = "print_sql")]
    pub(crate) prepare: bool,
    /// Print, for the policy that is there, the SQL that makes Enfold's roles, tables and grants on Postgres, and do nothing.
    #[arg(long)]
    pub(crate) print_sql: bool,
    /// What the names of the printed roles begin with: PREFIX_owner, PREFIX_worker, PREFIX_app, PREFIX_audit.
    #[arg(long, value_name = "PREFIX", default_value = "enfold", requires = "print_sql")]
    pub(crate) role_prefix: String,
}

#[derive(Args, Debug)]
pub(crate) struct Passphrase {
    /// The root key, as in the policy: `local:FILE`. Its passphrase so far is read where the policy says.
    #[arg(value_name = "URI")]
    pub(crate) root: String,
    /// The file of the new passphrase, which only its owner may read; without it the environment variable
    /// ENFOLD_NEW_LOCAL_PASSPHRASE.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvironmentArg {
    Development,
    Staging,
    Production,
}

#[derive(Args, Debug)]
pub(crate) struct Discover {
    /// The database; the policy's unless given.
    #[arg(long, env = "ENFOLD_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) database: Option<String>,
    /// How many rows of each table to look at.
    #[arg(long, default_value_t = 500)]
    pub(crate) sample: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Plan {
    /// Save the plan, so that `apply` does exactly this or refuses.
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Only this table of the policy.
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Vec<String>,
    /// Print the SQL that a database administrator would run.
    #[arg(long)]
    pub(crate) print_sql: bool,
    /// On Postgres, plan to rewrite each table at the end, so that old row versions leave the files. Locks it meanwhile.
    #[arg(long)]
    pub(crate) rewrite: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Apply {
    /// A saved plan; made anew when it is left out.
    #[arg(value_name = "PLAN")]
    pub(crate) plan: Option<PathBuf>,
    #[arg(long, value_name = "TABLE", conflicts_with = "plan")]
    pub(crate) table: Vec<String>,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Convert about this many rows of each table first, then wait. In a terminal it asks whether to go on or to take them
    /// back; elsewhere, and with `--yes` or `--json`, it ends there and says with which command to do either.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) canary: Option<u64>,
    /// At most this many rows a second. A job that goes on keeps its rate unless this gives another.
    #[arg(long, value_name = "ROWS")]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    pub(crate) workers: Workers,
    /// On Postgres, rewrite each table at the end, so that old row versions leave the files. Locks it meanwhile.
    #[arg(long, conflicts_with = "plan")]
    pub(crate) rewrite: bool,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Workers {
    /// How many workers share the ranges of a table (32 MiB each, or a partition) on Postgres. SQLite lets one write at a
    /// time, so there it is one.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) workers: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Audit {
    /// Look at every row instead of a sample.
    #[arg(long)]
    pub(crate) full: bool,
    /// How many rows of each table to look at.
    #[arg(long, default_value_t = 10_000, conflicts_with = "full")]
    pub(crate) sample: u64,
    /// Also look for copies that a conversion leaves behind. Opens some values where the keys are at hand, to look for
    /// them.
    #[arg(long)]
    pub(crate) residue: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Columns {
    /// A column, as `table.column`. May be given more than once.
    #[arg(value_name = "COLUMN")]
    pub(crate) columns: Vec<String>,
    /// Every column of the policy.
    #[arg(long, conflicts_with = "columns")]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Enforce {
    #[command(flatten)]
    pub(crate) columns: Columns,
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) workers: Workers,
}

#[derive(Args, Debug)]
pub(crate) struct DropSource {
    /// The column, as `table.column`. It has a `shadow` in the policy, and is enforced.
    #[arg(value_name = "COLUMN")]
    pub(crate) column: String,
    #[arg(long)]
    pub(crate) yes: bool,
}

/// A mode to step back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeakerMode {
    /// Every form is read, and envelopes are written.
    Hybrid,
    /// Every form is read, and written is what was before there was Enfold.
    Legacy,
}

#[derive(Args, Debug)]
pub(crate) struct DropReader {
    /// The reader, as the policy names it: `[readers.NAME]`.
    #[arg(value_name = "READER")]
    pub(crate) reader: String,
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) columns: Columns,
    /// Take back the mode alone: the database takes what is no envelope again, applications write as the mode says, and values
    /// stay as they are.
    #[arg(long, value_name = "MODE", conflicts_with_all = ["rate", "workers"])]
    pub(crate) only_mode: Option<WeakerMode>,
    #[arg(long)]
    pub(crate) yes: bool,
    #[arg(long, value_name = "ROWS")]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    pub(crate) workers: Workers,
}

#[derive(Args, Debug)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) columns: Columns,
    #[command(flatten)]
    pub(crate) workers: Workers,
    /// Test a backup: open the values of the database that it was restored to, with the keys that were restored with it, and put it on
    /// record in the log of the policy's own. A password is better left to ENFOLD_RESTORED_URL.
    #[arg(long, env = "ENFOLD_RESTORED_URL", hide_env_values = true, value_name = "URL", requires = "backup_of")]
    pub(crate) restored: Option<String>,
    /// With `--restored`, where the catalog has a database of its own: the one that its backup was restored to.
    #[arg(
        long,
        env = "ENFOLD_RESTORED_CATALOG_URL",
        hide_env_values = true,
        value_name = "URL",
        requires = "restored"
    )]
    pub(crate) restored_catalog: Option<String>,
    /// With `--restored`: when the backup was made (`2026-03-01` or RFC 3339). It goes on record as you say it.
    #[arg(long, value_name = "TIME", requires = "restored")]
    pub(crate) backup_of: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// A file with the envelope in text, binary or JSON form; standard input when it is left out.
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Value {
    /// The column (`table.column`) or the value's id.
    #[arg(value_name = "COLUMN")]
    pub(crate) column: String,
    /// The tenant, where the column is bound to one: text, or `int:7`, or `uuid:…`, as its column's type is.
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// The row key, for columns bound to it, spelt as a tenant is; once for each component.
    #[arg(long, value_name = "KEY")]
    pub(crate) row: Vec<String>,
    /// The form that the column holds.
    #[arg(long, value_enum, default_value_t = FormArg::Text)]
    pub(crate) form: FormArg,
    /// Many values, one a line. What fails leaves its line empty and is named on standard error.
    #[arg(long, conflicts_with = "null")]
    pub(crate) lines: bool,
    /// Many values, each ended by a NUL byte, as `find -print0` writes and `xargs -0` reads them: for values that hold
    /// newlines.
    #[arg(long, short = '0')]
    pub(crate) null: bool,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormArg {
    Text,
    Bytes,
    Json,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Keys {
    /// Show which data keys depend on which root key.
    Wraps(Wraps),
    /// Show which tenants hold a root key of their own, and have the operators sign it.
    Customers(Customers),
    /// Have new versions of a ring's data keys seal from now on; the former ones open as before. Needs the operators' key.
    Rotate(Rotate),
    /// Switch a former data key off that no value needs any more. With `--kill-switch` any data key, at once: no process opens
    /// or seals under it within a second. Needs the operators' key.
    Disable(Disable),
    /// Take a disable back. Needs the operators' key.
    Enable(Enable),
    /// Have nothing open under versions of data keys below one, when no value needs them. Needs the operators' key.
    SetMinimum(SetMinimum),
    /// Destroy the data keys of a tenant or a ring, after a time in which it can be taken back: their values are unreadable for ever.
    /// Run again, it says how that stands, ends it when it is due and gives the certificate. Needs the operators' key.
    Destroy(Destroy),
    /// Check a certificate of destruction, without a database or a key service.
    VerifyCertificate(VerifyCertificate),
    /// Say who sealed and opened what under data keys, from the log of events in the catalog.
    Uses(Uses),
    /// Show data keys, a page at a time, or root keys.
    List(ListKeys),
    /// Show a data key or a root key.
    Show(ShowKey),
    /// Ask a root key's service about it, and write down what it says and what people call the key.
    Register(Register),
    /// Restore the record of a root key that was deleted, from what `show --json` printed.
    Import(ImportKey),
    /// Ask the services about all root keys, and have every running process look at its keys again.
    Refresh,
    /// Retire or disable a root key, or take that back. Needs the operators' key.
    SetRoot(SetRoot),
    /// Have a root key's service make a new version.
    RotateRoot(RotateRoot),
    /// Wrap data keys again, by the root keys that the policy names now and by their newest versions. Reads no row.
    Rewrap(Rewrap),
}

#[derive(Args, Debug)]
pub(crate) struct Wraps {
    /// Make the wraps that are missing first: of data keys that were made while a root key did not answer, or before it
    /// came into the policy.
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Customers {
    /// Sign what the policy says: from then on every new data key of such a tenant needs the customer's root key besides one
    /// of ours. Data keys that are there open as before, and seal no more. Needs the operators' key.
    #[arg(long)]
    pub(crate) sign: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The word after `code:`. Lists all codes when it is left out.
    #[arg(value_name = "CODE")]
    pub(crate) code: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Where the demo leaves its database and policy; what an earlier demo left there is replaced.
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    #[arg(long, default_value_t = 20_000)]
    pub(crate) customers: u32,
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Completions {
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}
