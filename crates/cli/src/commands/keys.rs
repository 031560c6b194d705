//! `enfold keys`: the data keys, and what they hang on.

use std::fmt::Write as _;

use enfold::{Code, CustomerWraps, Enfold, Error, Repaired, Result, RingWraps, RootWraps, SignedCustomers};
use serde_json::{Value, json};

use super::Context;
use crate::args::{Customers, Keys, Wraps};
use crate::table::Table;
use crate::words::{count, some};

pub(crate) async fn run(context: &Context<'_>, args: &Keys) -> Result<()> {
    let policy = context.policy()?;
    match args {
        Keys::Wraps(args) => context.with_keys(policy, async |enfold| wraps(context, args, enfold).await).await,
        Keys::Customers(args) => context.with_keys(policy, async |enfold| customers(context, args, enfold).await).await,
    }
}

async fn wraps(context: &Context<'_>, args: &Wraps, enfold: &Enfold) -> Result<()> {
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

async fn customers(context: &Context<'_>, args: &Customers, enfold: &Enfold) -> Result<()> {
    let mut done = SignedCustomers::default();
    if args.sign {
        let operator = enfold.operator()?;
        for (name, ring) in &enfold.policy().rings {
            if !ring.tenants.is_empty() {
                let signed = operator.sign_customers(name).await?;
                done.admitted.extend(signed.admitted);
                done.made.extend(signed.made);
            }
        }
    }
    let rings = enfold.wraps().await?;
    let unsigned = rings.iter().flat_map(|ring| &ring.customers).filter(|customer| !customer.signed).count();
    let held: Vec<Value> =
        rings.iter().flat_map(|ring| ring.customers.iter().map(|customer| of_customer(&ring.ring, customer))).collect();
    let mut document = json!({ "customers": held });
    if args.sign {
        let ids = |keys: &[enfold::KeyId]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
        document["admitted"] = json!(ids(&done.admitted));
        document["made"] = json!(ids(&done.made));
    }
    context.screen.result(&document, |out| {
        if held.is_empty() {
            out.push_str("No tenant of the policy holds a root key.\n");
            return;
        }
        customer_table(&rings).write(context.screen, out);
        // Writing to a String cannot fail.
        if !done.admitted.is_empty() {
            let keys = some(done.admitted.len(), "data key");
            let _ = writeln!(out, "\nAdmitted {keys} without the customer's layer, which open as before.");
        }
        if !done.made.is_empty() {
            let _ = writeln!(out, "\nMade {}, which seal from now on.", some(done.made.len(), "data key"));
        }
        if unsigned > 0 {
            let keys = some(unsigned, "root key");
            let _ = writeln!(
                out,
                "\nNot signed: {keys}. `enfold keys customers --sign` does it, where the operators' key is."
            );
        }
    })
}

fn of_customer(ring: &str, customer: &CustomerWraps) -> Value {
    json!({
        "ring": ring,
        "tenant": customer.tenant,
        "root": customer.root,
        "signed": customer.signed,
        "keys": customer.keys,
        "without": customer.bare.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn customer_table(rings: &[RingWraps]) -> Table {
    let mut table = Table::new(&["ring", "tenant", "customer's root key", "signed", "data keys", "without it"]);
    for ring in rings {
        for customer in &ring.customers {
            table.row([
                ring.ring.clone(),
                customer.tenant.clone(),
                customer.root.clone(),
                if customer.signed { "yes" } else { "no" }.to_owned(),
                count(customer.keys),
                count(customer.bare.len() as u64),
            ]);
        }
    }
    table
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
    let mut value = json!({ "root": root.root, "in_policy": root.in_policy, "keys": root.keys, "alone": root.alone });
    if !root.by_key.is_empty() {
        value["by_key"] = json!(root.by_key);
    }
    value
}

fn table(rings: &[RingWraps]) -> Table {
    let mut table = Table::new(&["ring", "root key", "data keys", "on it alone"]);
    for ring in rings {
        for root in &ring.roots {
            let alone = if root.in_policy { count(root.alone) } else { "not in the policy".to_owned() };
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
