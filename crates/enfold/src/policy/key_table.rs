//! `[readers.NAME.key_table]`: a table of the application's that says by which keys values open.

use enfold_core::readers::Companion;

use super::model::{KeyTablePolicy, Lookup};
use super::raw::RawKeyTable;
use super::readers::Reading;
use super::url::Scheme;

/// What the reader around the table has besides.
pub(super) struct Around {
    /// Each value has its wrapped key with it.
    pub has_data_key: bool,
    pub prefix_has_version: bool,
}

pub(super) fn resolve(
    at: &mut Reading<'_, '_>,
    raw: &RawKeyTable,
    apart: &[Companion],
    around: &Around,
) -> Option<KeyTablePolicy> {
    let below = |key: &str| format!("key_table.{key}");
    let table = at.required(raw.table.clone(), &below("table"), "table = \"public.encryption_keys\"");
    if let Some(table) = &table {
        let parts: Vec<&str> = table.split('.').collect();
        let wanted = if at.scheme == Some(Scheme::Sqlite) { 1 } else { 2 };
        if at.scheme.is_some() && (parts.len() != wanted || parts.iter().any(|part| part.is_empty())) {
            at.report(
                &below("table"),
                "expected the table's schema and name, as `public.keys`; on SQLite its name alone",
            );
        }
    }
    let has_key = apart.contains(&Companion::Key);
    let has_version = apart.contains(&Companion::Version) || around.prefix_has_version;
    let lookup = match (&raw.id, &raw.tenant) {
        (Some(id), None) => {
            if !has_key {
                at.report(&below("id"), "nothing says which row is meant: `key` is not in `apart`");
            }
            Some(Lookup::Key { id: id.clone() })
        }
        (None, Some(tenant)) => Some(Lookup::Tenant { tenant: tenant.clone(), version: raw.version.clone() }),
        _ => {
            at.report("key_table", "expected `id`, or `tenant`: the column by which a value's row is found");
            None
        }
    };
    if has_key && raw.id.is_none() {
        at.report(&below("id"), "missing: the column that `key` beside a value refers to");
    }
    if has_version && raw.version.is_none() {
        at.report(&below("version"), "missing: the column with the versions that values name");
    }
    if raw.version.is_some() && raw.tenant.is_none() {
        at.report(&below("version"), "versions are those of a tenant's data keys");
    }
    match (around.has_data_key, raw.data_key.is_some(), raw.key.is_some()) {
        (true, true, _) => at.report(&below("data_key"), "the values have their data keys with them"),
        (false, false, false) => at.report("key_table", "expected `data_key` or `key`: the column with the keys"),
        _ => {}
    }
    if raw.root.is_some() && !around.has_data_key && raw.data_key.is_none() {
        at.report(&below("root"), "nothing is wrapped, so no root key opens it");
    }
    let (root, data_key, key) = (raw.root.clone(), raw.data_key.clone(), raw.key.clone());
    Some(KeyTablePolicy { table: table?, lookup: lookup?, root, data_key, key })
}
