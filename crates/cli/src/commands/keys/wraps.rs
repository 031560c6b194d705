//! `enfold keys wraps`: which data keys depend on which root key.

use std::fmt::Write as _;

use enfold::state::RootState;
use enfold::{Code, Enfold, Error, Repaired, Result, RingWraps, RootWraps};
use serde_json::{Value, json};

use super::customers::{customer_table, of_customer};
use crate::args::Wraps;
use crate::commands::Context;
use crate::table::Table;
use crate::words::{count, some};

pub(super) async fn wraps(context: &Context<'_>, args: &Wraps, enfold: &Enfold) -> Result<()> {
    let mut repaired = Repaired::default();
    if args.repair {
        for ring in enfold.policy().rings.keys() {
            let ring = enfold.repair_wraps(ring).await?;
            repaired.completed += ring.completed;
            repaired.errors.extend(ring.errors);
        }
    }
    let rings = enfold.wraps().await?;
    let incomplete: u64 = rings.iter().map(|ring| ring.incomplete).sum();
    let mut document = json!({ "rings": rings.iter().map(of_ring).collect::<Vec<_>>() });
    if args.repair {
        document["completed"] = json!(repaired.completed);
    }
    context.screen.result(&document, |out| {
        table(&rings).write(context.screen, out);
        if rings.iter().any(|ring| !ring.customers.is_empty()) {
            out.push('\n');
            customer_table(&rings).write(context.screen, out);
        }
        // Writing to a String cannot fail.
        if args.repair {
            let _ = writeln!(out, "\nCompleted {}.", data_keys(repaired.completed));
        }
        for ring in rings.iter().filter(|ring| ring.closed > 0) {
            let keys = data_keys(ring.closed);
            let _ = writeln!(out, "\nNo root key of the policy opens {keys} of ring {}.", ring.ring);
        }
        if incomplete > 0 && !args.repair {
            let keys = data_keys(incomplete);
            let _ = writeln!(out, "\nNot every root key has wrapped {keys}: `enfold keys wraps --repair` sees to it.");
        }
    })?;
    if args.repair && incomplete > 0 {
        let error =
            Error::new(Code::KmsUnavailable, format!("not every root key has wrapped {}", data_keys(incomplete)));
        let error = repaired.errors.into_iter().take(5).fold(error, Error::cause);
        return Err(error.hint("run `enfold doctor` to see which root key does not answer, and this again later"));
    }
    Ok(())
}

fn of_ring(ring: &RingWraps) -> Value {
    let roots: Vec<Value> = ring.roots.iter().map(of_root).collect();
    json!({
        "ring": ring.ring,
        "keys": ring.keys,
        "incomplete": ring.incomplete,
        "closed": ring.closed,
        "roots": roots,
        "customers": ring.customers.iter().map(|customer| of_customer(&ring.ring, customer)).collect::<Vec<_>>(),
    })
}

fn of_root(root: &RootWraps) -> Value {
    let mut value = json!({
        "root": root.root,
        "in_policy": root.in_policy,
        "state": root.in_policy.then(|| root.state.as_str()),
        "keys": root.keys,
        "alone": root.alone,
    });
    if !root.by_key.is_empty() {
        value["by_key"] = json!(root.by_key);
    }
    value
}

fn table(rings: &[RingWraps]) -> Table {
    let mut table = Table::new(&["ring", "root key", "data keys", "on it alone"]);
    for ring in rings {
        for root in &ring.roots {
            let alone = match root.state {
                _ if !root.in_policy => "not in the policy".to_owned(),
                RootState::Active => count(root.alone),
                state => format!("{} ({})", count(root.alone), state.as_str()),
            };
            let keys = format!("{} of {}", count(root.keys), count(ring.keys));
            table.row([ring.ring.clone(), root.root.clone(), keys, alone]);
            for (key, wrapped) in &root.by_key {
                let keys = format!("{} of {}", count(*wrapped), count(root.keys));
                table.row([String::new(), format!("  {key}"), keys, String::new()]);
            }
        }
    }
    table
}

fn data_keys(n: u64) -> String {
    some(usize::try_from(n).unwrap_or(usize::MAX), "data key")
}
