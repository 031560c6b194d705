//! The catalog in Postgres, in the schema `enfold`.
//!
//! Statements are sent unprepared, with their parameters' types, and nothing is kept in a session: a pooler in
//! transaction mode may stand between.

mod access;
mod acknowledgements;
mod certificates;
mod emergencies;
mod epochs;
mod keys;
mod log;
mod requests;
mod roots;

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use enfold_core::KeyId;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use self::keys::{
    GROUP_KEY, SELECT_KEY, data_key, find, insert_row, insert_wraps, one, reading, several, swap, takes_customer_layers,
};
use super::model::USES;
use super::words::parse_mode;
use super::{
    Acknowledgement, Application, Begun, Catalog, DataKeyRow, EventPage, EventQuery, Holding, Inserted, KeyUse,
    NamedRequest, Purpose, RootAbout, RootKey, SignedAccess, SignedState, StoredEmergency, Swap,
};
use crate::db::migrations::{Migration, postgres as migrations};
use crate::db::postgres::{Endpoint, Link, failure};
use crate::events::{Entry, Event, SignedCheckpoint, WriterId};
use crate::{Code, Error, Result};

pub(super) const SERIES: &str = "catalog";
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "catalog", sql: include_str!("sql/postgres_1.sql") },
    Migration { version: 2, name: "customers' root keys", sql: include_str!("sql/postgres_2.sql") },
    Migration { version: 3, name: "root keys", sql: include_str!("sql/postgres_3.sql") },
    Migration { version: 4, name: "acknowledgements", sql: include_str!("sql/postgres_4.sql") },
    Migration { version: 5, name: "certificates", sql: include_str!("sql/postgres_5.sql") },
    Migration { version: 6, name: "chains of events", sql: include_str!("sql/postgres_6.sql") },
    Migration { version: 7, name: "access list", sql: include_str!("sql/postgres_7.sql") },
    Migration { version: 8, name: "named requests", sql: include_str!("sql/postgres_8.sql") },
    Migration { version: 9, name: "emergencies", sql: include_str!("sql/postgres_9.sql") },
];
/// The first schema version that this program can work with.
const OLDEST: u32 = 1;

/// See the module's head. One connection, used by one call at a time: a catalog is asked on cache misses and once a second.
pub struct PostgresCatalog {
    link: Link,
    /// Whether the log's entries have places in chains here: seen once, it stays so.
    chains: AtomicBool,
}

impl PostgresCatalog {
    pub async fn connect(endpoint: Endpoint) -> Result<Self> {
        Ok(Self { link: Link::connect(endpoint).await?, chains: AtomicBool::new(false) })
    }

    /// What [`Catalog::migrate`] does, as statements for people who run it themselves. Run twice, they do nothing.
    pub fn script() -> Vec<String> {
        migrations::script(SERIES, MIGRATIONS)
    }

    async fn with<T>(&self, doing: &str, work: impl AsyncFnOnce(&mut Client) -> Result<T>) -> Result<T> {
        self.link.with(doing, work).await
    }
}

#[async_trait]
impl Catalog for PostgresCatalog {
    async fn migrate(&self) -> Result<()> {
        self.with("cannot bring the catalog up to date", async |c| migrations::migrate(c, SERIES, MIGRATIONS).await)
            .await
    }

    async fn check(&self) -> Result<()> {
        self.with("cannot read the catalog's version", async |c| migrations::check(c, SERIES, MIGRATIONS, OLDEST).await)
            .await
    }

    async fn ensure_root(&self, root: &RootKey) -> Result<RootKey> {
        self.with(roots::ENTERING, async |c| roots::ensure(c, root).await).await
    }

    async fn roots(&self) -> Result<Vec<RootKey>> {
        self.with(roots::READING, async |c| roots::all(c).await).await
    }

    async fn describe_root(&self, uri: &str, about: &RootAbout) -> Result<()> {
        self.with(roots::ENTERING, async |c| roots::describe(c, uri, about).await).await
    }

