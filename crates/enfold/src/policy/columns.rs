//! The rules of one table: its columns, what they are bound to, and their blind indexes.

use std::collections::{BTreeMap, BTreeSet};

use enfold_core::index::Normaliser;

use super::members::{member, members};
use super::model::{ColumnPolicy, IndexPolicy, Scope, TablePolicy};
use super::raw::{ALL_BITS, RawColumn, RawCompoundIndex, RawIndex, RawTable};
use super::resolve::{Resolver, keys};
use super::url::Scheme;
use super::words::{did_you_mean, parse_normaliser};
use super::{check, readers, reads};

pub(super) fn tables(
    at: &mut Resolver<'_>,
    raw: BTreeMap<String, RawTable>,
    readers: &readers::Readers,
    scheme: Option<Scheme>,
) -> BTreeMap<String, TablePolicy> {
    let sharing = Sharing::of(&raw);
    let mut tables = BTreeMap::new();
    for (name, table) in raw {
        table_name(at, &name, &keys(&["tables", &name]), scheme);
        bound_columns(at, &name, &table);
        let mut columns = BTreeMap::new();
        for (column, raw) in table.columns {
            let path = keys(&["tables", &name, "columns", &column]);
            reads::check_column(at, &path, &raw, readers, table.tenant.is_some());
            let facts = TableFacts { name: &name, tenant: table.tenant.is_some(), row_key: table.row_key.len() };
            if let Some(policy) = self::column(at, &facts, &column, raw, &sharing) {
                columns.insert(column, policy);
            }
        }
        let indexes = table.indexes.into_iter().filter_map(|(index, raw)| compound(at, &name, index, raw, &columns));
        let indexes: BTreeMap<_, _> = indexes.collect();
        members(at, &name, &columns, &table.row_key, table.tenant.as_deref());
        own_columns(at, &name, &columns, &indexes, &table.row_key, table.tenant.as_deref());
        let policy = TablePolicy {
            name: name.clone(),
            tenant: table.tenant,
            row_key: table.row_key,
            triggers: table.triggers,
            columns,
            indexes,
        };
        tables.insert(name, policy);
    }
    tables
}

/// What a column's rules ask of its table.
struct TableFacts<'a> {
    name: &'a str,
    tenant: bool,
    row_key: usize,
}

/// What `same_as` may point at: every column of the file by `schema.table.column`.
struct Sharing(BTreeMap<String, Shared>);

struct Shared {
    path: check::Path,
    id: Option<String>,
    ring: Option<String>,
    same_as: bool,
    bind_row: bool,
    tenant: bool,
    row_key: usize,
}

impl Sharing {
    fn of(tables: &BTreeMap<String, RawTable>) -> Self {
        let mut all = BTreeMap::new();
        for (name, table) in tables {
            for (column, raw) in &table.columns {
                let shared = Shared {
                    path: keys(&["tables", name, "columns", column]),
                    id: raw.id.clone(),
                    ring: raw.ring.clone(),
                    same_as: raw.same_as.is_some(),
                    bind_row: raw.bind_row,
                    tenant: table.tenant.is_some(),
                    row_key: table.row_key.len(),
                };
                all.insert(format!("{name}.{column}"), shared);
            }
        }
        Self(all)
    }
}

/// Checks the name of a table, which stands at `path`.
pub(super) fn table_name(at: &mut Resolver<'_>, name: &str, path: &[String], scheme: Option<Scheme>) {
    let parts: Vec<&str> = name.split('.').collect();
    let sound = !parts.iter().any(|part| part.is_empty());
    match scheme {
        Some(Scheme::Postgres) if !sound || parts.len() != 2 => {
            at.report(path, "expected the table's schema and name, as `\"public.users\"`");
        }
        Some(Scheme::Sqlite) if !sound || parts.len() != 1 => {
            at.report(path, "expected the table's name without a schema, as `users`");
        }
        _ => {}
    }
}

/// Tenant and row key are read from the row as they are, so neither may be protected itself.
fn bound_columns(at: &mut Resolver<'_>, name: &str, table: &RawTable) {
    if let Some(tenant) = &table.tenant {
        let path = keys(&["tables", name, "tenant"]);
        if tenant.is_empty() {
            at.report(&path, "expected the name of a column");
        } else if table.columns.contains_key(tenant) {
            at.report(&path, "the tenant column is protected itself; name one that stays readable");
        }
    }
    let mut seen = BTreeSet::new();
    for (number, column) in table.row_key.iter().enumerate() {
        let path = keys(&["tables", name, "row_key", &number.to_string()]);
        if column.is_empty() {
            at.report(&path, "expected the name of a column");
        } else if !seen.insert(column) {
            at.report(&path, "the same column twice");
        } else if table.columns.contains_key(column) {
            at.report(&path, "the column is protected itself; name one that stays readable");
        }
    }
}

