//! `enfold keys rewrap`: the same data keys under other root keys, or newer versions of them.

use std::fmt::Write as _;
use std::time::Instant;

use enfold::policy::Policy;
use enfold::{Code, Enfold, Error, Result, RewrapOptions, RewrapPlan, Rewrapped, RootCalls};
use serde_json::{Value, json};

use super::prices::Prices;
use crate::args::Rewrap;
use crate::commands::Context;
use crate::screen::talk;
use crate::stop::Stop;
use crate::table::Table;
use crate::words::{about, count};

/// Failures that are told one by one.
const TOLD: usize = 5;

/// The policy with the rate that was asked for.
pub(super) fn paced(mut policy: Policy, args: &Rewrap) -> Policy {
    if let Some(rate) = args.rate {
        policy.key_services.requests_per_second = Some(rate);
    }
    policy
}

pub(super) async fn rewrap(context: &Context<'_>, args: &Rewrap, enfold: &Enfold) -> Result<()> {
    let prices = Prices::load(args.prices.as_deref())?;
    let options = RewrapOptions {
        from: args.from.clone(),
        to: args.to.clone(),
        drop: args.drop,
        renew: args.renew,
        after: args.after.as_deref().map(super::key_id).transpose()?,
    };
    let plan = enfold.plan_rewrap(&args.ring, &options).await?;
    if args.dry_run {
        return context.screen.result(&json!({ "plan": of_plan(&plan, &prices) }), |out| {
            write_plan(context, &plan, &prices, out);
            out.push_str("\nNothing was changed.\n");
        });
    }
    if plan.to_do + plan.closed == 0 {
        return context.screen.result(&json!({ "plan": of_plan(&plan, &prices), "done": 0 }), |out| {
            write_plan(context, &plan, &prices, out);
        });
    }
    if !context.screen.json() {
        let mut says = String::new();
        write_plan(context, &plan, &prices, &mut says);
        talk(&says);
    }
    let question = match plan.drops {
        0 => "This makes the wraps above.".to_owned(),
        drops => format!(
            "This makes the wraps above and removes {}: processes whose policy has none of the root keys that stay will not \
             open anything.",
            count(drops)
        ),
    };
    context.screen.confirm(&question, "rewrap", args.yes)?;
    let screen = context.screen;
    let stop = Stop::listen(|line| talk(&format!("{line}\n")));
    let (progress, started) = (screen.progress_of(&format!("rewrap {}", args.ring), "data keys"), Instant::now());
    let go_on = |so_far: &Rewrapped| {
        progress.set(so_far.looked, plan.keys);
        !stop.requested()
    };
    let outcome = enfold.rewrap(&args.ring, &options, &context.call(args.reason.as_deref()), &go_on).await;
    progress.finish();
    let outcome = outcome.map_err(|error| error.hint("what was rewrapped stays: run the same command again"))?;
    // A worker beside this one may have done the rest: what is left is counted, not reckoned.
    let left = enfold.plan_rewrap(&args.ring, &RewrapOptions { renew: false, after: None, ..options.clone() }).await?;
    screen.result(&document(&plan, &outcome, &left, &prices), |out| write(&outcome, &left, started, out))?;
    match ended(args, outcome, &left) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// What did not come to its end, as the command's error.
fn ended(args: &Rewrap, outcome: Rewrapped, left: &RewrapPlan) -> Option<Error> {
    let again = "what was rewrapped stays: run the same command again, and it goes on";
    if let Some(stopped) = outcome.stopped {
        let error = stopped.while_doing(format!("the rewrap of ring `{}` is not at its end", args.ring)).hint(again);
        return Some(match (args.renew, outcome.at) {
            (true, Some(at)) => error.hint(format!("with `--after {at}`, since `--renew` does not know what is done")),
            _ => error,
        });
    }
    if let Some((_, first)) = outcome.failures.first() {
        let keys = if outcome.failed == 1 { "1 data key".to_owned() } else { format!("{} data keys", outcome.failed) };
        let error = Error::new(first.code(), format!("cannot rewrap {keys} of ring `{}`", args.ring));
        let told = outcome.failures.iter().take(TOLD);
        let error = told.fold(error, |error, (id, why)| error.cause(format!("{id}: {why}")));
        return Some(first.hints().fold(error, Error::hint).hint("every other data key was done"));
    }
    (left.to_do > 0 && !args.renew).then(|| {
        Error::new(Code::Busy, format!("{} data keys of ring `{}` are still to do", count(left.to_do), args.ring))
            .cause("they were made or changed by others meanwhile")
            .hint(again)
    })
}

fn write_plan(context: &Context<'_>, plan: &RewrapPlan, prices: &Prices, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "Ring {}: {} of {} data keys are to be rewrapped: {} new wraps, {} removed. No row of a table is read.",
        plan.ring,
        count(plan.to_do),
        count(plan.keys),
        count(plan.wraps),
        count(plan.drops)
    );
    if plan.layers > 0 {
        let _ = writeln!(
            out,
            "Customers' layers to be made anew: {}. Their key services are asked as well.",
            count(plan.layers)
        );
    }
    for (whose, calls) in [("root key", &plan.roots), ("customer's root key", &plan.customers)] {
        if !calls.is_empty() {
            out.push('\n');
            calls_table(whose, calls, prices).write(context.screen, out);
        }
    }
    if !plan.roots.is_empty() {
        let _ = writeln!(
            out,
            "\nPrices as of {}, by the request; `at least` is the time at the policy's rate.",
            prices.as_of
        );
    }
    if plan.closed > 0 {
        let _ = writeln!(
            out,
            "\nNo root key that may be called opens {} data keys: they stay as they are.",
            count(plan.closed)
        );
    }
    for untold in &plan.untold {
        let _ = writeln!(out, "\nThe newest version was not told: {untold}");
    }
    if plan.inline {
        let _ = writeln!(
            out,
            "\nValues of ring {} carry data keys of their own that a root key wrapped (`record_wrap = \"kms\"`). They are in rows, so a \
             rewrap does not touch them: keep their root key until a job has re-encrypted the rows.",
            plan.ring
        );
    }
}

