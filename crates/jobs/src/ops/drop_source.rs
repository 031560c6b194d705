//! Drops the source of a shadow, when the database itself has refused values in it and none is left. There is no way back
//! from it but to add the column again.

use enfold::policy::{Mode, Policy};
use enfold::{Code, Error, Result};

use super::coverage;
use super::observer::{Observer, Silent};
use super::run::{Pace, Run};
use super::session::Session;
use super::steps::{Step, Steps};
use super::targets::{Selection, target};
use crate::database::Counts;

/// What [`drop_source`] would do, for a person to read first.
pub async fn plan_drop_source(session: &Session, column: &str) -> Result<Vec<Step>> {
    look(session, column, &Silent, false).await
}

/// `column`: `table.column`, as the policy names both.
///
/// # Errors
/// `PlanRefused` where the column has no shadow or is not enforced.
pub async fn drop_source(session: &Session, column: &str, observer: &dyn Observer) -> Result<()> {
    let done = look(session, column, observer, true).await.map(|_| ());
    coverage::after(session, &Selection::Columns([column.to_owned()].into()), done).await
}

async fn look(session: &Session, column: &str, observer: &dyn Observer, run: bool) -> Result<Vec<Step>> {
    let refused = |why: &str| Error::new(Code::PlanRefused, format!("cannot drop the source `{column}`")).cause(why);
    let (table_name, name) = find(&session.policy, column)?;
    let table = &session.policy.tables[table_name];
    if table.columns[name].shadow.is_none() {
        return Err(refused("the policy names no shadow for it, so its values are in the column itself"));
    }
    let modes = session.keys.modes(&[column.to_owned()]).await?;
    if modes.first() != Some(&Mode::Kms) {
        return Err(refused("the database does not refuse values in it yet")
            .hint("run `enfold enforce` first")
            .hint("nothing was changed"));
    }
    let facts = session.db.inspect(table, Counts::LeftOut).await?;
    let target = target(table_name, table, &facts, &[name])?;
    let steps = Steps { database: session.db.as_ref(), target: &target, facts: &facts, policy: table }.drop_sources();
    if run {
        let pace = Pace::default();
        Run { session, observer, pace: &pace, target: &target, stop_after: None }.all(&steps).await?;
    }
    Ok(steps)
}

fn find<'p>(policy: &'p Policy, column: &'p str) -> Result<(&'p str, &'p str)> {
    let found = column
        .rsplit_once('.')
        .filter(|(table, name)| policy.tables.get(*table).is_some_and(|table| table.columns.contains_key(*name)));
    found.ok_or_else(|| Error::new(Code::UnknownColumn, format!("the policy has no column `{column}`")))
}
