//! [`Enfold`]: what an application opens once and asks for columns.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use enfold_core::{KeyId, index::IndexSpec};

use crate::access::SeenEmergencies;
use crate::catalog::{self, Catalog, MemoryCatalog, RootKey};
use crate::clock::{Clock, SystemClock};
use crate::column::{Column, Index, Seat, Seats};
use crate::events::{self, CatalogSink, Event, Events, JsonLinesSink, Sink, SpillingSink};
use crate::keyring::{CustomerKey, Customers, KeyRing, Repaired, Roots, Trusted, roots::Provider};
use crate::kms::{Kdf, KeyManagementService, KeyUri, LocalKms, Registry, RootKey as RootKind};
use crate::metrics::Operations;
use crate::operator::Operator;
use crate::policy::{ColumnPolicy, Environment, EventPolicy, IndexPolicy, Policy, TablePolicy};
use crate::readers::{self, FormatReader};
use crate::registry::Registered;
use crate::root_schedule::SeenClaims;
use crate::shared_cache::SharedCache;
use crate::state::OperatorKey;
use crate::{Code, Error, Result, log, watch};

/// Where the operators' key is if the policy does not say: beside the policy file.
const OPERATOR_KEY_FILE: &str = "enfold-operator.key";
/// How long receivers of events are waited for when a program ends.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// An open policy: its rings, its columns, its catalog. Cheap to clone; every clone is the same.
///
/// ```no_run
/// # async fn example() -> enfold::Result<()> {
/// use enfold::{CallContext, Enfold, Form, PayloadType, Place};
///
/// let policy = enfold::policy::load("enfold.toml".as_ref(), &enfold::policy::Variables::default())?;
/// let enfold = Enfold::open(policy).await?;
/// let email = enfold.column("public.users.email")?;
/// let context = CallContext::new("support", "ticket 4711");
/// let stored = email.seal(&context, &Place::none(), Form::Text, PayloadType::Text, b"ann@example.com").await?;
/// let opened = email.open(&context, &Place::none(), Form::Text, &stored).await?;
/// assert_eq!(&opened.value[..], b"ann@example.com");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Enfold(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) policy: Policy,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) events: Arc<Events>,
    pub(crate) trusted: Trusted,
    /// By the policy's names.
    pub(crate) rings: BTreeMap<String, Arc<KeyRing>>,
    pub(crate) operator_key: Mutex<Option<Arc<OperatorKey>>>,
    pub(crate) registered: Registered,
    /// Of other products' formats, by the policy's names.
    pub(crate) readers: BTreeMap<String, Arc<FormatReader>>,
    pub(crate) operations: Operations,
    columns: Seats,
    values: Seats,
    pub(crate) shared: Option<Arc<SharedCache>>,
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<dyn Clock>,
    /// Of other processes, on root keys that are due.
    pub(crate) claims: SeenClaims,
    pub(crate) emergencies: SeenEmergencies,
    pub(crate) signed: tokio::sync::Mutex<log::Signed>,
}

/// Options of [`Enfold::builder`].
pub struct Builder {
    policy: Policy,
    catalog: Option<Arc<dyn Catalog>>,
    providers: Vec<Arc<dyn KeyManagementService>>,
    sinks: Vec<Arc<dyn Sink>>,
    clock: Arc<dyn Clock>,
    operator_key: Option<OperatorKey>,
    application: Option<(String, String)>,
    /// Whether what is missing is made; none: as the environment is.
    prepare: Option<bool>,
    watch: bool,
}

impl Enfold {
    /// Opens what a policy describes: connects to the catalog, verifies the rings' states, and reads key files.
    ///
    /// In a development environment what is missing is made: the catalog's tables, local root keys, the operators' key,
    /// the rings' first states. Elsewhere that is `enfold init`'s, and what is missing is an error.
    pub async fn open(policy: Policy) -> Result<Self> {
        Self::builder(policy).build().await
    }

