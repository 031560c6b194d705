//! The policy as the program holds it: checked, defaults filled in, every reference resolved.
//!
//! [`super::load`] makes it from `enfold.toml`; nothing else does, so a [`Policy`] that exists is one that makes sense
//! in itself (whether it fits a database is for `plan` to say).

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use enfold_core::index::Normaliser;
use enfold_core::readers::{Companion, Format};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::metrics::MetricsPolicy;
use super::prune::PrunePolicy;
use super::raw::RawJobs;
use super::rotation::RotationPolicy;
use super::service::ServicePolicy;
use super::sinks::SinkPolicy;
use super::traces::TracePolicy;
use super::url::DatabaseUrl;
use crate::kms::{KeyUri, PassphraseSource};

/// Where a policy says it is running. A policy that does not say is production.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    Development,
    Staging,
    #[default]
    Production,
}

impl Environment {
    /// As the policy spells it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

/// What one data key covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// A data key for every value, wrapped inside its envelope.
    Record,
    /// A data key for every tenant.
    Tenant,
    /// A data key for every column.
    Column,
    /// One data key for the whole ring.
    Ring,
}

/// Who wraps a record's data key (scope `record` only).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordWrap {
    /// The ring's data key: no call to the key service for a row.
    #[default]
    Ring,
    /// The root key: one call to the key service for a row.
    Kms,
}

/// What a column's readers and writers do, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Reads plaintext and envelopes, writes plaintext as before.
    Legacy,
    /// Reads plaintext and envelopes, writes envelopes.
    Hybrid,
    /// Reads and writes envelopes only.
    Kms,
}

impl Mode {
    /// As the policy spells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Hybrid => "hybrid",
            Self::Kms => "kms",
        }
    }
}

/// What values that begin like an envelope and do not open are taken for (a user may type `enf1:`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lookalikes {
    /// Row errors, until somebody has looked at them.
    #[default]
    Refuse,
    /// Plaintext: they are sealed like any other value.
    Plaintext,
}

/// What is done with formats of other products that have no MAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unauthenticated {
    /// The policy is refused.
    #[default]
    Refuse,
    /// Whatever such a value opens to is taken for what was once stored.
    Accept,
}

/// Whether the values that one process seals may be seen to belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Salt {
    /// One salt for each process and cache life: fast.
    #[default]
    Shared,
    /// A salt for every value.
    Each,
}

/// What a row trigger of the table does while rows are converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TriggerChoice {
    /// Somebody has read it: it may fire on every converted row.
    Fire,
}

/// The least version of TLS that a key service is called with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MinTls {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

/// Everything `enfold.toml` says.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The file it came from; relative paths in it start at its folder.
    pub path: PathBuf,
    pub environment: Environment,
    pub database: DatabaseUrl,
    /// Where the catalog is; the database itself unless the policy names another.
    pub catalog: DatabaseUrl,
    pub trust: Trust,
    pub context: ContextRules,
    pub log: LogPolicy,
    pub events: EventPolicy,
    pub evidence: EvidencePolicy,
    pub key_services: KeyServices,
    /// Where processes share data keys that they unwrapped; none unless the policy names one.
    pub shared_cache: Option<SharedCachePolicy>,
    pub rings: BTreeMap<String, RingPolicy>,
    /// Readers of values that other products encrypted, keyed by name.
    pub readers: BTreeMap<String, ReaderPolicy>,
    /// Keyed by `schema.table` on Postgres, `table` on SQLite.
    pub tables: BTreeMap<String, TablePolicy>,
    /// Values that live in no column, keyed by the name that the application uses.
    pub values: BTreeMap<String, ValuePolicy>,
    /// Which rows are deleted when they have grown old enough, keyed by the name of the rule.
    pub prune: BTreeMap<String, PrunePolicy>,
    pub jobs: JobPolicy,
    pub service: ServicePolicy,
    /// Where the service's access rules are, in Cedar; no file, no rules.
    pub access_rules: Option<PathBuf>,
    pub metrics: MetricsPolicy,
    pub traces: TracePolicy,
}