fn calls_table(whose: &str, calls: &[RootCalls], prices: &Prices) -> Table {
    let mut table = Table::new(&[whose, "unwraps", "wraps", "calls", "cost", "at least"]);
    for root in calls {
        table.row([
            root.root.clone(),
            count(root.unwraps),
            count(root.wraps),
            count(root.calls),
            prices.cost(root).map_or_else(|| "no price".to_owned(), |cost| money(cost, prices)),
            root.seconds().map_or_else(|| "no limit".to_owned(), about),
        ]);
    }
    table
}

fn write(outcome: &Rewrapped, left: &RewrapPlan, started: Instant, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "Rewrapped {} data keys: {} new wraps, {} removed, in {:.1} s. Each wrap that is relied on was opened and compared. No row was read.",
        count(outcome.done),
        count(outcome.wrapped),
        count(outcome.dropped),
        started.elapsed().as_secs_f64()
    );
    if outcome.layers > 0 {
        let _ = writeln!(
            out,
            "Customers' layers made anew: {}, each opened by the customer's key service and here.",
            count(outcome.layers)
        );
    }
    for (says, keys) in [
        ("Changed by others meanwhile and left to them", outcome.overtaken),
        ("Refused and left as they were", outcome.failed),
        ("Still to do", left.to_do.saturating_sub(outcome.failed)),
    ] {
        if keys > 0 {
            let _ = writeln!(out, "{says}: {} data key{}.", count(keys), if keys == 1 { "" } else { "s" });
        }
    }
}

fn document(plan: &RewrapPlan, outcome: &Rewrapped, left: &RewrapPlan, prices: &Prices) -> Value {
    let failures =
        outcome.failures.iter().map(|(id, error)| json!({ "key": id.to_string(), "error": error.code().word() }));
    json!({
        "plan": of_plan(plan, prices),
        "done": outcome.done,
        "new_wraps": outcome.wrapped,
        "removed_wraps": outcome.dropped,
        "new_layers": outcome.layers,
        "left_to_others": outcome.overtaken,
        "failed": outcome.failed,
        "failures": failures.collect::<Vec<_>>(),
        "left": left.to_do,
    })
}

fn of_plan(plan: &RewrapPlan, prices: &Prices) -> Value {
    json!({
        "ring": plan.ring,
        "keys": plan.keys,
        "to_do": plan.to_do,
        "closed": plan.closed,
        "new_wraps": plan.wraps,
        "removed_wraps": plan.drops,
        "new_layers": plan.layers,
        "roots": of_calls(&plan.roots, prices),
        "customers": of_calls(&plan.customers, prices),
        "currency": prices.currency,
        "prices_as_of": prices.as_of,
        "values_carry_keys": plan.inline,
        "untold": plan.untold,
    })
}

fn of_calls(calls: &[RootCalls], prices: &Prices) -> Vec<Value> {
    let of = |root: &RootCalls| {
        json!({
            "root": root.root,
            "unwraps": root.unwraps,
            "wraps": root.wraps,
            "calls": root.calls,
            "requests_per_second": root.per_second,
            "least_seconds": root.seconds(),
            "cost": prices.cost(root),
        })
    };
    calls.iter().map(of).collect()
}

fn money(cost: f64, prices: &Prices) -> String {
    format!("{cost:.2} {}", prices.currency)
}