    pub fn builder(policy: Policy) -> Builder {
        Builder {
            policy,
            catalog: None,
            providers: Vec::new(),
            sinks: Vec::new(),
            clock: Arc::new(SystemClock::new()),
            operator_key: None,
            application: None,
            prepare: None,
            watch: true,
        }
    }

    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// The catalog itself, for commands that list keys, applications and events.
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.0.catalog
    }

    /// A protected column: `schema.table.column` on Postgres, `table.column` on SQLite.
    pub fn column(&self, name: &str) -> Result<Column> {
        let (table, column) = self.0.policy.column(name).ok_or_else(|| unknown(name))?;
        let seat = self.0.columns.get(name, || self.seat(name, table, column))?;
        let indexes = column.indexes.iter().map(|(n, index)| (n.clone(), self.spec(name, n, index))).collect();
        self.0.registered.uses(name);
        Ok(Column::new(self.clone(), seat, indexes))
    }

    /// A value of the policy that lives in no column: always an envelope.
    pub fn value(&self, name: &str) -> Result<Column> {
        let value = self.0.policy.values.get(name).ok_or_else(|| unknown(name))?;
        let make =
            || Ok(Seat::of_value(name, value, Arc::clone(self.ring(&value.ring)?), self.0.operations.of_class(None)));
        let seat = self.0.values.get(name, make)?;
        Ok(Column::new(self.clone(), seat, BTreeMap::new()))
    }

    /// A blind index: of a column by the column's name and its own, of several columns by the table's.
    pub fn index(&self, owner: &str, name: &str) -> Result<Index> {
        let missing = || unknown(&format!("{owner}.{name}"));
        if let Some((_, column)) = self.0.policy.column(owner) {
            return self.column(owner)?.blind_index(name).map_err(|_| missing()).inspect(|_| {
                debug_assert!(column.indexes.contains_key(name));
            });
        }
        let table = self.0.policy.tables.get(owner).ok_or_else(missing)?;
        let index = table.indexes.get(name).ok_or_else(missing)?;
        let first = index.over.first().ok_or_else(missing)?;
        let column = table.columns.get(first).ok_or_else(missing)?;
        let seat = self.seat(owner, table, column)?;
        Ok(Index::new(self.clone(), seat, self.spec(owner, name, index)))
    }

    /// What operators do: publish states, rotate, disable. Needs the operators' key.
    pub fn operator(&self) -> Result<Operator> {
        let mut held = self.0.operator_key.lock().unwrap_or_else(PoisonError::into_inner);
        let key = match &*held {
            Some(key) => Arc::clone(key),
            None => Arc::clone(held.insert(Arc::new(OperatorKey::load(&operator_key_file(&self.0.policy))?))),
        };
        if let Some(pinned) = self.0.policy.trust.operator_key
            && pinned != key.public_key()
        {
            return Err(Error::new(
                Code::OperatorKeyMissing,
                "the operators' key here is not the one that the policy pins",
            )
            .hint("use the key file that belongs to `trust.operator_key`"));
        }
        Ok(Operator::new(self.clone(), key))
    }

    /// Writes down every event that waits. Receivers outside (`events.sinks`) may be on their way still: see [`Self::settle`].
    pub async fn flush(&self) -> Result<()> {
        self.0.events.flush().await
    }

    /// As [`Self::flush`], and waits until receivers outside have what they are sent, for 5 s at most. Call it before the program ends:
    /// what they do not have then is lost to them, and an event says how much that is.
    pub async fn settle(&self) -> Result<()> {
        self.0.events.settle(SETTLE_WITHIN).await
    }

    /// Makes the wraps that data keys of `ring` lack: those that were made while a root key did not answer, and all that
    /// are older than a root key that was added to the policy. A process that made such keys does so by itself, about
    /// every half minute.
    pub async fn repair_wraps(&self, ring: &str) -> Result<Repaired> {
        self.ring(ring)?.repair().await
    }

    /// Throws away every data key that is held in memory: for a hook that runs after a VM snapshot was restored.
    pub fn forget_keys(&self) {
        self.0.rings.values().for_each(|ring| ring.forget());
        self.0.readers.values().for_each(|reader| reader.forget());
    }

    pub(crate) fn ring(&self, name: &str) -> Result<&Arc<KeyRing>> {
        self.0.rings.get(name).ok_or_else(|| {
            Error::new(Code::PolicyInvalid, format!("the policy has no ring `{name}`"))
                .hint("`enfold doctor` checks the policy")
        })
    }

    pub(crate) fn seat(&self, name: &str, table: &TablePolicy, column: &ColumnPolicy) -> Result<Seat> {
        let ring = Arc::clone(self.ring(&column.ring)?);
        let reads = column.reads.iter().filter_map(|reader| self.0.readers.get(reader).cloned()).collect();
        let work = self.0.operations.of_class(column.class.as_deref());
        Ok(Seat::of_column(name, table, column, ring, reads, work))
    }

    fn spec(&self, owner: &str, name: &str, index: &IndexPolicy) -> IndexSpec {
        let table = self.0.policy.column(owner).map(|(table, _)| table).or_else(|| self.0.policy.tables.get(owner));
        let columns = index.over.iter().filter_map(|c| table.and_then(|t| t.columns.get(c)));
        let columns = columns.collect::<Vec<_>>();
        let ring = columns.first().and_then(|c| self.0.rings.get(&c.ring));
        IndexSpec {
            ring_id: ring.map(|r| r.id().to_owned()).unwrap_or_default(),
            column_ids: columns.iter().map(|c| c.id.clone()).collect(),
            name: name.to_owned(),
            normalise: index.normalise.clone(),
            bits: index.bits,
            unique: index.unique,
            cross_tenant: index.cross_tenant,
            generation: 1,
        }
    }
}

