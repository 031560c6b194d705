//! Members of JSON documents: which column can have them, and what an envelope in their place looks like.

use enfold::Result;
use enfold::policy::{Mark, Member};

use super::sizes::Sizes;
use super::table::Relation;
use super::types::Judged;
use super::{Protected, Scene, accepts};
use crate::model::Storage;
use crate::postgres::held::{self, Within};
use crate::postgres::{ident, literal};
use crate::words::Word;

/// The member that the policy calls `name`; `None` where its column is not in the table.
pub(super) fn protected(relation: &Relation, name: &str, member: &Member) -> Option<Protected> {
    let column = relation.column(&member.column)?.clone();
    // json keeps the spelling of a document, and jsonb_set would change all of it.
    let storage = (column.base == held::holds(member.document)).then_some(Storage::Json);
    let judged = Judged { storage, widen: false };
    let within = Some(Within::of(member));
    Some(Protected {
        name: name.to_owned(),
        column,
        judged,
        sizes: Sizes::default(),
        shadow: None,
        within,
        marks: Within::marks(member),
        companions: Vec::new(),
    })
}

pub(super) async fn findings(scene: &mut Scene<'_>, at: usize) -> Result<()> {
    let p = &scene.protected[at];
    let (name, column, table) = (p.name.clone(), p.column.name.clone(), scene.relation.sql_name());
    let quoted = ident(&column);
    if p.judged.storage.is_none() {
        let says = format!("`{name}` is a member of `{column}`, which is {}", p.column.sql_type);
        let out = format!("ALTER TABLE {table} ALTER COLUMN {quoted} TYPE jsonb USING {quoted}::jsonb");
        scene.refuse(Word::JsonPath.about(&column, says).out(format!("{out}; or protect `{column}` as a whole")));
        return Ok(());
    }
    // What the domain says of a document can only be tried on those that are there.
    if let Some(domain) = p.column.domain.clone().filter(|_| scene.relation.readable) {
        let mut takes = true;
        for envelope in accepts::Envelope::usual(p.sizes.average) {
            let envelope = format!("{}::pg_catalog.jsonb", envelope.literal(Storage::Json));
            let document = replaced(&[p], &quoted, &envelope);
            let sql =
                format!("SELECT count(({document})::{domain}) >= 0 FROM (SELECT {quoted} FROM {table} LIMIT 100) t");
            takes &= accepts::runs(scene.ask, &sql).await?;
        }
        if !takes {
            let says = format!("the domain `{domain}` of `{column}` refuses an envelope in the place of `{name}`");
            let out = format!(
                "ALTER TABLE {table} ALTER COLUMN {quoted} TYPE jsonb, or ALTER DOMAIN {domain} DROP CONSTRAINT …"
            );
            scene.refuse(Word::DomainCheck.about(&column, says).out(out));
        }
    }
    Ok(())
}

/// The document with `envelope` (SQL of type jsonb) in the place of every member that it has.
pub(super) fn replaced(members: &[&Protected], document: &str, envelope: &str) -> String {
    members.iter().fold(document.to_owned(), |whole, member| {
        let Some(place) = &member.within else { return whole };
        let absent = format!("{} IS NULL", place.read(document));
        let set = marked(member, place.set(&whole, envelope, Some(&absent)), Some(&absent));
        match place {
            // Of a scalar no member can be set.
            Within::Json(_) => {
                format!("CASE pg_catalog.jsonb_typeof({document}) WHEN 'object' THEN {set} ELSE {document} END")
            }
            Within::Property(_) => set,
        }
    })
}

/// A document of nothing but the members.
pub(super) fn alone(scene: &Scene<'_>, members: &[&Protected], envelope: &str) -> String {
    let mut skeleton = serde_json::Value::Null;
    for member in members.iter().filter_map(|p| scene.policy.columns.get(&p.name)?.member.as_ref()) {
        let mut place = &mut skeleton;
        for name in &member.path {
            if !place.is_object() {
                *place = serde_json::Value::Object(serde_json::Map::new());
            }
            place = &mut place[name.as_str()];
        }
    }
    let places = || members.iter().filter_map(|member| Some((member, member.within.as_ref()?)));
    let document = match places().next().map(|(_, place)| place) {
        Some(Within::Property(_)) => "ag_catalog.agtype_build_map()".to_owned(),
        _ => format!("{}::pg_catalog.jsonb", literal(&skeleton.to_string())),
    };
    places().fold(document, |whole, (member, place)| marked(member, place.set(&whole, envelope, None), None))
}

/// The document with the marks that an envelope has beside it.
fn marked(member: &Protected, document: String, unless: Option<&str>) -> String {
    member.marks.iter().fold(document, |whole, (mark, place)| {
        let value = match mark {
            Mark::Sealed => "'true'::pg_catalog.jsonb",
            Mark::Version => "'1'::pg_catalog.jsonb",
        };
        place.add(&whole, value, unless)
    })
}
