//! From what stands in the file to the [`Policy`]: defaults, references, and the rules between settings.
//!
//! What holds within one table (its columns, its indexes) is in `columns.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::check::{self, Checked};
use super::model::{
    BackOff, CachePolicy, CanaryQuery, ContextRules, Environment, EventPolicy, EvidencePolicy, JobPolicy, LogFormat,
    LogPolicy, Policy, RecordWrap, RingPolicy, Scope, TenantPolicy, Trust, ValuePolicy,
};
use super::raw::{
    DurationText, RawCache, RawEvents, RawJobs, RawLog, RawPolicy, RawRing, RawTenant, RawTrust, RawValue,
};
use super::source::{Findings, Place};
use super::url::DatabaseUrl;
use super::words::{did_you_mean, key_text, parse_duration, parse_operator_key, path_text};
use super::{columns, key_services, readers, service, shared_cache};
use crate::Code;
use crate::kms::{KeyUri, RootKey};

/// Ids are authenticated in length-prefixed form; the bound keeps them readable in reports.
const MAX_ID_BYTES: usize = 200;

/// The policy, whole only if nothing was found. Everything that contradicts itself is added to the findings.
pub(super) fn resolve(checked: Checked, path: &Path, findings: &mut Findings) -> Option<Policy> {
    let raw: RawPolicy = match serde_json::from_value(checked.json) {
        Ok(raw) => raw,
        Err(_) => {
            // The check and the types say the same thing, so this is a fault of ours; refuse all the same.
            findings.add(&Place::Line(1), &[], "the file does not have the shape of a policy");
            return None;
        }
    };
    let scopes = raw.rings.iter().map(|(name, ring)| (name.clone(), ring.scope)).collect();
    let base = path.parent().unwrap_or(Path::new(""));
    let Checked { places, faulty, .. } = checked;
    let mut at = Resolver { findings, places, faulty, base, scopes, ids: BTreeMap::new() };
    at.policy(raw, path)
}

/// Where the resolver stands: what is known of the file, and what was found so far.
pub(super) struct Resolver<'a> {
    pub findings: &'a mut Findings,
    places: BTreeMap<check::Path, Place>,
    faulty: BTreeSet<check::Path>,
    pub base: &'a Path,
    /// The scope of each ring, none where it was refused.
    pub scopes: BTreeMap<String, Option<Scope>>,
    /// Column and value ids with the path that has them.
    ids: BTreeMap<String, check::Path>,
}

/// A path of keys from string slices.
pub(super) fn keys(path: &[&str]) -> check::Path {
    path.iter().map(|key| (*key).to_owned()).collect()
}