impl Builder {
    /// Uses this catalog instead of the one that the policy names.
    #[must_use]
    pub fn catalog(mut self, catalog: Arc<dyn Catalog>) -> Self {
        self.catalog = Some(catalog);
        self
    }

    /// Keeps keys in memory: for tests and trials.
    #[must_use]
    pub fn memory_catalog(self) -> Self {
        self.catalog(Arc::new(MemoryCatalog::new()))
    }

    /// A provider for the root key of its URI, which the policy must name.
    #[must_use]
    pub fn provider(mut self, provider: Arc<dyn KeyManagementService>) -> Self {
        self.providers.push(provider);
        self
    }

    /// A sink for events besides those of the policy.
    #[must_use]
    pub fn sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sinks.push(sink);
        self
    }

    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The operators' key, where it is held in memory and not in a file.
    #[must_use]
    pub fn operator_key(mut self, key: OperatorKey) -> Self {
        self.operator_key = Some(key);
        self
    }

    /// Says who is running, so that `plan` can tell which readers of a column are ready for envelopes.
    #[must_use]
    pub fn application(mut self, name: &str, version: &str) -> Self {
        self.application = Some((name.to_owned(), version.to_owned()));
        self
    }

    /// Makes what is missing, as in a development environment: for `init`.
    #[must_use]
    pub fn prepare(mut self) -> Self {
        self.prepare = Some(true);
        self
    }

    /// Makes nothing that is missing, in a development environment either.
    #[must_use]
    pub(crate) fn unprepared(mut self) -> Self {
        self.prepare = Some(false);
        self
    }

    /// Does not look at the rings' states in the background; each use looks when a second has passed. For tests that
    /// move the clock.
    #[must_use]
    pub fn without_watch(mut self) -> Self {
        self.watch = false;
        self
    }

    pub async fn build(self) -> Result<Enfold> {
        let prepare = self.prepare.unwrap_or(self.policy.environment == Environment::Development);
        let catalog = match &self.catalog {
            Some(catalog) => Arc::clone(catalog),
            None => catalog::connect(&self.policy.catalog).await?,
        };
        if prepare {
            catalog.migrate().await?;
            make_local_keys(&self.policy, &catalog.roots().await?)?;
        } else {
            catalog.check().await?;
        }
        let operator_key = self.find_operator_key(prepare)?;
        let events = Events::start(self.all_sinks(&catalog)?, self.policy.events.before_answer);
        let shared = match &self.policy.shared_cache {
            Some(policy) => Some(SharedCache::open(policy, Arc::clone(&self.clock))?),
            None => None,
        };
        let trusted = self.trusted(operator_key.as_ref())?;
        let (registry, rings) = self.rings(&catalog, &events, &trusted, shared.as_ref()).await?;
        let watch = self.watch;
        let inner = Inner {
            readers: readers::all(&self.policy, &registry)?,
            operations: Operations::of(&self.policy),
            policy: self.policy,
            catalog,
            events,
            trusted,
            rings,
            operator_key: Mutex::new(operator_key.map(Arc::new)),
            registered: Registered::new(self.application),
            columns: Seats::default(),
            values: Seats::default(),
            shared,
            registry,
            clock: self.clock,
            claims: SeenClaims::default(),
            emergencies: SeenEmergencies::default(),
            signed: tokio::sync::Mutex::default(),
        };
        let enfold = Enfold(Arc::new(inner));
        if let Err(error) = enfold.first_look(prepare).await {
            // Whoever is refused at the door is reported too.
            enfold.flush().await.ok();
            return Err(error);
        }
        if watch {
            watch::start(&enfold);
            log::start(&enfold).await?;
        }
        enfold.say_ready();
        Ok(enfold)
    }

    fn find_operator_key(&self, prepare: bool) -> Result<Option<OperatorKey>> {
        let path = operator_key_file(&self.policy);
        match &self.operator_key {
            Some(key) => key.duplicate().map(Some),
            None if path.exists() => OperatorKey::load(&path).map(Some),
            None if prepare && self.policy.trust.operator_key.is_none() => OperatorKey::init(&path).map(Some),
            None => Ok(None),
        }
    }

    fn all_sinks(&self, catalog: &Arc<dyn Catalog>) -> Result<Vec<Arc<dyn Sink>>> {
        let mut sinks = self.sinks.clone();
        let EventPolicy { file, catalog: to_catalog, before_answer, spill, .. } = &self.policy.events;
        if let Some(path) = file {
            sinks.push(Arc::new(JsonLinesSink::open(&self.policy.folder().join(path))?.durable(*before_answer)));
        }
        if *to_catalog {
            let sink: Arc<dyn Sink> = Arc::new(CatalogSink(Arc::clone(catalog)));
            sinks.push(match spill {
                Some((folder, most)) => Arc::new(SpillingSink::new(sink, &self.policy.folder().join(folder), *most)?),
                None => sink,
            });
        }
        for (name, policy) in &self.policy.events.sinks {
            sinks.push(events::outside(name, policy)?);
        }
        Ok(sinks)
    }

    async fn registry(&self) -> Result<Registry> {
        let mut registry = Registry::policy(&self.policy)?.clock(Arc::clone(&self.clock));
        for provider in &self.providers {
            registry = registry.provider(Arc::clone(provider));
        }
        registry.build().await
    }

    fn trusted(&self, operator_key: Option<&OperatorKey>) -> Result<Trusted> {
        let pinned = self.policy.trust.operator_key.or_else(|| operator_key.map(OperatorKey::public_key));
        let operator_key = pinned.ok_or_else(|| {
            Error::new(Code::OperatorKeyMissing, "nothing says whose signature on the rings' states to trust")
                .hint("put the public key that `enfold init` printed into enfold.toml: `trust.operator_key`")
        })?;
        Ok(Trusted { operator_key })
    }

    async fn rings(
        &self,
        catalog: &Arc<dyn Catalog>,
        events: &Arc<Events>,
        trusted: &Trusted,
        shared: Option<&Arc<SharedCache>>,
    ) -> Result<(Registry, BTreeMap<String, Arc<KeyRing>>)> {
        let registry = self.registry().await?;
        // Drawn, not the process id alone: two containers have the same ones.
        let process = KeyId::random().map_err(|e| crate::core_error(e, "cannot name this process"))?.to_string();
        let mut rings = BTreeMap::new();
        for (name, ring) in &self.policy.rings {
            let mut providers = Vec::with_capacity(ring.roots.len());
            for root in &ring.roots {
                let (ids, kms) = known(&registry, &**catalog, root).await?;
                providers.push(Provider::new(ids, kms));
            }
            let mut customers = Vec::with_capacity(ring.tenants.len());
            for (tenant, policy) in &ring.tenants {
                let (_, kms) = known(&registry, &**catalog, &policy.customer_key).await?;
                let mut former = Vec::with_capacity(policy.former_customer_keys.len());
                for root in &policy.former_customer_keys {
                    former.push(known(&registry, &**catalog, root).await?.1);
                }
                customers.push(CustomerKey { tenant: tenant.clone(), kms, former });
            }
            let clock = Arc::clone(&self.clock);
            let roots = Roots::new(name, providers, ring.min_wraps, Arc::clone(&clock));
            let (catalog, events) = (Arc::clone(catalog), Arc::clone(events));
            let shared = shared.filter(|_| ring.cache.shared).cloned();
            let made = KeyRing::new(name, ring.clone(), roots, catalog, events, clock, trusted.clone());
            let made = made.sharing(shared).with_customers(Customers::new(customers));
            let made = made.speaking_as(&process, self.application.as_ref());
            rings.insert(name.clone(), Arc::new(made));
        }
        Ok((registry, rings))
    }
}

