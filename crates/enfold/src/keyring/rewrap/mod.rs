//! Rewrapping: the same data keys, wrapped by the root keys that the policy names now, and by their newest versions.
//!
//! No value is read or written: what is touched are the wraps in the catalog, our layers over customers' among them, and the
//! layers that customers guard. Nothing is remembered between two runs. Each looks at every data key and does what is still to
//! do, so that one that was killed goes on where it stood, and several may run at the same time.
//!
//! A wrap is replaced or dropped only after each of those that are to open the data key from then on has opened it, to the
//! very same key. `work.rs` does that, and `layer.rs` for customers' layers; here stands what is to be done, and what it will cost.

mod layer;
mod work;

use std::collections::BTreeMap;

use enfold_core::KeyId;

use super::roots::Provider;
use super::{KeyRing, PAGE, View};
use crate::catalog::{DataKeyRow, KeyStatus, Wrap};
use crate::kms::{Age, KeyDescription, KeyManagementService, KeyManagementServiceExt, KeyUri, RootKey, age, recorded};
use crate::{Code, Error, Result};

pub use work::Rewrapped;

/// Data keys in one request to a key service: what one call to a transit engine takes.
const BATCH: usize = 150;
/// Such batches that are under way at once.
const AT_ONCE: usize = 4;

/// What a rewrap is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewrapOptions {
    /// Only data keys with a wrap by this root key, or with the layer of this one of a customer's.
    pub from: Option<String>,
    /// Wraps by this root key alone, or layers of this one of a customer's; otherwise by every active root key of the ring, and
    /// of every customer's.
    pub to: Option<String>,
    /// Removes wraps by `from`; without it, those by root keys that are not active or not in the policy.
    pub drop: bool,
    /// Makes wraps anew that are there and do not say that they are of a former version.
    pub renew: bool,
    /// Begins behind this data key, in the order of ids.
    pub after: Option<KeyId>,
}

/// What a rewrap would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewrapPlan {
    /// The ring's name.
    pub ring: String,
    /// Data keys of the ring that have not been destroyed.
    pub keys: u64,
    /// Those among them that something is to be done about.
    pub to_do: u64,
    /// Those that no root key that may be called has wrapped: they stay as they are.
    pub closed: u64,
    /// New wraps.
    pub wraps: u64,
    /// Wraps that are removed.
    pub drops: u64,
    /// Layers of customers that are made anew.
    pub layers: u64,
    /// By root key, in the policy's order; those that are not called are left out.
    pub roots: Vec<RootCalls>,
    /// As `roots`, of the root keys that customers hold, in the order of their URIs.
    pub customers: Vec<RootCalls>,
    /// Values of the ring carry their own data key, wrapped by a root key: a rewrap does not touch them.
    pub inline: bool,
    /// Root keys whose newest version was not told, and why.
    pub untold: Vec<String>,
}

/// What a root key's service will be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootCalls {
    /// Its URI.
    pub root: String,
    /// Data keys, as services without batches count.
    pub wraps: u64,
    pub unwraps: u64,
    /// Calls, where the service takes many data keys in one.
    pub calls: u64,
    /// Requests a second that this process keeps to; none: as many as it takes.
    pub per_second: Option<u32>,
}

impl RootCalls {
    /// What the service is asked and, if it is one that charges, charges for.
    pub fn requests(&self) -> u64 {
        self.wraps + self.unwraps
    }

    /// How long that takes at least, at the rate that this process keeps to.
    pub fn seconds(&self) -> Option<u64> {
        self.per_second.map(|rate| self.requests().div_ceil(u64::from(rate.max(1))))
    }
}

/// Options that were understood.
struct Aim<'a> {
    targets: Vec<Target<'a>>,
    /// What customers' root keys say of themselves, by their URIs: those whose layers are to be looked at.
    layers: BTreeMap<&'a str, Option<KeyDescription>>,
    from: Option<String>,
    drop: bool,
    renew: bool,
    active: Vec<&'a str>,
    untold: Vec<String>,
}

/// A root key that is to have wrapped every data key.
struct Target<'a> {
    provider: &'a Provider,
    about: Option<KeyDescription>,
}

