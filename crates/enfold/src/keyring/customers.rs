//! The root keys that customers hold: each guards a layer over the data keys of one tenant.
//!
//! The policy says which tenant holds which, so that no other URI is ever called; the signed state says whose data keys must
//! have the layer, so that no process leaves it out because its policy is another. Where the two do not agree no data key is
//! made.
//!
//! While one root key takes the place of another both are in the policy and in the state. New data keys are made under the one
//! that was signed as the tenant's, which a process may have in its policy as the next one, or as a former one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use enfold_core::{DataKey, KeyId, Part};
use futures_util::future::join;

use super::health::is_withdrawal;
use super::layers::LayerKeys;
use super::roots::{self, Wrapped};
use super::{KeyRing, RowKey, Tried, View, tenant_tag};
use crate::catalog::{CustomerLayer, DataKeyRow, KeyStatus};
use crate::error::Retry;
use crate::kms::{EncryptionContext, KeyManagementService, KeyManagementServiceExt, KeyMaterial, WrappedKey};
use crate::state::CustomerState;
use crate::{Code, Error, Result};

/// What the policy says of customers, and what the ring's data keys are like, for the operators to sign.
pub(crate) struct ToSign {
    /// The root keys of each tenant by the tenant's tag, as they would be signed; of data keys without the layer nothing is said.
    pub(crate) tenants: BTreeMap<String, CustomerState>,
    /// Data keys of such tenants that are without a layer, by the tenant's tag. A row that was changed by hand is not among
    /// them.
    pub(crate) bare: Vec<(String, KeyId)>,
    /// Data keys with a layer that have not been destroyed, by the tenant's tag and the root key that they need. Rows that were
    /// changed by hand are among them: they may be repaired.
    pub(crate) layered: BTreeMap<(String, String), Vec<KeyId>>,
}

/// Those of one ring, in the order of the policy.
#[derive(Default)]
pub(crate) struct Customers {
    keys: Vec<CustomerKey>,
}

/// The root key of one tenant.
pub(crate) struct CustomerKey {
    /// The tenant as the policy spells it.
    pub(crate) tenant: String,
    pub(crate) kms: Arc<dyn KeyManagementService>,
    /// Those whose place it takes.
    pub(crate) former: Vec<Arc<dyn KeyManagementService>>,
}

impl CustomerKey {
    pub(crate) fn uri(&self) -> &str {
        self.kms.uri().as_str()
    }

    /// As the policy has it. Of data keys without the layer nothing is said.
    pub(super) fn to_sign(&self) -> CustomerState {
        let former = self.former.iter().map(|kms| kms.uri().to_string()).collect();
        CustomerState { key: self.uri().to_owned(), bare: BTreeSet::new(), former }
    }

    /// Every one that the policy names for this tenant.
    pub(crate) fn all(&self) -> impl Iterator<Item = &dyn KeyManagementService> {
        std::iter::once(&self.kms).chain(&self.former).map(|kms| &**kms)
    }
}

impl Customers {
    pub(crate) fn new(keys: Vec<CustomerKey>) -> Self {
        Self { keys }
    }

    pub(crate) fn all(&self) -> &[CustomerKey] {
        &self.keys
    }

    /// Which of them a tag stands for.
    pub(super) fn by_tag(&self, rows: &RowKey) -> BTreeMap<String, usize> {
        let tags = |key: &CustomerKey| tags(&key.tenant, rows);
        self.keys.iter().enumerate().flat_map(|(at, key)| tags(key).into_iter().map(move |tag| (tag, at))).collect()
    }

    pub(super) fn by_uri(&self, uri: &str) -> Option<&dyn KeyManagementService> {
        self.keys.iter().flat_map(CustomerKey::all).find(|kms| kms.uri().as_str() == uri)
    }
}

/// The tags of a tenant, whatever type its column has: the policy has nothing but text.
pub(crate) fn tags(tenant: &str, rows: &RowKey) -> Vec<String> {
    let number = tenant.parse::<i64>().ok().filter(|number| number.to_string() == tenant);
    let uuid = uuid(tenant);
    let parts = [Some(Part::Text(tenant)), number.map(Part::Int), uuid.map(Part::Uuid)];
    parts.into_iter().flatten().map(|part| rows.tenant(part).as_str().to_owned()).collect()
}

