//! The catalog in memory: for tests, and for trying Enfold without a database. It is gone with the process.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use enfold_core::KeyId;

use super::model::USES;
use super::{
    Acknowledgement, Application, Begun, Catalog, DataKeyRow, EventPage, EventQuery, Holding, Inserted, KeyUse,
    NamedRequest, Purpose, RootAbout, RootKey, SignedAccess, SignedState, StoredEmergency, Swap, outdated, restored,
};
use crate::Result;
use crate::events::{Entry, Event, SignedCheckpoint, WriterId};

/// See the module's head.
#[derive(Default)]
pub struct MemoryCatalog {
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    roots: Vec<RootKey>,
    keys: BTreeMap<(String, KeyId), DataKeyRow>,
    states: BTreeMap<String, SignedState>,
    applications: BTreeMap<(String, String), Application>,
    /// By ring and process, with the moment from which on they do not hold.
    acknowledgements: BTreeMap<(String, String), (Acknowledgement, Instant)>,
    log: Vec<Entry>,
    /// Of the log's entries in their chains.
    places: BTreeSet<(WriterId, u64)>,
    checkpoints: BTreeMap<u64, SignedCheckpoint>,
    /// By ring and subject.
    certificates: BTreeMap<(String, String), String>,
    access: Option<SignedAccess>,
    /// By id.
    requests: BTreeMap<[u8; 32], Kept>,
    emergencies: BTreeMap<String, StoredEmergency>,
}

/// A request that its caller named.
struct Kept {
    content: [u8; 32],
    held: Instant,
    kept: Instant,
    intent: Option<String>,
    answer: Option<String>,
}

