//! Signing which root keys customers hold, and which take the place of which.

use std::sync::Arc;

use enfold_core::KeyId;

use super::Operator;
use crate::catalog::Purpose;
use crate::events::CallContext;
use crate::keyring::{KeyRing, ScopeId, ToSign};
use crate::state::{CustomerState, KeyRef};
use crate::{Code, Error, Result};

/// A tenant's tag, and a root key.
type OfTenant = (String, String);

/// Data keys that a refusal names.
const NAMED: usize = 3;

/// What signing customers' root keys came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedCustomers {
    /// Data keys without the customer's layer that were admitted as made before. Where a tenant was signed earlier, a process
    /// with another policy made them since.
    pub admitted: Vec<KeyId>,
    /// New data keys, with the layer, that seal now instead.
    pub made: Vec<KeyId>,
}

impl Operator {
    /// Signs which tenants of a ring hold a root key, as the policy says it: from then on no data key of such a tenant is made
    /// without, in any process. Where the tenant has data keys already, those open as before, and a new version seals.
    ///
    /// Where the policy names another root key than was signed before, that one takes its place: new data keys are made under
    /// it, and those of before open under the former ones that the policy names beside it, until a rewrap has brought them
    /// under the new one. One that the policy names no more is signed away if no data key needs it.
    ///
    /// Each root key that wraps is tried first; nothing is signed for a ring where one does not answer. It can be run again.
    /// Data keys that a process with an older policy made meanwhile are taken in then.
    ///
    /// # Errors
    /// `CustomerKeyMismatch` where data keys need a root key that was signed for their tenant and that the policy does not name.
    pub async fn sign_customers(&self, ring: &str) -> Result<SignedCustomers> {
        let ring = self.enfold.ring(ring)?;
        ring.catalog.takes_customer_layers().await?;
        ring.try_customers().await?;
        ring.look().await?;
        let view = ring.view().await?;
        let found = ring.customers_to_sign(&view).await?;
        self.sign_found(ring, &found).await?;
        let left: Vec<_> =
            found.tenants.iter().flat_map(|(tag, next)| left_out(view.state.customers.get(tag), tag, next)).collect();
        if !left.is_empty() {
            // A data key may have been made under one of them while this was signed. From now on none is: the catalog takes a
            // layer only from whoever goes by the state that holds.
            let again = ring.customers_to_sign(&view).await?;
            self.put_back(ring, &left, &again).await?;
        }
        let known = |tag: &String, id| view.state.customers.get(tag).is_some_and(|c| c.bare.contains(&KeyRef(id)));
        let admitted = found.bare.iter().filter(|(tag, id)| !known(tag, *id)).map(|(_, id)| *id).collect();
        Ok(SignedCustomers { admitted, made: self.rotate_bare(ring, found.tenants.keys()).await? })
    }

    async fn sign_found(&self, ring: &Arc<KeyRing>, found: &ToSign) -> Result<()> {
        self.change(ring, |view| {
            let mut state = view.state.clone();
            for (tag, next) in &found.tenants {
                let (mut next, signed) = (next.clone(), state.customers.remove(tag));
                if let Some(left) =
                    left_out(signed.as_ref(), tag, &next).iter().find(|left| found.layered.contains_key(left))
                {
                    return Err(still_needed(&ring.name, &left.1, &found.layered[left]));
                }
                next.bare.extend(signed.into_iter().flat_map(|signed| signed.bare));
                next.bare.extend(found.bare.iter().filter(|(of, _)| of == tag).map(|(_, id)| KeyRef(*id)));
                state.customers.insert(tag.clone(), next);
            }
            Ok(state)
        })
        .await
    }

    /// Admits those former root keys again that data keys turned out to need after they had been signed away.
    async fn put_back(&self, ring: &Arc<KeyRing>, left: &[OfTenant], found: &ToSign) -> Result<()> {
        let needed: Vec<_> = left.iter().filter_map(|left| Some((left, found.layered.get(left)?))).collect();
        let Some((first, keys)) = needed.first() else { return Ok(()) };
        let refused = still_needed(&ring.name, &first.1, keys);
        self.change(ring, |view| {
            let mut state = view.state.clone();
            for ((tag, root), _) in &needed {
                if let Some(signed) = state.customers.get_mut(tag) {
                    signed.former.insert(root.clone());
                }
            }
            Ok(state)
        })
        .await?;
        Err(refused)
    }

    /// Has a version seal that the customer's layer is over, where one seals that it is not over.
    async fn rotate_bare(&self, ring: &Arc<KeyRing>, tags: impl Iterator<Item = &String>) -> Result<Vec<KeyId>> {
        let mut made = Vec::new();
        for tag in tags {
            let scope: ScopeId = format!("tenant@{tag}").parse()?;
            let version = ring.view().await?.state.sealing_version(Purpose::Seal, scope.as_str());
            let seals = ring.catalog.key_version(ring.id(), Purpose::Seal, scope.as_str(), version).await?;
            if seals.is_some_and(|row| row.customer.is_none()) {
                made.push(self.rotate(&ring.name, &scope, &CallContext::default()).await?.key);
            }
        }
        Ok(made)
    }
}

/// What was signed for a tenant and would be no more.
fn left_out(signed: Option<&CustomerState>, tag: &str, next: &CustomerState) -> Vec<OfTenant> {
    let roots = signed.into_iter().flat_map(|signed| signed.former.iter().chain([&signed.key]));
    roots.filter(|root| !next.admits(root)).map(|root| (tag.to_owned(), root.clone())).collect()
}

fn still_needed(ring: &str, root: &str, keys: &[KeyId]) -> Error {
    let count = if keys.len() == 1 { "1 data key".to_owned() } else { format!("{} data keys", keys.len()) };
    let what = format!("ring `{ring}` still needs a customer's root key that the policy does not name");
    let error = Error::new(Code::CustomerKeyMismatch, what).cause(format!("it is `{root}`, for {count}"));
    let error = keys.iter().take(NAMED).fold(error, |error, key| error.cause(format!("data key `{key}`")));
    error
        .hint("name it in the tenant's `former_customer_keys` in enfold.toml, and sign again")
        .hint(format!("`enfold keys rewrap {ring}` then brings its data keys under the tenant's `customer_key`"))
        .hint("nothing that opened stopped opening")
}