    async fn restore_root(&self, uri: &str, id: KeyId) -> Result<RootKey> {
        self.with(roots::ENTERING, async |c| roots::restore(c, uri, id).await).await
    }

    async fn takes_customer_layers(&self) -> Result<()> {
        self.with("cannot read the catalog's version", async |c| takes_customer_layers(c).await).await
    }

    async fn insert_key(&self, key: &DataKeyRow, by: Option<u64>) -> Result<Inserted> {
        let doing = format!("cannot store a data key of ring `{}`", key.ring);
        self.with(&doing, async |c| {
            let tx = c.transaction().await.map_err(|e| failure(&doing, &e))?;
            if key.customer.is_some() {
                takes_customer_layers(&tx).await?;
            }
            epochs::must_go_by(&tx, &key.ring, by).await?;
            let made = insert_row(&tx, key).await.map_err(|e| failure(&doing, &e))?;
            if made == 0 {
                // The insert waited for whoever took the version, so their row is there to be read.
                let taken = find(&tx, &key.ring, key.purpose, &key.scope, key.version).await?;
                return taken.map(Inserted::Exists).ok_or_else(|| {
                    Error::new(Code::Busy, &doing).cause("the version was taken, and its row is gone again")
                });
            }
            insert_wraps(&tx, key, &doing).await?;
            tx.commit().await.map_err(|e| failure(&doing, &e))?;
            Ok(Inserted::Made)
        })
        .await
    }

    async fn key(&self, ring: &str, id: KeyId) -> Result<Option<DataKeyRow>> {
        self.with(&reading(ring), async |c| {
            let id = id.as_bytes().as_slice();
            one(c, "k.ring = $1 AND k.id = $2", &[text(&ring), bytes(&id)], ring).await
        })
        .await
    }

    async fn key_version(&self, ring: &str, purpose: Purpose, scope: &str, version: u32) -> Result<Option<DataKeyRow>> {
        self.with(&reading(ring), async |c| find(c, ring, purpose, scope, version).await).await
    }

    async fn keys_named(&self, ring: &str, ids: &[KeyId]) -> Result<Vec<DataKeyRow>> {
        self.with(&reading(ring), async |c| {
            let ids = ids.iter().map(|id| id.as_bytes().as_slice()).collect::<Vec<_>>();
            several(c, "k.ring = $1 AND k.id = ANY($2)", &[text(&ring), (&ids, Type::BYTEA_ARRAY)], ring).await
        })
        .await
    }

    async fn key_versions(&self, ring: &str, purpose: Purpose, wanted: &[(String, u32)]) -> Result<Vec<DataKeyRow>> {
        self.with(&reading(ring), async |c| {
            let scopes = wanted.iter().map(|(scope, _)| scope.as_str()).collect::<Vec<_>>();
            let versions = wanted.iter().map(|(_, version)| i64::from(*version)).collect::<Vec<_>>();
            let purpose = purpose.as_str();
            let values = [
                text(&ring),
                text(&purpose),
                (&scopes as &(dyn ToSql + Sync), Type::TEXT_ARRAY),
                (&versions, Type::INT8_ARRAY),
            ];
            let all = "k.ring = $1 AND k.purpose = $2 AND (k.scope, k.version) IN (SELECT * FROM unnest($3, $4))";
            several(c, all, &values, ring).await
        })
        .await
    }

    async fn keys(&self, ring: &str, after: Option<KeyId>, limit: u32) -> Result<Vec<DataKeyRow>> {
        let doing = reading(ring);
        self.with(&doing, async |c| {
            let after = after.map(|a| a.as_bytes().to_vec()).unwrap_or_default();
            let sql = format!("{SELECT_KEY} WHERE k.ring = $1 AND k.id > $2 {GROUP_KEY} ORDER BY k.id LIMIT $3");
            let limit = i64::from(limit);
            let wanted = [text(&ring), bytes(&after), number(&limit)];
            let rows = c.query_typed(&sql, &wanted).await.map_err(|e| failure(&doing, &e))?;
            rows.iter().map(data_key).collect()
        })
        .await
    }

