//! What was last seen of each column, for people who look with psql or sqlite3. A command that changed how columns stand notes their
//! modes; an audit of every row notes its counts. Nothing is counted for it.

use enfold::policy::TablePolicy;
use enfold::{Code, Result};

use super::session::Session;
use super::targets::{Selection, storable, target};
use crate::database::{Counts, TableFacts};
use crate::model::{ColumnNote, TargetColumn};

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

/// As somebody saw it who can neither tell the mode nor has counted.
pub(super) fn seen(table: &TablePolicy, facts: &TableFacts, column: &TargetColumn) -> ColumnNote {
    let fact = facts.columns.iter().find(|fact| fact.name == column.name);
    ColumnNote {
        table: facts.table.clone(),
        column: column.clone(),
        ring: table.columns.get(&column.name).map(|policy| policy.ring.clone()).unwrap_or_default(),
        mode: None,
        census: None,
        source_gone: fact.and_then(|fact| fact.shadow.as_ref()).is_some_and(|shadow| shadow.alone),
    }
}
