//! `enfold keys register`, `refresh`, `set-root` and `rotate-root`: what is done about root keys themselves.

use std::fmt::Write as _;

use enfold::state::RootState;
use enfold::{Code, Enfold, Error, Result, RewrapOptions, RewrapPlan};
use serde_json::{Value, json};

use super::list::of_root;
use super::{look_again, when};
use crate::args::{Register, RootStateArg, RotateRoot, SetRoot};
use crate::commands::Context;
use crate::table::Table;
use crate::words::count;

pub(super) async fn register(context: &Context<'_>, args: &Register, enfold: &Enfold) -> Result<()> {
    let (alias, description) = (args.alias.as_deref(), args.description.as_deref());
    let root = enfold.register_root(&args.root, alias, description, &context.call(None)).await?;
    let records = enfold.root_records().await?;
    let record = records.iter().find(|record| record.root.uri == root.uri);
    let document = record.map_or(Value::Null, of_root);
    context.screen.result(&document, |out| {
        let _ = writeln!(out, "Registered `{}` as {}.", root.uri, root.id);
        let known = [
            ("alias", &root.about.alias),
            ("arn or name", &root.about.resolved),
            ("description", &root.about.description),
            ("state there", &root.about.service_state),
        ];
        for (name, value) in known {
            if let Some(value) = value {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "{name:<12}{value}");
            }
        }
    })
}

pub(super) async fn refresh(context: &Context<'_>, enfold: &Enfold) -> Result<()> {
    let asked = enfold.describe_roots().await?;
    let published = look_again(enfold).await?;
    let told = asked.iter().map(|(root, outcome)| {
        let error = outcome.as_ref().err();
        json!({ "root": root, "error": error.map(|error| error.code().word()) })
    });
    let document = json!({ "roots": told.collect::<Vec<_>>(), "published": published });
    context.screen.result(&document, |out| {
        let mut table = Table::new(&["root key", "its service"]);
        for (root, outcome) in &asked {
            let says = outcome.as_ref().map_or_else(ToString::to_string, |()| "answered".to_owned());
            table.row([root.clone(), says]);
        }
        table.write(context.screen, out);
        out.push('\n');
        out.push_str(when(published));
    })?;
    // The others are written down all the same.
    match asked.into_iter().find_map(|(root, outcome)| outcome.err().map(|error| (root, error))) {
        None => Ok(()),
        Some((root, error)) => Err(error.while_doing(format!("cannot learn what `{root}` is now"))),
    }
}

pub(super) async fn set_root(context: &Context<'_>, args: &SetRoot, enfold: &Enfold) -> Result<()> {
    let operator = enfold.operator()?;
    let uri = args.root.parse::<enfold::kms::KeyUri>()?.to_string();
    let state = match args.state {
        RootStateArg::Active => RootState::Active,
        RootStateArg::Retired => RootState::Retired,
        RootStateArg::Disabled => RootState::Disabled,
    };
    if args.at_kms {
        if state == RootState::Retired {
            return Err(Error::new(Code::Usage, "a key service knows no retired key")
                .hint("leave `--at-kms` out, or say `disabled`")
                .hint("nothing was changed"));
        }
        enfold.can_switch_root(&uri)?;
    }
    if state == RootState::Disabled {
        let rings = enfold.wraps().await?;
        let roots = rings.iter().flat_map(|ring| &ring.roots).filter(|root| root.root == uri);
        let alone: u64 = roots.map(|root| root.alone).sum();
        let question = format!(
            "`{uri}` will not be called any more. {} data keys are on it alone: what they sealed will not open.",
            count(alone)
        );
        context.screen.confirm(&question, "disable", args.yes)?;
    } else {
        let does = if state == RootState::Active { "wrap new data keys" } else { "wrap no new data key" };
        context.screen.confirm(&format!("`{uri}` will {does}."), state.as_str(), args.yes)?;
    }
    let call = context.call(args.reason.as_deref());
    // Never called while it is disabled there: that would be an outage to every process.
    if args.at_kms && state == RootState::Active {
        enfold.switch_root(&uri, true, &call).await?;
    }
    let changed = operator.set_root_state(&uri, state, &call).await?;
    if args.at_kms && state == RootState::Disabled {
        enfold.switch_root(&uri, false, &call).await?;
    }
    let document = json!({ "root": uri, "state": state.as_str(), "changed": changed, "at_kms": args.at_kms });
    context.screen.result(&document, |out| {
        if args.at_kms {
            let is = if state == RootState::Active { "enabled" } else { "disabled" };
            let _ = writeln!(out, "`{uri}` is {is} in its key service.");
        }
        let _ = match changed.is_empty() {
            true => writeln!(out, "`{uri}` is {} already.", state.as_str()),
            false => writeln!(out, "`{uri}` is {} in ring {}.", state.as_str(), changed.join(", ")),
        };
        if state != RootState::Active && !changed.is_empty() {
            let ring = &changed[0];
            let _ = writeln!(out, "\nNext: `enfold keys rewrap {ring} --from {uri} --drop` removes its wraps.");
        }
    })
}

pub(super) async fn rotate_root(context: &Context<'_>, args: &RotateRoot, enfold: &Enfold) -> Result<()> {
    let question = format!("The key service will make a new version of `{}`. That cannot be taken back.", args.root);
    context.screen.confirm(&question, "rotate", args.yes)?;
    let root = enfold.rotate_root(&args.root, &context.call(args.reason.as_deref())).await?;
    let mut plans: Vec<RewrapPlan> = Vec::new();
    for (name, ring) in &enfold.policy().rings {
        if ring.roots.iter().any(|named| named.parse::<enfold::kms::KeyUri>().is_ok_and(|n| n.as_str() == root.uri)) {
            // One that is not active there is not wrapped by.
            let options = RewrapOptions { to: Some(root.uri.clone()), ..RewrapOptions::default() };
            match enfold.plan_rewrap(name, &options).await {
                Ok(plan) => plans.push(plan),
                Err(error) if error.code() == Code::Usage => {}
                Err(error) => return Err(rotated_already(error)),
            }
        }
    }
    let names = root.uri.parse::<enfold::kms::KeyUri>()?.names_versions();
    let rings = plans.iter().map(|plan| json!({ "ring": plan.ring, "keys": plan.keys, "to_rewrap": plan.to_do }));
    let document = json!({
        "root": root.uri,
        "version": root.about.version,
        "arn": root.about.resolved,
        "rings": rings.collect::<Vec<_>>(),
    });
    context.screen.result(&document, |out| {
        let version = root.about.version.map(|version| format!(", which is {version}")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "`{}` has a new version{version}. It wraps from now on; what was wrapped before opens as before.", root.uri);
        for plan in &plans {
            let (ring, keys) = (&plan.ring, count(plan.keys));
            let _ = match names {
                true => writeln!(
                    out,
                    "\nRing {ring}: {} of {keys} data keys are under a former version. `enfold keys rewrap {ring} --dry-run` says what \
                     it takes to bring them to the new one.",
                    count(plan.to_do)
                ),
                false => writeln!(
                    out,
                    "\nRing {ring}: wraps by this root key do not say which version made them. Nothing has to be done: the service keeps \
                     all of them. `enfold keys rewrap {ring} --renew` makes all {keys} anew."
                ),
            };
        }
    })
}

fn rotated_already(error: Error) -> Error {
    error.hint("the root key has its new version: do not rotate it again for this")
}
