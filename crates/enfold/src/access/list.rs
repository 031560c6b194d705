//! The access list: which service keys there are, and what each may do. Signed by the operators.
//!
//! Whoever can write to the database must not be able to let themselves in, nor back in. So the list is one document with an
//! epoch, signed like a ring's state: an entry of somebody else's is refused with the whole list, and a running service that has
//! seen a key revoked takes no list of before. To a service that starts anew an old list can be shown, as an old ring state can.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::{Grant, Role, ServiceKeySecret, ShownKey};
use crate::catalog::SignedAccess;
use crate::events::{Event, EventKind};
use crate::operator::Operator;
use crate::{CallContext, Code, Enfold, Error, Result};

const DOMAIN: &[u8] = b"enfold/v1 access list\0";
const FORMAT: u32 = 1;
/// How often a change that lost against another is tried again.
const TRIES: u32 = 5;
/// So that the list stays small: it is read as a whole.
const MOST_KEYS: usize = 10_000;

/// The document. In JSON of one spelling, as ring states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessList {
    format: u32,
    /// From 1; each change adds one. Zero: nobody was ever let in.
    pub epoch: u64,
    /// By id.
    pub keys: BTreeMap<String, ServiceKey>,
}

/// What is known of a service key, its secret aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceKey {
    /// What events call whoever holds it.
    pub name: String,
    /// SHA-256 of the secret, in hexadecimal digits.
    hash: String,
    pub grants: Vec<Grant>,
    /// Milliseconds since 1970, as all that follow.
    pub created_ms: i64,
    /// From this moment on it lets nobody in.
    pub expires_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<i64>,
}

/// A service key that is to be made.
pub struct NewServiceKey {
    pub name: String,
    pub grants: Vec<Grant>,
    pub expires_ms: i64,
    /// Whether keys of the same name that are there are revoked in the same change.
    pub instead: bool,
}

impl AccessList {
    fn empty() -> Self {
        Self { format: FORMAT, epoch: 0, keys: BTreeMap::new() }
    }

    /// Whose service key this is, if it is one that lets in now.
    pub fn holder(&self, shown: &ShownKey<'_>, now_ms: i64) -> Option<&ServiceKey> {
        self.keys.get(shown.id()).filter(|key| shown.is_of(&key.hash) && key.lets_in(now_ms))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|_| Error::new(Code::Internal, "cannot encode the access list"))
    }

    fn decode(document: &[u8]) -> Option<Self> {
        let list: Self = serde_json::from_slice(document).ok()?;
        (list.format == FORMAT && list.encode().is_ok_and(|again| again == document)).then_some(list)
    }

    /// Reads a list that `trusted` signed, no older than `least`.
    fn verify(stored: Option<&SignedAccess>, trusted: &[u8; 32], least: u64) -> Result<Self> {
        let list = match stored {
            None => Self::empty(),
            Some(stored) => {
                let tampered = |why: &str| {
                    Error::new(Code::StateTampered, "the access list is not one that the operators signed")
                        .cause(why.to_owned())
                        .hint("find out who changed the catalog; delete the list and make service keys anew")
                };
                UnparsedPublicKey::new(&ED25519, trusted)
                    .verify(&signed_bytes(&stored.document), &stored.signature)
                    .map_err(|_| tampered("its signature is not by the operators' key that is trusted here"))?;
                Self::decode(&stored.document)
                    .ok_or_else(|| tampered("it is signed, and not in the form that this program knows"))?
            }
        };
        if list.epoch < least {
            return Err(Error::new(Code::StateRolledBack, "the access list is an older one")
                .cause(format!("it has epoch {}, and {least} was seen", list.epoch))
                .hint("an old backup was restored, or somebody put an old list back: publish a newer one"));
        }
        Ok(list)
    }
}

impl ServiceKey {
    pub fn lets_in(&self, now_ms: i64) -> bool {
        self.revoked_ms.is_none() && now_ms < self.expires_ms
    }

    /// Returns it as it was.
    fn revoke(&mut self, now_ms: i64) -> Self {
        let former = self.clone();
        self.revoked_ms = former.revoked_ms.or(Some(now_ms));
        former
    }
}

impl Enfold {
    /// The access list as it is now, if it is none of an epoch before `least`. Empty where there never was one.
    ///
    /// # Errors
    /// `StateTampered` where the operators did not sign it, `StateRolledBack` where it is an older one.
    pub async fn access_list(&self, least: u64) -> Result<AccessList> {
        let stored = self.0.catalog.access_list().await?;
        AccessList::verify(stored.as_ref(), &self.0.trusted.operator_key, least)
    }
}

