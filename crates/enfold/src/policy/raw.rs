//! What may stand in `enfold.toml`: every key, its type, its default and its meaning, once.
//!
//! The JSON Schema, the configuration reference, the names of the environment variables and the check of a file are
//! all made from these types and their comments (see `schema.rs`). What a value means beyond its own type (that a ring
//! exists, that an id is used once) is `resolve.rs`'s to say.

mod access;
mod emergency;
mod key_services;
mod metrics;
mod readers;
mod service;
mod sinks;
mod traces;

use std::borrow::Cow;
use std::collections::BTreeMap;

use enfold_core::layout::MAX_PADDING_BLOCK;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub(super) use self::access::RawAccess;
pub(super) use self::emergency::RawEmergency;
pub(super) use self::key_services::{
    RawAws, RawAzure, RawAzureAuth, RawGoogle, RawKeyServices, RawLocal, RawPkcs11, RawVault, RawVaultAuth,
};
pub(super) use self::metrics::RawMetrics;
pub(super) use self::readers::{
    Derive, RawKeyTable, RawReader, ReaderEncoding, ReaderFormat, ReaderPadding, TextEncoding,
};
pub(super) use self::service::{RawClaimGrant, RawConsole, RawIssuer, RawService, RawServiceLimits, RawServiceTls};
pub(super) use self::sinks::RawSink;
pub(super) use self::traces::RawTraces;
use super::model::{
    Detail, Environment, Level, LogFormat, Lookalikes, Mode, RecordWrap, Salt, Scope, TriggerChoice, Unauthenticated,
};
use super::prune::RawPrune;
use super::rotation::RawRotation;

/// Bits of a whole HMAC-SHA-256.
pub(super) const ALL_BITS: u16 = 256;

/// The policy of Enfold: which database, which key rings, which columns, and how they are protected.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawPolicy {
    /// Where this policy runs. A policy that does not say is production, where development keys are refused.
    pub environment: Environment,
    /// The database whose columns are protected.
    pub database: RawDatabase,
    /// Where keys, ring states and events are kept; the protected database itself unless another is named. A database
    /// of its own has backups of its own, which is what makes destroying a key final.
    pub catalog: RawCatalog,
    /// What an application pins, so that whoever can write to the catalog cannot weaken it.
    pub trust: RawTrust,
    /// What every call must say about itself.
    pub context: RawContext,
    /// What the command logs. A program that uses the library sets up its own logging.
    pub log: RawLog,
    /// Where events (seal, open, key made, key used, keys rewrapped, root key, rows pruned, refused) are written. Values
    /// that one caller seals or opens one at a time, in one column and under one data key, are counted: one event a second, or
    /// a few where threads share the work, with their number in `count`.
    pub events: RawEvents,
    /// What evidence for auditors goes by, besides the settings that it is about.
    pub evidence: RawEvidence,
    /// How key services are reached, besides what the URIs of root keys say.
    pub key_services: RawKeyServices,
    /// A Redis in which the processes of an application share data keys, for the rings that say `cache.shared`.
    pub shared_cache: RawSharedCache,
    /// Key rings by name.
    pub rings: BTreeMap<String, RawRing>,
    /// Readers of values that other products encrypted, by name. A column says in `reads` which of them it may need.
    pub readers: BTreeMap<String, RawReader>,
    /// Tables by name: `"schema.table"` on Postgres, `table` on SQLite.
    pub tables: BTreeMap<String, RawTable>,
    /// Values that live in no column (queues, caches, files, API callers), by the name the application uses.
    pub values: BTreeMap<String, RawValue>,
    /// Rows that are deleted when they have grown old enough, by the name of the rule.
    pub prune: BTreeMap<String, RawPrune>,
    /// Limits of jobs. A running job's limits can be changed without this file.
    pub jobs: RawJobs,
    /// The service that `enfold serve` runs.
    pub service: RawService,
    /// What narrows further what roles grant to the service's callers.
    pub access: RawAccess,
    /// Figures for Prometheus, of `enfold serve` and of `enfold worker --metrics`.
    pub metrics: RawMetrics,
    /// Spans that say in which phase the time of a call goes, for a collector of OpenTelemetry.
    pub traces: RawTraces,
}

