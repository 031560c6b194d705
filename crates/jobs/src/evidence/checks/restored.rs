//! Whether backups can be read.

use std::collections::BTreeSet;

use enfold::Result;
use enfold::catalog::EventQuery;
use enfold::events::{Event, EventKind, RestoreTest};
use jiff::Timestamp;

use super::log::NO_LOG;
use super::{Found, Look, stored};
use crate::ops::{self, Selection};
use crate::shown::{count, time};

pub(super) async fn newest(look: &Look<'_>) -> Result<Found> {
    if !look.session.policy.events.catalog {
        return Ok(Found::not_checked(NO_LOG, Vec::new()));
    }
    look.enfold.flush().await?;
    let kinds = Some(vec![EventKind::RestoreTested.as_str().to_owned()]);
    let newest = look.enfold.catalog().events(&EventQuery { kinds, ..EventQuery::newest(1) }).await?.pop();
    let Some((event, test)) = newest.and_then(|mut event| event.restored.take().map(|test| (event, test))) else {
        return Ok(Found::not_checked("no restore test is in the log", Vec::new()));
    };
    let mut wrong = Vec::new();
    if let Some(code) = &event.code {
        wrong.push(format!("the newest restore test failed (code `{code}`)"));
    }
    let every = look.session.policy.evidence.restore_test_every;
    let age_ms = Timestamp::now().as_millisecond().saturating_sub(event.at_ms);
    if u128::try_from(age_ms).is_ok_and(|age| age > every.as_millis()) {
        wrong.push("the newest restore test is older than the policy wants (`evidence.restore_test_every`)".to_owned());
    }
    if test.live != look.session.db.identity().await?.lasting {
        wrong.push("it was of a backup of another database than this one".to_owned());
    }
    wrong.extend(unread(look, &test).await?);
    Ok(Found::of(told(&event, &test), &wrong))
}

fn told(event: &Event, test: &RestoreTest) -> Vec<String> {
    let summary = format!(
        "{}: {} read a backup of {}, restored to {}: {} rows, {} of them with a value that is plaintext or does not open, in {} s",
        time(event.at_ms).unwrap_or_default(),
        event.actor.as_deref().unwrap_or("nobody named"),
        time(test.backup_ms).unwrap_or_default(),
        test.database,
        count(test.rows),
        count(test.failed),
        count(test.took_ms.div_ceil(1_000)),
    );
    let columns = test.columns.iter().map(|(name, envelopes)| format!("{name}: {} envelopes", count(*envelopes)));
    [summary].into_iter().chain(columns).collect()
}

/// Columns of which the test read nothing. A backup may well have no value of a column that holds none now either.
async fn unread(look: &Look<'_>, test: &RestoreTest) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut empty = BTreeSet::new();
    for (name, _) in stored::columns(look) {
        match test.columns.get(&name) {
            None => wrong.push(format!("{name} was not read")),
            Some(0) => drop(empty.insert(name)),
            Some(_) => {}
        }
    }
    if !empty.is_empty() {
        let selection = Selection::Columns(empty);
        let now = ops::audit(look.session.db.as_ref(), &look.session.policy, &selection, None).await?;
        let held = now.columns.iter().filter(|column| column.census.envelopes > 0);
        wrong.extend(held.map(|column| format!("no value of {} was in the backup", column.column)));
    }
    Ok(wrong)
}