/// What is to be done about one data key.
struct Need<'a> {
    /// Targets that are to wrap it.
    wrap: Vec<usize>,
    /// Targets that have wrapped it, and are asked whether that opens before another's wrap is dropped.
    check: Vec<usize>,
    /// URIs of root keys whose wraps go.
    drop: Vec<String>,
    /// The customer's root key that is to guard the data key's layer anew.
    layer: Option<&'a dyn KeyManagementService>,
}

impl KeyRing {
    /// Reads the catalog, and asks the key services for nothing but the newest version of each root key.
    pub(crate) async fn plan_rewrap(&self, options: &RewrapOptions) -> Result<RewrapPlan> {
        let aim = self.aim(options).await?;
        let called: Vec<&Provider> = self.roots.called().collect();
        let roots = called.iter().map(|p| RootCalls { root: p.uri().to_owned(), ..RootCalls::default() });
        let mut plan = RewrapPlan {
            ring: self.name.clone(),
            roots: roots.collect(),
            inline: self.has_key_in_every_record(),
            untold: aim.untold.clone(),
            ..RewrapPlan::default()
        };
        let mut checks = vec![0; called.len()];
        let (mut customers, mut after) = (BTreeMap::new(), options.after);
        loop {
            let page = self.catalog.keys(self.id(), after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let view = self.view().await?;
            for row in page.iter().filter(|row| row.status != KeyStatus::Destroyed) {
                plan.keys += 1;
                let Some(need) = self.need(&aim, &view, row) else { continue };
                let by = |wraps: &[Wrap]| called.iter().position(|p| wraps.iter().any(|wrap| opens(p, wrap)));
                let Some(source) = by(&aim.sources(&need, row)).or_else(|| by(&row.wraps)) else {
                    plan.closed += 1;
                    continue;
                };
                plan.to_do += 1;
                plan.wraps += need.wrap.len() as u64;
                plan.drops += need.drop.len() as u64;
                plan.roots[source].unwraps += 1;
                let at = |target: &usize| called.iter().position(|p| p.uri() == aim.targets[*target].provider.uri());
                need.wrap.iter().filter_map(at).for_each(|at| plan.roots[at].wraps += 1);
                need.wrap.iter().chain(&need.check).filter_map(at).for_each(|at| checks[at] += 1);
                if let (Some(target), Some(layer)) = (need.layer, &row.customer) {
                    plan.layers += 1;
                    customers.entry(layer.root.clone()).or_insert((0, 0)).1 += 1;
                    let (wraps, unwraps) = customers.entry(target.uri().to_string()).or_insert((0, 0));
                    (*wraps, *unwraps) = (*wraps + 1, *unwraps + 1);
                }
            }
        }
        for ((root, provider), checks) in plan.roots.iter_mut().zip(called).zip(checks) {
            let calls = |requests: u64| match takes_batches(provider.kms.uri()) {
                true => requests.div_ceil(BATCH as u64),
                false => requests,
            };
            root.calls = calls(root.unwraps) + calls(root.wraps) + calls(checks);
            root.unwraps += checks;
        }
        plan.roots.retain(|root| root.requests() > 0);
        // A customer's service is asked about one data key at a time.
        let calls =
            |(root, (wraps, unwraps))| RootCalls { root, wraps, unwraps, calls: wraps + unwraps, per_second: None };
        plan.customers = customers.into_iter().map(calls).collect();
        Ok(plan)
    }

    async fn aim(&self, options: &RewrapOptions) -> Result<Aim<'_>> {
        // So that what the operators signed a moment ago is known.
        self.look().await?;
        let view = self.view().await?;
        let active = self.roots.active();
        let from = options.from.as_deref().map(spelled);
        let to = options.to.as_deref().map(spelled);
        if let Some(from) = &from
            && options.drop
            && active.iter().any(|p| p.uri() == from)
        {
            return Err(self
                .cannot_rewrap(format!("`{from}` is still active: new data keys would be given wraps by it again"))
                .hint(format!("run `enfold keys set-root {from} retired` first, or take it out of the policy")));
        }
        let chosen: Vec<&Provider> = match &to {
            None => active.clone(),
            Some(to) => active.iter().filter(|p| p.uri() == to).copied().collect(),
        };
        let mut untold = Vec::new();
        let layers = self.layers_to_renew(&view, to.as_deref(), &mut untold).await;
        if chosen.is_empty() && layers.is_empty() {
            return Err(match to {
                Some(to) => self
                    .cannot_rewrap(format!("`{to}` is not an active root key of the ring"))
                    .hint("add it to the ring's `roots` in enfold.toml: only root keys of the policy are ever called"),
                None => self.cannot_rewrap("no root key of the ring is active".to_owned()),
            });
        }
        let mut targets = Vec::with_capacity(chosen.len());
        for provider in chosen {
            let about = described(&*provider.kms).await.map_err(|why| untold.push(why)).ok();
            targets.push(Target { provider, about });
        }
        let active = active.iter().map(|p| p.uri()).collect();
        Ok(Aim { targets, layers, from, drop: options.drop, renew: options.renew, active, untold })
    }