/// The database whose columns are protected.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawDatabase {
    /// `postgres://user:password@host:port/database?sslmode=…`, or `sqlite:` and a path that starts at this file's
    /// folder. Keep the password out of the file: `${DATABASE_URL}`.
    #[schemars(extend("x-required" = true, "format" = "database-url"))]
    pub url: Option<String>,
}

/// Where keys, ring states and events are kept.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCatalog {
    /// As `database.url`, which is also its default.
    #[schemars(extend("format" = "database-url"))]
    pub url: Option<String>,
}

/// What an application pins.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTrust {
    /// Public key of the operators, `ed25519:` and 32 bytes in unpadded base64url; `enfold init` makes it. Ring states
    /// that it did not sign are refused.
    #[schemars(extend("format" = "operator-key"))]
    pub operator_key: Option<String>,
    /// File of the operators' private key, for commands that change a ring. Leave it out where applications run.
    #[schemars(extend("format" = "path"))]
    pub operator_key_file: Option<String>,
    /// As `min_epoch` of a ring, for every ring: the greater of the two counts.
    #[schemars(range(max = 9_223_372_036_854_775_807_u64))]
    pub min_epoch: u64,
}

/// What every call must say about itself.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawContext {
    /// Refuse a seal or an open that does not say who asks.
    pub require_actor: bool,
    /// Refuse a seal or an open that does not say why.
    pub require_reason: bool,
}

/// What the command logs.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLog {
    /// The form of a log line.
    pub format: LogFormat,
    /// The least severe line that is written, for the parts that `levels` does not name.
    pub level: Level,
    /// Levels of single parts, such as `kms = "debug"` for the calls to the key services alone.
    pub levels: RawLevels,
}

/// Levels of single parts.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLevels {
    /// Calls to the key services.
    pub kms: Option<Level>,
    /// The data-key cache.
    pub cache: Option<Level>,
    /// Key rings: which data key seals, what is retired or disabled.
    pub keyring: Option<Level>,
    /// The catalog and its migrations.
    pub catalog: Option<Level>,
    /// Event sinks.
    pub events: Option<Level>,
    /// Loading the policy.
    pub policy: Option<Level>,
    /// Jobs: plans, chunks, leases.
    pub jobs: Option<Level>,
    /// Discovery.
    pub discover: Option<Level>,
    /// The service: its requests and connections.
    pub server: Option<Level>,
}

/// Where events are written.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEvents {
    /// A file that one JSON line is appended to for each event.
    #[schemars(extend("format" = "path"))]
    pub file: Option<String>,
    /// Write events to the catalog's `events` table. `enfold init` turns it on.
    pub catalog: bool,
    /// How opened values are written down.
    pub opens: Detail,
    /// How sealed values are written down.
    pub seals: Detail,
    /// How values are written down that jobs seal and open.
    pub jobs: Detail,
    /// Answer no seal and no open before its event is on a disk: with the catalog, in `file`, or in `spill`. Where it cannot be
    /// written there is no answer.
    pub before_answer: bool,
    /// A folder, for this process's user alone, that takes what the catalog cannot take while it is away. It is handed on when the
    /// catalog is back, by the next process if this one has ended.
    #[schemars(extend("format" = "path"))]
    pub spill: Option<String>,
    /// The size that a process's file in `spill` may have.
    #[schemars(range(min = 1))]
    pub spill_mib: u64,
    /// How long events are kept in the catalog at least. What was signed and is older is removed by `enfold log prune`, and after that
    /// by who signs the log.
    #[schemars(extend("format" = "duration"))]
    pub keep: DurationText,
    /// A folder in which what is removed is left first, as files that `enfold log verify` reads.
    #[schemars(extend("format" = "path"))]
    pub archive: Option<String>,
    /// File of the key that signs the log's checkpoints; `enfold log init` makes it. A process that has it signs for all of the
    /// catalog's writers, so most need none.
    #[schemars(extend("format" = "path"))]
    pub signing_key_file: Option<String>,
    /// The key that signs them where a key service keeps it: `vault://HOST/transit/NAME`, of the type `ed25519`. `enfold log init` has the
    /// policy believe it.
    #[schemars(extend("format" = "uri"))]
    pub signing_key: Option<String>,
    /// How often a process with that key signs how far the log has come.
    #[schemars(extend("format" = "duration"))]
    pub checkpoint_every: DurationText,
    /// Public keys whose checkpoints are believed, each `ed25519:` and 32 bytes in unpadded base64url.
    pub log_keys: Vec<String>,
    /// Who else is sent the log's lines, by names that figures and the program's log give them.
    pub sinks: BTreeMap<String, RawSink>,
}

