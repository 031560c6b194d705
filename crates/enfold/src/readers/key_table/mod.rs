//! A table of the application's own that says by which keys other products' values open: which root key wrapped a value's data
//! key, or the data keys of a tenant, or a key itself.
//!
//! What it says is believed as far as the policy goes: a root key that the policy does not list is never called, whatever
//! the table names. Rows are kept as long as the data keys that key services gave out, and what is not known is looked up
//! again each time.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use enfold_core::Part;
use enfold_core::readers::{Encoding, Foreign, Format, Listed, Secret, Wrapped};
use zeroize::Zeroizing;

use super::Fetched;
use super::service::{KEPT_FOR, KeyService, MOST};
use crate::hex::hex;
use crate::kms::KeyUri;
use crate::policy::{DatabaseUrl, Environment, KeyTablePolicy, Lookup};
use crate::{Code, Error, Result};

/// What a data key begins with that was never wrapped.
const DEVELOPMENT: &[u8] = b"dev:";

pub(super) struct KeyTable {
    reader: String,
    policy: KeyTablePolicy,
    environment: Environment,
    database: Source,
    /// Those that may be called.
    roots: Vec<(KeyUri, KeyService)>,
    known: Mutex<HashMap<String, (Instant, Rows)>>,
}

enum Source {
    #[cfg(feature = "postgres")]
    Postgres(Box<postgres::Source>),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::Source),
}

/// A row as it is stored; what the policy has no column for is none.
struct Row {
    version: Option<String>,
    root: Option<String>,
    data_key: Option<Secret>,
    key: Option<Secret>,
}

/// Those of one name: one, or the versions of a tenant, the newest first.
type Rows = Arc<Vec<Row>>;

/// A key that a value may be under.
enum Candidate {
    Ready(Secret),
    /// Wrapped by the root key of this number.
    Wrapped(usize, Vec<u8>),
}

/// Why a value has no key. It is the row's fault, and no other's.
type Reason = &'static str;

impl KeyTable {
    pub(super) fn new(
        reader: &str,
        policy: &KeyTablePolicy,
        database: &DatabaseUrl,
        environment: Environment,
        roots: Vec<(KeyUri, KeyService)>,
    ) -> Result<Self> {
        let (reader, policy) = (reader.to_owned(), policy.clone());
        let database = Source::new(database)?;
        Ok(Self { reader, policy, environment, database, roots, known: Mutex::default() })
    }