impl Operator {
    /// Makes a service key. The secret is not to be had a second time.
    pub async fn make_service_key(
        &self,
        wanted: &NewServiceKey,
        context: &CallContext,
    ) -> Result<(String, ServiceKeySecret)> {
        if wanted.grants.iter().any(|grant| grant.role == Role::Emergency) {
            return Err(Error::new(Code::Usage, "no service key has the role `emergency`")
                .hint("it is for people, by the claims of their tokens: `service.issuers`"));
        }
        let secret = ServiceKeySecret::draw()?;
        let hash = secret.hash()?;
        let id = secret.id().to_owned();
        let mut replaced = Vec::new();
        self.change_access(|list, now_ms| {
            let is_replaced = |key: &ServiceKey| wanted.instead && key.name == wanted.name && key.revoked_ms.is_none();
            let former = list.keys.iter_mut().filter(|(_, key)| is_replaced(key));
            replaced = former.map(|(id, key)| (id.clone(), key.revoke(now_ms))).collect();
            let key = ServiceKey {
                name: wanted.name.clone(),
                hash: hash.clone(),
                grants: wanted.grants.clone(),
                created_ms: now_ms,
                expires_ms: wanted.expires_ms,
                created_by: context.actor.clone(),
                revoked_ms: None,
            };
            list.keys.insert(id.clone(), key);
            if list.keys.len() > MOST_KEYS {
                return Err(Error::new(Code::Usage, format!("there are {MOST_KEYS} service keys already"))
                    .hint("revoke those that nobody uses: `enfold service-keys list`"));
            }
            Ok(())
        })
        .await?;
        let mut roles: Vec<&str> = wanted.grants.iter().map(|grant| grant.role.word()).collect();
        roles.dedup();
        let says = format!("`{}` (service key {id}), as {}", wanted.name, roles.join(", "));
        self.enfold.log(Event::new(EventKind::ServiceKeyMade, 1).detail(says).context(context));
        replaced.iter().for_each(|(id, former)| self.log_revoked(id, former, context));
        Ok((id, secret))
    }

    /// Has a service key let nobody in, within a second wherever a service runs. Returns it as it was.
    pub async fn revoke_service_key(&self, id: &str, context: &CallContext) -> Result<ServiceKey> {
        let mut former = None;
        self.change_access(|list, now_ms| {
            let key = list.keys.get_mut(id).ok_or_else(|| {
                Error::new(Code::Usage, format!("there is no service key `{id}`"))
                    .hint("`enfold service-keys list` says which there are")
                    .hint("nothing was changed")
            })?;
            former = Some(key.revoke(now_ms));
            Ok(())
        })
        .await?;
        let former = former.ok_or_else(|| Error::new(Code::Internal, "a service key was revoked and is not known"))?;
        self.log_revoked(id, &former, context);
        Ok(former)
    }

    fn log_revoked(&self, id: &str, former: &ServiceKey, context: &CallContext) {
        if former.revoked_ms.is_some() {
            return;
        }
        let says = format!("`{}` (service key {id})", former.name);
        self.enfold.log(Event::new(EventKind::ServiceKeyRevoked, 1).detail(says).context(context));
    }

    /// Changes the list as it is now, signs it and puts it in its place; again, if somebody else was quicker.
    async fn change_access(&self, mut change: impl FnMut(&mut AccessList, i64) -> Result<()>) -> Result<()> {
        for _ in 0..TRIES {
            let known = self.enfold.access_list(0).await?;
            let mut list = known.clone();
            let now_ms = self.enfold.0.clock.unix_ms();
            // What has expired lets nobody in whether it stands there or not.
            list.keys.retain(|_, key| now_ms < key.expires_ms);
            change(&mut list, now_ms)?;
            list.epoch = known.epoch + 1;
            let document = list.encode()?;
            let signature = self.sign_bytes(&signed_bytes(&document));
            let signed = SignedAccess { epoch: list.epoch, document, signature };
            let expected = (known.epoch > 0).then_some(known.epoch);
            if self.enfold.0.catalog.publish_access_list(&signed, expected).await? {
                return Ok(());
            }
        }
        Err(Error::new(Code::Busy, "others keep changing the access list").hint("run the command again"))
    }
}

fn signed_bytes(document: &[u8]) -> Vec<u8> {
    [DOMAIN, document].concat()
}