impl Default for RawEvents {
    fn default() -> Self {
        Self {
            file: None,
            catalog: false,
            opens: Detail::Each,
            seals: Detail::Each,
            jobs: Detail::Minute,
            before_answer: false,
            spill: None,
            spill_mib: 1024,
            keep: DurationText::from("7y"),
            archive: None,
            signing_key_file: None,
            signing_key: None,
            checkpoint_every: DurationText::from("1m"),
            log_keys: Vec::new(),
            sinks: BTreeMap::new(),
        }
    }
}

/// What evidence for auditors goes by.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEvidence {
    /// How old the newest test of a restored backup (`enfold verify --restored`) may be.
    #[schemars(extend("format" = "duration"))]
    pub restore_test_every: DurationText,
}

impl Default for RawEvidence {
    fn default() -> Self {
        Self { restore_test_every: DurationText::from("90d") }
    }
}

/// A Redis in which the processes of an application share data keys, so that one of them asks the key service and not
/// each. Entries are sealed under a key of the ring. Hits do not show in the key service's log.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSharedCache {
    /// `rediss://HOST:PORT/DATABASE`, or `redis://` without TLS: in production for a server on this machine only. Port
    /// 6379 and database 0 unless others are named. None: there is no shared cache.
    pub url: Option<String>,
    /// The user to sign in as, where the server has users.
    pub username: Option<String>,
    /// File of the password; without it the variable `ENFOLD_REDIS_PASSWORD` is read, and without that nobody signs in.
    /// Others may have no right to it.
    #[schemars(extend("format" = "path"))]
    pub password_file: Option<String>,
    /// PEM file of the authorities that may vouch for the server, instead of the system's.
    #[schemars(extend("format" = "path"))]
    pub ca_file: Option<String>,
    /// How long a question to it may take. After that the key service is asked.
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "10s"))]
    pub timeout: DurationText,
}

impl Default for RawSharedCache {
    fn default() -> Self {
        Self { url: None, username: None, password_file: None, ca_file: None, timeout: DurationText::from("100ms") }
    }
}