/// In groups of 8, 4, 4, 4 and 12 digits.
pub(crate) fn uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths = groups.iter().map(|group| group.len());
    let digits = text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    if !digits || !lengths.eq([8, 4, 4, 4, 12]) {
        return None;
    }
    u128::from_str_radix(&groups.concat(), 16).ok().map(u128::to_be_bytes)
}

impl KeyRing {
    pub(crate) fn customers(&self) -> &Customers {
        &self.customers
    }

    /// Has every customer's root key wrap and unwrap: one that refuses now would leave its tenant without a data key.
    pub(crate) async fn try_customers(&self) -> Result<()> {
        for found in self.root_health().await?.into_iter().filter(|found| found.tenant.is_some()) {
            let (Tried::NotWrapped(error) | Tried::NotUnwrapped(error)) = found.tried else { continue };
            return Err(error
                .while_doing(format!("cannot rely on the customer's root key `{}` of ring `{}`", found.root, self.name))
                .hint("nothing was changed"));
        }
        Ok(())
    }

    pub(crate) async fn customers_to_sign(&self, view: &View) -> Result<ToSign> {
        let state = |at: &usize| self.customers.keys[*at].to_sign();
        let tenants = view.tenants.iter().map(|(tag, at)| (tag.clone(), state(at))).collect();
        let mut found = ToSign { tenants, bare: Vec::new(), layered: BTreeMap::new() };
        let mut after = None;
        while let Some(page) = self.next_rows(&mut after).await? {
            // Whoever writes to the catalog may call a data key destroyed that needs its customer's root key.
            let is_destroyed = |row: &DataKeyRow| row.status == KeyStatus::Destroyed && view.rows.verify(row).is_ok();
            for row in page.iter().filter(|row| !is_destroyed(row)) {
                let Some(tag) = tenant_tag(&row.scope).filter(|tag| found.tenants.contains_key(*tag)) else { continue };
                match &row.customer {
                    Some(layer) => {
                        found.layered.entry((tag.to_owned(), layer.root.clone())).or_default().push(row.id);
                    }
                    None if view.rows.verify(row).is_ok() => found.bare.push((tag.to_owned(), row.id)),
                    None => {}
                }
            }
        }
        Ok(found)
    }

    /// The customer's root key whose layer a new data key of this scope needs; none where it needs ours alone.
    pub(crate) fn customer_of(&self, view: &View, scope: &str) -> Result<Option<&dyn KeyManagementService>> {
        tenant_tag(scope).map_or(Ok(None), |tag| self.customer_by_tag(view, tag))
    }

    /// As [`Self::customer_of`], for the tenant that a tag stands for.
    pub(super) fn customer_by_tag(&self, view: &View, tag: &str) -> Result<Option<&dyn KeyManagementService>> {
        let named = view.tenants.get(tag).and_then(|at| self.customers.keys.get(*at));
        let signed = view.state.customers.get(tag).map(|customer| customer.key.as_str());
        let (named, signed) = match (named, signed) {
            (None, None) => return Ok(None),
            (None, Some(signed)) => return Err(self.not_in_the_policy(signed)),
            (Some(named), None) => {
                return Err(self
                    .mismatch(format!("the policy names `{}`, and the operators have not signed it", named.uri()))
                    .hint("run `enfold keys customers --sign` where the operators' key is"));
            }
            (Some(named), Some(signed)) => (named, signed),
        };
        let found = named.all().find(|kms| kms.uri().as_str() == signed);
        found.map(Some).ok_or_else(|| {
            self.mismatch(format!("the policy names `{}`, and the operators signed `{signed}`", named.uri()))
                .hint("put the signed one back into enfold.toml, or have it say both: see `former_customer_keys`")
        })
    }

    /// Wraps a new data key under both layers, at the same time. The row gets the customer's; ours come back.
    pub(super) async fn wrap_with(
        &self,
        customer: &dyn KeyManagementService,
        row: &mut DataKeyRow,
        key: &DataKey,
    ) -> Result<Wrapped> {
        let root = customer.uri().to_string();
        // It is there before the calls: what they are bound to says that there are two layers.
        row.customer = Some(CustomerLayer { root: root.clone(), wrapped: Vec::new(), sealed: Vec::new() });
        let ours = DataKey::generate().map_err(|e| crate::core_error(e, "cannot make a data key"))?;
        let customers = KeyMaterial::generate()?;
        let (our_context, their_context) = (self.context(row)?, self.customers_context(row)?);
        let asked = customer.wrap_one(&customers, &their_context);
        let (wrapped, theirs) = join(self.roots.wrap(&ours, &our_context), asked).await;
        let theirs = theirs.map_err(|error| self.of_the_customer(customer, "wrap", error));
        let (wrapped, theirs) = both(wrapped, theirs)?;
        let keys = LayerKeys { ours: roots::material(&ours), customers };
        let sealed = keys.lay(key, &self.sealing_context(row, &root)?)?;
        row.customer = Some(CustomerLayer { root, wrapped: theirs.into_bytes(), sealed });
        Ok(wrapped)
    }

