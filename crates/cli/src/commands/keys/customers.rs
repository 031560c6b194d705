//! `enfold keys customers`: the root keys that tenants hold.

use std::fmt::Write as _;

use enfold::{CustomerWraps, Enfold, Result, RingWraps, SignedCustomers};
use serde_json::{Value, json};

use crate::args::Customers;
use crate::commands::Context;
use crate::table::Table;
use crate::words::{count, some};

pub(super) async fn customers(context: &Context<'_>, args: &Customers, enfold: &Enfold) -> Result<()> {
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
        write_former(&rings, out);
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

/// Root keys whose place another takes: which data keys need them still.
fn write_former(rings: &[RingWraps], out: &mut String) {
    for (ring, customer) in rings.iter().flat_map(|ring| ring.customers.iter().map(move |customer| (ring, customer))) {
        for (root, keys) in &customer.former {
            let tenant = &customer.tenant;
            // Writing to a String cannot fail.
            let _ = match keys {
                0 => writeln!(
                    out,
                    "\nNo data key of tenant {tenant} needs `{root}` any more: take it out of `former_customer_keys`, and sign again."
                ),
                keys => writeln!(
                    out,
                    "\nTenant {tenant} still needs `{root}` for {}: `enfold keys rewrap {}` brings them under the other.",
                    some(usize::try_from(*keys).unwrap_or(usize::MAX), "data key"),
                    ring.ring
                ),
            };
        }
    }
}

pub(super) fn of_customer(ring: &str, customer: &CustomerWraps) -> Value {
    json!({
        "ring": ring,
        "tenant": customer.tenant,
        "root": customer.root,
        "signed": customer.signed,
        "keys": customer.keys,
        "former": customer.former,
        "without": customer.bare.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

pub(super) fn customer_table(rings: &[RingWraps]) -> Table {
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