impl Policy {
    /// The folder of the policy file, where every relative path in it starts.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The column that `name` means: `schema.table.column` on Postgres, `table.column` on SQLite.
    pub fn column(&self, name: &str) -> Option<(&TablePolicy, &ColumnPolicy)> {
        // A column's name may have a dot in it, so there may be more than one place to cut.
        self.tables.iter().find_map(|(table_name, table)| {
            let column = name.strip_prefix(table_name.as_str())?.strip_prefix('.')?;
            Some((table, table.columns.get(column)?))
        })
    }
}

/// What an application pins, so that whoever can write to the catalog cannot weaken it.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Ed25519 public key of the operators, 32 bytes.
    pub operator_key: Option<[u8; 32]>,
    /// Where the private half is, for operators' commands only.
    pub operator_key_file: Option<PathBuf>,
    /// Epochs below this are refused, for each ring.
    pub min_epoch: u64,
}

/// Which parts of a call context a call must carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextRules {
    pub require_actor: bool,
    pub require_reason: bool,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Off,
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

/// Logging, which the command sets up; a library user sets up their own.
#[derive(Clone, Debug, Default)]
pub struct LogPolicy {
    pub json: bool,
    pub level: Level,
    /// `part=level` pairs, as `kms=debug`.
    pub levels: Vec<String>,
}

impl LogPolicy {
    /// The filter for `tracing`'s `EnvFilter`. Crates of others stay silent: what a driver or an SDK logs may hold a
    /// value.
    pub fn filter(&self) -> String {
        let level = self.level.word();
        let mut out = format!(
            "off,enfold={level},enfold_core={level},enfold_jobs={level},enfold_discover={level},enfold_server={level}"
        );
        for pair in &self.levels {
            let (part, level) = pair.split_once('=').unwrap_or((pair, "warn"));
            let target = match part {
                "jobs" | "discover" | "server" => format!("enfold_{part}"),
                _ => format!("enfold::{part}"),
            };
            out.push_str(&format!(",{target}={level}"));
        }
        out
    }
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// How much of what is done with values is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// An event for each call and data key. Calls within a second that differ in nothing an event says share one, with their
    /// count.
    #[default]
    Each,
    /// An event for each actor, column, data key and minute, with their count.
    Minute,
    /// None. What is refused is written down all the same.
    Off,
}

/// Where events go, and which.
#[derive(Clone, Debug, Default)]
pub struct EventPolicy {
    /// JSON lines, appended.
    pub file: Option<PathBuf>,
    /// The catalog's `events` table.
    pub catalog: bool,
    pub opens: Detail,
    pub seals: Detail,
    /// Of values that jobs seal and open.
    pub jobs: Detail,
    /// No answer before its event is on a disk.
    pub before_answer: bool,
    /// Takes what the catalog cannot take while it is away, in files of at most so many bytes.
    pub spill: Option<(PathBuf, u64)>,
    /// How long they are kept in the catalog at least.
    pub keep: Duration,
    /// A folder for what is removed after that.
    pub archive: Option<PathBuf>,
    pub signing_key_file: Option<PathBuf>,
    /// The key inside a key service that signs instead.
    pub signing_key: Option<KeyUri>,
    pub checkpoint_every: Duration,
    /// Public keys whose checkpoints are believed.
    pub log_keys: Vec<[u8; 32]>,
    /// Who is sent lines over a network, by name.
    pub sinks: BTreeMap<String, SinkPolicy>,
}

/// What evidence for auditors goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvidencePolicy {
    /// How old the newest test of a restored backup may be.
    pub restore_test_every: Duration,
}

/// How key services are reached, besides what the URIs of root keys say.
#[derive(Clone, Debug, Default)]
pub struct KeyServices {
    pub min_tls: MinTls,
    /// To each root key; none: what is right for its service.
    pub requests_per_second: Option<NonZeroU32>,
    /// Root keys of AWS that are used in a role of their own.
    pub aws: BTreeMap<KeyUri, AwsRole>,
    /// Servers of Vault or OpenBao by `HOST:PORT`.
    pub vault: BTreeMap<String, VaultServer>,
    pub google: GoogleSettings,
    pub azure: AzureSettings,
    /// Local root keys that are sealed under a passphrase, and where that is.
    pub local: BTreeMap<KeyUri, PassphraseSource>,
    pub pkcs11: Pkcs11Policy,
}

