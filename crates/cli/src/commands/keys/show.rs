//! `enfold keys show`: one key, and what it takes to restore the record of a root key.

use std::fmt::Write as _;

use enfold::{Code, DataKeyRecord, Enfold, Error, KeyId, Result, RootRecord};
use serde_json::json;

use super::hex;
use super::list::{of_data_key, of_root};
use crate::args::ShowKey;
use crate::commands::Context;
use crate::words::{count, time};

pub(super) async fn show(context: &Context<'_>, args: &ShowKey, enfold: &Enfold) -> Result<()> {
    let id: Option<KeyId> = args.key.parse().ok();
    let spelled = args.key.parse::<enfold::kms::KeyUri>().ok();
    let is_meant = |record: &RootRecord| {
        id.is_some_and(|id| record.root.id == id || record.root.other_ids.contains(&id))
            || spelled.as_ref().is_some_and(|uri| record.root.uri == uri.as_str())
    };
    if let Some(record) = enfold.root_records().await?.into_iter().find(is_meant) {
        return root(context, &record, enfold).await;
    }
    match id {
        Some(id) => match enfold.data_key(id).await? {
            Some(key) => data_key(context, &key),
            None => Err(not_there(&args.key).hint("ids of data keys stand in `enfold inspect` of a value, too")),
        },
        None => Err(not_there(&args.key).hint("name it by its id, or a root key by its URI as the policy spells it")),
    }
}

fn not_there(key: &str) -> Error {
    Error::new(Code::KeyNotFound, format!("the catalog has no key `{key}`"))
        .hint("`enfold keys list` and `enfold keys list --roots` show what there is")
}

fn data_key(context: &Context<'_>, key: &DataKeyRecord) -> Result<()> {
    context.screen.result(&of_data_key(key), |out| {
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<12}{value}");
        };
        line("data key", &key.id.to_string());
        line("ring", &key.ring);
        line("purpose", key.purpose.as_str());
        line("scope", &key.scope);
        line("version", &key.version.to_string());
        line("status", key.status.as_str());
        line("created", &time(key.created_ms).unwrap_or_default());
        for wrap in &key.wraps {
            let made_by = wrap.made_by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default();
            line("wrapped by", &format!("{}{made_by}", wrap.root));
        }
        if let Some(customer) = &key.customer {
            line("and needs", &format!("{customer}, which the customer holds"));
        }
        if let Some(error) = &key.refused {
            line("refused", &error.to_string());
        }
    })
}

async fn root(context: &Context<'_>, record: &RootRecord, enfold: &Enfold) -> Result<()> {
    let wraps = enfold.wraps().await?;
    let hangs = wraps.iter().flat_map(|ring| ring.roots.iter().map(move |root| (&ring.ring, root)));
    let hangs: Vec<_> = hangs.filter(|(_, root)| root.root == record.root.uri && root.keys > 0).collect();
    let proofs = enfold.prove_root(&record.root).await?;
    let mut document = of_root(record);
    document["data_keys"] = json!(
        hangs
            .iter()
            .map(|(ring, root)| json!({ "ring": ring, "keys": root.keys, "alone": root.alone }))
            .collect::<Vec<_>>()
    );
    document["proofs"] =
        json!(proofs.iter().map(|proof| json!({ "ring": proof.ring, "mac": hex(&proof.mac) })).collect::<Vec<_>>());
    context.screen.result(&document, |out| {
        let about = &record.root.about;
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<12}{value}");
        };
        line("root key", &record.root.uri);
        line("id", &record.root.id.to_string());
        for other in &record.root.other_ids {
            line("also", &other.to_string());
        }
        let known = [
            ("alias", about.alias.clone()),
            ("arn or name", about.resolved.clone()),
            ("description", about.description.clone()),
            ("state there", about.service_state.clone()),
            ("version", about.version.map(|version| version.to_string())),
            ("created", about.created_ms.and_then(time)),
            ("asked", about.described_ms.and_then(time)),
            ("rotated", about.rotated_ms.and_then(time)),
        ];
        for (name, value) in known {
            value.into_iter().for_each(|value| line(name, &value));
        }
        for (ring, state) in &record.rings {
            line("ring", &format!("{ring}, where it is {}", state.as_str()));
        }
        for (ring, tenant) in &record.customers {
            line("customer", &format!("tenant {tenant} of ring {ring}"));
        }
        for (ring, root) in &hangs {
            let alone = if root.in_policy { format!(", {} on it alone", count(root.alone)) } else { String::new() };
            line("data keys", &format!("{} of ring {ring}{alone}", count(root.keys)));
        }
        if !record.is_in_policy() {
            line("policy", "it is not in there, so it is never called");
        }
    })
}