impl Resolver<'_> {
    /// Reports something about the setting at `path`, at the nearest line that exists.
    pub(super) fn report(&mut self, path: &[String], message: impl AsRef<str>) {
        self.report_as(Code::PolicyInvalid, path, message);
    }

    /// Reports something that has a code of its own, where it is all that is wrong.
    fn report_as(&mut self, code: Code, path: &[String], message: impl AsRef<str>) {
        if self.is_faulty(path) {
            return;
        }
        let place = (1..=path.len()).rev().find_map(|len| self.places.get(&path[..len])).cloned();
        self.findings.add_as(code, &place.unwrap_or(Place::Line(1)), path, message);
    }

    /// Whether the setting, or a table it stands in, was reported already.
    pub(super) fn is_faulty(&self, path: &[String]) -> bool {
        (1..=path.len()).any(|len| self.faulty.contains(&path[..len]))
    }

    /// The value of a setting that must be there; `line` is what a hint tells to add.
    pub(super) fn required<T>(&mut self, value: Option<T>, path: &[String], line: &str) -> Option<T> {
        if value.is_none() && !self.is_faulty(path) {
            self.report(path, "missing");
            let (_, table) = path.split_last().unwrap_or((&path[0], &[]));
            self.findings.hint(format!("add `{line}` under `[{}]`", path_text(table)));
        }
        value
    }

    /// Checks that a ring exists.
    pub(super) fn ring(&mut self, ring: &str, path: &[String]) {
        if self.scopes.contains_key(ring) || self.is_faulty(&keys(&["rings", ring])) {
            return;
        }
        let near = did_you_mean(ring, self.scopes.keys().map(String::as_str));
        self.report(path, format!("no ring of this name{near}"));
    }

    /// Checks an id and that nothing else has it.
    pub(super) fn id(&mut self, id: &str, path: &[String]) {
        self.id_text(id, path);
        match self.ids.get(id).cloned() {
            None => {
                self.ids.insert(id.to_owned(), path.to_vec());
            }
            Some(other) => self.report(
                path,
                format!("the id is that of `{}` already (to share it on purpose, use `same_as`)", path_text(&other)),
            ),
        }
    }

    fn id_text(&mut self, id: &str, path: &[String]) {
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            self.report(path, format!("expected an id of 1 to {MAX_ID_BYTES} bytes"));
        } else if id.chars().any(char::is_control) || id.trim() != id {
            self.report(path, "an id has no control characters and no spaces around it");
        }
    }

    fn policy(&mut self, raw: RawPolicy, path: &Path) -> Option<Policy> {
        let url = keys(&["database", "url"]);
        let given = self.required(raw.database.url, &url, "url = \"${DATABASE_URL}\"");
        let database = given.and_then(|text| self.database_url(&text, &url));
        let catalog = match raw.catalog.url {
            Some(text) => self.database_url(&text, &keys(&["catalog", "url"])),
            None => database.clone(),
        };
        let trust = self.trust(raw.trust);
        let environment = raw.environment;
        let mut rings = self.rings(raw.rings, environment);
        rings.values_mut().for_each(|ring| ring.min_epoch = ring.min_epoch.max(trust.min_epoch));
        let scheme = database.as_ref().map(DatabaseUrl::scheme);
        let readers = readers::resolve(self, raw.readers, environment, scheme);
        let foreign = readers.values().flatten().filter_map(|reader| reader.roots.as_ref());
        let events = self.events(raw.events, raw.environment);
        let foreign = foreign.flat_map(|roots| roots.uris.iter().cloned()).chain(events.signing_key.clone()).collect();
        let key_services = key_services::resolve(self, raw.key_services, &rings, foreign);
        let shared_cache = shared_cache::resolve(self, raw.shared_cache, environment, &rings);
        let tables = columns::tables(self, raw.tables, &readers, scheme);
        let prune = super::prune::resolve(self, raw.prune, &tables, scheme);
        let values = raw.values.into_iter().filter_map(|(name, value)| self.value(name, value)).collect();
        let metrics = super::metrics::resolve(self, &raw.metrics);
        let traces = super::traces::resolve(self, raw.traces);
        let service = service::resolve(self, raw.service, &tables, &values);
        Some(Policy {
            path: path.to_owned(),
            environment,
            database: database?,
            catalog: catalog?,
            trust,
            context: ContextRules {
                require_actor: raw.context.require_actor,
                require_reason: raw.context.require_reason,
            },
            log: log(&raw.log),
            events,
            evidence: EvidencePolicy { restore_test_every: duration(&raw.evidence.restore_test_every) },
            key_services,
            shared_cache,
            rings,
            readers: readers.into_iter().filter_map(|(name, reader)| Some((name, reader?))).collect(),
            tables,
            values,
            prune,
            jobs: jobs(&raw.jobs),
            service,
            access_rules: raw.access.rules.map(|file| self.base.join(file)),
            metrics,
            traces,
        })
    }

    fn database_url(&mut self, text: &str, path: &[String]) -> Option<DatabaseUrl> {
        match DatabaseUrl::parse(text, self.base) {
            Ok(url) => Some(url),
            Err(message) => {
                self.report(path, message);
                None
            }
        }
    }

    fn trust(&mut self, raw: RawTrust) -> Trust {
        let operator_key = raw.operator_key.and_then(|text| match parse_operator_key(&text) {
            Ok(key) => Some(key),
            Err(message) => {
                self.report(&keys(&["trust", "operator_key"]), message);
                None
            }
        });
        let operator_key_file = raw.operator_key_file.map(|file| self.base.join(file));
        Trust { operator_key, operator_key_file, min_epoch: raw.min_epoch }
    }

    fn events(&mut self, raw: RawEvents, environment: Environment) -> EventPolicy {
        if raw.spill.is_some() && !raw.catalog {
            self.report(
                &keys(&["events", "spill"]),
                "takes what the catalog cannot take, and `events.catalog` is not on",
            );
        }
        let every = duration(&raw.checkpoint_every);
        if every < Duration::from_secs(1) {
            self.report(&keys(&["events", "checkpoint_every"]), "must be a second at least");
        }
        if raw.before_answer && !raw.catalog && raw.file.is_none() {
            self.report(&keys(&["events", "before_answer"]), "needs `events.catalog` or `events.file` to write to");
        }
        let mut log_keys = Vec::with_capacity(raw.log_keys.len());
        for (n, text) in raw.log_keys.iter().enumerate() {
            match parse_operator_key(text) {
                Ok(key) => log_keys.push(key),
                Err(message) => self.report(&keys(&["events", "log_keys", &n.to_string()]), message),
            }
        }
        let sinks = raw.sinks.into_iter();
        let sinks = sinks.filter_map(|(name, raw)| Some((super::sinks::resolve(self, &name, raw, environment)?, name)));
        let sinks = sinks.map(|(sink, name)| (name, sink)).collect();
        let at = |path: String| self.base.join(path);
        EventPolicy {
            file: raw.file.map(at),
            catalog: raw.catalog,
            opens: raw.opens,
            seals: raw.seals,
            jobs: raw.jobs,
            before_answer: raw.before_answer,
            spill: raw.spill.map(|folder| (at(folder), raw.spill_mib.saturating_mul(1 << 20))),
            keep: duration(&raw.keep),
            archive: raw.archive.map(at),
            signing_key: raw.signing_key.and_then(|text| self.signing_key(&text, raw.signing_key_file.is_some())),
            signing_key_file: raw.signing_key_file.map(at),
            checkpoint_every: every,
            log_keys,
            sinks,
        }
    }

    /// Of the key services only transit engines sign for the log: see [`crate::kms::SignBytes`].
    fn signing_key(&mut self, text: &str, in_a_file_too: bool) -> Option<KeyUri> {
        let path = keys(&["events", "signing_key"]);
        if in_a_file_too {
            self.report(&path, "one key signs the log: leave out this, or `events.signing_key_file`");
        }
        match text.parse::<KeyUri>() {
            Ok(uri) if matches!(uri.root(), RootKey::Vault(_)) => return Some(uri),
            Ok(_) => self.report(&path, "of this key service no key signs with Ed25519 here: a transit key does (`vault://…`), or a file (`events.signing_key_file`)"),
            Err(error) => self.report(&path, error.to_string()),
        }
        None
    }

    fn rings(&mut self, raw: BTreeMap<String, RawRing>, environment: Environment) -> BTreeMap<String, RingPolicy> {
        let mut ids: BTreeMap<String, String> = BTreeMap::new();
        let mut rings = BTreeMap::new();
        for (name, raw) in raw {
            let path = keys(&["rings", &name, "id"]);
            if let Some(id) = &raw.id {
                self.id_text(id, &path);
                if let Some(other) = ids.insert(id.clone(), name.clone()) {
                    self.report(&path, format!("the id is that of `rings.{}` already", key_text(&other)));
                }
            }
            if let Some(ring) = self.ring_policy(&name, raw, environment) {
                rings.insert(name, ring);
            }
        }
        rings
    }

    fn ring_policy(&mut self, name: &str, raw: RawRing, environment: Environment) -> Option<RingPolicy> {
        let at = |key: &str| keys(&["rings", name, key]);
        let id = self.required(raw.id, &at("id"), &format!("id = \"{}\"", name.escape_debug()));
        let roots = self.required(raw.roots, &at("roots"), "roots = [\"aws-kms://REGION/KEY\"]");
        let scope = self.required(raw.scope, &at("scope"), "scope = \"column\"");
        if let Some(roots) = &roots {
            self.roots(roots, &at("roots"), environment, raw.allow_local_in_production);
        }
        let min_wraps = usize::try_from(raw.min_wraps.unwrap_or(1)).unwrap_or(usize::MAX);
        if min_wraps == 0 || roots.as_ref().is_some_and(|roots| min_wraps > roots.len().max(1)) {
            self.report(&at("min_wraps"), "expected a number from 1 to that of the ring's root keys");
        }
        if raw.cache.shared && (raw.cache.max_uses.is_some() || raw.cache.max_bytes.is_some()) {
            let message = "a data key with a limit of uses or bytes is not shared: each process would count for itself";
            self.report(&keys(&["rings", name, "cache", "shared"]), message);
        }
        if raw.record_wrap == RecordWrap::Kms && scope.is_some_and(|scope| scope != Scope::Record) {
            self.report(&at("record_wrap"), "only a ring with the scope `record` has keys of records");
        }
        let ours = roots.as_deref().unwrap_or_default();
        let allow_local = raw.allow_local_in_production;
        let tenants = self.tenants(name, raw.tenants, scope, ours, environment, allow_local);
        let public = |root: &String| root.parse::<KeyUri>().is_ok_and(|uri| uri.may_be_public());
        if raw.record_wrap == RecordWrap::Kms && roots.iter().flatten().any(public) {
            let message = "under an RSA key anybody can make a wrap who has the public half, and the keys of such records \
                           stand in no row that is authenticated: use `ring`, or root keys elsewhere";
            self.report(&at("record_wrap"), message);
        }
        let backup_retention = raw.backup_retention.as_ref().map(duration);
        let rotation = super::rotation::resolve(self, name, raw.rotation);
        for label in raw.labels.keys() {
            let sound = !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            if !sound || label.starts_with("enfold") {
                let message = "a label is of letters, digits, `_`, `-` and `.`, and does not begin with `enfold`";
                self.report(&keys(&["rings", name, "labels", label]), message);
            }
        }
        Some(RingPolicy {
            id: id?,
            roots: roots?,
            min_wraps,
            scope: scope?,
            record_wrap: raw.record_wrap,
            labels: raw.labels,
            rotation,
            backup_retention,
            cache: cache(&raw.cache),
            allow_local_in_production: raw.allow_local_in_production,
            min_epoch: raw.min_epoch,
            tenants,
        })
    }

    fn tenants(
        &mut self,
        ring: &str,
        raw: BTreeMap<String, RawTenant>,
        scope: Option<Scope>,
        roots: &[String],
        environment: Environment,
        allow_local: bool,
    ) -> BTreeMap<String, TenantPolicy> {
        let ours: BTreeSet<KeyUri> = roots.iter().filter_map(|root| root.parse().ok()).collect();
        let mut tenants = BTreeMap::new();
        for (tenant, raw) in raw {
            let path = keys(&["rings", ring, "tenants", &tenant, "customer_key"]);
            let given = self.required(raw.customer_key, &path, "customer_key = \"aws-kms://REGION/KEY\"");
            let Some(customer_key) = given else { continue };
            if tenant.is_empty() {
                self.report(&path, "a tenant has a name");
            }
            if let Some(scope) = scope.filter(|scope| *scope != Scope::Tenant) {
                let why = match scope {
                    Scope::Record => {
                        "the data keys of its records are wrapped by one key for all tenants, or stand in envelopes alone"
                    }
                    _ => "its data keys cover the values of all tenants",
                };
                self.report(&path, format!("only a ring with the scope `tenant` can have customers' keys: {why}"));
            }
            let held = TenantPolicy { customer_key, former_customer_keys: raw.former_customer_keys };
            self.customers_keys(&held, &path, &ours, environment, allow_local);
            tenants.insert(tenant, held);
        }
        tenants
    }

    /// `path` is that of the one that wraps; those that it takes the place of stand beside it.
    fn customers_keys(
        &mut self,
        held: &TenantPolicy,
        path: &[String],
        ours: &BTreeSet<KeyUri>,
        environment: Environment,
        allow_local: bool,
    ) {
        let mut seen = BTreeSet::new();
        for (at, root) in held.root_keys().enumerate() {
            let mut path = path.to_vec();
            if let Some(at) = at.checked_sub(1) {
                path.pop();
                path.extend(keys(&["former_customer_keys", &at.to_string()]));
            }
            let Some(uri) = self.root_key(root, &path, environment, allow_local) else { continue };
            if ours.contains(&uri) {
                self.report(&path, "a root key of the ring cannot be a customer's too: one key would stand for both");
            } else if !seen.insert(uri) {
                self.report(&path, "the same root key twice");
            }
        }
    }

    fn roots(&mut self, roots: &[String], path: &[String], environment: Environment, allow_local: bool) {
        if roots.is_empty() {
            self.report(path, "expected one root key at least");
        }
        let mut seen = BTreeSet::new();
        for (at, root) in roots.iter().enumerate() {
            let mut path = path.to_vec();
            path.push(at.to_string());
            let Some(uri) = self.root_key(root, &path, environment, allow_local) else { continue };
            if !seen.insert(uri) {
                self.report(&path, "the same root key twice");
            }
        }
    }

    /// The URI of one root key, none where it is not one.
    pub(super) fn root_key(
        &mut self,
        root: &str,
        path: &[String],
        environment: Environment,
        allow_local: bool,
    ) -> Option<KeyUri> {
        let uri: KeyUri = match root.parse() {
            Ok(uri) => uri,
            Err(error) => {
                // Its first line quotes the URI, which may have come out of a variable.
                let why: Vec<&str> = error.causes().chain(error.hints()).collect();
                self.report_as(error.code(), path, format!("not the URI of a root key: {}", why.join("; ")));
                return None;
            }
        };
        let allowed = allow_local && matches!(uri.root(), RootKey::Local(_));
        if uri.is_development() && environment == Environment::Production && !allowed {
            let message = "a key for development, and the environment is production";
            self.report_as(Code::LocalKeyInProduction, path, message);
            self.findings.hint("name a root key of a key service, or set `environment = \"development\"`");
        }
        if matches!(uri.root(), RootKey::Pkcs11(key) if key.module().is_none()) {
            self.report_as(Code::KmsUriInvalid, path, "no module is named, as `?module-path=/usr/lib/module.so`");
        }
        Some(uri)
    }

    fn value(&mut self, name: String, raw: RawValue) -> Option<(String, ValuePolicy)> {
        let at = |key: &str| keys(&["values", &name, key]);
        let id = self.required(raw.id, &at("id"), &format!("id = \"{}\"", name.escape_debug()));
        let ring = self.required(raw.ring, &at("ring"), "ring = \"…\"");
        if let Some(id) = &id {
            self.id(id, &at("id"));
        }
        if let Some(ring) = &ring {
            self.ring(ring, &at("ring"));
        }
        let value = ValuePolicy { id: id?, ring: ring? };
        Some((name, value))
    }
}

