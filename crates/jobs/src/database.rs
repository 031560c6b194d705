//! What Enfold asks of a database besides moving rows: what is there, what a plan must know, and schema steps.

use async_trait::async_trait;
use enfold::Result;
use enfold::policy::Member;
use serde::{Deserialize, Serialize};

use crate::disabling::{Disablings, Guarded};
use crate::generations::{GenerationChange, IndexPlace};
use crate::model::{Census, ColumnNote, CountsSought, KeptCount, NotedColumn, Storage, TableName, Target};
use crate::prune::Prunable;
use crate::recognise::{Recognised, Recogniser};
use crate::store::{Row, Store};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    Postgres,
    Sqlite,
}

/// Which database it is that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What people call it: its name, or that of its file.
    pub name: String,
    /// Tells it from every other one that can be reached now, physical copies and standbys of it among them.
    pub running: String,
    /// Tells it from others over restarts. A physical copy may have it too.
    pub lasting: String,
    /// Whether it takes over what is written elsewhere: a standby, or a subscriber.
    pub follows: bool,
}

/// A table as `discover` sees it: names, types and comments, no values.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableSurvey {
    pub table: TableName,
    pub comment: Option<String>,
    /// The planner's estimate, or a count on SQLite.
    pub rows: u64,
    pub columns: Vec<ColumnSurvey>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ColumnSurvey {
    pub name: String,
    /// As the database prints it: `character varying(120)`.
    pub sql_type: String,
    pub comment: Option<String>,
    pub primary_key: bool,
    pub unique: bool,
    /// `schema.table.column` that it references.
    pub references: Option<String>,
    pub nullable: bool,
}

/// What a plan must know of one table of the policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableFacts {
    pub table: TableName,
    /// Changes whenever something changes that a plan relied on; a saved plan whose fingerprint differs is stale.
    pub fingerprint: String,
    pub rows: u64,
    /// Table, TOAST and index bytes.
    pub bytes: u64,
    pub index_count: u32,
    /// Primary key columns; empty when there is none.
    pub key: Vec<String>,
    pub columns: Vec<ColumnFacts>,
    /// What cannot be converted as it stands: the plan refuses the column (or the table, with no column).
    pub refusals: Vec<Finding>,
    /// What an operator should know or must settle, in the order of importance.
    pub warnings: Vec<Finding>,
    /// Triggers that fire when a row is converted and see its values: each needs the policy's word.
    pub row_triggers: Vec<String>,
    /// Of a partitioned table: those that hold rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<TableName>,
    /// Indexes over the policy's columns, which keep plaintext until they are dropped.
    #[serde(default)]
    pub indexes: Vec<IndexFacts>,
    /// Who is connected and may read the table, to be compared with the registered readers.
    #[serde(default)]
    pub connected: Vec<Connected>,
    /// What the conversion needs at most, if nothing is freed meanwhile.
    #[serde(default)]
    pub growth: Growth,
}

/// An index over a column of the policy, Enfold's own blind indexes left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFacts {
    /// `schema.index`.
    pub name: String,
    /// The columns of the policy that it holds, computes from or filters by.
    pub columns: Vec<String>,
    pub unique: bool,
    /// Envelopes do not fit into it: it must go before the first value is sealed, not after.
    pub drop_first: bool,
    /// How often it was read since the statistics were reset.
    pub scans: Option<u64>,
    pub bytes: u64,
    pub kind: IndexKind,
    /// The statement that drops it, or the constraint that it belongs to.
    pub drop: String,
}

/// How an index hangs on its table, which decides how it can be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexKind {
    #[default]
    Plain,
    /// Of a partitioned table: those of the partitions hang on it.
    Partitioned,
    /// Behind the constraint of this name, and gone with it.
    Constraint(String),
}

#[cfg(feature = "postgres")]
impl IndexKind {
    pub(crate) fn of(constraint: Option<String>, partitioned: bool) -> Self {
        match constraint {
            Some(name) => Self::Constraint(name),
            None if partitioned => Self::Partitioned,
            None => Self::Plain,
        }
    }
}

/// Sessions of one application under one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// `application_name`; empty where the client gave none.
    pub application: String,
    pub role: String,
    pub sessions: u64,
}

/// An upper estimate, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// New row versions and index entries.
    pub disk: u64,
    /// Write-ahead log, which slots, archives and standbys get as well.
    pub wal: u64,
}

