//! The rules of entries that are members of JSON columns, or properties of a graph's vertices and edges.

use std::collections::BTreeMap;

use super::check;
use super::model::{ColumnPolicy, Document, Member};
use super::raw::RawColumn;
use super::resolve::{Resolver, keys};
use super::words::parse_member_path;

/// Where Apache AGE keeps the properties of vertices and edges, in the table of each label.
const PROPERTIES: &str = "properties";

/// The member that an entry is, where it is one.
pub(super) fn member(at: &mut Resolver<'_>, path: &impl Fn(&str) -> check::Path, raw: &RawColumn) -> Option<Member> {
    if raw.within.is_none() && raw.path.is_none() && raw.property.is_none() {
        return None;
    }
    if raw.shadow.is_some() {
        at.report(&path("shadow"), "a member of a document needs no shadow");
    }
    if let Some(property) = &raw.property {
        if raw.within.is_some() || raw.path.is_some() {
            at.report(&path("property"), "it is either a property of a graph, or a member of a JSON column");
        }
        if property.is_empty() || property.contains('\0') {
            at.report(&path("property"), "a property has a name");
        }
        let (column, path) = (PROPERTIES.to_owned(), vec![property.clone()]);
        return Some(Member { column, path, document: Document::Graph });
    }
    let column = at.required(raw.within.clone(), &path("within"), "within = \"…\"");
    let steps = at.required(raw.path.clone(), &path("path"), "path = \"$.…\"")?;
    match parse_member_path(&steps) {
        Ok(steps) => Some(Member { column: column?, path: steps, document: Document::Json }),
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
        // Properties and members are told apart by the entry, and one column is of one type.
        let other = all.iter().any(|(_, its)| its.column == member.column && its.document != member.document);
        if other {
            at.report(&within, "the column holds the properties of a graph, or JSON, and not both");
        }
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
