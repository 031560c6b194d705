//! The catalog in a SQLite file, in tables whose names begin with `enfold_`.

mod access;
mod acknowledgements;
mod certificates;
mod emergencies;
mod log;
mod requests;
mod roots;
mod wraps;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use enfold_core::KeyId;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::model::USES;
use super::words::parse_mode;
use super::{
    Acknowledgement, Application, Begun, Catalog, CustomerLayer, DataKeyRow, EventPage, EventQuery, Holding, Inserted,
    KeyStatus, KeyUse, NamedRequest, Purpose, RootAbout, RootKey, SignedAccess, SignedState, StoredEmergency, Swap,
    Wrap, outdated, too_old_for_customers,
};
use crate::Result;
use crate::db::blocking;
use crate::db::migrations::{Migration, sqlite as migrations};
use crate::db::sqlite::{self as db, failure};
use crate::events::{Entry, Event, SignedCheckpoint, WriterId};

pub(super) const SERIES: &str = "catalog";
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "catalog", sql: include_str!("sql/sqlite_1.sql") },
    Migration { version: 2, name: "customers' root keys", sql: include_str!("sql/sqlite_2.sql") },
    Migration { version: 3, name: "root keys", sql: include_str!("sql/sqlite_3.sql") },
    Migration { version: 4, name: "acknowledgements", sql: include_str!("sql/sqlite_4.sql") },
    Migration { version: 5, name: "certificates", sql: include_str!("sql/sqlite_5.sql") },
    Migration { version: 6, name: "chains of events", sql: include_str!("sql/sqlite_6.sql") },
    Migration { version: 7, name: "access list", sql: include_str!("sql/sqlite_7.sql") },
    Migration { version: 8, name: "named requests", sql: include_str!("sql/sqlite_8.sql") },
    Migration { version: 9, name: "emergencies", sql: include_str!("sql/sqlite_9.sql") },
];
/// The first schema version that this program can work with.
const OLDEST: u32 = 1;

/// See the module's head. One connection, used by one call at a time: a catalog is asked on cache misses only.
pub struct SqliteCatalog {
    connection: Arc<Mutex<Connection>>,
}