    pub(super) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.roots.iter().for_each(|(_, service)| service.forget());
    }

    /// Whether each root key that the table may name answers.
    pub(super) async fn probe(&self) -> Result<()> {
        for (_, service) in &self.roots {
            service.probe().await?;
        }
        Ok(())
    }

    /// The keys that each value may be under.
    pub(super) async fn fetch(
        &self,
        format: &dyn Format,
        values: &[(usize, Foreign<'_>, Option<Part<'_>>)],
    ) -> Fetched {
        let listed = values.iter().filter_map(|(at, value, tenant)| match format.wrapped(value)?.ok()? {
            Wrapped::Listed(listed) => Some((*at, self.wanted(&listed, *tenant), listed)),
            _ => None,
        });
        let listed: Vec<(usize, Result<String, Reason>, Listed)> = listed.collect();
        let wanted = listed.iter().filter_map(|(_, wanted, listed)| Some((wanted.as_ref().ok()?, listed)));
        let rows = match self.rows(wanted.collect()).await {
            Ok(rows) => rows,
            Err(error) => return listed.into_iter().map(|(at, ..)| (at, Err(error.clone()))).collect(),
        };
        let candidates = listed.into_iter().map(|(at, wanted, listed)| {
            let found =
                wanted.and_then(|wanted| rows.get(&wanted).cloned().ok_or("the table of keys has no row for it"));
            (at, found.and_then(|rows| self.candidates(format, &rows, &listed)))
        });
        self.unwrap(candidates.collect()).await
    }

    /// By what the row is found.
    fn wanted(&self, listed: &Listed, tenant: Option<Part<'_>>) -> Result<String, Reason> {
        match &self.policy.lookup {
            Lookup::Key { .. } => {
                let key = listed.key.clone().ok_or("nothing beside it says which row of the table of keys is meant")?;
                String::from_utf8(key).map_err(|_| "what names the row of the table of keys is not text")
            }
            Lookup::Tenant { .. } => match tenant {
                Some(Part::Text(text)) => Ok(text.to_owned()),
                Some(Part::Int(number)) => Ok(number.to_string()),
                Some(Part::Uuid(bytes)) => Ok(hyphenated(bytes)),
                _ => Err("its tenant is not one that the table of keys could have"),
            },
        }
    }

    /// Those that are known, and the others looked up: whoever names a version that is not known may mean a new one.
    async fn rows(&self, wanted: Vec<(&String, &Listed)>) -> Result<HashMap<String, Rows>> {
        let mut found = HashMap::new();
        let mut missing = BTreeSet::new();
        for (name, listed) in wanted {
            match self.known(name).filter(|rows| has_version(rows, listed)) {
                Some(rows) => drop(found.insert(name.clone(), rows)),
                None => drop(missing.insert(name.clone())),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let mut read: HashMap<String, Vec<Row>> = HashMap::new();
        for (name, row) in self.database.read(&self.policy, &missing.into_iter().collect::<Vec<_>>()).await? {
            read.entry(name).or_default().push(row);
        }
        for (name, mut rows) in read {
            rows.sort_by_key(|row| std::cmp::Reverse(age(row)));
            let rows = Arc::new(rows);
            self.keep(&name, &rows);
            found.insert(name, rows);
        }
        Ok(found)
    }

    fn known(&self, name: &str) -> Option<Rows> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).filter(|(since, _)| since.elapsed() < KEPT_FOR).map(|(_, rows)| Arc::clone(rows))
    }

    /// Where there is no more room, all go: they are looked up again.
    fn keep(&self, name: &str, rows: &Rows) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(name.to_owned(), (Instant::now(), Arc::clone(rows)));
    }

    /// The keys that a value may be under, by the rows that were found for it.
    fn candidates(&self, format: &dyn Format, rows: &[Row], listed: &Listed) -> Result<Vec<Candidate>, Reason> {
        let version = listed.version.as_deref();
        let meant = |row: &&Row| version.is_none() || row.version.as_deref().map(str::as_bytes) == version;
        let candidates = rows.iter().filter(meant).map(|row| self.candidate(format, row, listed));
        let candidates = candidates.collect::<Result<Vec<_>, Reason>>()?;
        if candidates.is_empty() { Err("the table of keys has not the version that it names") } else { Ok(candidates) }
    }

    fn candidate(&self, format: &dyn Format, row: &Row, listed: &Listed) -> Result<Candidate, Reason> {
        // As it is stored in the row of keys, or as the format has read it beside the value.
        let in_row = || row.data_key.as_ref().map(|stored| data_key(stored)).transpose();
        let wrapped = match &listed.data_key {
            Some(data_key) => Some(Stored::Wrapped(data_key.clone())),
            None => in_row()?,
        };
        match (wrapped, &row.key) {
            (Some(Stored::Wrapped(wrapped)), _) => Ok(Candidate::Wrapped(self.root(row)?, wrapped)),
            (Some(Stored::Bare(_)), _) if self.environment == Environment::Production => {
                Err("its data key is one for development (`dev:`), and the environment is production")
            }
            (Some(Stored::Bare(key)), _) => Ok(Candidate::Ready(key)),
            (None, Some(key)) => {
                let key = format
                    .spelled(key)
                    .map_err(|_| "the key in the table of keys is not spelled as the reader says")?;
                Ok(Candidate::Ready(key))
            }
            (None, None) => Err("neither it nor its row of the table of keys has a key"),
        }
    }

    /// The root key that a row names, if it is one that may be called.
    fn root(&self, row: &Row) -> Result<usize, Reason> {
        if self.policy.root.is_none() {
            return Ok(0);
        }
        let named = row.root.as_deref().ok_or("its row of the table of keys names no root key")?;
        let listed = self.roots.iter().position(|(uri, _)| uri.is_named(named));
        listed.ok_or("the root key that its row of the table of keys names is not among the reader's `roots`")
    }

    /// Has each root key open all that it wrapped, in one batch.
    async fn unwrap(&self, candidates: Vec<(usize, Result<Vec<Candidate>, Reason>)>) -> Fetched {
        let mut wanted: Vec<Vec<(usize, Wrapped)>> = self.roots.iter().map(|_| Vec::new()).collect();
        let all = candidates.iter().filter_map(|(_, of)| of.as_ref().ok()).flatten();
        for (number, candidate) in all.enumerate() {
            if let Candidate::Wrapped(root, wrapped) = candidate {
                wanted[*root].push((number, Wrapped::DataKey(wrapped.clone())));
            }
        }
        let mut opened = Fetched::new();
        for ((_, service), wanted) in self.roots.iter().zip(wanted) {
            opened.extend(service.fetch(wanted).await);
        }
        let mut numbers = 0..;
        let mut keys = |of: Vec<Candidate>| {
            let each = of.into_iter().zip(numbers.by_ref()).map(|(candidate, number)| match candidate {
                Candidate::Ready(key) => Ok(vec![key]),
                Candidate::Wrapped(..) => match opened.remove(&number) {
                    // Another version's may still be the right one.
                    Some(Err(error)) if error.code() == Code::WrapInvalid => Ok(Vec::new()),
                    Some(opened) => opened,
                    None => Err(Error::new(Code::Internal, "a data key was not fetched")),
                },
            });
            let keys = each.collect::<Result<Vec<_>>>()?.concat();
            if keys.is_empty() { Err(self.keyless("no root key of the reader wrapped its data key")) } else { Ok(keys) }
        };
        let of = |(at, of): (usize, Result<Vec<Candidate>, Reason>)| match of {
            Ok(of) => (at, keys(of)),
            Err(reason) => (at, Err(self.keyless(reason))),
        };
        candidates.into_iter().map(of).collect()
    }

    fn keyless(&self, reason: Reason) -> Error {
        Error::new(Code::OpenFailed, format!("reader `{}` has no key for a value", self.reader)).cause(reason)
    }
}

