//! Root keys: what is known of them, a new version in their service, and rewrapping data keys under them.

use std::sync::Arc;

use enfold_core::KeyId;

use crate::catalog::{RootAbout, RootKey};
use crate::events::{CallContext, Event, EventKind};
use crate::keyring::{CustomerKey, RewrapOptions, RewrapPlan, Rewrapped};
use crate::kms::{KeyManagementService, KeyManagementServiceExt, KeyUri, RootKeyState};
use crate::state::RootState;
use crate::{Code, Enfold, Error, Result, RingEpoch};

/// A root key on record, and what rings do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootRecord {
    pub root: RootKey,
    /// The rings whose policy names it as one of theirs, by name.
    pub rings: Vec<(String, RootState)>,
    /// The tenants whose policy names it as the customer's, by ring and tenant.
    pub customers: Vec<(String, String)>,
}

impl RootRecord {
    /// Only those are ever called.
    pub fn is_in_policy(&self) -> bool {
        !self.rings.is_empty() || !self.customers.is_empty()
    }
}

/// Says that a root key has an id: by it, a record that was deleted is restored. Made and checked with the key that
/// authenticates the ring's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootProof {
    /// The ring's id.
    pub ring: String,
    pub mac: Vec<u8>,
}

impl Enfold {
    /// The root keys of the catalog, in the order of their URIs; no key service is asked.
    pub async fn root_records(&self) -> Result<Vec<RootRecord>> {
        let mut records = Vec::new();
        for root in self.0.catalog.roots().await? {
            let (mut rings, mut customers) = (Vec::new(), Vec::new());
            for ring in self.0.rings.values() {
                if ring.roots.all().iter().any(|provider| provider.uri() == root.uri) {
                    rings.push((ring.name.clone(), ring.view().await?.state.root(&root.uri)));
                }
                let names = |customer: &&CustomerKey| customer.all().any(|kms| kms.uri().as_str() == root.uri);
                let held = ring.customers().all().iter().filter(names);
                customers.extend(held.map(|customer| (ring.name.clone(), customer.tenant.clone())));
            }
            records.push(RootRecord { root, rings, customers });
        }
        records.sort_by(|a, b| a.root.uri.cmp(&b.root.uri));
        Ok(records)
    }

    /// Asks a root key's service about it, and writes down what it says; with it what operators call the root key and why it
    /// is there, where that is given. The policy must name it: nothing else is ever called.
    pub async fn register_root(
        &self,
        root: &str,
        alias: Option<&str>,
        description: Option<&str>,
        context: &CallContext,
    ) -> Result<RootKey> {
        let kms = self.named_root(root)?;
        let known = self.entered(&**kms).await?;
        let about = described(&**kms, &known.about).await?;
        let about = RootAbout {
            alias: alias.map(str::to_owned).or(about.alias).or_else(|| alias_of(kms.uri())),
            description: description.map(str::to_owned).or(about.description),
            ..about
        };
        self.0.catalog.describe_root(&known.uri, &about).await?;
        self.note(kms.uri(), "registered", context);
        Ok(RootKey { about: RootAbout { created_ms: known.about.created_ms, ..about }, ..known })
    }

    /// Asks every service again about the root keys of the policy, and writes down what they say: a result for each, by URI.
    pub async fn describe_roots(&self) -> Result<Vec<(String, Result<()>)>> {
        let mut asked = Vec::new();
        for uri in self.0.registry.uris() {
            let kms = self.0.registry.get(uri)?;
            let known = self.entered(&**kms).await?;
            let outcome = match described(&**kms, &known.about).await {
                Ok(about) => self.0.catalog.describe_root(&known.uri, &about).await,
                Err(error) => Err(error),
            };
            // A catalog that does not take it takes none.
            match outcome {
                Err(error) if error.code() == Code::CatalogVersion => return Err(error),
                outcome => asked.push((uri.to_string(), outcome)),
            }
        }
        Ok(asked)
    }

    /// Has a root key's service make a new version, which wraps from then on; what was wrapped before still opens. The data
    /// keys stay under the version that wrapped them until they are rewrapped.
    ///
    /// # Errors
    /// `Usage` where the service has no versions, as a key file has none.
    pub async fn rotate_root(&self, root: &str, context: &CallContext) -> Result<RootKey> {
        let rotated = self.new_root_version(root, context).await?;
        if self.has_operator_key() {
            let now_ms = self.0.clock.unix_ms();
            self.operator()?.note_root_rotation(&rotated.uri, now_ms).await?;
        }
        Ok(rotated)
    }