/// The check has read every duration once, so none is unreadable here.
pub(super) fn duration(text: &DurationText) -> Duration {
    parse_duration(&text.0).unwrap_or_default()
}

fn cache(raw: &RawCache) -> CachePolicy {
    CachePolicy {
        ttl: duration(&raw.ttl),
        stale_if_error: duration(&raw.stale_if_error),
        max_keys: usize::try_from(raw.max_keys).unwrap_or(usize::MAX),
        max_unseen: duration(&raw.max_unseen),
        max_uses: raw.max_uses,
        max_bytes: raw.max_bytes,
        shared: raw.shared,
    }
}

fn log(raw: &RawLog) -> LogPolicy {
    let parts = [
        ("kms", raw.levels.kms),
        ("cache", raw.levels.cache),
        ("keyring", raw.levels.keyring),
        ("catalog", raw.levels.catalog),
        ("events", raw.levels.events),
        ("policy", raw.levels.policy),
        ("jobs", raw.levels.jobs),
        ("discover", raw.levels.discover),
        ("server", raw.levels.server),
    ];
    let levels = parts.iter().filter_map(|(part, level)| level.map(|level| format!("{part}={}", level.word())));
    LogPolicy { json: raw.format == LogFormat::Json, level: raw.level, levels: levels.collect() }
}

fn jobs(raw: &RawJobs) -> JobPolicy {
    JobPolicy {
        batch_rows: raw.batch_rows,
        rate: raw.rate,
        lease: duration(&raw.lease),
        patience: duration(&raw.patience),
        lock_timeout: duration(&raw.lock_timeout),
        statement_timeout: duration(&raw.statement_timeout),
        back_off: back_off(raw),
    }
}

pub(super) fn back_off(raw: &RawJobs) -> BackOff {
    BackOff {
        max_replica_lag: duration(&raw.max_replica_lag),
        max_lock_waits: raw.max_lock_waits,
        max_slot_mib: raw.max_slot_mib,
        max_snapshot_age: raw.max_snapshot_age,
        max_wal_mib_per_second: raw.max_wal_mib_per_second,
        max_requested_checkpoints: raw.max_requested_checkpoints,
        max_disk_growth_mib: raw.max_disk_growth_mib,
        canary_query: raw.canary_query.as_ref().map(|sql| {
            let time = duration(&raw.canary_query_time);
            CanaryQuery { sql: sql.clone(), time }
        }),
    }
}
