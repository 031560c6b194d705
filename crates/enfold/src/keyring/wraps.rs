//! Which root keys the data keys of a ring depend on: read from the catalog, asking no key service.

use std::collections::BTreeMap;

use enfold_core::KeyId;

use super::{CustomerKey, KeyRing, tenant_tag};
use crate::Result;
use crate::catalog::{DataKeyRow, KeyStatus};
use crate::kms::recorded;
use crate::state::{CustomerState, RootState};

/// The data keys of one ring by the root keys that can open them. Destroyed ones are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingWraps {
    /// The ring's name.
    pub ring: String,
    pub keys: u64,
    /// Those that lack a wrap by an active root key of the policy.
    pub incomplete: u64,
    /// Those that no root key of the policy has wrapped: nothing opens them as the policy is.
    pub closed: u64,
    /// The policy's root keys in its order, then others that are on record.
    pub roots: Vec<RootWraps>,
    /// Tenants that hold a root key, in the policy's order.
    pub customers: Vec<CustomerWraps>,
}

/// What hangs on one root key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootWraps {
    /// Its URI.
    pub root: String,
    /// Only the policy's root keys are ever called.
    pub in_policy: bool,
    /// What the operators signed of it.
    pub state: RootState,
    /// Data keys with a wrap by it.
    pub keys: u64,
    /// Those among them that no other root key of the policy has wrapped: without it they do not open.
    pub alone: u64,
    /// Data keys by the ARN of the key that wrapped them, where the root key is an alias of AWS KMS: it may have stood for
    /// several keys, and each is needed.
    pub by_key: BTreeMap<String, u64>,
}

/// What hangs on the root key of one tenant besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerWraps {
    /// As the policy spells the tenant.
    pub tenant: String,
    /// The customer's root key.
    pub root: String,
    /// The operators signed it, and the former ones, as the policy has them: no data key of the tenant is made without.
    pub signed: bool,
    /// Data keys of the tenant that need it, or one of those whose place it takes.
    pub keys: u64,
    /// How many of them need another one, by its URI: those that the policy names as former ones, and others that were found.
    pub former: BTreeMap<String, u64>,
    /// Data keys of the tenant that do not, because they were made before.
    pub bare: Vec<KeyId>,
}

impl KeyRing {
    pub(crate) async fn count_wraps(&self) -> Result<RingWraps> {
        let of_policy = self.roots.all().iter().map(|provider| RootWraps::new(provider.uri(), true, provider.state()));
        let mut counted = RingWraps {
            ring: self.name.clone(),
            keys: 0,
            incomplete: 0,
            closed: 0,
            roots: of_policy.collect(),
            customers: Vec::new(),
        };
        let view = self.view().await?;
        counted.customers = self.customers().all().iter().map(CustomerWraps::new).collect();
        for (tag, at) in view.tenants.iter() {
            let to_sign = self.customers().all()[*at].to_sign();
            let is_signed = |signed: &CustomerState| signed.key == to_sign.key && signed.former == to_sign.former;
            counted.customers[*at].signed &= view.state.customers.get(tag).is_some_and(is_signed);
        }
        let mut after = None;
        while let Some(page) = self.next_rows(&mut after).await? {
            page.iter().for_each(|row| counted.count(row, &view.tenants));
        }
        Ok(counted)
    }
}

impl RingWraps {
    fn count(&mut self, row: &DataKeyRow, tenants: &BTreeMap<String, usize>) {
        if row.status == KeyStatus::Destroyed {
            return;
        }
        let of_tenant = tenant_tag(&row.scope).and_then(|tag| tenants.get(tag));
        if let Some(customer) = of_tenant.and_then(|at| self.customers.get_mut(*at)) {
            match &row.customer {
                Some(layer) => {
                    customer.keys += 1;
                    if layer.root != customer.root {
                        *customer.former.entry(layer.root.clone()).or_default() += 1;
                    }
                }
                None => customer.bare.push(row.id),
            }
        }
        let wrapped = |root: &RootWraps| row.wraps.iter().any(|wrap| wrap.root == root.root);
        let of_policy = self.roots.iter().filter(|root| root.in_policy);
        let is_missed = |root: &RootWraps| root.state == RootState::Active && !wrapped(root);
        let (has, incomplete) =
            (of_policy.clone().filter(|root| wrapped(root)).count(), of_policy.clone().any(is_missed));
        self.keys += 1;
        self.incomplete += u64::from(incomplete);
        self.closed += u64::from(has == 0);
        for wrap in &row.wraps {
            if !self.roots.iter().any(|root| root.root == wrap.root) {
                self.roots.push(RootWraps::new(&wrap.root, false, RootState::Active));
            }
            let root = self.roots.iter_mut().find(|root| root.root == wrap.root);
            if let (Some(root), (Some(key), _)) = (root, recorded::read(&wrap.wrapped)) {
                *root.by_key.entry(key.to_string()).or_default() += 1;
            }
        }
        for root in self.roots.iter_mut().filter(|root| wrapped(root)) {
            root.keys += 1;
            root.alone += u64::from(root.in_policy && has == 1);
        }
    }
}

impl CustomerWraps {
    fn new(customer: &CustomerKey) -> Self {
        let (tenant, root) = (customer.tenant.clone(), customer.uri().to_owned());
        let former = customer.former.iter().map(|kms| (kms.uri().to_string(), 0)).collect();
        Self { tenant, root, signed: true, keys: 0, former, bare: Vec::new() }
    }
}

impl RootWraps {
    fn new(root: &str, in_policy: bool, state: RootState) -> Self {
        Self { root: root.to_owned(), in_policy, state, keys: 0, alone: 0, by_key: BTreeMap::new() }
    }
}