fn column(
    at: &mut Resolver<'_>,
    table: &TableFacts<'_>,
    name: &str,
    raw: RawColumn,
    sharing: &Sharing,
) -> Option<ColumnPolicy> {
    let path = |key: &str| keys(&["tables", table.name, "columns", name, key]);
    if name.is_empty() {
        at.report(&keys(&["tables", table.name, "columns", name]), "expected the name of a column");
    }
    let (id, ring) = match &raw.same_as {
        Some(other) => same_as(at, table, name, &raw, sharing.0.get(other), sharing),
        None => {
            let line = format!("id = \"{}.{}\"", table.name.escape_debug(), name.escape_debug());
            let id = at.required(raw.id.clone(), &path("id"), &line);
            if let Some(id) = &id {
                at.id(id, &path("id"));
            }
            (id, at.required(raw.ring.clone(), &path("ring"), "ring = \"…\""))
        }
    };
    if let Some(ring) = &ring {
        at.ring(ring, &path("ring"));
        if at.scopes.get(ring) == Some(&Some(Scope::Tenant)) && !table.tenant {
            at.report(&path("ring"), "a ring with the scope `tenant` needs the table's tenant column");
            at.findings.hint(format!("add `tenant = \"…\"` under `[tables.{}]`", super::words::key_text(table.name)));
        }
    }
    if raw.bind_row && table.row_key == 0 {
        at.report(&path("bind_row"), "a column that is bound to its row needs the table's `row_key`");
        at.findings.hint(format!("add `row_key = [\"id\"]` under `[tables.{}]`", super::words::key_text(table.name)));
    }
    if raw.min_mode > raw.mode {
        at.report(&path("min_mode"), "stronger than the column's `mode`");
    }
    let member = member(at, &path, &raw);
    let indexes = raw.indexes.into_iter().map(|(index, raw)| {
        let policy = single(at, &path("indexes"), name, &index, raw);
        (index, policy)
    });
    let indexes = indexes.collect();
    Some(ColumnPolicy {
        id: id?,
        class: raw.class,
        ring: ring?,
        mode: raw.mode,
        min_mode: raw.min_mode,
        bind_row: raw.bind_row,
        padding: raw.padding,
        salt: raw.salt,
        lookalikes: raw.lookalikes,
        companions: reads::companions(at, &path("companions"), &raw.companions),
        reads: raw.reads,
        writes: raw.writes,
        same_as: raw.same_as,
        shadow: raw.shadow,
        member,
        indexes,
    })
}

/// The id and ring of a column that shares another's. Everything that an envelope is bound to must be alike, or a value
/// moved between the two would not open.
fn same_as(
    at: &mut Resolver<'_>,
    table: &TableFacts<'_>,
    name: &str,
    raw: &RawColumn,
    other: Option<&Shared>,
    sharing: &Sharing,
) -> (Option<String>, Option<String>) {
    let path = |key: &str| keys(&["tables", table.name, "columns", name, key]);
    let own = format!("{}.{name}", table.name);
    let Some(other) = other else {
        let given = raw.same_as.as_deref().unwrap_or_default();
        let near = did_you_mean(given, sharing.0.keys().map(String::as_str).filter(|known| **known != own));
        at.report(&path("same_as"), format!("no column of this policy, as `schema.table.column`{near}"));
        return (None, None);
    };
    if other.same_as {
        at.report(&path("same_as"), "that column shares another's id itself; name the other");
        return (None, None);
    }
    if raw.id.is_some() && raw.id != other.id {
        at.report(&path("id"), "another id than that of the column in `same_as`; leave it out");
    }
    if raw.ring.is_some() && raw.ring != other.ring {
        at.report(&path("ring"), "another ring than that of the column in `same_as`; leave it out");
    }
    if raw.bind_row != other.bind_row {
        at.report(&path("bind_row"), "not as for the column in `same_as`, so that values could not be moved");
    } else if raw.bind_row && table.row_key != other.row_key {
        at.report(&path("bind_row"), "the `row_key` is of another length than that of the column in `same_as`");
    }
    if table.tenant != other.tenant {
        at.report(
            &path("same_as"),
            "only one of the two tables has a tenant column, so that values could not be moved",
        );
    }
    let known = |key: &str| {
        let mut path = other.path.clone();
        path.push(key.to_owned());
        path
    };
    // What the other column lacks is reported there.
    if other.id.is_none() || at.is_faulty(&known("id")) || at.is_faulty(&known("ring")) {
        return (None, None);
    }
    (other.id.clone(), other.ring.clone())
}

fn single(at: &mut Resolver<'_>, path: &[String], column: &str, name: &str, raw: RawIndex) -> IndexPolicy {
    let mut path = path.to_vec();
    path.push(name.to_owned());
    let normalise = normalisers(at, &path, &raw.normalise);
    whole_if_unique(at, &path, raw.unique, raw.bits, &normalise);
    IndexPolicy {
        column: raw.column.unwrap_or_else(|| format!("{column}_{name}")),
        over: vec![column.to_owned()],
        normalise,
        bits: raw.bits,
        unique: raw.unique,
        cross_tenant: raw.cross_tenant,
    }
}