impl Enfold {
    /// The line by which a deployment sees that a process has what it needs.
    fn say_ready(&self) {
        let policy = &self.0.policy;
        let columns: usize = policy.tables.values().map(|table| table.columns.len()).sum();
        tracing::info!(
            target: "enfold",
            version = env!("CARGO_PKG_VERSION"),
            environment = ?policy.environment,
            rings = policy.rings.len(),
            columns,
            "ready: the state of every ring is verified"
        );
    }

    /// Every ring's state is verified before anything is sealed; where it may be made, it is.
    async fn first_look(&self, prepare: bool) -> Result<()> {
        let stored = self.0.catalog.states().await?;
        for ring in self.0.rings.values() {
            // One whose epoch is pinned was there: made anew, nobody would know of modes and keys that were signed.
            let never_was = ring.policy.min_epoch == 0 && !stored.iter().any(|s| s.ring == ring.id());
            if prepare && never_was {
                self.operator()?.make_ring(ring).await?;
            }
            let view = ring.view().await?;
            self.check_columns(ring, &view.state)?;
        }
        Ok(())
    }

    /// What the operators signed about the policy's columns must not be weaker than what the policy pins.
    fn check_columns(&self, ring: &Arc<KeyRing>, state: &crate::state::RingState) -> Result<()> {
        for (table_name, table) in &self.0.policy.tables {
            for (column_name, column) in table.columns.iter().filter(|(_, c)| c.ring == ring.name) {
                let name = format!("{table_name}.{column_name}");
                let seat = self.seat(&name, table, column)?;
                seat.mode(state).inspect_err(|error| {
                    self.0.events.emit(Event::refused(error).ring(ring.id()).column(&name));
                })?;
            }
        }
        Ok(())
    }
}