/// A named set of data keys with one policy.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRing {
    /// The ring's id. It is authenticated with every value, so it may never change nor be used again; the name may.
    #[schemars(extend("x-required" = true, "format" = "id"))]
    pub id: Option<String>,
    /// URIs of the root keys, in order of preference; every data key is wrapped once under each of them. A key of AWS
    /// KMS is `aws-kms://REGION/KEY` (a key id, `alias/NAME` or an ARN), of Google
    /// Cloud KMS `gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K`, of Azure
    /// `azure-kv://VAULT.vault.azure.net/keys/NAME`, a transit key of Vault or OpenBao `vault://HOST:PORT/MOUNT/KEY`, a
    /// key of a PKCS#11 token `pkcs11:token=TOKEN;object=KEY?module-path=PATH&pin-source=file:PATH`, a key file for
    /// development `local:PATH`.
    #[schemars(extend("x-required" = true, "x-items" = "root-key-uri"))]
    pub roots: Option<Vec<String>>,
    /// How many root keys must have wrapped a new data key before anything is sealed with it. While fewer than all
    /// answer, sealing goes on, and the missing wraps are made when the others are back. None: one.
    pub min_wraps: Option<u32>,
    /// What one data key covers.
    #[schemars(extend("x-required" = true))]
    pub scope: Option<Scope>,
    /// Who wraps a record's data key, where the scope is `record`.
    pub record_wrap: RecordWrap,
    /// Labels that go into the key service's encryption context, so into its log: never anything secret.
    pub labels: BTreeMap<String, String>,
    /// When data keys are rotated by themselves, and what follows.
    pub rotation: RawRotation,
    /// For how long backups of the catalog are kept: a certificate of destruction says from when on none of them holds a wrap.
    /// None: it says that nobody said.
    #[schemars(extend("x-maximum" = "36500d"))]
    pub backup_retention: Option<DurationText>,
    /// The data-key cache of a process.
    pub cache: RawCache,
    /// Accept `local:` root keys where the environment is production. Whoever can read the key file then reads every
    /// value; no key service can be asked who did.
    pub allow_local_in_production: bool,
    /// States of the ring with an epoch below this are refused, and so is a catalog that has none. `enfold init` pins
    /// the first epoch, so that a state that was deleted is not taken for a ring that never was; raise it after changes.
    #[schemars(range(max = 9_223_372_036_854_775_807_u64))]
    pub min_epoch: u64,
    /// Tenants that hold a root key of their own, by the tenant as your tables spell it (a text, a whole number or a UUID).
    pub tenants: BTreeMap<String, RawTenant>,
}

/// One tenant of a ring whose scope is `tenant`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTenant {
    /// The URI of a root key that the customer holds, written as in `roots`. Every data key of the tenant that is made from
    /// then on needs it besides a root key of the ring, index keys included: when the customer withdraws it, the tenant's
    /// values stop opening, and nobody else's. It is in force once `enfold keys customers --sign` was run.
    #[schemars(extend("x-required" = true, "format" = "root-key-uri"))]
    pub customer_key: Option<String>,
    /// URIs of root keys that `customer_key` takes the place of, while data keys of the tenant may need them still. They open,
    /// and wrap nothing once `enfold keys customers --sign` was run. `enfold keys rewrap` brings every data key under
    /// `customer_key`; then they are taken out here, and it is signed again.
    pub former_customer_keys: Vec<String>,
}

/// The data-key cache of a process.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCache {
    /// How long a data key may be used without asking the key service again. Zero: each use asks.
    #[schemars(extend("x-maximum" = "1h"))]
    pub ttl: DurationText,
    /// How long beyond `ttl` a data key may be used while the key service does not answer. Zero, the default: an
    /// outage of the key service stops reads after `ttl`. Longer keeps applications up through an outage, and keeps a
    /// key that the key service has disabled in use for that long.
    #[schemars(extend("x-maximum" = "24h"))]
    pub stale_if_error: DurationText,
    /// How many data keys are kept.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_keys: u32,
    /// How long a process that cannot read the ring's epoch still opens values: within this time a disabled key is out
    /// of use everywhere.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "1h"))]
    pub max_unseen: DurationText,
    /// How many values a process seals, opens or looks up under a data key until it asks the key service again. A batch is
    /// counted when it begins, and is not divided. None: no limit but `ttl`.
    #[schemars(range(min = 1, max = 9_223_372_036_854_775_807_u64))]
    pub max_uses: Option<u64>,
    /// How many bytes of plaintext a process seals under a data key until it asks the key service again. None: no limit.
    #[schemars(range(min = 1, max = 9_223_372_036_854_775_807_u64))]
    pub max_bytes: Option<u64>,
    /// Leave data keys that the key service gave out to other processes, in the Redis of `shared_cache`.
    pub shared: bool,
}