fn compound(
    at: &mut Resolver<'_>,
    table: &str,
    name: String,
    raw: RawCompoundIndex,
    columns: &BTreeMap<String, ColumnPolicy>,
) -> Option<(String, IndexPolicy)> {
    let path = keys(&["tables", table, "indexes", &name]);
    let below = |key: &str| [path.as_slice(), &[key.to_owned()]].concat();
    let over = at.required(raw.over, &below("over"), "over = [\"…\", \"…\"]");
    let column = at.required(raw.column, &below("column"), &format!("column = \"{}\"", name.escape_debug()));
    if let Some(over) = &over {
        covered(at, table, &below("over"), over, columns);
    }
    let normalise = normalisers(at, &path, &raw.normalise);
    whole_if_unique(at, &path, raw.unique, raw.bits, &normalise);
    let policy = IndexPolicy {
        column: column?,
        over: over?,
        normalise,
        bits: raw.bits,
        unique: raw.unique,
        cross_tenant: raw.cross_tenant,
    };
    Some((name, policy))
}

fn covered(
    at: &mut Resolver<'_>,
    table: &str,
    path: &[String],
    over: &[String],
    columns: &BTreeMap<String, ColumnPolicy>,
) {
    if over.len() < 2 {
        at.report(path, "expected two columns at least; an index over one stands under its column");
    }
    let mut seen = BTreeSet::new();
    let mut rings = BTreeSet::new();
    for (number, name) in over.iter().enumerate() {
        let item = [path, &[number.to_string()]].concat();
        if !seen.insert(name) {
            at.report(&item, "the same column twice");
        } else if let Some(column) = columns.get(name) {
            rings.insert(&column.ring);
        } else if !at.is_faulty(&keys(&["tables", table, "columns", name])) {
            let near = did_you_mean(name, columns.keys().map(String::as_str));
            at.report(&item, format!("no protected column of this table{near}"));
        }
    }
    if rings.len() > 1 {
        at.report(path, "the columns belong to different rings; an index has one key");
    }
}

fn normalisers(at: &mut Resolver<'_>, path: &[String], texts: &[String]) -> Vec<Normaliser> {
    let mut out = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        match parse_normaliser(text.trim()) {
            Ok(normaliser) => out.push(normaliser),
            Err(message) => {
                at.report(&[path, &["normalise".to_owned(), number.to_string()]].concat(), message);
            }
        }
    }
    out
}

/// Truncation makes different values equal, which a unique index would refuse.
fn whole_if_unique(at: &mut Resolver<'_>, path: &[String], unique: bool, bits: u16, normalise: &[Normaliser]) {
    if !unique {
        return;
    }
    let below = |key: &str| [path, &[key.to_owned()]].concat();
    if bits != ALL_BITS {
        at.report(&below("bits"), format!("a unique index is never truncated; leave it at {ALL_BITS}"));
    }
    if normalise.iter().any(|n| matches!(n, Normaliser::LastN(_) | Normaliser::WordPrefix(_))) {
        at.report(&below("normalise"), "a unique index is never truncated; `last` and `word-prefix` are");
    }
}

/// Every index, shadow and companion has a database column of its own: what is emptied for one value must not be needed by
/// another.
fn own_columns(
    at: &mut Resolver<'_>,
    table: &str,
    columns: &BTreeMap<String, ColumnPolicy>,
    compound: &BTreeMap<String, IndexPolicy>,
    row_key: &[String],
    tenant: Option<&str>,
) {
    let mut all: Vec<(check::Path, &str)> = Vec::new();
    for (column, policy) in columns {
        for (companion, held) in &policy.companions {
            all.push((keys(&["tables", table, "columns", column, "companions", companion.word()]), held));
        }
        if let Some(shadow) = &policy.shadow {
            all.push((keys(&["tables", table, "columns", column, "shadow"]), shadow));
        }
        for (name, index) in &policy.indexes {
            all.push((keys(&["tables", table, "columns", column, "indexes", name, "column"]), &index.column));
        }
    }
    for (name, index) in compound {
        all.push((keys(&["tables", table, "indexes", name, "column"]), &index.column));
    }
    let mut seen = BTreeSet::new();
    for (path, column) in all {
        if column.is_empty() {
            at.report(&path, "expected the name of a column");
        } else if columns.contains_key(column) || row_key.iter().any(|key| key == column) || tenant == Some(column) {
            at.report(&path, "the column holds something else; an index, a shadow or a companion needs one of its own");
        } else if !seen.insert(column) {
            at.report(&path, "two indexes, shadows or companions in one column");
        }
    }
}
