//! What `doctor` says of the root keys that customers hold.

use enfold::{Code, CustomerWraps, RingWraps, RootHealth};

use super::doctor::Found;
use crate::words::some;

/// A root key that its customer withdrew is no fault of this installation: it says whose values do not open.
pub(super) fn withdrawn(root: &RootHealth) -> Option<Found> {
    root.withdrawn().map(|error| {
        // Which right is missing. Other hints are for whoever holds the root key.
        let ours = error.hints().filter(|_| error.code() == Code::KmsAccessDenied).map(str::to_owned);
        let ask = "the customer holds it: ask whether it was withdrawn on purpose".to_owned();
        let says = format!("{error}; the tenant's values do not open, and nobody else's are touched");
        Found::warning(says, std::iter::once(ask).chain(ours).collect())
    })
}

/// Whether the operators signed what the policy says, for each tenant.
pub(super) fn signed(rings: &[RingWraps]) -> Vec<(String, Found)> {
    let of = |ring: &RingWraps, customer: &CustomerWraps| {
        let name = format!("data keys of tenant {} in ring {}", customer.tenant, ring.ring);
        let counted = format!(
            "{} under the customer's root key, {} without",
            customer.keys,
            some(customer.bare.len(), "data key")
        );
        if customer.signed {
            return (name, counted.into());
        }
        let says = format!("{counted}; the operators have not signed the customer's root key, so no data key is made");
        (name, Found::warning(says, vec!["run `enfold keys customers --sign` where the operators' key is".to_owned()]))
    };
    rings.iter().flat_map(|ring| ring.customers.iter().map(move |customer| of(ring, customer))).collect()
}

#[cfg(test)]
mod tests {
    use enfold::{Error, Tried};

    use super::*;

    #[test]
    fn a_withdrawn_root_key_of_a_customer_is_minded_and_other_failures_are_not() {
        let health = |tenant: Option<&str>, tried| RootHealth {
            ring: "main".into(),
            root: "vault://theirs/transit/k".into(),
            tenant: tenant.map(str::to_owned),
            description: None,
            tried,
            drawn: None,
            permissions: Ok(Vec::new()),
            clock_skew: None,
        };
        let refused = |code| Tried::NotWrapped(Error::new(code, "cannot wrap").hint("enable it"));
        for code in [Code::KmsKeyDisabled, Code::KmsAccessDenied, Code::KmsKeyNotFound, Code::KmsVersionRetired] {
            let found = withdrawn(&health(Some("acme"), refused(code))).unwrap();
            assert!(found.warns && found.says.contains("nobody else's"), "{}", found.says);
            assert_eq!(found.hints.len(), if code == Code::KmsAccessDenied { 2 } else { 1 });
            assert!(withdrawn(&health(None, refused(code))).is_none(), "a root key of the ring");
        }
        for code in [Code::KmsUnavailable, Code::KmsProtocol, Code::WrapInvalid] {
            assert!(withdrawn(&health(Some("acme"), refused(code))).is_none(), "{code:?}");
        }
        let took = std::time::Duration::from_millis(1);
        assert!(withdrawn(&health(Some("acme"), Tried::Both { wrap: took, unwrap: took })).is_none());
    }
}