    pub(crate) async fn new_root_version(&self, root: &str, context: &CallContext) -> Result<RootKey> {
        let kms = self.named_root(root)?;
        let rotator = kms.rotator().ok_or_else(|| {
            Error::new(Code::Usage, format!("cannot rotate the root key `{}`", kms.uri()))
                .cause("its service has no versions of a key")
                .hint("make another key, put it first in the ring's `roots`, and run `enfold keys rewrap`")
                .hint("nothing was changed")
        })?;
        let known = self.entered(&**kms).await?;
        rotator.rotate().await?;
        self.note(kms.uri(), "rotated", context);
        // It is done: who may not ask about the key, or has an older catalog, learns no more, and that is no failure.
        let mut about = described(&**kms, &known.about).await.unwrap_or_else(|_| known.about.clone());
        about.rotated_ms = Some(jiff::Timestamp::now().as_millisecond());
        match self.0.catalog.describe_root(&known.uri, &about).await {
            Err(error) if error.code() != Code::CatalogVersion => return Err(error),
            _ => {}
        }
        Ok(RootKey { about, ..known })
    }

    /// Whether a root key's service can disable it.
    ///
    /// # Errors
    /// `Usage` where it cannot, as a transit engine and a key file cannot.
    pub fn can_switch_root(&self, root: &str) -> Result<()> {
        let kms = self.named_root(root)?;
        if kms.controller().is_some() {
            return Ok(());
        }
        Err(Error::new(Code::Usage, format!("cannot disable the root key `{}` in its service", kms.uri()))
            .cause("the service has no such state of a key")
            .hint("without `--at-kms` it is disabled in the rings alone: no process of theirs calls it")
            .hint("nothing was changed"))
    }

    /// Has a root key's service disable it, for everybody who uses it, or enable it again.
    ///
    /// # Errors
    /// As [`Self::can_switch_root`].
    pub async fn switch_root(&self, root: &str, enabled: bool, context: &CallContext) -> Result<()> {
        self.can_switch_root(root)?;
        let kms = self.named_root(root)?;
        if let Some(controller) = kms.controller() {
            if enabled { controller.enable().await? } else { controller.disable().await? }
        }
        self.note(kms.uri(), if enabled { "enabled in its service" } else { "disabled in its service" }, context);
        Ok(())
    }

    /// What says, outside of the catalog, that a root key has its id: one for each ring that names it.
    pub async fn prove_root(&self, root: &RootKey) -> Result<Vec<RootProof>> {
        let mut proofs = Vec::new();
        for ring in self.0.rings.values() {
            if ring.policy.root_keys().any(|named| is_spelled(named, &root.uri)) {
                let mac = ring.view().await?.rows.tag_root(ring.id(), &root.uri, root.id).to_vec();
                proofs.push(RootProof { ring: ring.id().to_owned(), mac });
            }
        }
        Ok(proofs)
    }

    /// Gives a root key whose record was deleted, or made anew with another id, its former id back. Envelopes that carry their
    /// own data key name it. What came under the other id meanwhile opens as well.
    ///
    /// # Errors
    /// `StateTampered` unless a ring of the policy that names this root key made one of the proofs.
    pub async fn restore_root(
        &self,
        root: &str,
        id: KeyId,
        about: &RootAbout,
        proofs: &[RootProof],
        context: &CallContext,
    ) -> Result<RootKey> {
        let kms = self.named_root(root)?;
        let uri = kms.uri().to_string();
        let mut proved = false;
        for ring in self.0.rings.values() {
            let view = ring.view().await?;
            let of_ring = proofs.iter().filter(|proof| proof.ring == ring.id());
            let named = ring.policy.root_keys().any(|named| is_spelled(named, &uri));
            proved |= named && of_ring.into_iter().any(|p| view.rows.is_tag_of_root(ring.id(), &uri, id, &p.mac));
        }
        if !proved {
            return Err(Error::new(
                Code::StateTampered,
                format!("the description does not belong to `{uri}` and `{id}`"),
            )
            .cause("no ring of the policy that names this root key made it")
            .hint("use what `enfold keys show URI --json` printed, of this installation, as it was")
            .hint("nothing was changed"));
        }
        let restored = self.0.catalog.restore_root(&uri, id).await?;
        let about = RootAbout {
            alias: restored.about.alias.clone().or_else(|| about.alias.clone()),
            description: restored.about.description.clone().or_else(|| about.description.clone()),
            resolved: restored.about.resolved.clone().or_else(|| about.resolved.clone()),
            rotated_ms: restored.about.rotated_ms.or(about.rotated_ms),
            ..restored.about.clone()
        };
        self.0.catalog.describe_root(&uri, &about).await?;
        for ring in self.0.rings.values() {
            ring.refresh_names().await?;
        }
        self.note(kms.uri(), "restored", context);
        Ok(RootKey { about, ..restored })
    }