/// A role of AWS, and what its owner wants to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsRole {
    pub arn: String,
    pub external_id: Option<String>,
}

/// How PKCS#11 tokens are called.
#[derive(Clone, Debug)]
pub struct Pkcs11Policy {
    /// With the token of each root key, at most.
    pub sessions: NonZeroUsize,
}

impl Pkcs11Policy {
    /// Enough to hide the way to a network HSM, and few for a card.
    pub const SESSIONS: NonZeroUsize = NonZeroUsize::new(4).unwrap();
}

impl Default for Pkcs11Policy {
    fn default() -> Self {
        Self { sessions: Self::SESSIONS }
    }
}

/// How Azure Key Vault and Managed HSM are reached and signed in to. What is none is read from the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AzureSettings {
    pub ca_file: Option<PathBuf>,
    pub sign_in: AzureSignIn,
    pub tenant_id: Option<String>,
    pub client_id: Option<String>,
    /// Instead of `https://login.microsoftonline.com`.
    pub authority: Option<String>,
    /// Of the federated token, the client secret, or the certificate with its key.
    pub file: Option<PathBuf>,
}

/// The ways to sign in to Azure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AzureSignIn {
    #[default]
    ManagedIdentity,
    WorkloadIdentity,
    ClientSecret,
    ClientCertificate,
}

/// How Google Cloud KMS is reached and signed in to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoogleSettings {
    pub ca_file: Option<PathBuf>,
    /// Instead of the application default credentials.
    pub credentials_file: Option<PathBuf>,
    /// The e-mail address of a service account to act as.
    pub impersonate: Option<String>,
}

/// A server of Vault or OpenBao.
#[derive(Clone, Debug)]
pub struct VaultServer {
    pub ca_file: Option<PathBuf>,
    /// Where the sign-in happens, if not in the namespace of the root key; empty for the root namespace.
    pub sign_in_namespace: Option<String>,
    pub sign_in: VaultSignIn,
}

/// How to get a token. Secrets are not here: files and variables are read when they are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultSignIn {
    /// Of the file, or of the variable `VAULT_TOKEN`.
    Token { file: Option<PathBuf> },
    /// With the SecretID of the file, or of the variable `VAULT_SECRET_ID`.
    AppRole { mount: String, role_id: String, secret_id_file: Option<PathBuf> },
    /// With a token of an issuer that the server trusts.
    Jwt { mount: String, role: String, file: PathBuf },
    /// With the token of a Kubernetes service account, which the server has its cluster look at.
    Kubernetes { mount: String, role: String, file: PathBuf },
    /// With the certificate that the connection is made with. Without a role the server takes one that fits.
    Certificate { mount: String, role: Option<String>, identity: TlsIdentity },
}

/// A certificate and its key, as files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// With the certificates between it and its authority, if there are any.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug)]
pub struct RingPolicy {
    /// The ring's id, authenticated with every value; never reuse one.
    pub id: String,
    /// Root-key URIs, in order of preference.
    pub roots: Vec<String>,
    /// Wraps that a new data key needs before it is used, from 1 to the number of roots.
    pub min_wraps: usize,
    pub scope: Scope,
    pub record_wrap: RecordWrap,
    /// Go into the key service's encryption context, so into its log.
    pub labels: BTreeMap<String, String>,
    pub rotation: RotationPolicy,
    /// For how long backups of the catalog are kept, where somebody said so.
    pub backup_retention: Option<Duration>,
    pub cache: CachePolicy,
    pub allow_local_in_production: bool,
    /// Epochs below this are refused, and so is a missing state: the greater of the ring's own and that of [`Trust`].
    /// Zero: nothing is pinned.
    pub min_epoch: u64,
    /// Tenants that hold a root key of their own (scope `tenant` only), by the tenant as text.
    pub tenants: BTreeMap<String, TenantPolicy>,
}