fn operator_key_file(policy: &Policy) -> PathBuf {
    match &policy.trust.operator_key_file {
        Some(path) => policy.folder().join(path),
        None => policy.folder().join(OPERATOR_KEY_FILE),
    }
}

/// The provider of a root key, and the ids by which the catalog knows it.
async fn known(
    registry: &Registry,
    catalog: &dyn Catalog,
    root: &str,
) -> Result<(Vec<KeyId>, Arc<dyn KeyManagementService>)> {
    let kms = Arc::clone(registry.get(&root.parse::<KeyUri>()?)?);
    let id = KeyId::random().map_err(|e| crate::core_error(e, "cannot name a root key"))?;
    let entered = catalog.ensure_root(&RootKey::new(id, kms.uri().as_str())).await?;
    Ok((entered.ids(), kms))
}

/// Local root keys that there never were are made, where a policy may use them at all. One that the catalog knows has
/// wrapped something: if its file is gone, another key in its place would only hide that.
fn make_local_keys(policy: &Policy, known: &[RootKey]) -> Result<()> {
    for ring in policy.rings.values() {
        if policy.environment == Environment::Production && !ring.allow_local_in_production {
            continue;
        }
        for root in ring.root_keys() {
            let uri: KeyUri = root.parse()?;
            if let RootKind::Local(path) = uri.root()
                && !policy.folder().join(path).exists()
                && !known.iter().any(|root| root.uri == uri.to_string())
            {
                match policy.key_services.local.get(&uri) {
                    None => LocalKms::init(&uri, policy.folder())?,
                    Some(source) => {
                        let passphrase = source.read()?.good_for_new_keys()?;
                        LocalKms::init_sealed(&uri, policy.folder(), &passphrase, Kdf::default())?
                    }
                };
            }
        }
    }
    Ok(())
}

fn unknown(name: &str) -> Error {
    Error::new(Code::UnknownColumn, format!("the policy has no `{name}`"))
        .hint("columns are named `schema.table.column` on Postgres and `table.column` on SQLite")
}