    async fn states(&self) -> Result<Vec<SignedState>> {
        let doing = "cannot read ring states from the catalog";
        self.with(doing, async |c| {
            let rows = c
                .query_typed("SELECT ring, epoch, document, signature FROM enfold.ring_states ORDER BY ring", &[])
                .await
                .map_err(|e| failure(doing, &e))?;
            Ok(rows
                .iter()
                .map(|r| SignedState {
                    ring: r.get(0),
                    // A negative epoch can only have been written by hand; the document's own is the one that counts.
                    epoch: u64::try_from(r.get::<_, i64>(1)).unwrap_or(0),
                    document: r.get(2),
                    signature: r.get(3),
                })
                .collect())
        })
        .await
    }

    async fn publish(&self, state: &SignedState, expected: Option<u64>, keys: &[Swap]) -> Result<bool> {
        let doing = format!("cannot publish the state of ring `{}`", state.ring);
        self.with(&doing, async |c| {
            let tx = c.transaction().await.map_err(|e| failure(&doing, &e))?;
            let epoch = signed(state.epoch)?;
            epochs::wait_for_writers(&tx, &state.ring).await?;
            let written = match expected {
                Some(expected) => {
                    tx.execute_typed(
                        "UPDATE enfold.ring_states SET epoch = $2, document = $3, signature = $4
                         WHERE ring = $1 AND epoch = $5",
                        &[
                            text(&state.ring),
                            number(&epoch),
                            bytes(&state.document),
                            bytes(&state.signature),
                            number(&signed(expected)?),
                        ],
                    )
                    .await
                }
                None => {
                    tx.execute_typed(
                        "INSERT INTO enfold.ring_states (ring, epoch, document, signature) VALUES ($1, $2, $3, $4)
                         ON CONFLICT (ring) DO NOTHING",
                        &[text(&state.ring), number(&epoch), bytes(&state.document), bytes(&state.signature)],
                    )
                    .await
                }
            };
            if written.map_err(|e| failure(&doing, &e))? == 0 {
                return Ok(false);
            }
            for Swap { key, expected } in keys {
                let id = key.id.as_bytes().as_slice();
                let sql = "UPDATE enfold.data_keys SET status = $3, mac = $4 WHERE ring = $1 AND id = $2 AND mac = $5";
                let status = key.status.as_str();
                let values = [text(&key.ring), bytes(&id), text(&status), bytes(&key.mac), bytes(expected)];
                if tx.execute_typed(sql, &values).await.map_err(|e| failure(&doing, &e))? == 0 {
                    return Ok(false);
                }
            }
            tx.commit().await.map_err(|e| failure(&doing, &e))?;
            Ok(true)
        })
        .await
    }

    async fn add_wraps(&self, key: &DataKeyRow, expected: &[u8]) -> Result<bool> {
        let doing = format!("cannot add a wrap to a data key of ring `{}`", key.ring);
        self.with(&doing, async |c| {
            let tx = c.transaction().await.map_err(|e| failure(&doing, &e))?;
            let id = key.id.as_bytes().as_slice();
            let changed = tx
                .execute_typed(
                    "UPDATE enfold.data_keys SET mac = $3 WHERE ring = $1 AND id = $2 AND mac = $4",
                    &[text(&key.ring), bytes(&id), bytes(&key.mac), bytes(&expected)],
                )
                .await
                .map_err(|e| failure(&doing, &e))?;
            if changed == 0 {
                return Ok(false);
            }
            insert_wraps(&tx, key, &doing).await?;
            tx.commit().await.map_err(|e| failure(&doing, &e))?;
            Ok(true)
        })
        .await
    }

    async fn swap_wraps(&self, ring: &str, swaps: &[Swap], by: Option<u64>) -> Result<Vec<bool>> {
        let doing = format!("cannot replace wraps of data keys of ring `{ring}`");
        self.with(&doing, async |c| swap(c, ring, swaps, by).await).await
    }