impl SqliteCatalog {
    /// Opens the file, which must exist: an application whose database is missing must not get an empty one.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::over(db::open(path)?))
    }

    /// Opens the file, creating it if it is not there: for a catalog of its own.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self::over(db::create(path)?))
    }

    fn over(connection: Connection) -> Self {
        Self { connection: Arc::new(Mutex::new(connection)) }
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = Arc::clone(&self.connection);
        // Every change is a transaction, so a poisoned lock guards a connection that has rolled back.
        blocking(move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

#[async_trait]
impl Catalog for SqliteCatalog {
    async fn migrate(&self) -> Result<()> {
        self.with(|c| migrations::migrate(c, SERIES, MIGRATIONS)).await
    }

    async fn check(&self) -> Result<()> {
        self.with(|c| migrations::check(c, SERIES, MIGRATIONS, OLDEST)).await
    }

    async fn ensure_root(&self, root: &RootKey) -> Result<RootKey> {
        let root = root.clone();
        self.with(move |c| roots::ensure(c, &root)).await
    }

    async fn roots(&self) -> Result<Vec<RootKey>> {
        self.with(|c| roots::all(c)).await
    }

    async fn describe_root(&self, uri: &str, about: &RootAbout) -> Result<()> {
        let (uri, about) = (uri.to_owned(), about.clone());
        self.with(move |c| roots::describe(c, &uri, &about)).await
    }

    async fn restore_root(&self, uri: &str, id: KeyId) -> Result<RootKey> {
        let uri = uri.to_owned();
        self.with(move |c| roots::restore(c, &uri, id)).await
    }

    async fn takes_customer_layers(&self) -> Result<()> {
        self.with(|c| takes_customer_layers(c)).await
    }

    async fn insert_key(&self, key: &DataKeyRow, by: Option<u64>) -> Result<Inserted> {
        let key = key.clone();
        self.with(move |c| {
            let doing = || format!("cannot store a data key of ring `{}`", key.ring);
            let tx = c.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| failure(doing(), &e))?;
            if let Some(taken) = find(&tx, &key.ring, key.purpose, &key.scope, key.version)? {
                return Ok(Inserted::Exists(taken));
            }
            if key.customer.is_some() {
                takes_customer_layers(&tx)?;
            }
            must_go_by(&tx, &key.ring, by)?;
            insert_row(&tx, &key).map_err(|e| failure(doing(), &e))?;
            insert_wraps(&tx, &key).map_err(|e| failure(doing(), &e))?;
            tx.commit().map_err(|e| failure(doing(), &e))?;
            Ok(Inserted::Made)
        })
        .await
    }

    async fn key(&self, ring: &str, id: KeyId) -> Result<Option<DataKeyRow>> {
        let ring = ring.to_owned();
        self.with(move |c| {
            let sql = format!("{SELECT_KEY} WHERE ring = ?1 AND id = ?2");
            one(&*at_once(c, &ring)?, &sql, params![ring, id.as_bytes()], &ring)
        })
        .await
    }

    async fn key_version(&self, ring: &str, purpose: Purpose, scope: &str, version: u32) -> Result<Option<DataKeyRow>> {
        let (ring, scope) = (ring.to_owned(), scope.to_owned());
        self.with(move |c| find(&*at_once(c, &ring)?, &ring, purpose, &scope, version)).await
    }

    async fn keys_named(&self, ring: &str, ids: &[KeyId]) -> Result<Vec<DataKeyRow>> {
        let (ring, ids) = (ring.to_owned(), ids.to_vec());
        self.with(move |c| {
            let sql = format!("{SELECT_KEY} WHERE ring = ?1 AND id = ?2");
            let c = at_once(c, &ring)?;
            ids.iter().filter_map(|id| one(&c, &sql, params![ring, id.as_bytes()], &ring).transpose()).collect()
        })
        .await
    }

    async fn key_versions(&self, ring: &str, purpose: Purpose, wanted: &[(String, u32)]) -> Result<Vec<DataKeyRow>> {
        let (ring, wanted) = (ring.to_owned(), wanted.to_vec());
        self.with(move |c| {
            let c = at_once(c, &ring)?;
            wanted.iter().filter_map(|(scope, version)| find(&c, &ring, purpose, scope, *version).transpose()).collect()
        })
        .await
    }

    async fn keys(&self, ring: &str, after: Option<KeyId>, limit: u32) -> Result<Vec<DataKeyRow>> {
        let ring = ring.to_owned();
        self.with(move |c| {
            let after = after.map(|a| a.as_bytes().to_vec()).unwrap_or_default();
            let c = at_once(c, &ring)?;
            let sql = format!("{SELECT_KEY} WHERE ring = ?1 AND id > ?2 ORDER BY id LIMIT ?3");
            let read = || -> rusqlite::Result<Vec<Raw>> {
                c.prepare_cached(&sql)?.query_map(params![ring, after, limit], raw)?.collect()
            };
            let rows = read().map_err(|e| failure(format!("cannot read data keys of ring `{ring}`"), &e))?;
            rows.into_iter().map(|r| complete(&c, &ring, r)).collect()
        })
        .await
    }

    async fn states(&self) -> Result<Vec<SignedState>> {
        self.with(|c| {
            let read = || -> rusqlite::Result<Vec<SignedState>> {
                c.prepare_cached("SELECT ring, epoch, document, signature FROM enfold_ring_states ORDER BY ring")?
                    .query_map([], |r| {
                        Ok(SignedState {
                            ring: r.get(0)?,
                            // A negative epoch can only have been written by hand; the document's own counts.
                            epoch: u64::try_from(r.get::<_, i64>(1)?).unwrap_or(0),
                            document: r.get(2)?,
                            signature: r.get(3)?,
                        })
                    })?
                    .collect()
            };
            read().map_err(|e| failure("cannot read ring states from the catalog", &e))
        })
        .await
    }

    async fn publish(&self, state: &SignedState, expected: Option<u64>, keys: &[Swap]) -> Result<bool> {
        let (state, keys) = (state.clone(), keys.to_vec());
        self.with(move |c| {
            let doing = || format!("cannot publish the state of ring `{}`", state.ring);
            let tx = c.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| failure(doing(), &e))?;
            let change = || -> rusqlite::Result<bool> {
                let present: Option<i64> = tx
                    .query_row("SELECT epoch FROM enfold_ring_states WHERE ring = ?1", [&state.ring], |r| r.get(0))
                    .optional()?;
                if present != expected.map(as_stored) {
                    return Ok(false);
                }
                tx.execute(
                    "INSERT INTO enfold_ring_states (ring, epoch, document, signature) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (ring) DO UPDATE SET epoch = excluded.epoch, document = excluded.document,
                         signature = excluded.signature",
                    params![state.ring, as_stored(state.epoch), state.document, state.signature],
                )?;
                for Swap { key, expected } in &keys {
                    let written = tx.execute(
                        "UPDATE enfold_data_keys SET status = ?3, mac = ?4 WHERE ring = ?1 AND id = ?2 AND mac = ?5",
                        params![key.ring, key.id.as_bytes(), key.status.as_str(), key.mac, expected],
                    )?;
                    if written == 0 {
                        return Ok(false);
                    }
                }
                Ok(true)
            };
            // What is not committed is rolled back.
            if !change().map_err(|e| failure(doing(), &e))? {
                return Ok(false);
            }
            tx.commit().map_err(|e| failure(doing(), &e))?;
            Ok(true)
        })
        .await
    }

    async fn add_wraps(&self, key: &DataKeyRow, expected: &[u8]) -> Result<bool> {
        let (key, expected) = (key.clone(), expected.to_vec());
        self.with(move |c| {
            let doing = || format!("cannot add a wrap to a data key of ring `{}`", key.ring);
            let tx = c.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| failure(doing(), &e))?;
            let change = || -> rusqlite::Result<bool> {
                let changed = tx.execute(
                    "UPDATE enfold_data_keys SET mac = ?3 WHERE ring = ?1 AND id = ?2 AND mac = ?4",
                    params![key.ring, key.id.as_bytes(), key.mac, expected],
                )?;
                if changed == 1 {
                    insert_wraps(&tx, &key)?;
                }
                Ok(changed == 1)
            };
            let done = change().map_err(|e| failure(doing(), &e))?;
            tx.commit().map_err(|e| failure(doing(), &e))?;
            Ok(done)
        })
        .await
    }

    async fn swap_wraps(&self, ring: &str, swaps: &[Swap], by: Option<u64>) -> Result<Vec<bool>> {
        let (ring, swaps) = (ring.to_owned(), swaps.to_vec());
        self.with(move |c| wraps::swap(c, &ring, &swaps, by)).await
    }

    async fn register(&self, application: &Application) -> Result<()> {
        let a = application.clone();
        self.with(move |c| {
            c.execute(
                "INSERT INTO enfold_applications (name, instance, version, columns, ready, last_seen_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (name, instance) DO UPDATE SET version = excluded.version, columns = excluded.columns,
                     ready = excluded.ready, last_seen_ms = excluded.last_seen_ms",
                params![a.name, a.instance, a.version, a.columns_text(), a.ready.word(), a.last_seen_ms],
            )
            .map_err(|e| failure(format!("cannot register the application `{}`", a.name), &e))?;
            Ok(())
        })
        .await
    }

    async fn applications(&self, since_ms: i64) -> Result<Vec<Application>> {
        self.with(move |c| {
            let read = || -> rusqlite::Result<Vec<(String, String, String, String, String, i64)>> {
                c.prepare_cached(
                    "SELECT name, instance, version, columns, ready, last_seen_ms FROM enfold_applications
                     WHERE last_seen_ms >= ?1 ORDER BY name, instance",
                )?
                .query_map([since_ms], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?)))?
                .collect()
            };
            let rows = read().map_err(|e| failure("cannot read applications from the catalog", &e))?;
            rows.into_iter()
                .map(|(name, instance, version, columns, ready, last_seen_ms)| {
                    let columns = Application::columns_from(&columns);
                    Ok(Application { name, instance, version, columns, ready: parse_mode(&ready)?, last_seen_ms })
                })
                .collect()
        })
        .await
    }

    async fn acknowledge(&self, word: &Acknowledgement) -> Result<()> {
        let word = word.clone();
        self.with(move |c| acknowledgements::write(c, &word)).await
    }

    async fn acknowledgements(&self, ring: &str) -> Result<Vec<Acknowledgement>> {
        let ring = ring.to_owned();
        self.with(move |c| acknowledgements::read(c, &ring)).await
    }

    async fn keep_certificate(&self, ring: &str, subject: &str, certificate: &str) -> Result<()> {
        let (ring, subject, certificate) = (ring.to_owned(), subject.to_owned(), certificate.to_owned());
        self.with(move |c| certificates::keep(c, &ring, &subject, &certificate)).await
    }

    async fn certificate(&self, ring: &str, subject: &str) -> Result<Option<String>> {
        let (ring, subject) = (ring.to_owned(), subject.to_owned());
        self.with(move |c| certificates::find(c, &ring, &subject)).await
    }

    async fn access_list(&self) -> Result<Option<SignedAccess>> {
        self.with(|c| access::read(c)).await
    }

    async fn publish_access_list(&self, list: &SignedAccess, expected: Option<u64>) -> Result<bool> {
        let list = list.clone();
        self.with(move |c| access::publish(c, &list, expected)).await
    }

    async fn put_emergency(&self, emergency: &StoredEmergency, expected: Option<u64>) -> Result<bool> {
        let emergency = emergency.clone();
        self.with(move |c| emergencies::put(c, &emergency, expected)).await
    }

    async fn emergency(&self, id: &str) -> Result<Option<StoredEmergency>> {
        let id = id.to_owned();
        self.with(move |c| emergencies::one(c, &id)).await
    }

    async fn emergencies(&self, limit: u32) -> Result<Vec<StoredEmergency>> {
        self.with(move |c| emergencies::newest(c, limit)).await
    }

    async fn begin_request(&self, request: &NamedRequest, holding: Holding) -> Result<Begun> {
        let request = *request;
        self.with(move |c| requests::begin(c, &request, holding)).await
    }

    async fn intend_request(&self, id: &[u8; 32], intent: &str) -> Result<()> {
        let (id, intent) = (*id, intent.to_owned());
        self.with(move |c| requests::intend(c, &id, &intent)).await
    }

    async fn end_request(&self, id: &[u8; 32], answer: Option<&str>) -> Result<()> {
        let (id, answer) = (*id, answer.map(str::to_owned));
        self.with(move |c| requests::end(c, &id, answer.as_deref())).await
    }

    async fn append_log(&self, entries: &[Entry]) -> Result<()> {
        let entries = entries.to_vec();
        self.with(move |c| log::append(c, &entries)).await
    }

    async fn log_heads(&self) -> Result<Vec<(WriterId, u64)>> {
        self.with(|c| log::heads(c)).await
    }

    async fn log_of(&self, writer: WriterId, after: u64, limit: u32) -> Result<Vec<(u64, String)>> {
        self.with(move |c| log::of(c, writer, after, limit)).await
    }

    async fn unchained_log(&self, after: i64, limit: u32) -> Result<Vec<(i64, String)>> {
        self.with(move |c| log::unchained(c, after, limit)).await
    }

    async fn checkpoints(&self, after: u64, limit: u32) -> Result<Vec<SignedCheckpoint>> {
        self.with(move |c| log::checkpoints(c, after, limit)).await
    }

    async fn last_checkpoint(&self) -> Result<Option<SignedCheckpoint>> {
        self.with(|c| log::last_checkpoint(c)).await
    }

    async fn add_checkpoint(&self, checkpoint: &SignedCheckpoint) -> Result<bool> {
        let checkpoint = checkpoint.clone();
        self.with(move |c| log::add_checkpoint(c, &checkpoint)).await
    }

    async fn remove_log(&self, writer: WriterId, upto: u64, limit: u32) -> Result<u64> {
        self.with(move |c| log::remove(c, writer, upto, limit)).await
    }

    async fn remove_checkpoints(&self, upto: u64, limit: u32) -> Result<u64> {
        self.with(move |c| log::remove_checkpoints(c, upto, limit)).await
    }

    async fn event_page(&self, query: &EventQuery, page: EventPage) -> Result<Vec<(i64, Event)>> {
        let query = query.clone();
        self.with(move |c| log::find(c, &query, page)).await
    }

    async fn uses(&self, keys: &[KeyId], since_ms: i64) -> Result<Vec<KeyUse>> {
        let named = |words: &mut dyn Iterator<Item = String>| format!("[{}]", words.collect::<Vec<_>>().join(","));
        let keys = named(&mut keys.iter().map(|key| format!("\"{key}\"")));
        let kinds = named(&mut USES.iter().map(|kind| format!("\"{kind}\"")));
        self.with(move |c| {
            let read = || -> rusqlite::Result<Vec<KeyUse>> {
                c.prepare_cached(
                    "SELECT event ->> 'key', event ->> 'kind', event ->> 'column', event ->> 'actor', event ->> 'source',
                            sum(event ->> 'count') AS n, min(at_ms), max(at_ms)
                       FROM enfold_events
                      WHERE event ->> 'key' IN (SELECT value FROM json_each(?1))
                        AND event ->> 'kind' IN (SELECT value FROM json_each(?2)) AND at_ms >= ?3
                      GROUP BY 1, 2, 3, 4, 5 ORDER BY n DESC, 3, 2, 4, 5, 1",
                )?
                .query_map((keys, kinds, since_ms), |r| {
                    Ok(KeyUse {
                        key: r.get(0)?,
                        kind: r.get(1)?,
                        column: r.get(2)?,
                        actor: r.get(3)?,
                        source: r.get(4)?,
                        count: r.get::<_, i64>(5)?.unsigned_abs(),
                        first_ms: r.get(6)?,
                        last_ms: r.get(7)?,
                    })
                })?
                .collect()
            };
            read().map_err(|e| failure("cannot read from the catalog what a data key was used for", &e))
        })
        .await
    }
}

