//! The rules of entries that are members of JSON columns.

use std::collections::BTreeMap;

use super::check;
use super::model::{ColumnPolicy, Member};
use super::raw::RawColumn;
use super::resolve::{Resolver, keys};
use super::words::parse_member_path;

/// The member of a JSON column that an entry is, where it is one.
pub(super) fn member(at: &mut Resolver<'_>, path: &impl Fn(&str) -> check::Path, raw: &RawColumn) -> Option<Member> {
    if raw.within.is_none() && raw.path.is_none() {
        return None;
    }
    if raw.shadow.is_some() {
        at.report(&path("shadow"), "a member of a JSON column needs no shadow");
    }
    let column = at.required(raw.within.clone(), &path("within"), "within = \"…\"");
    let steps = at.required(raw.path.clone(), &path("path"), "path = \"$.…\"")?;
    match parse_member_path(&steps) {
        Ok(steps) => Some(Member { column: column?, path: steps }),
        Err(message) => {
            at.report(&path("path"), message);
            None
        }
    }
}

/// No member lies in another or in a column that is protected as a whole, and what values are bound to is no document.
pub(super) fn members(
    at: &mut Resolver<'_>,
    table: &str,
    columns: &BTreeMap<String, ColumnPolicy>,
    row_key: &[String],
    tenant: Option<&str>,
) {
    let all: Vec<(&String, &Member)> =
        columns.iter().filter_map(|(name, column)| Some((name, column.member.as_ref()?))).collect();
    for (name, member) in &all {
        let whole = columns.get(&member.column).is_some_and(|column| column.member.is_none());
        let within = keys(&["tables", table, "columns", name, "within"]);
        if whole || row_key.contains(&member.column) || tenant == Some(member.column.as_str()) {
            at.report(&within, "the column is protected as a whole, or bound to");
        }
        let inside = |other: &Member| other.column == member.column && member.path.starts_with(&other.path);
        if all.iter().any(|(other, its)| other != name && inside(its)) {
            let path = keys(&["tables", table, "columns", name, "path"]);
            at.report(&path, "the member is another entry's, or lies in it");
        }
    }
}
