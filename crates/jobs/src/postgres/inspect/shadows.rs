//! Columns whose envelopes are kept in a shadow: which types the database prints exactly, and what stands in the way of
//! moving their values.

use enfold::Result;

use super::super::ask::p;
use super::super::ident as quote;
use super::super::steps;
use super::table::{Column, Relation};
use super::types::{self, Judged};
use super::{Protected, Scene, accepts, sizes};
use crate::database::{Counts, ShadowFacts};
use crate::model::Storage;
use crate::words::Word;

/// The shadow of a column.
pub(super) struct Shadow {
    pub column: String,
    pub there: bool,
    /// The source was dropped: the column under inspection is the shadow itself.
    pub alone: bool,
    /// One of the two always holds a value.
    pub required: bool,
    /// Equal values are printed alike, so that a blind index calls them equal as well.
    pub same_when_equal: bool,
}

impl Shadow {
    pub(super) fn facts(&self) -> ShadowFacts {
        ShadowFacts { column: self.column.clone(), there: self.there, required: self.required, alone: self.alone }
    }
}

/// The column `name` of the policy with its shadow; `None` where neither is in the table.
pub(super) fn protected(relation: &Relation, name: &str, shadow: &str) -> Option<Protected> {
    let held = relation.column(shadow);
    let (column, alone) = match (relation.column(name), held) {
        (Some(source), _) => (source.clone(), false),
        (None, Some(held)) => (held.clone(), true),
        (None, None) => return None,
    };
    // What is there is used as it is; what is added is text, which every driver can read.
    let storage = match held.map(|held| held.base.as_str()) {
        None | Some("text" | "varchar") => Some(Storage::Text),
        Some("bytea") => Some(Storage::Bytes),
        Some(_) => None,
    };
    let shadow = Shadow {
        column: shadow.to_owned(),
        there: held.is_some(),
        alone,
        required: column.not_null,
        same_when_equal: false,
    };
    let sizes = sizes::Sizes::default();
    Some(Protected {
        name: name.to_owned(),
        column,
        judged: Judged { storage, widen: false },
        sizes,
        shadow: Some(shadow),
        within: None,
        marks: Vec::new(),
        companions: Vec::new(),
    })
}

pub(super) async fn findings(scene: &mut Scene<'_>, at: usize) -> Result<()> {
    let Some(shadow) = &scene.protected[at].shadow else { return Ok(()) };
    let (held, alone, there) = (shadow.column.clone(), shadow.alone, shadow.there);
    if let Some(says) = scene.relation.column(&held).and_then(|held| cannot_hold(held, alone)) {
        scene.refuse(Word::ShadowType.about(&scene.protected[at].name, says));
    }
    if alone {
        return Ok(());
    }
    let column = scene.protected[at].column.clone();
    let name = &column.name;
    if column.domain.is_none() && types::judge(&column).storage.is_some() {
        let says = format!("`{name}` is {}, which can hold an envelope itself", column.sql_type);
        scene.refuse(Word::ShadowNeedless.about(name, says));
        return Ok(());
    }
    source(scene, at, &column).await?;
    if column.generated || column.identity {
        return Ok(());
    }
    let says =
        format!("envelopes of `{name}`, which is {}, go to `{held}`, and `{name}` becomes NULL", column.sql_type);
    scene.warn(Word::Shadow.about(name, says));
    let required = column.not_null || has_mark(scene, name).await?;
    if let Some(shadow) = &mut scene.protected[at].shadow {
        shadow.required = required;
    }
    if column.not_null {
        let says = format!("`{name}` is NOT NULL; afterwards either it or `{held}` holds a value");
        scene.warn(Word::ShadowNotNull.about(name, says));
    }
    if there && scene.relation.readable && scene.counts == Counts::Taken {
        let both = format!("{} IS NOT NULL AND {} IS NOT NULL", quote(name), quote(&held));
        let rows = sizes::rows_now(scene, &both).await?;
        if rows > 0 {
            let says = format!("{rows} rows hold a value in `{name}` and in `{held}`");
            let out = format!("UPDATE {} SET {} = NULL WHERE {both}", scene.relation.sql_name(), quote(&held));
            scene.refuse(Word::ShadowBoth.about(name, says).out(format!("{out}, if the column has the right ones")));
        }
    }
    Ok(())
}