/// A plaintext value known to have been in a column, to be looked for elsewhere. Wiped on drop; does not print.
pub struct Probe {
    pub column: String,
    pub value: zeroize::Zeroizing<Vec<u8>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ColumnFacts {
    pub name: String,
    pub sql_type: String,
    /// `None`: a type that cannot hold an envelope (a refusal says the way out).
    pub storage: Option<Storage>,
    /// The statement that widens it first (varchar(n) to text), when one is needed.
    pub widen: bool,
    pub average_bytes: u32,
    pub census: Census,
    /// What holds its envelopes, if that is another column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowFacts>,
}

/// The shadow of a column whose own type cannot hold an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowFacts {
    pub column: String,
    pub there: bool,
    /// One of the two always holds a value: the source was NOT NULL before it got the shadow, or is.
    pub required: bool,
    /// The source was dropped.
    pub alone: bool,
}

/// One thing a plan says about a table: a stable word, a sentence, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `row-trigger`, `expression-index`, `char-n`, …; the reference lists them.
    pub word: String,
    pub column: Option<String>,
    pub says: String,
    pub way_out: Option<String>,
}

/// A change of the schema that `apply`, `enforce` or `rollback` makes. Each is idempotent: run twice, it is there once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum SchemaStep {
    /// varchar(n) and domains over it become text; length checks on the column are dropped (named in the plan).
    Widen {
        table: TableName,
        column: String,
    },
    /// Adds the column that holds a blind index.
    AddIndexColumn {
        table: TableName,
        column: String,
    },
    /// Builds its database index without holding writers up; unique where the policy says so.
    BuildIndex {
        table: TableName,
        column: String,
        unique: bool,
        tenant: Option<String>,
        /// As the plan found them. Whoever runs the step looks again; whoever prints it has these.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        partitions: Vec<TableName>,
    },
    DropIndexColumn {
        table: TableName,
        column: String,
    },
    /// Drops an index that would keep plaintext (a plain or expression index on the column). Its definition is recorded
    /// in the database first, for [`SchemaStep::RestorePlainIndexes`].
    DropPlainIndex {
        table: TableName,
        index: String,
        /// For the statement that is printed; whoever runs the step looks for itself.
        #[serde(default)]
        kind: IndexKind,
    },
    /// Makes again the indexes of the table that were dropped with a record, as they were. Those over a column of `sealed`,
    /// which holds envelopes still, wait for another time.
    RestorePlainIndexes {
        table: TableName,
        sealed: Vec<String>,
    },
    /// Refuses a change of tenant or bound key on a row that holds envelopes, unless its envelopes change with it.
    GuardBinding {
        table: TableName,
        bound: Vec<String>,
        sealed: Vec<String>,
        /// Members of JSON columns that hold envelopes as well.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        members: Vec<Member>,
    },
    DropBindingGuard {
        table: TableName,
    },
    /// New and changed rows must hold an envelope under one of `key_ids` (hex; empty: any key). Not yet checked against
    /// the old ones (NOT VALID).
    AddFormCheck {
        table: TableName,
        column: String,
        storage: Storage,
        key_ids: Vec<String>,
    },
    /// The same for a member of a JSON column, which the policy calls `column`.
    AddMemberCheck {
        table: TableName,
        column: String,
        member: Member,
        key_ids: Vec<String>,
    },
    /// The old rows are checked as well.
    ValidateFormCheck {
        table: TableName,
        column: String,
    },
    DropFormCheck {
        table: TableName,
        column: String,
    },
    /// A change of what binds a source, `column`, and its shadow together.
    Shadow {
        table: TableName,
        column: String,
        shadow: String,
        change: ShadowChange,
    },
    /// No value under a data key that is refused ([`Disablings::refuse`]) is taken in these columns any more. An UPDATE that
    /// leaves such a value as it is goes on.
    RefuseKeys {
        table: TableName,
        columns: Vec<Guarded>,
    },
    /// Takes that back.
    AllowKeys {
        table: TableName,
    },
    /// A step of a blind index's rotation. `partitions` as in [`SchemaStep::BuildIndex`].
    Generations {
        table: TableName,
        column: String,
        change: GenerationChange,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        partitions: Vec<TableName>,
    },
    /// Rewrites the table, so that old row versions leave the files (VACUUM FULL, VACUUM on SQLite). Locks it meanwhile.
    Rewrite {
        table: TableName,
    },
}