impl Default for RawCache {
    fn default() -> Self {
        Self {
            ttl: DurationText::from("5m"),
            stale_if_error: DurationText::from("0s"),
            max_keys: 10_000,
            max_unseen: DurationText::from("30s"),
            max_uses: None,
            max_bytes: None,
            shared: false,
        }
    }
}

/// A table with protected columns.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTable {
    /// The column that says whose row it is. It is authenticated with every value of the table, and may change only
    /// together with the values.
    pub tenant: Option<String>,
    /// Columns that name the row, for those columns that are bound to it (`bind_row`).
    pub row_key: Vec<String>,
    /// Row triggers of the table by name, each with what somebody who has read it decided. `apply` waits until every
    /// row trigger stands here.
    pub triggers: BTreeMap<String, TriggerChoice>,
    /// Protected columns by name.
    pub columns: BTreeMap<String, RawColumn>,
    /// Blind indexes over several columns, by name.
    pub indexes: BTreeMap<String, RawCompoundIndex>,
}

/// A protected column.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawColumn {
    /// The column's id, as a rule `schema.table.column` when it was first protected. It is authenticated with every
    /// value: the column may be renamed, the id may not. Left out only beside `same_as`.
    #[schemars(extend("format" = "id"))]
    pub id: Option<String>,
    /// What the column holds (`email`, `phone`, …), for reports.
    pub class: Option<String>,
    /// The key ring that protects it. Left out only beside `same_as`.
    pub ring: Option<String>,
    /// What `apply` and `enforce` bring the column to.
    pub mode: Mode,
    /// A process refuses a signed mode below this.
    pub min_mode: Mode,
    /// Authenticate the row key with every value, so that a value copied to another row of the same tenant does not
    /// open. Needs the table's `row_key`, and the key must be known before a value is sealed.
    pub bind_row: bool,
    /// Pad plaintext to a multiple of this many bytes, to hide lengths.
    #[schemars(range(min = 2, max = MAX_PADDING_BLOCK))]
    pub padding: Option<u32>,
    /// Whether a reader of the database may see which values one process sealed together.
    pub salt: Salt,
    /// What values are that begin like an envelope and are not one.
    pub lookalikes: Lookalikes,
    /// Readers of values that another product encrypted, in the order in which they are tried on what is no envelope. What
    /// one of them recognises and none opens is an error, never plaintext. In mode `kms` none is used.
    pub reads: Vec<String>,
    /// That one of `reads` in whose format values are written in mode `legacy`, and stored by `rollback`: for applications that
    /// read no envelopes. None: in `legacy` a column with `reads` is not written, and `rollback` stores plaintext.
    pub writes: Option<String>,
    /// The columns that hold what readers have apart from the value: `{ iv = "payload_iv", data_key = "data_key_ciphertext" }`.
    /// `apply` empties them as it converts a value, so they must take NULL.
    pub companions: BTreeMap<String, String>,
    /// Whether `reads` may name readers of formats that are not authenticated.
    pub unauthenticated: Unauthenticated,
    /// `schema.table.column` of the column of this policy whose id this one shares on purpose (an archive table).
    pub same_as: Option<String>,
    /// The database column, of type text or bytea, that holds the envelopes of a column whose own type cannot (a date, a
    /// number, an array, …). `apply` adds it if it is not there. Of the two, one at most holds a value. On Postgres.
    pub shadow: Option<String>,
    /// The database column, of type jsonb, whose documents have the value as a member, named by `path`. The rest of each
    /// document stays as it is. The name of this entry then stands for the member alone. On Postgres.
    pub within: Option<String>,
    /// Which member of the documents in `within` the value is: `$.contact.email`. What stands in arrays has no path. A name
    /// with other characters than letters, digits, `_` and `-` is quoted: `$."e-mail address"`.
    pub path: Option<String>,
    /// The property of vertices or edges of Apache AGE that the value is, where the table is the one of their label. The name of
    /// this entry then stands for the property. On Postgres with Apache AGE.
    pub property: Option<String>,
    /// What `apply`, a re-encryption and `rollback` write beside the value, in the object that it is a member of or among the
    /// properties of its vertex or edge. For queries: Enfold does not read it.
    pub marks: RawMarks,
    /// Blind indexes over this column, by name. The name takes part in the index key: a renamed index is a new one.
    pub indexes: BTreeMap<String, RawIndex>,
}

