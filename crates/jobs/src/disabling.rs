//! What a database remembers and does so that former data keys can go out of use: which are on the way out and how far, and that
//! it takes no new value under them. In the application's own database, where the values are.
//!
//! Nothing here is believed by itself: what has passed is noted for people, and because some facts cannot be seen again later:
//! since when everybody could know, which transactions were open at the moment of the refusal, and where the log was when no
//! value was found. Whoever disables a data key looks at the rest each time ([`mod@crate::ops::disable`]).

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use enfold::policy::Member;
use enfold::{KeyId, Result};
use serde::{Deserialize, Serialize};

use crate::model::{Storage, TableName, TargetColumn};
use crate::store::Order;

/// A former data key on its way out of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disabling {
    /// The ring's id.
    pub ring: String,
    pub key: KeyId,
    /// The state that all processes must have seen: the key is a former one there.
    pub epoch: u64,
    /// How long ago somebody asked for it, by the database's clock.
    pub age: Duration,
    pub times: Times,
    /// `table.column` as the policy names both: where the database refuses new values under the key.
    pub covered: Vec<String>,
    /// Transactions that were open when it began to, by [`OpenTransaction::mark`].
    pub open: Vec<String>,
}

/// When each step was first found done, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Times {
    pub asked_ms: i64,
    pub acknowledged_ms: Option<i64>,
    pub refused_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    pub counted_ms: Option<i64>,
    pub disabled_ms: Option<i64>,
}

/// A step that was found done.
#[derive(Clone, Debug)]
pub enum Passed {
    /// Every process goes by a state in which the key is a former one.
    Acknowledged,
    /// The database takes no new value under it in these columns, and these transactions were open then.
    Refused { covered: Vec<String>, open: Vec<String> },
    /// None of those is open any more.
    Ended,
    /// No value is under it.
    Counted,
    /// The operators signed that it is disabled.
    Disabled,
}

impl Passed {
    /// The column in which its time is kept.
    pub(crate) fn column(&self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged_ms",
            Self::Refused { .. } => "refused_ms",
            Self::Ended => "ended_ms",
            Self::Counted => "counted_ms",
            Self::Disabled => "disabled_ms",
        }
    }
}

/// A transaction of somebody else in this database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenTransaction {
    /// No other transaction has it.
    pub mark: String,
    /// For people: which session it is.
    pub says: String,
}

/// A column that is to take no value under some data keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    /// The column that holds the envelopes.
    pub holder: String,
    pub storage: Storage,
    /// The part of it that does, where it is a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
}

impl Guarded {
    pub fn of(column: &TargetColumn) -> Self {
        Self { holder: column.holder().to_owned(), storage: column.storage, member: column.member.clone() }
    }
}

/// Transactions of others that were open at one moment.
pub(crate) struct Earlier(BTreeSet<String>);

impl Earlier {
    pub(crate) async fn now(disablings: &dyn Disablings) -> Result<Self> {
        Ok(Self(disablings.open_transactions().await?.into_iter().map(|open| open.mark).collect()))
    }

    /// One of them that is open still, in words for people.
    pub(crate) async fn still_open(&self, disablings: &dyn Disablings) -> Result<Option<String>> {
        let open = disablings.open_transactions().await?;
        let first = open.iter().find(|open| self.0.contains(&open.mark));
        Ok(first.map(|one| format!("{} has a transaction open since before", one.says)))
    }
}

/// See the module's head. The columns that refuse are named by [`crate::database::SchemaStep::RefuseKeys`].
#[async_trait]
pub trait Disablings: Send + Sync {
    /// Notes which data keys are to be disabled, and since which epoch they are former ones; what is noted already stays. In
    /// any order.
    async fn begin(&self, ring: &str, keys: &[KeyId], epoch: u64, order: &Order) -> Result<Vec<Disabling>>;

    /// All that were noted, also those that are disabled by now.
    async fn all(&self) -> Result<Vec<Disabling>>;

    /// Whether these columns of a table, all of them, refuse what is to be refused.
    async fn refuses_in(&self, table: &TableName, columns: &[Guarded]) -> Result<bool>;

    /// No column that refuses takes a new value under these data keys from now on. A transaction that is open already may not
    /// heed it.
    async fn refuse(&self, ring: &str, keys: &[KeyId]) -> Result<()>;

    /// Transactions of others that are open. None on a database with one writer, who has waited for the ones before.
    async fn open_transactions(&self) -> Result<Vec<OpenTransaction>>;

    /// Notes that a step was found done; the time of the first such note stays, unless the database begins to refuse anew or
    /// [`Self::uncount`] takes it back. With [`Passed::Counted`] it is noted where the database's log was then.
    async fn note(&self, ring: &str, keys: &[KeyId], passed: &Passed) -> Result<()>;

    /// Replicas, for people, that have not applied the log up to where it was when no value was found under any of these data
    /// keys. None on a database that has no replicas.
    async fn replicas_before(&self, ring: &str, keys: &[KeyId]) -> Result<Vec<String>>;

    /// Values under one of them were found, so that an earlier count does not hold any more.
    async fn uncount(&self, ring: &str, keys: &[KeyId]) -> Result<()>;

    /// Values under these data keys are taken again, and nothing stays noted of them.
    async fn forget(&self, ring: &str, keys: &[KeyId]) -> Result<()>;

    /// Whether values under any data key are refused.
    async fn refuses_any(&self) -> Result<bool>;
}

/// Lists as they are stored.
pub(crate) fn to_json(list: &[String]) -> String {
    serde_json::to_string(list).unwrap_or_default()
}

pub(crate) fn from_json(text: Option<&str>) -> Vec<String> {
    // What somebody wrote by hand covers nothing.
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
