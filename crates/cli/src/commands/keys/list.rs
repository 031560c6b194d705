//! `enfold keys list`: what is on record, a page at a time.

use std::fmt::Write as _;

use enfold::{Code, DataKeyRecord, Enfold, Error, Result, RootRecord};
use serde_json::{Value, json};

use crate::args::ListKeys;
use crate::commands::Context;
use crate::table::Table;
use crate::words::time;

pub(super) async fn list(context: &Context<'_>, args: &ListKeys, enfold: &Enfold) -> Result<()> {
    if args.roots {
        return roots(context, enfold).await;
    }
    let after = args.after.as_deref().map(super::key_id).transpose()?;
    let rings: Vec<&String> = match &args.ring {
        Some(ring) => vec![ring],
        None => enfold.policy().rings.keys().collect(),
    };
    if after.is_some() && rings.len() > 1 {
        return Err(Error::new(Code::Usage, "`--after` is a place in one ring").hint("name the ring with `--ring`"));
    }
    // One more than is shown says whether there are more.
    let mut found: Vec<DataKeyRecord> = Vec::new();
    let room = args.limit as usize + 1;
    for ring in rings {
        let left = u32::try_from(room - found.len()).unwrap_or(1);
        found.extend(enfold.data_keys(ring, after, left).await?);
        if found.len() == room {
            break;
        }
    }
    let next = (found.len() == room).then(|| {
        found.truncate(args.limit as usize);
        found.last().map(|last| (last.ring.clone(), last.id))
    });
    let next = next.flatten();
    let document = json!({
        "keys": found.iter().map(of_data_key).collect::<Vec<_>>(),
        "next": next.as_ref().map(|(ring, id)| json!({ "ring": ring, "after": id.to_string() })),
    });
    context.screen.result(&document, |out| {
        table(&found).write(context.screen, out);
        if let Some((ring, id)) = &next {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "\nThere are more: `enfold keys list --ring {ring} --after {id}`.");
        }
    })
}

async fn roots(context: &Context<'_>, enfold: &Enfold) -> Result<()> {
    let records = enfold.root_records().await?;
    let document = json!({ "roots": records.iter().map(of_root).collect::<Vec<_>>() });
    context.screen.result(&document, |out| {
        let mut table = Table::new(&["id", "root key", "alias", "rings", "in its service", "version", "asked"]);
        for record in &records {
            let about = &record.root.about;
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            table.row([
                record.root.id.to_string(),
                record.root.uri.clone(),
                text(&about.alias),
                rings(record),
                text(&about.service_state),
                about.version.map_or_else(|| "-".to_owned(), |version| version.to_string()),
                about.described_ms.and_then(time).unwrap_or_else(|| "never".to_owned()),
            ]);
        }
        table.write(context.screen, out);
    })
}

/// `main, archive (retired)`, and whose it is where a customer holds it.
fn rings(record: &RootRecord) -> String {
    let ours = record.rings.iter().map(|(ring, state)| match state {
        enfold::state::RootState::Active => ring.clone(),
        other => format!("{ring} ({})", other.as_str()),
    });
    let customers = record.customers.iter().map(|(ring, tenant)| format!("{ring} (customer {tenant})"));
    let all: Vec<String> = ours.chain(customers).collect();
    if all.is_empty() { "not in the policy".to_owned() } else { all.join(", ") }
}

fn table(keys: &[DataKeyRecord]) -> Table {
    let mut table = Table::new(&["id", "ring", "purpose", "scope", "version", "status", "created", "wrapped by"]);
    for key in keys {
        let status = match &key.refused {
            None => key.status.as_str().to_owned(),
            Some(error) => error.code().word().to_owned(),
        };
        let roots: Vec<&str> = key.wraps.iter().map(|wrap| wrap.root.as_str()).collect();
        table.row([
            key.id.to_string(),
            key.ring.clone(),
            key.purpose.as_str().to_owned(),
            key.scope.clone(),
            key.version.to_string(),
            status,
            time(key.created_ms).unwrap_or_default(),
            if roots.is_empty() { "nobody".to_owned() } else { roots.join(", ") },
        ]);
    }
    table
}

pub(super) fn of_data_key(key: &DataKeyRecord) -> Value {
    let wraps = key.wraps.iter().map(|wrap| json!({ "root": wrap.root, "made_by": wrap.made_by }));
    json!({
        "kind": "data",
        "id": key.id.to_string(),
        "ring": key.ring,
        "purpose": key.purpose.as_str(),
        "scope": key.scope,
        "version": key.version,
        "status": key.status.as_str(),
        "created": time(key.created_ms),
        "wraps": wraps.collect::<Vec<_>>(),
        "customer_root": key.customer,
        "refused": key.refused.as_ref().map(|error| error.code().word()),
    })
}

pub(super) fn of_root(record: &RootRecord) -> Value {
    let about = &record.root.about;
    let rings = record.rings.iter().map(|(ring, state)| json!({ "ring": ring, "state": state.as_str() }));
    let customers = record.customers.iter().map(|(ring, tenant)| json!({ "ring": ring, "tenant": tenant }));
    json!({
        "kind": "root",
        "id": record.root.id.to_string(),
        "other_ids": record.root.other_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "uri": record.root.uri,
        "alias": about.alias,
        "arn": about.resolved,
        "description": about.description,
        "in_policy": record.is_in_policy(),
        "rings": rings.collect::<Vec<_>>(),
        "customers": customers.collect::<Vec<_>>(),
        "service_state": about.service_state,
        "version": about.version,
        "created": about.created_ms.and_then(time),
        "described": about.described_ms.and_then(time),
        "rotated": about.rotated_ms.and_then(time),
    })
}