impl Default for RawColumn {
    fn default() -> Self {
        Self {
            id: None,
            class: None,
            ring: None,
            mode: Mode::Kms,
            min_mode: Mode::Legacy,
            bind_row: false,
            padding: None,
            salt: Salt::default(),
            lookalikes: Lookalikes::default(),
            reads: Vec::new(),
            writes: None,
            companions: BTreeMap::new(),
            unauthenticated: Unauthenticated::default(),
            same_as: None,
            shadow: None,
            within: None,
            path: None,
            property: None,
            marks: RawMarks::default(),
            indexes: BTreeMap::new(),
        }
    }
}

/// What stands beside a member or a property.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMarks {
    /// The name of what is `true` beside an envelope, and `false` beside what `rollback` has decrypted.
    pub sealed: Option<String>,
    /// The name of what holds the version of the envelope's data key, and null beside what `rollback` has decrypted.
    pub version: Option<String>,
}

/// A blind index over one column: what lookups for equality use.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawIndex {
    /// The database column that holds the index values. By default the column's name, `_` and the index's name.
    pub column: Option<String>,
    /// Steps that make equal what a lookup should find equal, in order: `trim`, `lower`, `nfkc`, `digits`, `email`,
    /// `last:4` (the last four characters), `word-prefix:3` (the first three characters of each word).
    #[schemars(extend("x-items" = "normaliser"))]
    pub normalise: Vec<String>,
    /// Bits kept of the HMAC. Fewer bits: more false hits, and less to learn for a reader of the database.
    #[schemars(range(min = 8, max = 256))]
    pub bits: u16,
    /// Equal values are refused by the database. A unique index is never truncated.
    pub unique: bool,
    /// Lookups find a value whatever its tenant (a login by e-mail does). One index key then serves all tenants, so a
    /// reader of the database sees which tenants hold equal values.
    pub cross_tenant: bool,
}

impl Default for RawIndex {
    fn default() -> Self {
        Self { column: None, normalise: Vec::new(), bits: ALL_BITS, unique: false, cross_tenant: false }
    }
}

/// A blind index over several columns of the table.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCompoundIndex {
    /// The protected columns it covers, in order; two at least. They share a key ring.
    #[schemars(extend("x-required" = true))]
    pub over: Option<Vec<String>>,
    /// The database column that holds the index values.
    #[schemars(extend("x-required" = true))]
    pub column: Option<String>,
    /// As for the index of one column; applied to each of the columns.
    #[schemars(extend("x-items" = "normaliser"))]
    pub normalise: Vec<String>,
    /// Bits kept of the HMAC. Fewer bits: more false hits, and less to learn for a reader of the database.
    #[schemars(range(min = 8, max = 256))]
    pub bits: u16,
    /// Equal combinations are refused by the database. A unique index is never truncated.
    pub unique: bool,
    /// Lookups find a row whatever its tenant.
    pub cross_tenant: bool,
}

impl Default for RawCompoundIndex {
    fn default() -> Self {
        Self { over: None, column: None, normalise: Vec::new(), bits: ALL_BITS, unique: false, cross_tenant: false }
    }
}