/// What becomes of a source and its shadow. `required`: one of the two always holds a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShadowChange {
    /// Adds the shadow; of the two one at most holds a value from now on. A writer that changes only the source empties the
    /// shadow by it, and the other way round.
    Add { storage: Storage, required: bool },
    /// New and changed rows have nothing in the source. The old ones are not checked yet.
    Refuse,
    /// The old rows are checked as well.
    Validate,
    /// Values may be in the source again.
    Allow,
    /// Drops the shadow, once nothing is in it.
    Drop { required: bool },
    /// Drops the source, once nothing is in it.
    DropSource { required: bool },
}

/// A copy of plaintext that an in-place conversion left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residue {
    /// `dead-rows`, `old-index`, `statistics`, `wal`, `free-pages`, …
    pub kind: String,
    /// The object it was found in, or could be in.
    pub place: String,
    pub column: Option<String>,
    /// How many were found; `None` where we can only name the place and not look.
    pub found: Option<u64>,
    /// The command that clears it.
    pub clear: String,
}

/// Whether an inspection counts what a table holds, for which it has to be read as a whole, and more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// For whoever shows them.
    Taken,
    /// Columns, refusals and fingerprint are the same. Every census is empty, rows and sizes are an estimate or zero, and
    /// what would be warned of by its count alone is left out.
    LeftOut,
}

/// A database that Enfold can work on.
#[async_trait]
pub trait Database: Send + Sync {
    fn dialect(&self) -> Dialect;

    async fn identity(&self) -> Result<Identity>;

    /// Every table a user made, for `discover`.
    async fn survey(&self) -> Result<Vec<TableSurvey>>;

    /// At most `limit` rows' values of `columns`, as text, spread over the table. Stops if row-level security hides rows.
    async fn sample(&self, table: &TableName, columns: &[String], limit: u32) -> Result<Vec<Vec<Option<String>>>>;

    /// Facts of one table of the policy.
    async fn inspect(&self, table: &enfold::policy::TablePolicy, counts: Counts) -> Result<TableFacts>;

    /// At most `rows` rows as a sweep reads them, spread over the table. Nothing is leased or written.
    async fn peek(&self, target: &Target, rows: u32) -> Result<Vec<Row>>;

    /// Counts what a column holds by its stored form; `sample` rows at most, or all.
    async fn census(&self, target: &Target, sample: Option<u64>) -> Result<Vec<Census>>;

    /// What readers of other products' formats make of the values of the target's column `at` that are no envelopes;
    /// of `sample` rows at most, or of all.
    async fn recognise(&self, target: &Target, at: usize, by: &Recogniser, sample: Option<u64>) -> Result<Recognised>;

    /// The SQL of a step, for people who run it themselves.
    fn sql(&self, step: &SchemaStep) -> Vec<String>;

    /// What is there of a blind index whose column has this name.
    async fn look_at_index(&self, table: &TableName, column: &str) -> Result<IndexPlace>;

    /// Runs a step, waiting for its lock in short tries.
    async fn run(&self, step: &SchemaStep) -> Result<()>;

    /// Copies of plaintext outside the live rows. `probes` are plaintext values known to have been in the columns; with
    /// none, only what can be counted without them is counted.
    async fn residue(&self, target: &Target, probes: &[Probe]) -> Result<Vec<Residue>>;

    /// What the target's pruning would come to. Nothing is changed. With [`Counts::LeftOut`] no row is counted.
    ///
    /// # Errors
    /// `TableMissing` for a table or a column that is not there; `TypeRefused` for a column that says nothing of time.
    async fn prunable(&self, target: &Target, counts: Counts) -> Result<Prunable>;

    /// The database's own clock, in milliseconds since 1970.
    async fn now_ms(&self) -> Result<i64>;

    /// Notes what was seen of columns where people look with the database's own tools, and keeps counts beside those of before.
    /// False, and nothing noted, where there is no place for it or this role may not write there.
    async fn note_columns(&self, notes: &[ColumnNote]) -> Result<bool>;

    /// What was noted of columns, by whoever did. Nothing where there is no place for it. Nothing is counted for it.
    async fn noted_columns(&self) -> Result<Vec<NotedColumn>>;

    /// Counts that were kept, the newest first. Nothing where there is no place for them, or where this role may not see them.
    async fn kept_counts(&self, sought: &CountsSought) -> Result<Vec<KeptCount>>;

    /// The rows of this database, as the engine moves them.
    fn store(&self) -> &dyn Store;

    /// Former data keys on their way out of use.
    fn disablings(&self) -> &dyn Disablings;
}