    async fn register(&self, application: &Application) -> Result<()> {
        let a = application;
        let doing = format!("cannot register the application `{}`", a.name);
        self.with(&doing, async |c| {
            c.execute_typed(
                "INSERT INTO enfold.applications (name, instance, version, columns, ready, last_seen_ms)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (name, instance) DO UPDATE SET version = excluded.version, columns = excluded.columns,
                     ready = excluded.ready, last_seen_ms = excluded.last_seen_ms",
                &[
                    text(&a.name),
                    text(&a.instance),
                    text(&a.version),
                    text(&a.columns_text()),
                    text(&a.ready.word()),
                    number(&a.last_seen_ms),
                ],
            )
            .await
            .map_err(|e| failure(&doing, &e))?;
            Ok(())
        })
        .await
    }

    async fn applications(&self, since_ms: i64) -> Result<Vec<Application>> {
        let doing = "cannot read applications from the catalog";
        self.with(doing, async |c| {
            let rows = c
                .query_typed(
                    "SELECT name, instance, version, columns, ready, last_seen_ms FROM enfold.applications
                     WHERE last_seen_ms >= $1 ORDER BY name, instance",
                    &[number(&since_ms)],
                )
                .await
                .map_err(|e| failure(doing, &e))?;
            rows.iter()
                .map(|r| {
                    Ok(Application {
                        name: r.get(0),
                        instance: r.get(1),
                        version: r.get(2),
                        columns: Application::columns_from(r.get(3)),
                        ready: parse_mode(r.get(4))?,
                        last_seen_ms: r.get(5),
                    })
                })
                .collect()
        })
        .await
    }

    async fn acknowledge(&self, word: &Acknowledgement) -> Result<()> {
        self.with(acknowledgements::WRITING, async |c| acknowledgements::write(c, word).await).await
    }

    async fn acknowledgements(&self, ring: &str) -> Result<Vec<Acknowledgement>> {
        self.with(acknowledgements::READING, async |c| acknowledgements::read(c, ring).await).await
    }

    async fn keep_certificate(&self, ring: &str, subject: &str, certificate: &str) -> Result<()> {
        self.with(certificates::DOING, async |c| certificates::keep(c, ring, subject, certificate).await).await
    }

    async fn certificate(&self, ring: &str, subject: &str) -> Result<Option<String>> {
        self.with(certificates::DOING, async |c| certificates::find(c, ring, subject).await).await
    }

    async fn access_list(&self) -> Result<Option<SignedAccess>> {
        self.with(access::READING, async |c| access::read(c).await).await
    }

    async fn publish_access_list(&self, list: &SignedAccess, expected: Option<u64>) -> Result<bool> {
        self.with(access::WRITING, async |c| access::publish(c, list, expected).await).await
    }

    async fn put_emergency(&self, emergency: &StoredEmergency, expected: Option<u64>) -> Result<bool> {
        self.with(emergencies::WRITING, async |c| emergencies::put(c, emergency, expected).await).await
    }

    async fn emergency(&self, id: &str) -> Result<Option<StoredEmergency>> {
        self.with(emergencies::READING, async |c| emergencies::one(c, id).await).await
    }

    async fn emergencies(&self, limit: u32) -> Result<Vec<StoredEmergency>> {
        self.with(emergencies::READING, async |c| emergencies::newest(c, limit).await).await
    }

    async fn begin_request(&self, request: &NamedRequest, holding: Holding) -> Result<Begun> {
        self.with(requests::DOING, async |c| requests::begin(c, request, holding).await).await
    }

    async fn intend_request(&self, id: &[u8; 32], intent: &str) -> Result<()> {
        self.with(requests::DOING, async |c| requests::intend(c, id, intent).await).await
    }

    async fn end_request(&self, id: &[u8; 32], answer: Option<&str>) -> Result<()> {
        self.with(requests::DOING, async |c| requests::end(c, id, answer).await).await
    }

    async fn append_log(&self, entries: &[Entry]) -> Result<()> {
        self.with(log::APPENDING, async |c| log::append(c, entries, &self.chains).await).await
    }

    async fn log_heads(&self) -> Result<Vec<(WriterId, u64)>> {
        self.with(log::READING, async |c| log::heads(c).await).await
    }