/// Values that live in no column.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawValue {
    /// The id that is authenticated with every value, as a column's.
    #[schemars(extend("x-required" = true, "format" = "id"))]
    pub id: Option<String>,
    /// The key ring that protects them.
    #[schemars(extend("x-required" = true))]
    pub ring: Option<String>,
}

/// Limits of jobs. Those that a job backs off for are Postgres's; it waits, says why, and goes on when it is over.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawJobs {
    /// Rows of a statement at most; the engine takes fewer where a chunk lasts longer than about 100 ms.
    #[schemars(range(min = 1, max = 50_000))]
    pub batch_rows: u32,
    /// Rows a second at most. None: as fast as the database takes them.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub rate: Option<u32>,
    /// How long a worker may hold a range without a sign of life before another takes it over.
    #[schemars(extend("x-minimum" = "5s", "x-maximum" = "1h"))]
    pub lease: DurationText,
    /// How long a worker waits out errors that may pass (a full disk, a server that restarts, a key service that does not
    /// answer) before the command ends with the error. What is committed stays, and the same command goes on from there.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "1d"))]
    pub patience: DurationText,
    /// How long a statement waits for a lock before it gives way to the application. Below the server's
    /// `deadlock_timeout` (1 s as a rule), it is never the application that a deadlock ends.
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1m"))]
    pub lock_timeout: DurationText,
    /// How long a statement may run.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "1h"))]
    pub statement_timeout: DurationText,
    /// Back off while a replica is behind by more than this.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "1h"))]
    pub max_replica_lag: DurationText,
    /// Back off while more sessions than this wait for a lock that the job holds.
    #[schemars(range(min = 0, max = 10_000))]
    pub max_lock_waits: u32,
    /// Back off while a replication slot holds back more write-ahead log than this, in MiB.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_slot_mib: u32,
    /// Back off while somebody's snapshot is older than this many transactions: the row versions that the job leaves
    /// behind cannot be cleared meanwhile.
    #[schemars(range(min = 1, max = 2_000_000_000))]
    pub max_snapshot_age: u32,
    /// Back off while the write-ahead log grows by more than this, in MiB a second. None: no limit.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_wal_mib_per_second: Option<u32>,
    /// Back off when more checkpoints than this were requested within the server's `checkpoint_timeout`, for the amount
    /// of log or by somebody. The default is what the server itself calls too frequent: one in 30 s of 5 minutes.
    #[schemars(range(min = 0, max = 10_000))]
    pub max_requested_checkpoints: u32,
    /// Back off while database and write-ahead log take this many MiB more than when the job began. None: no limit. The
    /// log is counted where the role may list it (`pg_monitor`).
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_disk_growth_mib: Option<u32>,
    /// A query of the application's, sent every second in a read-only transaction. Back off when it takes longer than
    /// `canary_query_time`. What it returns is not looked at.
    pub canary_query: Option<String>,
    /// How long the canary query may take.
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1m"))]
    pub canary_query_time: DurationText,
}

impl Default for RawJobs {
    fn default() -> Self {
        Self {
            batch_rows: 2_000,
            rate: None,
            lease: DurationText::from("1m"),
            patience: DurationText::from("1m"),
            lock_timeout: DurationText::from("250ms"),
            statement_timeout: DurationText::from("30s"),
            max_replica_lag: DurationText::from("10s"),
            max_lock_waits: 0,
            max_slot_mib: 16 << 10,
            max_snapshot_age: 10_000_000,
            max_wal_mib_per_second: None,
            max_requested_checkpoints: 10,
            max_disk_growth_mib: None,
            canary_query: None,
            canary_query_time: DurationText::from("100ms"),
        }
    }
}

/// A duration in a person's words, not yet read: `500ms`, `30s`, `5m`, `1h30m`, `90d`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct DurationText(pub(super) String);

impl From<&str> for DurationText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "duration", "pattern": "^([0-9]+(ms|s|m|h|d|w))+$" })
    }
}
