//! The rules of entries that are members of JSON columns, or properties of a graph's vertices and edges.

use std::collections::BTreeMap;

use super::check;
use super::model::{ColumnPolicy, Document, Mark, Member, Scope};
use super::raw::{RawColumn, RawMarks};
use super::resolve::{Resolver, keys};
use super::words::parse_member_path;

/// Where Apache AGE keeps the properties of vertices and edges, in the table of each label.
const PROPERTIES: &str = "properties";

/// The member that an entry is, where it is one.
pub(super) fn member(at: &mut Resolver<'_>, path: &impl Fn(&str) -> check::Path, raw: &RawColumn) -> Option<Member> {
    let marks = marks(&raw.marks);
    if raw.within.is_none() && raw.path.is_none() && raw.property.is_none() {
        if !marks.is_empty() {
            at.report(&path("marks"), "only a member of a document or a property of a graph has marks beside it");
        }
        return None;
    }
    let record = raw.ring.as_ref().is_some_and(|ring| at.scopes.get(ring) == Some(&Some(Scope::Record)));
    if record && !marks.is_empty() {
        at.report(&path("marks"), "the data keys of records have no versions; the ring has the scope `record`");
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
        return Some(Member { column, path, document: Document::Graph, marks });
    }
    let column = at.required(raw.within.clone(), &path("within"), "within = \"…\"");
    let steps = at.required(raw.path.clone(), &path("path"), "path = \"$.…\"")?;
    match parse_member_path(&steps) {
        Ok(steps) => Some(Member { column: column?, path: steps, document: Document::Json, marks }),
        Err(message) => {
            at.report(&path("path"), message);
            None
        }
    }
}

fn marks(raw: &RawMarks) -> BTreeMap<Mark, String> {
    let all = [(Mark::Sealed, &raw.sealed), (Mark::Version, &raw.version)];
    all.into_iter().filter_map(|(mark, name)| Some((mark, name.clone()?))).collect()
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
        own_marks(at, &keys(&["tables", table, "columns", name, "marks"]), member, &all);
    }
}

/// A mark must not be written over a value, nor over another mark.
fn own_marks(at: &mut Resolver<'_>, path: &[String], member: &Member, all: &[(&String, &Member)]) {
    let alike: Vec<&Member> = all.iter().map(|(_, its)| *its).filter(|its| its.column == member.column).collect();
    let holds_a_value =
        |place: &[String]| alike.iter().any(|its| its.path.starts_with(place) || place.starts_with(&its.path));
    let marks = |place: &[String]| {
        alike.iter().flat_map(|its| its.marks.values().map(|name| its.beside(name))).filter(|at| at == place).count()
    };
    let taken = |place: &[String]| holds_a_value(place) || marks(place) > 1;
    for name in member.marks.values() {
        if name.is_empty() || name.contains('\0') {
            at.report(path, "a mark has a name");
        } else if taken(&member.beside(name)) {
            at.report(path, "the mark would stand where a value or another mark does");
        }
    }
}
