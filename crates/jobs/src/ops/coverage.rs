//! What was last seen of each column, for people who look with psql or sqlite3. A command that changed how columns stand notes their
//! modes; an audit of every row notes its counts, which are kept beside those of before. Nothing is counted for it.

use std::collections::BTreeMap;

use enfold::catalog::{Catalog, KeyStatus};
use enfold::policy::{Policy, TablePolicy};
use enfold::{Code, KeyId, Result};

use super::session::Session;
use super::targets::{Selection, storable, target};
use crate::database::{Counts, TableFacts};
use crate::model::{ByVersion, Census, ColumnNote, TargetColumn};

/// Notes how the selected columns stand after a command, unless it ended before it had come to anything; `done` is how it
/// ended.
pub(super) async fn after<T>(session: &Session, selection: &Selection, done: Result<T>) -> Result<T> {
    let through = done.as_ref().err().is_none_or(|error| error.code() == Code::RowsFailed);
    if !through {
        return done;
    }
    let noted = note(session, selection).await;
    // Rows that failed are the more important news.
    done.and_then(|done| noted.map(|()| done))
}

async fn note(session: &Session, selection: &Selection) -> Result<()> {
    let mut notes = Vec::new();
    for (name, table, columns) in selection.of(&session.policy) {
        let facts = session.db.inspect(table, Counts::LeftOut).await?;
        let (columns, _) = storable(&facts, &columns);
        let target = target(name, table, &facts, &columns)?;
        let names: Vec<String> = target.columns.iter().map(|column| format!("{name}.{}", column.name)).collect();
        let modes = session.keys.modes(&names).await?;
        let each = target.columns.iter().zip(modes);
        notes.extend(each.map(|(column, mode)| ColumnNote { mode: Some(mode), ..seen(table, &facts, column) }));
    }
    session.db.note_columns(&notes).await.map(|_| ())
}

/// The envelopes of a count of `column` (`table.column`, as the policy names both) by the versions of their data keys. The catalog's
/// word is taken for it: it is part of a count.
pub async fn by_version(catalog: &dyn Catalog, policy: &Policy, column: &str, census: &Census) -> Result<ByVersion> {
    let ring = policy.column(column).and_then(|(_, column)| policy.rings.get(&column.ring));
    let ids: Vec<KeyId> = census.by_key.keys().filter_map(|id| id.parse().ok()).collect();
    let rows = catalog.keys_named(ring.map_or("", |ring| ring.id.as_str()), &ids).await?;
    let of_key: BTreeMap<String, _> = rows.iter().map(|row| (row.id.to_string(), row)).collect();
    let mut found = ByVersion::default();
    for (id, envelopes) in &census.by_key {
        let Some(row) = of_key.get(id) else { continue };
        *found.versions.entry(row.version).or_default() += envelopes;
        if row.status == KeyStatus::Active {
            found.current += envelopes;
        }
    }
    Ok(found)
}

/// As somebody saw it who can neither tell the mode nor has counted.
pub(super) fn seen(table: &TablePolicy, facts: &TableFacts, column: &TargetColumn) -> ColumnNote {
    let fact = facts.columns.iter().find(|fact| fact.name == column.name);
    ColumnNote {
        table: facts.table.clone(),
        column: column.clone(),
        ring: table.columns.get(&column.name).map(|policy| policy.ring.clone()).unwrap_or_default(),
        mode: None,
        census: None,
        by_version: None,
        source_gone: fact.and_then(|fact| fact.shadow.as_ref()).is_some_and(|shadow| shadow.alone),
    }
}