    /// What a rewrap of a ring would do, and what its key services would be asked. See [`RewrapOptions`].
    pub async fn plan_rewrap(&self, ring: &str, options: &RewrapOptions) -> Result<RewrapPlan> {
        let mut plan = self.ring(ring)?.plan_rewrap(options).await?;
        for root in plan.roots.iter_mut().chain(&mut plan.customers) {
            let per_second = self.0.registry.per_second(&root.root.parse()?)?;
            root.per_second = per_second.map(std::num::NonZeroU32::get);
        }
        Ok(plan)
    }

    /// Wraps the data keys of a ring by the root keys that its policy names now, and by their newest versions; reads and
    /// writes no value. It may be run again, after it was killed or beside another: what is done is left as it is. `go_on`
    /// is asked after every few hundred data keys, and told what was done.
    pub async fn rewrap(
        &self,
        ring: &str,
        options: &RewrapOptions,
        context: &CallContext,
        go_on: &(dyn Fn(&Rewrapped) -> bool + Sync),
    ) -> Result<Rewrapped> {
        self.ring(ring)?.rewrap(options, context, go_on).await
    }

    /// Takes in what the catalog says of keys now, as this process does by itself each second for the rings' states and each
    /// half minute for the ids of root keys. A data key that is held and whose row is gone, or is not as it was made, is let
    /// go of; no other is. Gives the epoch of each ring's state.
    pub async fn refresh(&self) -> Result<Vec<RingEpoch>> {
        for ring in self.0.rings.values() {
            ring.refresh().await?;
        }
        self.epochs().await
    }

    fn named_root(&self, root: &str) -> Result<&Arc<dyn KeyManagementService>> {
        self.0.registry.get(&root.parse()?)
    }

    async fn entered(&self, kms: &dyn KeyManagementService) -> Result<RootKey> {
        let id = KeyId::random().map_err(|e| crate::core_error(e, "cannot name a root key"))?;
        self.0.catalog.ensure_root(&RootKey::new(id, kms.uri().as_str())).await
    }

    fn note(&self, root: &KeyUri, what: &str, context: &CallContext) {
        self.0.events.emit(Event::new(EventKind::RootKey, 1).detail(format!("{root}: {what}")).context(context));
    }
}

/// What the service says now, with what operators said before. A service that says nothing of its keys changes nothing.
async fn described(kms: &dyn KeyManagementService, known: &RootAbout) -> Result<RootAbout> {
    let Some(describer) = kms.describer() else { return Ok(known.clone()) };
    let told = describer.describe().await?;
    let state = match told.state {
        RootKeyState::Enabled => "enabled",
        RootKeyState::Disabled => "disabled",
        RootKeyState::PendingDeletion => "pending-deletion",
        RootKeyState::Unavailable => "unavailable",
    };
    Ok(RootAbout {
        resolved: Some(told.resolved),
        service_state: Some(state.to_owned()),
        version: told.versions.map(|versions| versions.newest),
        described_ms: Some(jiff::Timestamp::now().as_millisecond()),
        ..known.clone()
    })
}

/// An alias that is in the URI itself.
fn alias_of(uri: &KeyUri) -> Option<String> {
    let (_, behind) = uri.as_str().split_once("/alias/")?;
    behind.split('?').next().map(str::to_owned)
}

fn is_spelled(named: &str, uri: &str) -> bool {
    named.parse::<KeyUri>().is_ok_and(|named| named.as_str() == uri)
}