    /// Asks both, at the same time.
    pub(super) async fn unwrap_with(&self, layer: &CustomerLayer, row: &DataKeyRow) -> Result<DataKey> {
        let customer = self.customers.by_uri(&layer.root).ok_or_else(|| self.not_in_the_policy(&layer.root))?;
        let wrapped = WrappedKey::new(layer.wrapped.clone())?;
        let (our_context, their_context) = (self.context(row)?, self.customers_context(row)?);
        let asked = customer.unwrap_one(&wrapped, &their_context);
        let (ours, customers) = join(self.roots.unwrap(&row.wraps, &our_context), asked).await;
        let customers = customers.map_err(|error| self.of_the_customer(customer, "unwrap", error));
        let (ours, customers) = both(ours, customers)?;
        self.lift(&LayerKeys { ours: roots::material(&ours), customers }, layer, row)
    }

    /// The data key under both layers, if they are what was laid.
    pub(super) fn lift(&self, keys: &LayerKeys, layer: &CustomerLayer, row: &DataKeyRow) -> Result<DataKey> {
        keys.lift(&layer.sealed, &self.sealing_context(row, &layer.root)?).ok_or_else(|| {
            Error::new(Code::WrapInvalid, format!("the layers of data key `{}` do not open", row.id))
                .cause("the layer keys are right, and what they seal was changed")
                .hint("restore its row from a backup of the catalog")
        })
    }

    /// What the customer's key service sees of a data key.
    pub(super) fn customers_context(&self, row: &DataKeyRow) -> Result<EncryptionContext> {
        self.bound_to(row)?.with(EncryptionContext::LAYER, "customer")
    }

    /// For what is sealed here: in no call, so it may name the customer's root key.
    pub(super) fn sealing_context(&self, row: &DataKeyRow, customer: &str) -> Result<EncryptionContext> {
        self.bound_to(row)?.with(EncryptionContext::CUSTOMER_KEY, customer)
    }

    /// Whose root key it was that refused or did not answer. A refusal has a code of its own, for it is the customer's
    /// decision and no fault of ours.
    pub(super) fn of_the_customer(&self, customer: &dyn KeyManagementService, what: &str, error: Error) -> Error {
        let doing =
            format!("cannot {what} a data key of ring `{}` that needs a customer's root key as well", self.name);
        if !is_withdrawal(error.code()) {
            return error.while_doing(doing);
        }
        let refused = Error::new(Code::CustomerKeyRefused, doing)
            .cause(format!("the customer's root key `{}` refused", customer.uri()))
            .cause(error.to_string())
            .hint("the customer holds this root key: ask whether it was withdrawn on purpose");
        // Which right is missing. Other hints are for whoever holds the root key.
        let hints = error.hints().filter(|_| error.code() == Code::KmsAccessDenied);
        hints.fold(refused, Error::hint)
    }

    fn mismatch(&self, why: String) -> Error {
        let what = format!("cannot make a data key for a tenant of ring `{}` that holds a root key", self.name);
        Error::new(Code::CustomerKeyMismatch, what).cause(why)
    }

    pub(super) fn not_in_the_policy(&self, uri: &str) -> Error {
        let what = format!("a data key of ring `{}` needs a customer's root key that is not in the policy", self.name);
        Error::new(Code::CustomerKeyMismatch, what)
            .cause(format!("the operators signed `{uri}`, and only root keys of the policy are ever called"))
            .hint(format!("add the tenant to enfold.toml, with `customer_key = \"{uri}\"`"))
    }
}

/// Both answers, or the one error that decides: a refusal goes before an outage, whoever it is of, or what was withdrawn
/// would be served stale for as long as the other does not answer.
fn both<A, B>(ours: Result<A>, customers: Result<B>) -> Result<(A, B)> {
    match (ours, customers) {
        (Ok(ours), Ok(customers)) => Ok((ours, customers)),
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => Err(error),
        (Err(_), Err(error)) if error.code().retry() == Retry::Never => Err(error),
        (Err(error), Err(_)) => Err(error),
    }
}
