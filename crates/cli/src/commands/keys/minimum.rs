//! `enfold keys set-minimum`: the least version that opens, when no value needs those below, or at once by the kill switch.

use std::fmt::Write as _;
use std::time::Duration;

use enfold::policy::Scope;
use enfold::{Code, Enfold, Error, Result, ScopeId, Whose};
use enfold_core::OwnedPart;
use enfold_jobs::ops::{self, Needs, Session, Tried};
use serde_json::json;

use super::switch::waits;
use crate::args::SetMinimum;
use crate::commands::Context;
use crate::commands::value::part;
use crate::onlooker::Onlooker;
use crate::words::{rows, some};

pub(super) async fn run(context: &Context<'_>, args: &SetMinimum) -> Result<()> {
    context
        .with_session_and_keys(async |session, enfold| {
            let (operator, call) = (enfold.operator()?, context.call(Some(&args.reason)));
            let scopes = scopes(args, enfold).await?;
            let below = enfold.keys_below(&args.ring, &scopes, args.least).await?;
            let minimum = Some((&scopes[..], args.least));
            let wanted = ops::Disable { ring: &args.ring, keys: &below, minimum, context: &call };
            if args.kill_switch || below.is_empty() {
                let question = format!(
                    "From now on nothing under a version below {} of ring {} opens: {} in use are below it.",
                    args.least,
                    args.ring,
                    some(below.len(), "data key")
                );
                context.screen.confirm(&question, &args.least.to_string(), args.yes)?;
                operator.set_minimum(&args.ring, &scopes, args.least, &call).await?;
                ops::disable::take_freed(session, &args.ring).await?;
            } else {
                when_unneeded(context, args, session, &wanted).await?;
            }
            let document = json!({
                "ring": args.ring,
                "minimum": args.least,
                "scopes": scopes.iter().map(ScopeId::as_str).collect::<Vec<_>>(),
                "disabled": below.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "reason": args.reason,
            });
            context.screen.result(&document, |out| {
                // Writing to a String cannot fail.
                let _ = writeln!(
                    out,
                    "Nothing under a version below {} of ring {} opens, in any process within a second.",
                    args.least, args.ring
                );
            })
        })
        .await
}

async fn when_unneeded(
    context: &Context<'_>,
    args: &SetMinimum,
    session: &Session,
    wanted: &ops::Disable<'_>,
) -> Result<()> {
    let needs = ops::disable::look(session, wanted).await?;
    if !needs.is_none() {
        return Err(needed(args, &needs));
    }
    let question = format!("No value of ring {} is under a version below {} any more.", args.ring, args.least);
    context.screen.confirm(&question, "set", args.yes)?;
    let onlooker = Onlooker::new(context.screen);
    match ops::disable_within(session, wanted, Duration::from_secs(args.wait), &onlooker).await? {
        Tried::Disabled { .. } => Ok(()),
        Tried::Needed(needs) => Err(needed(args, &needs)),
        Tried::Waits(missing) => {
            Err(waits(&format!("the minimum of ring `{}` cannot be version {} yet", args.ring, args.least), &missing))
        }
    }
}

fn needed(args: &SetMinimum, needs: &Needs) -> Error {
    let line = format!("values still need versions below {} of ring `{}`", args.least, args.ring);
    let named = needs.tables.iter().map(|table| format!("`{}`: {}", table.table, rows(table.rows)));
    named
        .fold(Error::new(Code::KeyNeeded, line), Error::cause)
        .hint(format!("`enfold reencrypt {}` moves them to the data key that seals now", args.ring))
        .hint("`--kill-switch` sets it all the same: they cannot be read until it is taken back")
}

async fn scopes(args: &SetMinimum, enfold: &Enfold) -> Result<Vec<ScopeId>> {
    let tenants: Vec<OwnedPart> = args.tenant.iter().map(|text| part(text)).collect::<Result<_>>()?;
    let tenants: Vec<_> = tenants.iter().map(OwnedPart::as_part).collect();
    let by_tenant = enfold.policy().rings.get(&args.ring).is_some_and(|ring| ring.scope == Scope::Tenant);
    if by_tenant && tenants.is_empty() && !args.all_tenants {
        return Err(Error::new(Code::Usage, format!("cannot tell whose data keys of ring `{}` are meant", args.ring))
            .cause("each of its tenants has one")
            .hint("name tenants with `--tenant`, or say `--all-tenants`"));
    }
    let whose = if tenants.is_empty() { Whose::Everybody } else { Whose::Tenants(&tenants) };
    enfold.scopes(&args.ring, whose).await
}
