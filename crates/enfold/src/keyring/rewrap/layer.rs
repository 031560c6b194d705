//! The layers that customers' root keys guard: under a newer version of the root key, or under the one that took its place.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt};

use super::{Aim, described};
use crate::catalog::{CustomerLayer, DataKeyRow};
use crate::keyring::layers::LayerKeys;
use crate::keyring::roots::{self, is_same, opens_to_another};
use crate::keyring::{KeyRing, View};
use crate::kms::{Age, KeyDescription, KeyManagementService, KeyManagementServiceExt, KeyMaterial, WrappedKey, age};
use crate::{Code, Error, Result};

/// Customers' services that are asked at once.
pub(super) const CUSTOMERS_AT_ONCE: usize = 16;

impl KeyRing {
    /// The root keys that were signed as tenants' own, where a rewrap looks at their layers, with what their services say of
    /// them; why one says nothing goes to `untold`.
    pub(super) async fn layers_to_renew(
        &self,
        view: &View,
        to: Option<&str>,
        untold: &mut Vec<String>,
    ) -> BTreeMap<&str, Option<KeyDescription>> {
        let signed = view.tenants.keys().filter_map(|tag| self.customer_by_tag(view, tag).ok().flatten());
        let all = signed.map(|kms| (kms.uri().as_str(), kms));
        let meant: BTreeMap<&str, _> = all.filter(|(uri, _)| to.is_none_or(|to| to == *uri)).collect();
        let mut asked = Vec::with_capacity(meant.len());
        for (uri, kms) in meant {
            asked.push(async move { (uri, described(kms).await) });
        }
        let told: Vec<_> = stream::iter(asked).buffered(CUSTOMERS_AT_ONCE).collect().await;
        told.into_iter().map(|(uri, about)| (uri, about.map_err(|why| untold.push(why)).ok())).collect()
    }

    /// The root key that is to guard the layer of a data key anew: the one that was signed as its tenant's, where another
    /// guards it, or a former version of it.
    pub(super) fn layer_to_renew<'a>(
        &'a self,
        aim: &Aim<'_>,
        view: &View,
        row: &DataKeyRow,
    ) -> Option<&'a dyn KeyManagementService> {
        let layer = row.customer.as_ref()?;
        // Where policy and signed state do not agree nothing is done; `enfold keys customers` shows it.
        let signed = self.customer_of(view, &row.scope).ok().flatten()?;
        let about = aim.layers.get(signed.uri().as_str())?;
        let is_former = || about.as_ref().is_some_and(|about| age(signed.uri(), about, &layer.wrapped) == Age::Former);
        (aim.renew || layer.root != signed.uri().as_str() || is_former()).then_some(signed)
    }

    /// Has `target` guard the customer's layer of a data key, whichever of the customer's root keys guarded it: under a layer
    /// key that is new, for the former one may have become known with its root key. Ours is as it was, so our wraps stay.
    ///
    /// What comes back was opened, by the customer's service and here.
    pub(super) async fn renew_layer(
        &self,
        row: &DataKeyRow,
        layer: &CustomerLayer,
        ours: &KeyMaterial,
        target: &dyn KeyManagementService,
    ) -> Result<CustomerLayer> {
        let former = self.customers().by_uri(&layer.root).ok_or_else(|| self.not_in_the_policy(&layer.root))?;
        let context = self.customers_context(row)?;
        let wrapped = WrappedKey::new(layer.wrapped.clone())?;
        let theirs = former.unwrap_one(&wrapped, &context).await;
        let theirs = theirs.map_err(|error| self.of_the_customer(former, "unwrap", error))?;
        let ours = || KeyMaterial::copy(ours.expose());
        let key = self.lift(&LayerKeys { ours: ours(), customers: theirs }, layer, row)?;

        let made = LayerKeys { ours: ours(), customers: KeyMaterial::generate()? };
        let wrapped = target.wrap_one(&made.customers, &context).await;
        let wrapped = wrapped.map_err(|error| self.of_the_customer(target, "wrap", error))?;
        let opened = target.unwrap_one(&wrapped, &context).await;
        let opened = opened.map_err(|error| self.of_the_customer(target, "unwrap", error))?;
        if !is_same(&made.customers, &opened) {
            return Err(opens_to_another(target.uri().as_str(), row.id));
        }
        let root = target.uri().to_string();
        let sealed = made.lay(&key, &self.sealing_context(row, &root)?)?;
        let renewed = CustomerLayer { root, wrapped: wrapped.into_bytes(), sealed };
        let again = self.lift(&LayerKeys { ours: ours(), customers: opened }, &renewed, row)?;
        if !is_same(&roots::material(&key), &roots::material(&again)) {
            return Err(Error::new(Code::Internal, "a renewed layer opens to another data key"));
        }
        Ok(renewed)
    }
}
