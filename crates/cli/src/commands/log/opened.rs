//! `enfold log opened`: who opened what, in a compromise window or for a data subject who asks.

use enfold::catalog::EventQuery;
use enfold::events::{Event, EventKind};
use enfold::{Enfold, Result};
use serde_json::json;

use crate::args::Opened;
use crate::commands::Context;
use crate::commands::keys::key_id;
use crate::commands::reencrypt::moment;
use crate::table::Table;
use crate::words::{count, time};

/// How far back is looked unless somebody says so: 30 days, in milliseconds.
const WINDOW_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

pub(super) async fn run(context: &Context<'_>, args: &Opened, enfold: &Enfold) -> Result<()> {
    // What this process itself did is in it.
    enfold.flush().await?;
    let query = query(args, enfold).await?;
    let events = enfold.catalog().events(&query).await?;
    let since = query.since_ms.and_then(time).unwrap_or_default();
    let all = events.len() < args.limit as usize;
    context.screen.result(&json!({ "since": since, "all": all, "opened": events }), |out| {
        if !enfold.policy().events.catalog {
            out.push_str(
                "The policy has no events written into the catalog (`events.catalog`), so little is known here.\n",
            );
        }
        if events.is_empty() {
            out.push_str(&format!("The log has no such opening since {since}.\n"));
            return;
        }
        table(&events).write(context.screen, out);
        if !all {
            out.push_str(&format!("There may be more: these are the newest {}. `--limit` shows others.\n", args.limit));
        }
    })
}

async fn query(args: &Opened, enfold: &Enfold) -> Result<EventQuery> {
    let now = jiff::Timestamp::now().as_millisecond();
    let keys = args.key.iter().map(|key| key_id(key).map(|id| id.to_string())).collect::<Result<Vec<_>>>()?;
    let subjects = match &args.subject {
        None => None,
        Some(subject) => {
            let tags = enfold.subject_tags(subject).await?;
            Some(tags.iter().map(|tag| tag.as_str().to_owned()).collect())
        }
    };
    Ok(EventQuery {
        since_ms: Some(args.since.as_deref().map(moment).transpose()?.unwrap_or(now - WINDOW_MS)),
        until_ms: args.until.as_deref().map(moment).transpose()?,
        kinds: Some(vec![EventKind::Open.as_str().to_owned()]),
        keys: (!keys.is_empty()).then_some(keys),
        subjects,
        column: args.column.clone(),
        actor: args.actor.clone(),
        limit: args.limit,
    })
}

fn table(events: &[Event]) -> Table {
    let mut table = Table::new(&["when", "column", "values", "who", "why", "from", "request", "data key"]);
    let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for event in events {
        table.row([
            time(event.at_ms).unwrap_or_default(),
            said(&event.column),
            count(event.count),
            said(&event.actor),
            said(&event.reason),
            said(&event.source),
            said(&event.request_id),
            said(&event.key),
        ]);
    }
    table
}
