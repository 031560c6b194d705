//! The words that the engine, the stores and the commands share: tables, facts, plans, jobs, reports.

use std::collections::{BTreeMap, BTreeSet};

use enfold::policy::{Member, Mode, TimeUnit};
use enfold::{Companion, Leaving};
use serde::{Deserialize, Serialize};

/// A table by name; `schema` is empty on SQLite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

impl TableName {
    /// Whether the policy means this table by `name`. Where a name has no schema, `public` is meant; SQLite has none, and compares
    /// letters without case.
    pub fn is_meant_by(&self, name: &str) -> bool {
        match self.schema.as_str() {
            "" => self.table.eq_ignore_ascii_case(name),
            schema => name.split_once('.').unwrap_or(("public", name)) == (schema, self.table.as_str()),
        }
    }
}

/// What a sweep makes true of every value of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Every value is an envelope that opens, and its blind indexes are there.
    Protect,
    /// No value is in an envelope any more: it is plaintext again, or what [`TargetColumn::writes`] says.
    Unprotect,
    /// Blind indexes are filled; values stay as they are.
    Index,
    /// Nothing is written: every value is opened, and what does not open is a row error.
    Verify,
    /// No envelope is under a former data key ([`Target::leaving`]) any more; plaintext stays as it is.
    Reencrypt,
    /// Rows that a rule dooms ([`Target::prune`]) are gone. What was held by somebody, or is doomed since, stays for the next
    /// time.
    Prune,
}

impl Goal {
    /// As commands, the service and the log say it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Protect => "protect",
            Self::Unprotect => "unprotect",
            Self::Index => "index",
            Self::Verify => "verify",
            Self::Reencrypt => "reencrypt",
            Self::Prune => "prune",
        }
    }
}

/// How a stored value is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// text, varchar, citext and domains over them: the text form.
    Text,
    /// bytea, BLOB: the binary form.
    Bytes,
    /// json, jsonb: the text form as a JSON string.
    Json,
}

/// One table as a sweep sees it: physical names beside policy ids.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    pub table: TableName,
    /// The key under which the policy knows the table.
    pub policy_table: String,
    pub columns: Vec<TargetColumn>,
    pub indexes: Vec<TargetIndex>,
    pub tenant: Option<String>,
    /// Columns bound into the envelopes of `bind_row` columns.
    pub row_key: Vec<String>,
    /// The primary key; empty when there is none. Only for telling people which row is meant.
    pub key: Vec<String>,
    /// Which data keys a re-encryption moves values away from; of no account to other goals.
    #[serde(default, skip_serializing_if = "Leaving::is_all")]
    pub leaving: Leaving,
    /// Which rows a pruning deletes; other goals have none. It has no columns, and a change of a row is that it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<Prune>,
}

/// The rows that a rule of the policy deletes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// The rule's name.
    pub rule: String,
    /// The column that says since when.
    pub column: String,
    /// What it counts, where it is a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<TimeUnit>,
    /// How old a row becomes, in milliseconds.
    pub older_than_ms: u64,
    /// Rows with an earlier moment go; in milliseconds since 1970.
    pub before_ms: i64,
    /// Columns with the values of which each must hold one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub only: BTreeMap<String, Vec<String>>,
    /// Tables of which foreign keys may delete or change rows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub takes_along: BTreeSet<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetColumn {
    /// As the policy names it.
    pub name: String,
    /// The policy's column id.
    pub id: String,
    /// Of the column that holds the envelopes.
    pub storage: Storage,
    /// The column that holds the envelopes where `name`, the source, cannot. Of the two one at most holds a value, and what
    /// the source holds is plaintext, whatever it looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<String>,
    /// The part of a JSON column that holds the values, where `name` is no column but a name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    /// Columns that hold parts of the values that another product encrypted, by part. They are emptied with the value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub companions: BTreeMap<Companion, String>,
    /// Of an unprotecting sweep: the reader in whose format it stores what was in an envelope, and leaves alone what was not.
    /// None: every value becomes plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<String>,
}

impl Target {
    /// Every column beside a value, in the order of [`crate::store::Row::beside`].
    pub fn companions(&self) -> impl Iterator<Item = &String> {
        self.columns.iter().flat_map(|column| column.companions.values())
    }
}

impl TargetColumn {
    /// The column that holds the envelopes.
    pub fn holder(&self) -> &str {
        let within = self.member.as_ref().map(|member| &member.column);
        self.shadow.as_ref().or(within).unwrap_or(&self.name)
    }

