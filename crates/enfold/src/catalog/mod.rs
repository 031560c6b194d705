//! The catalog: root keys, data keys with their wraps, the rings' signed states, applications, events.
//!
//! It stores and finds; it decides nothing. Whether a row may be believed is for [`crate::keyring`] to say, which
//! authenticates every row, and for [`crate::state`], which checks the operators' signature. So an implementation owes
//! only the rules that [`Catalog`] states, and one conformance suite runs them on all three:
//! [`MemoryCatalog`], `SqliteCatalog` and `PostgresCatalog`.

mod memory;
mod model;
#[cfg(feature = "postgres")]
mod postgres;
mod requests;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod words;

#[cfg(test)]
mod conformance;

use std::sync::Arc;

use async_trait::async_trait;
use enfold_core::KeyId;

use crate::events::{Entry, Event, SignedCheckpoint, WriterId};
use crate::policy::DatabaseUrl;
use crate::{Code, Error, Result};

pub use memory::MemoryCatalog;
pub use model::{
    Acknowledgement, Application, CustomerLayer, DataKeyRow, EventPage, EventQuery, Inserted, KeyStatus, KeyUse,
    Purpose, RootAbout, RootKey, SignedAccess, SignedState, StoredEmergency, Swap, Wrap,
};
#[cfg(feature = "postgres")]
pub use postgres::PostgresCatalog;
pub use requests::{Begun, Holding, NamedRequest};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteCatalog;