    /// `None` where everything is as it is to be.
    fn need<'a>(&'a self, aim: &Aim<'_>, view: &View, row: &DataKeyRow) -> Option<Need<'a>> {
        // A destroyed key has no wraps on purpose, and one that is about to be gets no new ones.
        if matches!(row.status, KeyStatus::Destroying | KeyStatus::Destroyed) || !aim.means(row) {
            return None;
        }
        let mut need = aim.need(row);
        need.layer = self.layer_to_renew(aim, view, row);
        (!need.wrap.is_empty() || !need.drop.is_empty() || need.layer.is_some()).then_some(need)
    }

    fn cannot_rewrap(&self, why: String) -> Error {
        Error::new(Code::Usage, format!("cannot rewrap the data keys of ring `{}`", self.name))
            .cause(why)
            .hint("nothing was changed")
    }
}

impl Aim<'_> {
    /// Whether it is one of the data keys that were asked for.
    fn means(&self, row: &DataKeyRow) -> bool {
        let Some(from) = &self.from else { return true };
        row.wraps.iter().any(|wrap| wrap.root == *from)
            || row.customer.as_ref().is_some_and(|layer| layer.root == *from)
    }

    /// What is to be done by our root keys.
    fn need<'n>(&self, row: &DataKeyRow) -> Need<'n> {
        let by = |root: &str| row.wraps.iter().find(|wrap| wrap.root == root);
        let is_good = |target: &Target<'_>| {
            let Some(wrap) = by(target.provider.uri()) else { return false };
            let age = target.about.as_ref().map(|about| age(target.provider.kms.uri(), about, &wrap.wrapped));
            !self.renew && age != Some(Age::Former)
        };
        let (check, wrap) = (0..self.targets.len()).partition::<Vec<_>, _>(|at| is_good(&self.targets[*at]));
        let goes = |root: &str| match &self.from {
            Some(from) => root == from,
            None => !self.active.contains(&root),
        };
        let drop: Vec<String> = match self.drop {
            true => row.wraps.iter().map(|wrap| wrap.root.clone()).filter(|root| goes(root)).collect(),
            false => Vec::new(),
        };
        let check = if drop.is_empty() { Vec::new() } else { check };
        Need { wrap, check, drop, layer: None }
    }

    /// The wraps that the data key is taken from: where some are dropped, those, so that what stays is compared with what
    /// goes.
    fn sources(&self, need: &Need<'_>, row: &DataKeyRow) -> Vec<Wrap> {
        let all = || row.wraps.iter();
        let going: Vec<_> = all().filter(|wrap| need.drop.contains(&wrap.root)).cloned().collect();
        if going.is_empty() { row.wraps.clone() } else { going }
    }
}

/// What a root key's service says of it, or why it does not.
async fn described(kms: &dyn KeyManagementService) -> std::result::Result<KeyDescription, String> {
    let about = match kms.describer() {
        Some(describer) => describer.describe().await,
        None => Err(Error::new(Code::KmsProtocol, "the service says nothing of its keys")),
    };
    about.map_err(|error| format!("`{}`: {error}", kms.uri()))
}

fn opens(provider: &Provider, wrap: &Wrap) -> bool {
    wrap.root == provider.uri() || recorded::opens(provider.kms.uri(), &wrap.root, &wrap.wrapped)
}

/// As the policy and the catalog spell it.
fn spelled(uri: &str) -> String {
    uri.parse::<KeyUri>().map_or_else(|_| uri.to_owned(), |uri| uri.to_string())
}

fn takes_batches(root: &KeyUri) -> bool {
    matches!(root.root(), RootKey::Vault(_))
}