    /// Whether something is written beside its values that says what they are.
    pub fn has_marks(&self) -> bool {
        self.member.as_ref().is_some_and(|member| !member.marks.is_empty())
    }
}

/// A blind index to be kept beside the values.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetIndex {
    pub name: String,
    /// The database column of type bytea or BLOB that holds it.
    pub column: String,
    /// Positions in [`Target::columns`], in the policy's order.
    pub over: Vec<usize>,
    pub unique: bool,
    /// The generation that the column holds; where it is none, the one in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Pending,
    Running,
    Paused,
    Completed,
    CompletedWithErrors,
    Failed,
    Cancelled,
}

impl JobState {
    /// Whether nothing more comes of it by itself.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::CompletedWithErrors | Self::Cancelled)
    }
}

/// A row that could not be converted. Its key is that of a table whose key is not itself protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowError {
    /// The row's key in a person's form, such as `id=42`; `ctid=(0,7)` where there is no key.
    pub row: String,
    pub column: String,
    /// A word of [`enfold::Code`], with a reason that holds no value.
    pub code: String,
    pub reason: String,
}

/// What a job has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub rows_total: u64,
    pub rows_seen: u64,
    /// Rows written.
    pub rows_changed: u64,
    /// Rows that somebody else changed between our read and our write; each was read again.
    pub rows_lost_race: u64,
    pub rows_failed: u64,
    pub chunks_total: u64,
    pub chunks_done: u64,
}

/// Counts of what a column holds, by looking at stored bytes. A count, not a proof: see `verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    pub rows: u64,
    pub nulls: u64,
    pub plaintext: u64,
    pub envelopes: u64,
    /// Begin like an envelope and have not its form.
    pub lookalikes: u64,
    /// Envelopes by key id (hex).
    pub by_key: BTreeMap<String, u64>,
    /// Labels of the first few rows that hold plaintext, so that somebody can look.
    #[serde(default)]
    pub examples: Vec<String>,
}

/// Envelopes by the data keys that they are under, as the catalog has those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByVersion {
    /// By the version of the data key. Those under a data key that the catalog has not are in none.
    pub versions: BTreeMap<u32, u64>,
    /// Under data keys that seal, whichever version each is: every tenant has its own.
    pub current: u64,
}

/// What was noted of a column, as it comes back. A count, not a proof, and of the moment at which it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotedColumn {
    pub table: TableName,
    pub column: String,
    /// Whether the table refuses plaintext in it now.
    pub enforced: bool,
    pub counted: Option<NotedCounts>,
    pub verified: Option<NotedVerification>,
}

/// Of every row. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotedCounts {
    pub rows: u64,
    pub nulls: u64,
    pub plaintext: u64,
    pub envelopes: u64,
    pub lookalikes: u64,
    pub at_ms: i64,
}

/// A count as it was kept, with what was known of the column then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptCount {
    /// Its place: later counts have greater ones.
    pub place: i64,
    pub table: TableName,
    pub column: String,
    pub counts: NotedCounts,
    /// As it was noted last, in the policy's words.
    pub mode: Option<String>,
    /// Whether the table refused plaintext in it.
    pub enforced: bool,
    /// `None` where whoever counted could not ask the catalog.
    pub by_version: Option<ByVersion>,
}

/// Which counts are looked for.
#[derive(Clone, Debug)]
pub struct CountsSought {
    /// Of this one alone, by its name.
    pub column: Option<(TableName, String)>,
    /// From this moment on, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Before this one.
    pub until_ms: Option<i64>,
    /// Those before this place.
    pub after: Option<i64>,
    pub limit: u32,
}

/// The last verification that ended, if nothing was taken back since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotedVerification {
    pub rows: u64,
    pub failed: u64,
    pub at_ms: i64,
}

/// What was seen of a column, to be noted for people who look with the database's own tools.
#[derive(Clone, Debug)]
pub struct ColumnNote {
    pub table: TableName,
    pub column: TargetColumn,
    /// As the policy names it.
    pub ring: String,
    /// As the operators signed it; `None` from whoever has no keys, and cannot tell.
    pub mode: Option<Mode>,
    /// Of every row, from whoever counted.
    pub census: Option<Census>,
    /// Of its envelopes, from whoever counted and could ask the catalog.
    pub by_version: Option<ByVersion>,
    /// The source of its shadow was dropped, and with it what would refuse values there.
    pub source_gone: bool,
}