/// Where keys are kept. All calls are atomic: they happen whole or not at all.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Creates what is missing and upgrades what is older, each migration once. `CatalogVersion` when the schema is
    /// newer than this program.
    async fn migrate(&self) -> Result<()>;

    /// Whether this program can work with the schema as it is: `CatalogVersion` when there is none, or one too new.
    async fn check(&self) -> Result<()>;

    /// The root key of this URI, entered with `root.id` if it is not there yet. Whoever comes second gets the first
    /// one's id.
    async fn ensure_root(&self, root: &RootKey) -> Result<RootKey>;

    async fn roots(&self) -> Result<Vec<RootKey>>;

    /// Writes down what was learned of the root key of this URI, in place of what was known; `created_ms` stays.
    /// `CatalogVersion` where the schema has no room for it.
    async fn describe_root(&self, uri: &str, about: &RootAbout) -> Result<()>;

    /// Gives the root key of this URI its former id back. One that it was given since then stands for it as well. The
    /// record is made where there is none.
    async fn restore_root(&self, uri: &str, id: KeyId) -> Result<RootKey>;

    /// Whether a data key with a customer's layer can be stored: `CatalogVersion` where the schema is of an earlier version.
    async fn takes_customer_layers(&self) -> Result<()>;

    /// Stores a data key with its wraps, unless its (ring, purpose, scope, version) is taken: then the row that took it
    /// comes back, and nothing was written.
    ///
    /// `by` is the epoch of the state that the row was made by, if it counts: `Busy`, and nothing written, where the ring's is
    /// another by now. Whoever publishes waits for those who write by an epoch, so that none of their rows comes after it.
    async fn insert_key(&self, key: &DataKeyRow, by: Option<u64>) -> Result<Inserted>;

    async fn key(&self, ring: &str, id: KeyId) -> Result<Option<DataKeyRow>>;

    async fn key_version(&self, ring: &str, purpose: Purpose, scope: &str, version: u32) -> Result<Option<DataKeyRow>>;

    /// Those of these data keys that are there, in any order, in one question.
    async fn keys_named(&self, ring: &str, ids: &[KeyId]) -> Result<Vec<DataKeyRow>>;

    /// As [`Self::key_version`], of many scopes in one question: those that are there, in any order.
    async fn key_versions(&self, ring: &str, purpose: Purpose, wanted: &[(String, u32)]) -> Result<Vec<DataKeyRow>>;

    /// Data keys of a ring in the order of their ids, at most `limit`, beginning after `after`.
    async fn keys(&self, ring: &str, after: Option<KeyId>, limit: u32) -> Result<Vec<DataKeyRow>>;

    /// The newest state of every ring, as stored: nothing is verified here.
    async fn states(&self) -> Result<Vec<SignedState>>;

    /// Replaces the ring's state and the status and MAC of `keys`, all or nothing. `expected` is the epoch that the writer built
    /// upon (`None`: the ring has no state yet). False if it is another by now, or if the row of one of the keys is not the one
    /// that was seen (a rewrap gave it other wraps, for one), and nothing was written.
    async fn publish(&self, state: &SignedState, expected: Option<u64>, keys: &[Swap]) -> Result<bool>;

    /// Adds to a data key the wraps that it has not yet, with the MAC over all of them, if its MAC is still `expected`;
    /// false, and nothing written, if not: somebody else changed the row.
    async fn add_wraps(&self, key: &DataKeyRow, expected: &[u8]) -> Result<bool>;

    /// Replaces the wraps of data keys, those of customers' layers among them, each with its MAC and whole or not at all,
    /// where the row is still the one that was seen. True for those that were written, in order. One that somebody else is
    /// changing may be left alone. A layer is neither put on nor taken away. `by` as for [`Self::insert_key`].
    async fn swap_wraps(&self, ring: &str, swaps: &[Swap], by: Option<u64>) -> Result<Vec<bool>>;

    /// Says that an application runs, what it reads and which mode it is ready for. The last word for each
    /// (name, instance) counts.
    async fn register(&self, application: &Application) -> Result<()>;

    /// Applications seen since `since_ms`.
    async fn applications(&self, since_ms: i64) -> Result<Vec<Application>>;

    /// Says by which state of a ring a process goes. The last word for each (ring, process) counts. `CatalogVersion` where the
    /// schema has no room for it.
    async fn acknowledge(&self, word: &Acknowledgement) -> Result<()>;

    /// What the processes of a ring said whose word still holds, the earliest epoch first; `holds` is for how much longer.
    /// `CatalogVersion` where the schema has no room for it.
    async fn acknowledgements(&self, ring: &str) -> Result<Vec<Acknowledgement>>;

    /// Keeps a certificate of a destruction, unless there is one of this ring and subject: the first stays. `CatalogVersion` where
    /// the schema has no room for it.
    async fn keep_certificate(&self, ring: &str, subject: &str, certificate: &str) -> Result<()>;

    async fn certificate(&self, ring: &str, subject: &str) -> Result<Option<String>>;

    /// The access list, as stored: nothing is verified here. None where there never was one, and where the schema has no room
    /// for it.
    async fn access_list(&self) -> Result<Option<SignedAccess>>;

    /// Replaces the access list. `expected` is the epoch that the writer built upon (`None`: there is none yet). False if it is
    /// another by now, and nothing was written. `CatalogVersion` where the schema has no room for it.
    async fn publish_access_list(&self, list: &SignedAccess, expected: Option<u64>) -> Result<bool>;

    /// Puts an emergency in the place of the one of revision `expected` (`None`: there is none of its id). False if that is not what is
    /// there, and nothing was written. `CatalogVersion` where the schema has no room for it.
    async fn put_emergency(&self, emergency: &StoredEmergency, expected: Option<u64>) -> Result<bool>;

    /// As stored: nothing is verified here. None where the schema has no room for it.
    async fn emergency(&self, id: &str) -> Result<Option<StoredEmergency>>;

    /// The newest that many, newest first.
    async fn emergencies(&self, limit: u32) -> Result<Vec<StoredEmergency>>;

    /// Begins a request that its caller named, if nobody is at it and it has no answer. Of several who begin at once, one is to do
    /// it. One that was kept for its time is forgotten. `CatalogVersion` where the schema has no room for it.
    async fn begin_request(&self, request: &NamedRequest, holding: Holding) -> Result<Begun>;

    /// Says what a request that was begun is about to do, so that whoever has to begin it again does not do it twice.
    async fn intend_request(&self, id: &[u8; 32], intent: &str) -> Result<()>;

    /// Ends a request with its answer, the first of which stays; with none, lets it go, so that it may be begun again.
    async fn end_request(&self, id: &[u8; 32], answer: Option<&str>) -> Result<()>;

    /// Appends entries of the log, each once: one that is there already stays as it is. A schema of before there were chains takes
    /// them as lines.
    async fn append_log(&self, entries: &[Entry]) -> Result<()>;

    /// Every writer of the log and the number of its last entry, in any order. This and what follows: `CatalogVersion` where the
    /// schema is of before there were chains.
    async fn log_heads(&self) -> Result<Vec<(WriterId, u64)>>;

    /// Entries of a writer as they were written, each with its number, in order, beginning after number `after`.
    async fn log_of(&self, writer: WriterId, after: u64, limit: u32) -> Result<Vec<(u64, String)>>;

    /// Lines of before there were chains, each with its place, beginning after place `after`.
    async fn unchained_log(&self, after: i64, limit: u32) -> Result<Vec<(i64, String)>>;

    /// Checkpoints in order, beginning after number `after`.
    async fn checkpoints(&self, after: u64, limit: u32) -> Result<Vec<SignedCheckpoint>>;

    async fn last_checkpoint(&self) -> Result<Option<SignedCheckpoint>>;

    /// Adds a checkpoint, unless there is one of its number: then false.
    async fn add_checkpoint(&self, checkpoint: &SignedCheckpoint) -> Result<bool>;

    /// Removes entries of a writer up to number `upto`, in their order, at most `limit` at once. How many it removed.
    async fn remove_log(&self, writer: WriterId, upto: u64, limit: u32) -> Result<u64>;

    /// Removes checkpoints up to number `upto`, in their order, at most `limit` at once. How many it removed.
    async fn remove_checkpoints(&self, upto: u64, limit: u32) -> Result<u64>;

    /// A page of the events that are looked for, each with its place: that in which the catalog took it in.
    async fn event_page(&self, query: &EventQuery, page: EventPage) -> Result<Vec<(i64, Event)>>;

    /// The newest of the events that are looked for, newest first.
    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>> {
        let page = self.event_page(query, EventPage::default()).await?;
        Ok(page.into_iter().map(|(_, event)| event).collect())
    }

    /// What the events since `since_ms` say was sealed, opened and unwrapped under these data keys, summed by who did it where;
    /// most uses first.
    async fn uses(&self, keys: &[KeyId], since_ms: i64) -> Result<Vec<KeyUse>>;
}