/// A row and its wraps are read by two statements: by this, as they were at one time.
fn at_once<'a>(c: &'a mut Connection, ring: &str) -> Result<Transaction<'a>> {
    c.transaction().map_err(|e| failure(format!("cannot read data keys of ring `{ring}`"), &e))
}

/// All columns, by name: a catalog of the earlier schema has fewer.
const SELECT_KEY: &str = "SELECT * FROM enfold_data_keys";

/// A row before its words are understood.
struct Raw {
    id: [u8; 16],
    purpose: String,
    scope: String,
    version: u32,
    status: String,
    created_ms: i64,
    customer: Option<CustomerLayer>,
    mac: Vec<u8>,
}

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    let root: Option<String> = match row.get("customer_root") {
        Err(rusqlite::Error::InvalidColumnName(_)) => None,
        found => found?,
    };
    // A layer that is not whole is a changed row, which its MAC shows.
    let layer = |root| -> rusqlite::Result<CustomerLayer> {
        let part = |name| row.get(name).map(Option::<Vec<u8>>::unwrap_or_default);
        Ok(CustomerLayer { root, wrapped: part("customer_wrapped")?, sealed: part("customer_sealed")? })
    };
    Ok(Raw {
        id: row.get("id")?,
        purpose: row.get("purpose")?,
        scope: row.get("scope")?,
        version: row.get("version")?,
        status: row.get("status")?,
        created_ms: row.get("created_ms")?,
        customer: root.map(layer).transpose()?,
        mac: row.get("mac")?,
    })
}