/// Whether values of the source can be moved out, printed exactly, and compared.
async fn source(scene: &mut Scene<'_>, at: usize, column: &Column) -> Result<()> {
    let name = &column.name;
    let (exact, same_when_equal) = prints(scene, column).await?;
    if !exact {
        scene.protected[at].judged.storage = None;
        let says =
            format!("`{name}` is {}, and it is not known that the database prints its values exactly", column.sql_type);
        scene.refuse(Word::OtherType.about(name, says));
    }
    if let Some(shadow) = &mut scene.protected[at].shadow {
        shadow.same_when_equal = same_when_equal;
    }
    if let Some(domain) = &column.domain
        && !accepts::runs(scene.ask, &format!("SELECT NULL::{domain} IS NULL")).await?
    {
        let says = format!("the domain `{domain}` of `{name}` does not take NULL");
        let out = format!("ALTER DOMAIN {domain} DROP NOT NULL");
        scene.refuse(Word::DomainCheck.about(name, says).out(out));
    }
    Ok(())
}

/// Why a column that is there cannot be a shadow.
fn cannot_hold(held: &Column, alone: bool) -> Option<String> {
    let name = &held.name;
    let bare = held.domain.is_none() && held.modifier < 0;
    match () {
        () if !bare || !matches!(held.base.as_str(), "text" | "varchar" | "bytea") => {
            Some(format!("`{name}` is {}", held.sql_type))
        }
        () if held.generated || held.identity => Some(format!("`{name}` is generated by the database")),
        () if held.not_null && !alone => Some(format!("`{name}` is NOT NULL, and is to be empty at first")),
        () if held.default.is_some() => Some(format!("`{name}` has a default")),
        () => None,
    }
}

/// Types that are printed so that reading it gives the same value, under the settings of [`super::super::held::SPELLING`].
const EXACT: &[&str] = &[
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "numeric",
    "float4",
    "float8",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "bit",
    "varbit",
    "bpchar",
    "text",
    "varchar",
    "citext",
    "bytea",
    "json",
    "jsonb",
    "point",
    "line",
    "lseg",
    "box",
    "path",
    "polygon",
    "circle",
];

/// Those of them of which equal values may be printed differently: 1.0 and 1.00, 0 and -0, a month and 30 days.
const LOOSE: &[&str] = &["numeric", "float4", "float8", "interval", "citext", "json", "jsonb"];

/// Whether the database prints values of the column exactly, and equal ones alike. Of an array or a range that is so if it
/// is of what it consists of.
async fn prints(scene: &Scene<'_>, column: &Column) -> Result<(bool, bool)> {
    let row = scene
        .ask
        .one(
            "WITH RECURSIVE part(oid) AS (
                 SELECT atttypid FROM pg_attribute WHERE attrelid = $1 AND attname = $2
                 UNION
                 SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype WHEN t.typcategory = 'A' THEN t.typelem ELSE r.rngsubtype END
                 FROM part p JOIN pg_type t ON t.oid = p.oid LEFT JOIN pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid)
                 WHERE t.typtype IN ('d', 'r', 'm') OR t.typcategory = 'A')
             SELECT t.typname::text AS name, t.typtype::text AS kind,
                    t.typnamespace = 'pg_catalog'::regnamespace OR t.typname = 'citext' AS known
             FROM part p JOIN pg_type t ON t.oid = p.oid WHERE t.typtype NOT IN ('d', 'r', 'm') AND t.typcategory <> 'A'",
            &[p(&scene.relation.oid), p(&column.name)],
        )
        .await?;
    let (name, kind, known): (String, String, bool) = (row.get("name"), row.get("kind"), row.get("known"));
    if kind == "e" {
        return Ok((true, true));
    }
    let exact = known && EXACT.contains(&name.as_str());
    // A numeric(p,s) has one scale for all.
    let loose = LOOSE.contains(&name.as_str()) && !(column.base == "numeric" && column.modifier >= 0);
    Ok((exact, exact && !loose && column.collation.is_none()))
}

/// Whether the check on source and shadow says that there was a NOT NULL.
async fn has_mark(scene: &Scene<'_>, source: &str) -> Result<bool> {
    let marked = scene
        .ask
        .texts(
            "SELECT conname::text FROM pg_constraint
             WHERE conrelid = $1 AND conname = $2 AND obj_description(oid, 'pg_constraint') = $3",
            &[p(&scene.relation.oid), p(&steps::names::one(source)), p(&steps::shadow::REQUIRED.to_owned())],
        )
        .await?;
    Ok(!marked.is_empty())
}