/// What was to be written was made by a state that is not the ring's any more.
fn outdated(ring: &str) -> Error {
    Error::new(Code::Busy, format!("another state of ring `{ring}` was published meanwhile"))
        .cause("what was made by the former one was not written")
}

/// The schema has no room for a customer's layer yet.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn too_old_for_customers() -> Error {
    Error::new(Code::CatalogVersion, "the catalog cannot hold data keys that need a customer's root key")
        .cause("its schema has version 1, and they came with version 2")
        .hint("run `enfold init --prepare` to bring it up to date, or have the administrator run what `enfold init --print-sql` prints")
}

/// The schema has no room for what is known of root keys yet.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn too_old_for_roots() -> Error {
    Error::new(Code::CatalogVersion, "the catalog cannot hold what is known of root keys")
        .cause("its schema is of before version 3, with which that came")
        .hint("run `enfold init --prepare` to bring it up to date, or have the administrator run what `enfold init --print-sql` prints")
}

/// The schema has no room for what processes say of the states that they go by.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn too_old_for_acknowledgements() -> Error {
    Error::new(Code::CatalogVersion, "the catalog cannot hold by which states processes go")
        .cause("its schema is of before version 4, with which that came")
        .hint("run `enfold init --prepare` to bring it up to date, or have the administrator run what `enfold init --print-sql` prints")
}

/// The schema has no room for certificates yet.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn too_old_for_certificates() -> Error {
    Error::new(Code::CatalogVersion, "the catalog cannot hold certificates of destructions")
        .cause("its schema is of before version 5, with which that came")
        .hint("run `enfold init --prepare` to bring it up to date, or have the administrator run what `enfold init --print-sql` prints")
}

/// The schema has no room for the places of entries in their chains.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn too_old_for_chains() -> Error {
    Error::new(Code::CatalogVersion, "the catalog cannot hold a log that can be verified")
        .cause("its schema is of before version 6, with which that came")
        .hint("run `enfold init --prepare` to bring it up to date, or have the administrator run what `enfold init --print-sql` prints")
}

/// The schema has no room for an access list yet.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn too_old_for_access() -> Error {
    Error::new(Code::CatalogVersion, "the catalog cannot hold service keys")
        .cause("its schema is of before version 7, with which those came")
        .hint("run `enfold init --prepare` to bring it up to date, or have the administrator run what `enfold init --print-sql` prints")
}

/// The schema has no room for requests that are done once.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn too_old_for_requests() -> Error {
    Error::new(Code::CatalogVersion, "the catalog cannot hold which requests were done")
        .cause("its schema is of before version 8, with which that came")
        .hint("run `enfold init --prepare` to bring it up to date, or have the administrator run what `enfold init --print-sql` prints")
}

/// The schema has no room for emergencies.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn too_old_for_emergencies() -> Error {
    Error::new(Code::CatalogVersion, "the catalog cannot hold access in emergencies")
        .cause("its schema is of before version 9, with which that came")
        .hint("run `enfold init --prepare` to bring it up to date, or have the administrator run what `enfold init --print-sql` prints")
}

/// Ids behind each other, as they are stored.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn ids_from(stored: Option<Vec<u8>>) -> Vec<KeyId> {
    stored.unwrap_or_default().as_chunks().0.iter().map(|id| KeyId::from_bytes(*id)).collect()
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn ids_stored(ids: &[KeyId]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

/// The ids of a root key that gets its former one back: that one, and those besides.
fn restored(known: &RootKey, id: KeyId) -> (KeyId, Vec<KeyId>) {
    (id, known.ids().into_iter().filter(|other| *other != id).collect())
}

/// Opens the catalog that a URL names. Nothing is created in it: see [`Catalog::migrate`].
pub async fn connect(url: &DatabaseUrl) -> Result<Arc<dyn Catalog>> {
    #[cfg(feature = "sqlite")]
    if let Some(path) = url.raw.strip_prefix("sqlite:") {
        return Ok(Arc::new(SqliteCatalog::open(std::path::Path::new(path))?));
    }
    #[cfg(feature = "postgres")]
    if url.raw.starts_with("postgres") {
        let endpoint = crate::db::postgres::Endpoint::parse(url)?;
        return Ok(Arc::new(PostgresCatalog::connect(endpoint).await?));
    }
    let scheme = url.raw.split(':').next().unwrap_or_default();
    Err(Error::new(Code::PolicyInvalid, format!("cannot open a catalog on `{scheme}`"))
        .cause("this program was built without that database"))
}
