//! `enfold keys rotate`: new versions seal from now on.

use std::fmt::Write as _;

use enfold::{Code, Enfold, Error, Leaving, Result, Rotated, Whose};
use enfold_core::OwnedPart;
use serde_json::{Value, json};

use crate::args::Rotate;
use crate::commands::reencrypt::{self, Asked};
use crate::commands::value::part;
use crate::commands::{Context, index};
use crate::table::Table;
use crate::words::{some, time};

/// Data keys that a person is shown; `--json` has all of them.
const SHOWN: usize = 20;

pub(super) async fn run(context: &Context<'_>, args: &Rotate, enfold: &Enfold) -> Result<()> {
    let rotated = rotate(context, args, enfold).await?;
    context.screen.result(&document(context, args, &rotated, None), |out| write(context, args, &rotated, None, out))
}

/// As [`run`], and what is to follow from it in the database: re-encryption, by jobs, and the ring's blind indexes.
pub(super) async fn and_more(context: &Context<'_>, args: &Rotate) -> Result<()> {
    context
        .with_session_and_keys(async |session, enfold| {
            let rotated = rotate(context, args, enfold).await?;
            let leaving = Leaving { tenants: tenants(args, enfold).await?, ..Leaving::default() };
            let asked = match args.reencrypt {
                true => Some(reencrypt::after_rotation(context, session, &args.ring, leaving, &args.reason, 0).await?),
                false => None,
            };
            let mut document = document(context, args, &rotated, asked.as_ref());
            let indexes = match args.indexes {
                true => index::rotate_ring(context, session, enfold, &args.ring, &args.reason).await?,
                false => Vec::new(),
            };
            if args.indexes {
                document["indexes"] = json!(indexes);
            }
            context.screen.result(&document, |out| {
                write(context, args, &rotated, asked.as_ref(), out);
                for rotated in &indexes {
                    out.push('\n');
                    index::write(rotated, out);
                }
            })
        })
        .await
}

pub(super) async fn rotate(context: &Context<'_>, args: &Rotate, enfold: &Enfold) -> Result<Vec<Rotated>> {
    let operator = enfold.operator()?;
    let tenants: Vec<OwnedPart> = args.tenant.iter().map(|text| part(text)).collect::<Result<_>>()?;
    let tenants: Vec<_> = tenants.iter().map(OwnedPart::as_part).collect();
    let by_tenant = enfold.policy().rings.get(&args.ring).is_some_and(|r| r.scope == enfold::policy::Scope::Tenant);
    if by_tenant && tenants.is_empty() && !args.all_tenants {
        return Err(Error::new(Code::Usage, format!("cannot tell whose data keys of ring `{}` are meant", args.ring))
            .cause("each of its tenants has one")
            .hint("name tenants with `--tenant`, or say `--all-tenants`"));
    }
    let whose = if tenants.is_empty() { Whose::Everybody } else { Whose::Tenants(&tenants) };
    let question =
        format!("New versions of data keys of ring {} seal from now on; this cannot be taken back.", args.ring);
    context.screen.confirm(&question, "rotate", args.yes)?;
    operator.rotate_many(&args.ring, whose, &context.call(Some(&args.reason))).await
}

/// The tags of the tenants that were named.
pub(super) async fn tenants(args: &Rotate, enfold: &Enfold) -> Result<std::collections::BTreeSet<String>> {
    reencrypt::tags(enfold, &args.ring, &args.tenant).await
}

pub(super) fn document(context: &Context<'_>, args: &Rotate, rotated: &[Rotated], asked: Option<&Asked>) -> Value {
    let keys: Vec<Value> = rotated
        .iter()
        .map(|key| {
            json!({
                "scope": key.scope.as_str(),
                "previous_version": key.previous_version,
                "previous_key": key.previous_key.map(|id| id.to_string()),
                "version": key.version,
                "key": key.key.to_string(),
                "rotated_at": time(key.at_ms),
            })
        })
        .collect();
    json!({
        "ring": args.ring,
        "rotated_by": context.call(None).actor,
        "reason": args.reason,
        "keys": keys,
        "reencryption": {
            "requested": asked.is_some(),
            "status": asked.map_or("not-requested", Asked::status),
            "jobs": asked.map(Asked::jobs),
        },
    })
}

fn write(context: &Context<'_>, args: &Rotate, rotated: &[Rotated], asked: Option<&Asked>, out: &mut String) {
    if rotated.is_empty() {
        let _ = writeln!(out, "Ring {} has no data key yet: its first value makes one.", args.ring);
        return;
    }
    write_table(context, rotated, out);
    let _ = writeln!(
        out,
        "\nRotated {} of ring {}: the new versions seal in every process within a second, the former ones open as before.",
        some(rotated.len(), "data key"),
        args.ring
    );
    match asked {
        Some(asked) => {
            out.push('\n');
            asked.write(out);
        }
        None => {
            let _ = writeln!(out, "\nNext: enfold reencrypt {}", args.ring);
        }
    }
}

/// The data keys that were rotated.
pub(super) fn write_table(context: &Context<'_>, rotated: &[Rotated], out: &mut String) {
    let mut table = Table::new(&["scope", "from", "to", "data key", "former data key"]);
    for key in rotated.iter().take(SHOWN) {
        table.row([
            key.scope.to_string(),
            key.previous_version.to_string(),
            key.version.to_string(),
            key.key.to_string(),
            key.previous_key.map_or("none".to_owned(), |id| id.to_string()),
        ]);
    }
    table.write(context.screen, out);
    // Writing to a String cannot fail.
    if rotated.len() > SHOWN {
        let _ = writeln!(out, "and {} more (`--json` lists them)", rotated.len() - SHOWN);
    }
}
