//! What a column says of its readers: which, in what order, and where they find what stands apart from its values.

use std::collections::{BTreeMap, BTreeSet};

use enfold_core::readers::Companion;

use super::model::{KeyTablePolicy, Lookup, Unauthenticated};
use super::raw::RawColumn;
use super::readers::{Readers, companion, no_companion};
use super::resolve::{Resolver, keys};
use super::words::{did_you_mean, path_text};

/// Whether the readers that a column names exist, are such as it accepts, and find what they have apart.
pub(super) fn check_column(
    at: &mut Resolver<'_>,
    column: &[String],
    raw: &RawColumn,
    readers: &Readers,
    has_tenant: bool,
) {
    let (reads, accepts) = (&raw.reads, raw.unauthenticated);
    let below = |key: &str| [column, &[key.to_owned()]].concat();
    let mut seen = BTreeSet::new();
    let mut unauthenticated = false;
    for (number, name) in reads.iter().enumerate() {
        let path = [below("reads"), vec![number.to_string()]].concat();
        let Some(reader) = readers.get(name) else {
            if !at.is_faulty(&keys(&["readers", name])) {
                let near = did_you_mean(name, readers.keys().map(String::as_str));
                at.report(&path, format!("no reader of this name{near}"));
            }
            continue;
        };
        if !seen.insert(name) {
            at.report(&path, "the same reader twice");
        }
        let Some(reader) = reader else { continue };
        let by_tenant = |table: &KeyTablePolicy| matches!(table.lookup, Lookup::Tenant { .. });
        if reader.table.as_ref().is_some_and(by_tenant) && !has_tenant {
            at.report(&path, "its keys are a tenant's, and the table has no `tenant` column");
        }
        unauthenticated |= !reader.format.is_authenticated();
        if !reader.format.is_authenticated() && accepts == Unauthenticated::Refuse {
            at.report(&path, "its values are not authenticated: nobody can tell whether one was changed");
            at.findings
                .hint(format!("to accept that, add `unauthenticated = \"accept\"` under `[{}]`", path_text(column)));
        }
    }
    let all_known = reads.iter().all(|name| readers.get(name).is_some_and(Option::is_some));
    if all_known && !at.is_faulty(&below("reads")) {
        check_companions(at, &below("companions"), raw, readers);
    }
    check_writer(at, &below("writes"), raw, readers);
    if accepts == Unauthenticated::Accept && !unauthenticated && all_known && !at.is_faulty(&below("reads")) {
        at.report(&below("unauthenticated"), "every reader of the column authenticates its values");
    }
}

/// Whether values can be written as the column says, and are known again.
fn check_writer(at: &mut Resolver<'_>, path: &[String], raw: &RawColumn, readers: &Readers) {
    let Some(name) = &raw.writes else { return };
    let Some(place) = raw.reads.iter().position(|reader| reader == name) else {
        let near = did_you_mean(name, raw.reads.iter().map(String::as_str));
        return at.report(path, format!("none of the column's `reads`{near}"));
    };
    let format = |name: &String| readers.get(name)?.as_ref().map(|reader| &reader.format);
    if format(name).is_some_and(|format| !format.is_writable()) {
        at.report(path, "this format, as its reader is declared, is read and not written");
        at.findings.hint(
            "`fernet` and its like are written, and `aes-256-gcm` whose values lie in one column, under a key of yours",
        );
    }
    if raw.reads[..place].iter().filter_map(format).any(|format| !format.is_authenticated()) {
        at.report(path, "a reader before it in `reads` does not authenticate, and could take its values for its own");
    }
    if raw.shadow.is_some() {
        at.report(path, "a column with a shadow goes back to values of its own type");
    }
}

/// The companions of a column, by part.
pub(super) fn companions(
    at: &mut Resolver<'_>,
    path: &[String],
    raw: &BTreeMap<String, String>,
) -> BTreeMap<Companion, String> {
    let mut all = BTreeMap::new();
    for (word, column) in raw {
        match companion(word) {
            Some(companion) => drop(all.insert(companion, column.clone())),
            None => at.report(&[path, std::slice::from_ref(word)].concat(), no_companion(word)),
        }
    }
    all
}

/// Every part that a reader has apart has a column, and no column is named for nothing.
fn check_companions(at: &mut Resolver<'_>, path: &[String], raw: &RawColumn, readers: &Readers) {
    let formats = raw.reads.iter().filter_map(|name| Some((name, &readers.get(name)?.as_ref()?.format)));
    let mut wanted = BTreeSet::new();
    for (name, format) in formats {
        for companion in format.apart() {
            wanted.insert(companion.word());
            if !raw.companions.contains_key(companion.word()) {
                let word = companion.word();
                at.report(path, format!("`{word}` is missing, which reader `{name}` has apart from the value"));
                at.findings.hint(format!("name its column: `companions = {{ {word} = \"…\" }}`"));
            }
        }
    }
    for word in raw.companions.keys().filter(|word| companion(word).is_some() && !wanted.contains(word.as_str())) {
        at.report(
            &[path, std::slice::from_ref(word)].concat(),
            "no reader of the column has this apart from the value",
        );
    }
    if !raw.companions.is_empty() && (raw.shadow.is_some() || raw.within.is_some()) {
        at.report(path, "what is in a shadow, or a member of a document, has no columns beside it");
    }
}