impl RingPolicy {
    /// The URI of every root key that is called for this ring: its own and its customers'.
    pub fn root_keys(&self) -> impl Iterator<Item = &String> {
        self.roots.iter().chain(self.tenants.values().flat_map(TenantPolicy::root_keys))
    }
}

/// One tenant of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantPolicy {
    /// The URI of the root key that the customer holds, which is needed besides one of the ring's.
    pub customer_key: String,
    /// URIs of those that it takes the place of: data keys may need them still.
    pub former_customer_keys: Vec<String>,
}

impl TenantPolicy {
    /// The one that wraps first.
    pub fn root_keys(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.customer_key).chain(&self.former_customer_keys)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePolicy {
    /// How long a data key stays without being fetched again.
    pub ttl: Duration,
    /// How long beyond that it may be used while the key service is down.
    pub stale_if_error: Duration,
    /// How many data keys at most.
    pub max_keys: usize,
    /// How long a process that cannot read the ring's epoch still opens.
    pub max_unseen: Duration,
    /// Values that are sealed, opened or looked up under a data key until it is fetched again.
    pub max_uses: Option<u64>,
    /// Bytes that are sealed under a data key until it is fetched again.
    pub max_bytes: Option<u64>,
    /// Whether data keys are left to other processes in the shared cache.
    pub shared: bool,
}

/// A Redis that processes share data keys in, each sealed under a key of its ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedCachePolicy {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub database: u8,
    pub username: Option<String>,
    /// Without it the variable `ENFOLD_REDIS_PASSWORD` is read, and without that nobody signs in.
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    /// How long a question may take.
    pub timeout: Duration,
}

impl SharedCachePolicy {
    /// `HOST:PORT`.
    pub fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// A reader of values that another product encrypted.
#[derive(Clone, Debug)]
pub struct ReaderPolicy {
    pub format: Arc<dyn Format>,
    /// Where its keys are, in the order in which they are tried.
    pub keys: Vec<KeySource>,
    /// Whether one source may hold several keys, with commas between them.
    pub several_in_one: bool,
    /// The root keys that open its values, or the data keys of these, in the place of keys.
    pub roots: Option<ReaderRoots>,
    /// Where it is looked up by which keys its values open.
    pub table: Option<KeyTablePolicy>,
}

/// Root keys that other programs encrypted under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderRoots {
    /// One, unless a table says of each value which. No other is ever called.
    pub uris: Vec<KeyUri>,
    /// What they gave as the encryption context.
    pub context: BTreeMap<String, String>,
}

/// A table of the application's database that says by which keys values open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTablePolicy {
    /// `schema.table` on Postgres.
    pub table: String,
    pub lookup: Lookup,
    /// The column that names the root key, by its ARN or URI.
    pub root: Option<String>,
    /// The column with the wrapped data key.
    pub data_key: Option<String>,
    /// The column with the key itself.
    pub key: Option<String>,
}

/// How the row of a value is found in a table of keys, by columns of that table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// By what stands beside the value.
    Key { id: String },
    /// By the value's tenant, and the version that the value names; of a value that names none all are tried, the newest
    /// first.
    Tenant { tenant: String, version: Option<String> },
}

/// Where a key of another product is. It is read when it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// An environment variable.
    Variable(String),
    /// A file that nobody but its owner has a right to.
    File(PathBuf),
}

#[derive(Clone, Debug)]
pub struct TablePolicy {
    pub name: String,
    /// The column that says whose row it is.
    pub tenant: Option<String>,
    /// Columns that name the row for those columns that are bound to it.
    pub row_key: Vec<String>,
    /// Row triggers by name.
    pub triggers: BTreeMap<String, TriggerChoice>,
    pub columns: BTreeMap<String, ColumnPolicy>,
    /// Blind indexes over several columns of the table, keyed by name.
    pub indexes: BTreeMap<String, IndexPolicy>,
}