/// Asked each time: another process may bring the schema up to date while this one runs.
fn takes_customer_layers(c: &Connection) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('enfold_data_keys') WHERE name = 'customer_sealed')";
    let there: bool =
        c.query_row(sql, [], |r| r.get(0)).map_err(|e| failure("cannot read the catalog's version", &e))?;
    if there { Ok(()) } else { Err(too_old_for_customers()) }
}

/// The transaction is immediate: nobody publishes before it ends.
fn must_go_by(tx: &Transaction<'_>, ring: &str, by: Option<u64>) -> Result<()> {
    let Some(by) = by else { return Ok(()) };
    let epoch: Option<i64> = tx
        .query_row("SELECT epoch FROM enfold_ring_states WHERE ring = ?1", [ring], |r| r.get(0))
        .optional()
        .map_err(|e| failure("cannot read ring states from the catalog", &e))?;
    if epoch == Some(as_stored(by)) { Ok(()) } else { Err(outdated(ring)) }
}

fn insert_row(tx: &Transaction<'_>, key: &DataKeyRow) -> rusqlite::Result<usize> {
    let id = key.id.as_bytes();
    let (purpose, status) = (key.purpose.as_str(), key.status.as_str());
    match &key.customer {
        None => tx.execute(
            "INSERT INTO enfold_data_keys (ring, id, purpose, scope, version, status, created_ms, mac)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![key.ring, id, purpose, key.scope, key.version, status, key.created_ms, key.mac],
        ),
        Some(layer) => tx.execute(
            "INSERT INTO enfold_data_keys (ring, id, purpose, scope, version, status, created_ms, mac,
                 customer_root, customer_wrapped, customer_sealed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                key.ring,
                id,
                purpose,
                key.scope,
                key.version,
                status,
                key.created_ms,
                key.mac,
                layer.root,
                layer.wrapped,
                layer.sealed
            ],
        ),
    }
}