    async fn log_of(&self, writer: WriterId, after: u64, limit: u32) -> Result<Vec<(u64, String)>> {
        self.with(log::READING, async |c| log::of(c, writer, after, limit).await).await
    }

    async fn unchained_log(&self, after: i64, limit: u32) -> Result<Vec<(i64, String)>> {
        self.with(log::READING, async |c| log::unchained(c, after, limit).await).await
    }

    async fn checkpoints(&self, after: u64, limit: u32) -> Result<Vec<SignedCheckpoint>> {
        self.with(log::READING, async |c| log::checkpoints(c, after, limit).await).await
    }

    async fn last_checkpoint(&self) -> Result<Option<SignedCheckpoint>> {
        self.with(log::READING, async |c| log::last_checkpoint(c).await).await
    }

    async fn add_checkpoint(&self, checkpoint: &SignedCheckpoint) -> Result<bool> {
        self.with(log::APPENDING, async |c| log::add_checkpoint(c, checkpoint).await).await
    }

    async fn remove_log(&self, writer: WriterId, upto: u64, limit: u32) -> Result<u64> {
        self.with(log::REMOVING, async |c| log::remove(c, writer, upto, limit).await).await
    }

    async fn remove_checkpoints(&self, upto: u64, limit: u32) -> Result<u64> {
        self.with(log::REMOVING, async |c| log::remove_checkpoints(c, upto, limit).await).await
    }

    async fn event_page(&self, query: &EventQuery, page: EventPage) -> Result<Vec<(i64, Event)>> {
        self.with(log::READING, async |c| log::find(c, query, page).await).await
    }

    async fn uses(&self, keys: &[KeyId], since_ms: i64) -> Result<Vec<KeyUse>> {
        let doing = "cannot read from the catalog what a data key was used for";
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let kinds: Vec<&str> = USES.to_vec();
        self.with(doing, async |c| {
            let sql = "SELECT e ->> 'key', e ->> 'kind', e ->> 'column', e ->> 'actor', e ->> 'source', \
                              sum((e ->> 'count')::bigint)::bigint AS n, min(at_ms), max(at_ms) \
                       FROM (SELECT event::jsonb AS e, at_ms FROM enfold.events WHERE at_ms >= $3) events \
                       WHERE e ->> 'key' = ANY ($1) AND e ->> 'kind' = ANY ($2) \
                       GROUP BY 1, 2, 3, 4, 5 ORDER BY n DESC, 3, 2, 4, 5, 1";
            let params: [Param<'_>; 3] = [(&keys, Type::TEXT_ARRAY), (&kinds, Type::TEXT_ARRAY), number(&since_ms)];
            let rows = c.query_typed(sql, &params).await.map_err(|e| failure(doing, &e))?;
            let used = |r: &Row| KeyUse {
                key: r.get(0),
                kind: r.get(1),
                column: r.get(2),
                actor: r.get(3),
                source: r.get(4),
                count: r.get::<_, i64>(5).unsigned_abs(),
                first_ms: r.get(6),
                last_ms: r.get(7),
            };
            Ok(rows.iter().map(used).collect())
        })
        .await
    }
}

/// A parameter and its type: the server is not asked for types.
type Param<'a> = (&'a (dyn ToSql + Sync), Type);

fn text<'a>(value: &'a (impl ToSql + Sync)) -> Param<'a> {
    (value, Type::TEXT)
}

fn bytes<'a>(value: &'a (impl ToSql + Sync)) -> Param<'a> {
    (value, Type::BYTEA)
}

fn number<'a>(value: &'a (impl ToSql + Sync)) -> Param<'a> {
    (value, Type::INT8)
}

fn key_id(bytes: &[u8]) -> Result<KeyId> {
    bytes.try_into().map(KeyId::from_bytes).map_err(|_| out_of_range("key id"))
}

fn signed(epoch: u64) -> Result<i64> {
    i64::try_from(epoch).map_err(|_| out_of_range("epoch"))
}

fn out_of_range(what: &str) -> Error {
    Error::new(Code::StateTampered, format!("the catalog holds a {what} that is out of range"))
}