/// A data key as a table has it.
enum Stored {
    Wrapped(Vec<u8>),
    /// Made by a program that ran without a key service.
    Bare(Secret),
}

/// Bytes, or a text: base64, or Vault's own spelling.
fn data_key(stored: &Secret) -> Result<Stored, Reason> {
    let text = stored.trim_ascii();
    let base64 = |text: &[u8]| {
        let decoded = Encoding::Base64.decode(text).or_else(|_| Encoding::Base64Url.decode(text));
        decoded.map_err(|_| "the data key in the table of keys is neither bytes nor base64")
    };
    if let Some(bare) = text.strip_prefix(DEVELOPMENT) {
        return Ok(Stored::Bare(Zeroizing::new(base64(bare)?)));
    }
    let as_it_is = text.starts_with(b"vault:") || !stored.is_ascii();
    Ok(Stored::Wrapped(if as_it_is { stored.to_vec() } else { base64(text)? }))
}

/// Whether the rows answer what a value asks for.
fn has_version(rows: &[Row], listed: &Listed) -> bool {
    let Some(version) = &listed.version else { return true };
    rows.iter().any(|row| row.version.as_ref().is_some_and(|of| of.as_bytes() == &version[..]))
}

/// What the newest row has most of: a number, or else a text.
fn age(row: &Row) -> (Option<u64>, Option<String>) {
    (row.version.as_ref().and_then(|version| version.parse().ok()), row.version.clone())
}

fn hyphenated(bytes: [u8; 16]) -> String {
    let hex = hex(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

impl Source {
    fn new(url: &DatabaseUrl) -> Result<Self> {
        #[cfg(feature = "sqlite")]
        if let Some(path) = url.raw.strip_prefix("sqlite:") {
            return Ok(Self::Sqlite(sqlite::Source::new(path)));
        }
        #[cfg(feature = "postgres")]
        if url.raw.starts_with("postgres") {
            return Ok(Self::Postgres(Box::new(postgres::Source::new(url)?)));
        }
        Err(Error::new(Code::PolicyInvalid, "cannot read a table of keys")
            .cause("this program was built without the policy's database"))
    }

    /// The rows of these, each with what it was found by.
    async fn read(&self, policy: &KeyTablePolicy, wanted: &[String]) -> Result<Vec<(String, Row)>> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(source) => source.read(policy, wanted).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.read(policy, wanted).await,
        }
    }
}

/// The columns that are read: what a row is found by, its version, the root key's name, the wrapped key, the key.
fn columns(policy: &KeyTablePolicy) -> [Option<&String>; 5] {
    let (by, version) = match &policy.lookup {
        Lookup::Key { id } => (id, None),
        Lookup::Tenant { tenant, version } => (tenant, version.as_ref()),
    };
    [Some(by), version, policy.root.as_ref(), policy.data_key.as_ref(), policy.key.as_ref()]
}