impl MemoryCatalog {
    pub fn new() -> Self {
        Self::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // No code panics between two writes of one change, so a poisoned lock still guards whole rows.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Catalog for MemoryCatalog {
    async fn migrate(&self) -> Result<()> {
        Ok(())
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn ensure_root(&self, root: &RootKey) -> Result<RootKey> {
        let mut tables = self.tables();
        if let Some(known) = tables.roots.iter().find(|r| r.uri == root.uri) {
            return Ok(known.clone());
        }
        let mut made = root.clone();
        made.about.created_ms = Some(jiff::Timestamp::now().as_millisecond());
        tables.roots.push(made.clone());
        Ok(made)
    }

    async fn roots(&self) -> Result<Vec<RootKey>> {
        Ok(self.tables().roots.clone())
    }

    async fn describe_root(&self, uri: &str, about: &RootAbout) -> Result<()> {
        if let Some(root) = self.tables().roots.iter_mut().find(|root| root.uri == uri) {
            root.about = RootAbout { created_ms: root.about.created_ms, ..about.clone() };
        }
        Ok(())
    }

    async fn restore_root(&self, uri: &str, id: KeyId) -> Result<RootKey> {
        let mut tables = self.tables();
        let mut root = match tables.roots.iter().position(|root| root.uri == uri) {
            Some(at) => tables.roots.remove(at),
            None => RootKey::new(id, uri),
        };
        (root.id, root.other_ids) = restored(&root, id);
        tables.roots.push(root.clone());
        Ok(root)
    }

    async fn takes_customer_layers(&self) -> Result<()> {
        Ok(())
    }

    async fn insert_key(&self, key: &DataKeyRow, by: Option<u64>) -> Result<Inserted> {
        let mut tables = self.tables();
        if let Some(taken) = tables.find(&key.ring, key.purpose, &key.scope, key.version) {
            return Ok(Inserted::Exists(taken.clone()));
        }
        tables.must_go_by(&key.ring, by)?;
        tables.keys.insert((key.ring.clone(), key.id), key.clone());
        Ok(Inserted::Made)
    }

    async fn key(&self, ring: &str, id: KeyId) -> Result<Option<DataKeyRow>> {
        Ok(self.tables().keys.get(&(ring.to_owned(), id)).cloned())
    }

    async fn key_version(&self, ring: &str, purpose: Purpose, scope: &str, version: u32) -> Result<Option<DataKeyRow>> {
        Ok(self.tables().find(ring, purpose, scope, version).cloned())
    }

    async fn keys_named(&self, ring: &str, ids: &[KeyId]) -> Result<Vec<DataKeyRow>> {
        let tables = self.tables();
        Ok(ids.iter().filter_map(|id| tables.keys.get(&(ring.to_owned(), *id)).cloned()).collect())
    }

    async fn key_versions(&self, ring: &str, purpose: Purpose, wanted: &[(String, u32)]) -> Result<Vec<DataKeyRow>> {
        let tables = self.tables();
        let find = |(scope, version): &(String, u32)| tables.find(ring, purpose, scope, *version).cloned();
        Ok(wanted.iter().filter_map(find).collect())
    }

    async fn keys(&self, ring: &str, after: Option<KeyId>, limit: u32) -> Result<Vec<DataKeyRow>> {
        let tables = self.tables();
        let rows = tables.keys.values().filter(|k| k.ring == ring && after.is_none_or(|a| k.id > a));
        Ok(rows.take(limit as usize).cloned().collect())
    }

    async fn states(&self) -> Result<Vec<SignedState>> {
        Ok(self.tables().states.values().cloned().collect())
    }

    async fn publish(&self, state: &SignedState, expected: Option<u64>, keys: &[Swap]) -> Result<bool> {
        let mut tables = self.tables();
        if tables.states.get(&state.ring).map(|s| s.epoch) != expected {
            return Ok(false);
        }
        let is_seen = |swap: &Swap| {
            let row = tables.keys.get(&(swap.key.ring.clone(), swap.key.id));
            row.is_some_and(|row| row.mac == swap.expected)
        };
        if !keys.iter().all(is_seen) {
            return Ok(false);
        }
        tables.states.insert(state.ring.clone(), state.clone());
        for Swap { key, .. } in keys {
            if let Some(row) = tables.keys.get_mut(&(key.ring.clone(), key.id)) {
                row.status = key.status;
                row.mac.clone_from(&key.mac);
            }
        }
        Ok(true)
    }

    async fn add_wraps(&self, key: &DataKeyRow, expected: &[u8]) -> Result<bool> {
        let mut tables = self.tables();
        let Some(row) = tables.keys.get_mut(&(key.ring.clone(), key.id)).filter(|row| row.mac == expected) else {
            return Ok(false);
        };
        row.wraps.clone_from(&key.wraps);
        row.mac.clone_from(&key.mac);
        Ok(true)
    }

    async fn swap_wraps(&self, ring: &str, swaps: &[Swap], by: Option<u64>) -> Result<Vec<bool>> {
        let mut tables = self.tables();
        tables.must_go_by(ring, by)?;
        let mut swap = |swap: &Swap| {
            let row = tables.keys.get_mut(&(ring.to_owned(), swap.key.id)).filter(|row| row.mac == swap.expected);
            row.is_some_and(|row| {
                row.wraps.clone_from(&swap.key.wraps);
                row.customer.clone_from(&swap.key.customer);
                row.mac.clone_from(&swap.key.mac);
                true
            })
        };
        Ok(swaps.iter().map(&mut swap).collect())
    }

    async fn register(&self, application: &Application) -> Result<()> {
        let key = (application.name.clone(), application.instance.clone());
        self.tables().applications.insert(key, application.clone());
        Ok(())
    }

    async fn applications(&self, since_ms: i64) -> Result<Vec<Application>> {
        Ok(self.tables().applications.values().filter(|a| a.last_seen_ms >= since_ms).cloned().collect())
    }

    async fn acknowledge(&self, word: &Acknowledgement) -> Result<()> {
        let entry = (word.clone(), Instant::now() + word.holds);
        self.tables().acknowledgements.insert((word.ring.clone(), word.process.clone()), entry);
        Ok(())
    }

    async fn acknowledgements(&self, ring: &str) -> Result<Vec<Acknowledgement>> {
        let now = Instant::now();
        let tables = self.tables();
        let held = tables.acknowledgements.values().filter(|(word, until)| word.ring == ring && *until > now);
        let left = held.map(|(word, until)| Acknowledgement { holds: *until - now, ..word.clone() });
        let mut words: Vec<Acknowledgement> = left.collect();
        words.sort_by(|a, b| (a.epoch, &a.process).cmp(&(b.epoch, &b.process)));
        Ok(words)
    }

    async fn keep_certificate(&self, ring: &str, subject: &str, certificate: &str) -> Result<()> {
        let key = (ring.to_owned(), subject.to_owned());
        self.tables().certificates.entry(key).or_insert_with(|| certificate.to_owned());
        Ok(())
    }

    async fn certificate(&self, ring: &str, subject: &str) -> Result<Option<String>> {
        Ok(self.tables().certificates.get(&(ring.to_owned(), subject.to_owned())).cloned())
    }

    async fn access_list(&self) -> Result<Option<SignedAccess>> {
        Ok(self.tables().access.clone())
    }

    async fn publish_access_list(&self, list: &SignedAccess, expected: Option<u64>) -> Result<bool> {
        let mut tables = self.tables();
        let is_expected = tables.access.as_ref().map(|list| list.epoch) == expected;
        if is_expected {
            tables.access = Some(list.clone());
        }
        Ok(is_expected)
    }

    async fn put_emergency(&self, emergency: &StoredEmergency, expected: Option<u64>) -> Result<bool> {
        let emergencies = &mut self.tables().emergencies;
        let is_expected = emergencies.get(&emergency.id).map(|known| known.revision) == expected;
        if is_expected {
            emergencies.insert(emergency.id.clone(), emergency.clone());
        }
        Ok(is_expected)
    }

    async fn emergency(&self, id: &str) -> Result<Option<StoredEmergency>> {
        Ok(self.tables().emergencies.get(id).cloned())
    }

    async fn emergencies(&self, limit: u32) -> Result<Vec<StoredEmergency>> {
        let mut all: Vec<StoredEmergency> = self.tables().emergencies.values().cloned().collect();
        all.sort_by_key(|emergency| std::cmp::Reverse(emergency.at_ms));
        all.truncate(limit as usize);
        Ok(all)
    }

    async fn begin_request(&self, request: &NamedRequest, holding: Holding) -> Result<Begun> {
        let now = Instant::now();
        let requests = &mut self.tables().requests;
        requests.retain(|_, kept| kept.kept > now);
        let new = || Kept { content: request.content, held: now, kept: now + holding.kept, intent: None, answer: None };
        let known = requests.entry(request.id).or_insert_with(new);
        Ok(match &known.answer {
            _ if known.content != request.content => Begun::Another,
            Some(answer) => Begun::Answered(answer.clone()),
            None if known.held > now => Begun::Running(known.held - now),
            None => {
                known.held = now + holding.held;
                Begun::ToDo { intent: known.intent.clone() }
            }
        })
    }

    async fn intend_request(&self, id: &[u8; 32], intent: &str) -> Result<()> {
        if let Some(known) = self.tables().requests.get_mut(id).filter(|known| known.answer.is_none()) {
            known.intent = Some(intent.to_owned());
        }
        Ok(())
    }

    async fn end_request(&self, id: &[u8; 32], answer: Option<&str>) -> Result<()> {
        if let Some(known) = self.tables().requests.get_mut(id).filter(|known| known.answer.is_none()) {
            known.answer = answer.map(str::to_owned);
            known.held = Instant::now();
        }
        Ok(())
    }

    async fn append_log(&self, entries: &[Entry]) -> Result<()> {
        let mut tables = self.tables();
        for entry in entries {
            if tables.places.insert((entry.writer, entry.seq)) {
                tables.log.push(entry.clone());
            }
        }
        Ok(())
    }

    async fn log_heads(&self) -> Result<Vec<(WriterId, u64)>> {
        // In the order of the numbers, so that the last one stays.
        Ok(self.tables().places.iter().copied().collect::<BTreeMap<_, _>>().into_iter().collect())
    }

    async fn log_of(&self, writer: WriterId, after: u64, limit: u32) -> Result<Vec<(u64, String)>> {
        let tables = self.tables();
        let mut entries: Vec<&Entry> =
            tables.log.iter().filter(|entry| entry.writer == writer && entry.seq > after).collect();
        entries.sort_by_key(|entry| entry.seq);
        Ok(entries.iter().take(limit as usize).map(|entry| (entry.seq, entry.line().to_owned())).collect())
    }

    async fn unchained_log(&self, _after: i64, _limit: u32) -> Result<Vec<(i64, String)>> {
        Ok(Vec::new())
    }

    async fn checkpoints(&self, after: u64, limit: u32) -> Result<Vec<SignedCheckpoint>> {
        let tables = self.tables();
        Ok(tables.checkpoints.range(after + 1..).take(limit as usize).map(|(_, one)| one.clone()).collect())
    }

    async fn last_checkpoint(&self) -> Result<Option<SignedCheckpoint>> {
        Ok(self.tables().checkpoints.last_key_value().map(|(_, one)| one.clone()))
    }

    async fn add_checkpoint(&self, checkpoint: &SignedCheckpoint) -> Result<bool> {
        match self.tables().checkpoints.entry(checkpoint.number) {
            Slot::Occupied(_) => Ok(false),
            Slot::Vacant(free) => {
                free.insert(checkpoint.clone());
                Ok(true)
            }
        }
    }

    async fn remove_log(&self, writer: WriterId, upto: u64, limit: u32) -> Result<u64> {
        let mut tables = self.tables();
        let goes = |seq: &u64| *seq <= upto;
        let of = tables.places.range((writer, 0)..=(writer, u64::MAX)).map(|(_, seq)| *seq);
        let gone: BTreeSet<u64> = of.filter(goes).take(limit as usize).collect();
        tables.places.retain(|(of, seq)| *of != writer || !gone.contains(seq));
        tables.log.retain(|entry| entry.writer != writer || !gone.contains(&entry.seq));
        Ok(gone.len() as u64)
    }

    async fn remove_checkpoints(&self, upto: u64, limit: u32) -> Result<u64> {
        let mut tables = self.tables();
        let gone: Vec<u64> =
            tables.checkpoints.range(..=upto).take(limit as usize).map(|(number, _)| *number).collect();
        gone.iter().for_each(|number| _ = tables.checkpoints.remove(number));
        Ok(gone.len() as u64)
    }

    async fn event_page(&self, query: &EventQuery, page: EventPage) -> Result<Vec<(i64, Event)>> {
        let tables = self.tables();
        let placed = (1i64..).zip(&tables.log).map(|(place, entry)| (place, &entry.event));
        let follows =
            |place: i64| page.after.is_none_or(|after| (place > after) == page.oldest_first && place != after);
        let mut found: Vec<_> = placed.filter(|(place, event)| follows(*place) && query.takes(event)).collect();
        if !page.oldest_first {
            found.reverse();
        }
        Ok(found.into_iter().take(query.limit as usize).map(|(place, event)| (place, event.clone())).collect())
    }

    async fn uses(&self, keys: &[KeyId], since_ms: i64) -> Result<Vec<KeyUse>> {
        let keys: BTreeSet<String> = keys.iter().map(ToString::to_string).collect();
        let mut uses: Vec<KeyUse> = Vec::new();
        for event in self.tables().log.iter().map(|entry| &entry.event).filter(|event| event.at_ms >= since_ms) {
            let kind = event.kind.as_str();
            let Some(key) = event.key.as_ref().filter(|key| keys.contains(*key) && USES.contains(&kind)) else {
                continue;
            };
            let alike = |found: &&mut KeyUse| {
                found.key == *key
                    && (found.kind == kind && found.column == event.column)
                    && (found.actor == event.actor && found.source == event.source)
            };
            match uses.iter_mut().find(alike) {
                Some(found) => {
                    found.count += event.count;
                    (found.first_ms, found.last_ms) = (found.first_ms.min(event.at_ms), found.last_ms.max(event.at_ms));
                }
                None => uses.push(KeyUse {
                    key: key.clone(),
                    kind: kind.to_owned(),
                    column: event.column.clone(),
                    actor: event.actor.clone(),
                    source: event.source.clone(),
                    count: event.count,
                    first_ms: event.at_ms,
                    last_ms: event.at_ms,
                }),
            }
        }
        let order = |used: &KeyUse| {
            let KeyUse { key, kind, column, actor, source, count, .. } = used.clone();
            (std::cmp::Reverse(count), column, kind, actor, source, key)
        };
        uses.sort_by_cached_key(order);
        Ok(uses)
    }
}

impl Tables {
    fn must_go_by(&self, ring: &str, by: Option<u64>) -> Result<()> {
        let epoch = self.states.get(ring).map(|state| state.epoch);
        if by.is_none() || by == epoch { Ok(()) } else { Err(outdated(ring)) }
    }

    fn find(&self, ring: &str, purpose: Purpose, scope: &str, version: u32) -> Option<&DataKeyRow> {
        self.keys.values().find(|k| k.ring == ring && k.purpose == purpose && k.scope == scope && k.version == version)
    }
}