fn find(c: &Connection, ring: &str, purpose: Purpose, scope: &str, version: u32) -> Result<Option<DataKeyRow>> {
    let sql = format!("{SELECT_KEY} WHERE ring = ?1 AND purpose = ?2 AND scope = ?3 AND version = ?4");
    one(c, &sql, params![ring, purpose.as_str(), scope, version], ring)
}

fn one(c: &Connection, sql: &str, values: impl rusqlite::Params, ring: &str) -> Result<Option<DataKeyRow>> {
    let read = || c.prepare_cached(sql)?.query_row(values, raw).optional();
    let row = read().map_err(|e| failure(format!("cannot read a data key of ring `{ring}`"), &e))?;
    row.map(|r| complete(c, ring, r)).transpose()
}

fn complete(c: &Connection, ring: &str, raw: Raw) -> Result<DataKeyRow> {
    let Raw { id, purpose, scope, version, status, created_ms, customer, mac } = raw;
    let read = || -> rusqlite::Result<Vec<Wrap>> {
        c.prepare_cached(
            "SELECT root, wrapped FROM enfold_data_key_wraps WHERE ring = ?1 AND key_id = ?2 ORDER BY root",
        )?
        .query_map(params![ring, id], |r| Ok(Wrap { root: r.get(0)?, wrapped: r.get(1)? }))?
        .collect()
    };
    let wraps = read().map_err(|e| failure(format!("cannot read the wraps of a data key of ring `{ring}`"), &e))?;
    Ok(DataKeyRow {
        id: KeyId::from_bytes(id),
        ring: ring.to_owned(),
        purpose: Purpose::parse(&purpose)?,
        scope,
        version,
        status: KeyStatus::parse(&status)?,
        created_ms,
        wraps,
        customer,
        mac,
    })
}

/// Those that are there stay: whoever replaces them deletes them first.
fn insert_wraps(tx: &Transaction<'_>, key: &DataKeyRow) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO enfold_data_key_wraps (ring, key_id, root, wrapped) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (ring, key_id, root) DO NOTHING",
    )?;
    for wrap in &key.wraps {
        insert.execute(params![key.ring, key.id.as_bytes(), wrap.root, wrap.wrapped])?;
    }
    Ok(())
}

/// SQLite's integers are signed; the policy's schema keeps epochs below 2^63.
fn as_stored(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}
