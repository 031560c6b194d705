//! `enfold keys uses`: who sealed and opened what under a data key.

use std::fmt::Write as _;

use enfold::catalog::KeyUse;
use enfold::{Enfold, KeyId, Result};
use serde_json::{Value, json};

use super::key_id;
use crate::args::Uses;
use crate::commands::Context;
use crate::commands::reencrypt::moment;
use crate::table::Table;
use crate::words::{count, time};

/// How far back is looked unless somebody says so: 30 days, in milliseconds.
const WINDOW_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

pub(super) async fn run(context: &Context<'_>, args: &Uses, enfold: &Enfold) -> Result<()> {
    let keys = args.key.iter().map(|text| key_id(text)).collect::<Result<Vec<_>>>()?;
    let found = Found::of(enfold, &keys, args.since.as_deref()).await?;
    context.screen.result(&found.document(), |out| found.write(context, out))
}

/// What the log of events has of data keys.
pub(super) struct Found {
    since_ms: i64,
    uses: Vec<KeyUse>,
    /// Whether the policy has events written into the catalog at all.
    logged: bool,
}

impl Found {
    pub(super) async fn of(enfold: &Enfold, keys: &[KeyId], since: Option<&str>) -> Result<Self> {
        let now = jiff::Timestamp::now().as_millisecond();
        let since_ms = since.map(moment).transpose()?.unwrap_or(now - WINDOW_MS);
        // What this process itself did is in it.
        enfold.flush().await?;
        let uses = enfold.catalog().uses(keys, since_ms).await?;
        Ok(Self { since_ms, uses, logged: enfold.policy().events.catalog })
    }

    pub(super) fn document(&self) -> Value {
        let uses: Vec<Value> = self
            .uses
            .iter()
            .map(|used| {
                json!({
                    "key": used.key,
                    "did": used.kind,
                    "column": used.column,
                    "actor": used.actor,
                    "source": used.source,
                    "count": used.count,
                    "first_at": time(used.first_ms),
                    "last_at": time(used.last_ms),
                })
            })
            .collect();
        json!({ "since": time(self.since_ms), "logged": self.logged, "uses": uses })
    }

    pub(super) fn write(&self, context: &Context<'_>, out: &mut String) {
        // Writing to a String cannot fail.
        if !self.logged {
            out.push_str(
                "The policy has no events written into the catalog (`events.catalog`), so little is known here.\n",
            );
        }
        let since = time(self.since_ms).unwrap_or_default();
        if self.uses.is_empty() {
            let _ = writeln!(out, "The log of events has no use of it since {since}.");
            return;
        }
        let _ = writeln!(out, "Used since {since}, by the log of events:");
        let mut table = Table::new(&["data key", "did", "column", "who", "from", "values", "first", "last"]);
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        for used in &self.uses {
            table.row([
                used.key.clone(),
                used.kind.clone(),
                said(&used.column),
                said(&used.actor),
                said(&used.source),
                count(used.count),
                time(used.first_ms).unwrap_or_default(),
                time(used.last_ms).unwrap_or_default(),
            ]);
        }
        table.write(context.screen, out);
    }
}