#[derive(Clone, Debug)]
pub struct ColumnPolicy {
    /// Authenticated with every value: the name may change, this may not.
    pub id: String,
    pub class: Option<String>,
    pub ring: String,
    /// What `apply` and `enforce` bring it to.
    pub mode: Mode,
    /// A signed mode below this is refused.
    pub min_mode: Mode,
    pub bind_row: bool,
    pub padding: Option<u32>,
    pub salt: Salt,
    pub lookalikes: Lookalikes,
    /// Readers by name, in the order in which they are tried.
    pub reads: Vec<String>,
    /// That one of them in whose format values are written in mode `legacy`.
    pub writes: Option<String>,
    /// Columns that hold parts of the values that readers open, by part.
    pub companions: BTreeMap<Companion, String>,
    /// The column whose id this one shares on purpose (an archive table).
    pub same_as: Option<String>,
    /// The database column that holds the envelopes, where the column's own type cannot.
    pub shadow: Option<String>,
    /// The part of a JSON column that it is, where it is no column itself.
    pub member: Option<Member>,
    pub indexes: BTreeMap<String, IndexPolicy>,
}

/// A member of the documents in a JSON column, or a property of vertices or edges of Apache AGE.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    pub column: String,
    /// The names that lead to it, from the outermost; one at least.
    pub path: Vec<String>,
    #[serde(default, skip_serializing_if = "Document::is_json")]
    pub document: Document,
    /// What is written beside it, by the names there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<Mark, String>,
}

/// What stands beside an envelope for queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Whether it is one.
    Sealed,
    /// The version of its data key.
    Version,
}

impl Member {
    /// Where a mark of this name stands: beside the member.
    pub fn beside(&self, name: &str) -> Vec<String> {
        let within = self.path.split_last().map(|(_, within)| within.to_vec()).unwrap_or_default();
        within.into_iter().chain([name.to_owned()]).collect()
    }
}

/// What has members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Document {
    /// A document of jsonb.
    #[default]
    Json,
    /// A vertex or an edge of Apache AGE, whose properties are of its type `agtype`.
    Graph,
}

impl Document {
    fn is_json(&self) -> bool {
        *self == Self::Json
    }
}

#[derive(Clone, Debug)]
pub struct IndexPolicy {
    /// The database column that holds the index values.
    pub column: String,
    /// The columns it covers, in order; one for a plain index.
    pub over: Vec<String>,
    pub normalise: Vec<Normaliser>,
    /// Bits kept of the HMAC, 8 to 256; fewer bits, more false hits and less to learn.
    pub bits: u16,
    pub unique: bool,
    /// Lookups cross tenants (a login by e-mail).
    pub cross_tenant: bool,
}

#[derive(Clone, Debug)]
pub struct ValuePolicy {
    pub id: String,
    pub ring: String,
}

/// Limits of the job engine. A running job's pace, and when it backs off, can be changed in its record.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPolicy {
    pub batch_rows: u32,
    /// Rows a second; none is no limit.
    pub rate: Option<u32>,
    pub lease: Duration,
    /// For how long a worker waits out errors that may pass, since its last success.
    pub patience: Duration,
    pub lock_timeout: Duration,
    pub statement_timeout: Duration,
    pub back_off: BackOff,
}

/// When a job gives way to everybody else: it waits while any of these is passed. On Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// How far a replica may be behind.
    pub max_replica_lag: Duration,
    /// Sessions that wait for a lock of the job.
    pub max_lock_waits: u32,
    /// Log that a replication slot holds back, in MiB.
    pub max_slot_mib: u32,
    /// Age of a snapshot, in transactions.
    pub max_snapshot_age: u32,
    /// Growth of the log, in MiB a second.
    pub max_wal_mib_per_second: Option<u32>,
    /// Checkpoints that were requested within the server's `checkpoint_timeout`.
    pub max_requested_checkpoints: u32,
    /// What database and log take more than when the job began, in MiB.
    pub max_disk_growth_mib: Option<u32>,
    /// A query that takes longer than it may.
    pub canary_query: Option<CanaryQuery>,
}

/// As a policy that says nothing of them.
impl Default for BackOff {
    fn default() -> Self {
        super::resolve::back_off(&RawJobs::default())
    }
}

/// A query of the application's whose time tells whether the database has enough to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryQuery {
    pub sql: String,
    pub time: Duration,
}
