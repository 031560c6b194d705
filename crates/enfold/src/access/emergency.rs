//! Access in an emergency: asked for with a reason and for a time, approved by somebody else where the policy says so, and open until a
//! third word, a review, closes it.
//!
//! Whoever can write to the database must not be able to let themselves in. So what is stored carries a MAC under the key that
//! authenticates a ring's data keys (`keyring/rows.rs`), which only processes with keys have. What was taken back can be put back as it was
//! for a process that has not seen it, until its time is over; the log has what happened either way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Grant;
use crate::catalog::StoredEmergency;
use crate::events::{CallContext, Event, EventKind};
use crate::keyring::View;
use crate::{Code, Enfold, Error, Result};
use enfold_core::KeyId;

const FORMAT: u32 = 1;
/// How often a change that lost against another is tried again.
const TRIES: u32 = 5;
/// How long somebody may take to decide.
const DECIDED_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest time that can be asked for.
const SHORTEST: Duration = Duration::from_secs(60);
/// Characters of a reason.
const LONGEST_REASON: usize = 1_000;
/// How many are listed, the newest first.
const LISTED: u32 = 200;

/// What somebody said, and when: milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// As events call them.
    pub by: String,
    pub at_ms: i64,
    pub reason: String,
}

/// For what it is asked, besides what the role's own grant says. What is `None` narrows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Within {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<BTreeSet<String>>,
}

/// A request for access in an emergency, and what came of it. In JSON of one spelling, as the access list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emergency {
    format: u32,
    pub id: String,
    /// From 1; each change adds one.
    pub revision: u64,
    pub asked: Word,
    /// Milliseconds that it is asked for.
    pub lasts_ms: i64,
    pub within: Within,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<Word>,
    /// When it was first used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewed: Option<Word>,
}

/// A request that is to be made.
#[derive(Clone, Debug)]
pub struct NewEmergency {
    pub lasts: Duration,
    pub within: Within,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// For somebody else to decide.
    Waiting,
    /// Nobody decided in time.
    Lapsed,
    Denied,
    InForce,
    /// It was in force, and waits for its review.
    Open,
    Reviewed,
}

impl Standing {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Lapsed => "lapsed",
            Self::Denied => "denied",
            Self::InForce => "in-force",
            Self::Open => "open",
            Self::Reviewed => "reviewed",
        }
    }
}

impl Emergency {
    /// `approval`: whether the policy has somebody else approve.
    pub fn standing(&self, approval: bool, now_ms: i64) -> Standing {
        if self.reviewed.is_some() {
            return Standing::Reviewed;
        }
        if self.denied.is_some() {
            return Standing::Denied;
        }
        match self.until_ms(approval) {
            Some(until) if now_ms < until && self.ended.is_none() => Standing::InForce,
            Some(_) => Standing::Open,
            None if self.ended.is_some() || now_ms >= self.decide_by_ms() => Standing::Lapsed,
            None => Standing::Waiting,
        }
    }

    /// When it is over; `None` of one that waits for an approval.
    pub fn until_ms(&self, approval: bool) -> Option<i64> {
        let began = match &self.approved {
            Some(approved) => approved.at_ms,
            None if approval => return None,
            None => self.asked.at_ms,
        };
        Some(began.saturating_add(self.lasts_ms))
    }

    /// # Errors
    /// `PermissionDenied` to anybody but who asked.
    pub fn must_be_of(&self, actor: &str) -> Result<()> {
        if actor == self.asked.by {
            return Ok(());
        }
        Err(Error::new(Code::PermissionDenied, "the emergency is somebody else's"))
    }

    fn decide_by_ms(&self) -> i64 {
        self.asked.at_ms.saturating_add(millis(DECIDED_WITHIN))
    }

    /// A grant of the role as far as it was asked for.
    pub fn narrow(&self, grant: &Grant) -> Grant {
        let both = |grant: &Option<BTreeSet<String>>, asked: &Option<BTreeSet<String>>| match (grant, asked) {
            (Some(grant), Some(asked)) => Some(grant & asked),
            (grant, asked) => grant.clone().or_else(|| asked.clone()),
        };
        Grant {
            role: grant.role,
            tenants: both(&grant.tenants, &self.within.tenants),
            classes: both(&grant.classes, &self.within.classes),
            columns: both(&grant.columns, &self.within.columns),
        }
    }

    fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|_| Error::new(Code::Internal, "cannot encode an emergency"))
    }

    fn decode(stored: &StoredEmergency) -> Option<Self> {
        let read: Self = serde_json::from_slice(&stored.document).ok()?;
        let is_whole = read.format == FORMAT && read.encode().is_ok_and(|again| again == stored.document);
        (is_whole && read.id == stored.id && read.revision == stored.revision).then_some(read)
    }
}

/// The latest revisions that this process saw: it takes no earlier ones.
#[derive(Default)]
pub(crate) struct SeenEmergencies(Mutex<BTreeMap<String, u64>>);

impl SeenEmergencies {
    /// False where a later one was seen.
    fn saw(&self, emergency: &Emergency) -> bool {
        // Nothing under this lock panics half-way through a change.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = seen.entry(emergency.id.clone()).or_default();
        *latest = emergency.revision.max(*latest);
        *latest == emergency.revision
    }
}

impl Enfold {
    /// Asks for access in an emergency. Where the policy has nobody approve, it is in force at once.
    ///
    /// # Errors
    /// `Usage` without a reason, or for longer than the policy allows.
    pub async fn ask_emergency(&self, wanted: &NewEmergency, context: &CallContext) -> Result<Emergency> {
        let longest = self.policy().service.emergency.longest;
        if !(SHORTEST..=longest).contains(&wanted.lasts) {
            return Err(Error::new(Code::Usage, "access in an emergency cannot be had for so long").cause(format!(
                "it lasts from {} to {} s",
                SHORTEST.as_secs(),
                longest.as_secs()
            )));
        }
        let emergency = Emergency {
            format: FORMAT,
            id: KeyId::random().map_err(|e| crate::core_error(e, "cannot draw an id for an emergency"))?.to_string(),
            revision: 1,
            asked: self.word(context)?,
            lasts_ms: millis(wanted.lasts),
            within: wanted.within.clone(),
            approved: None,
            denied: None,
            used_ms: None,
            ended: None,
            reviewed: None,
        };
        if !self.put(&emergency, None).await? {
            return Err(Error::new(Code::Internal, "an id that was just drawn is taken"));
        }
        self.tell(EventKind::EmergencyAsked, &emergency, context).await?;
        Ok(emergency)
    }

    /// The newest of them. One that is not as it was written is an error of its own, and hides no other.
    pub async fn emergencies(&self) -> Result<Vec<(String, Result<Emergency>)>> {
        let view = self.view_of_emergencies().await?;
        let mut listed = Vec::new();
        for stored in self.0.catalog.emergencies(LISTED).await? {
            let read = match self.verified(&view, &stored) {
                Err(error) if error.code() == Code::StateRolledBack => self.emergency(&stored.id).await,
                read => read,
            };
            listed.push((stored.id, read));
        }
        Ok(listed)
    }

    /// One of them.
    ///
    /// # Errors
    /// `StateTampered` where no process with keys wrote what is stored; `StateRolledBack` where it is as it was before a word that this
    /// process has seen.
    pub async fn emergency(&self, id: &str) -> Result<Emergency> {
        match self.read_emergency(id).await {
            // Somebody here was quicker between our question and its answer.
            Err(error) if error.code() == Code::StateRolledBack => self.read_emergency(id).await,
            read => read,
        }
    }

    async fn read_emergency(&self, id: &str) -> Result<Emergency> {
        let stored = self.0.catalog.emergency(id).await?;
        let stored = stored.ok_or_else(|| {
            // What was sent is not repeated.
            Error::new(Code::Usage, "there is no emergency of this id").hint("a list of them says which there are")
        })?;
        let view = self.view_of_emergencies().await?;
        self.verified(&view, &stored)
    }

    /// Approves a request that waits, or denies it.
    ///
    /// # Errors
    /// `PermissionDenied` to whoever asked themselves.
    pub async fn decide_emergency(&self, id: &str, approve: bool, context: &CallContext) -> Result<Emergency> {
        let kind = if approve { EventKind::EmergencyApproved } else { EventKind::EmergencyDenied };
        self.change_emergency(id, kind, context, |emergency, word, standing| {
            by_another(&emergency.asked.by, &word)?;
            is_one_of(standing, &[Standing::Waiting])?;
            *if approve { &mut emergency.approved } else { &mut emergency.denied } = Some(word);
            Ok(())
        })
        .await
    }

    /// Ends one before its time, or takes back a request: at once, wherever a service runs.
    pub async fn end_emergency(&self, id: &str, context: &CallContext) -> Result<Emergency> {
        self.change_emergency(id, EventKind::EmergencyEnded, context, end).await
    }

    /// As [`Self::end_emergency`], for whoever asked themselves.
    ///
    /// # Errors
    /// `PermissionDenied` to anybody else.
    pub async fn withdraw_emergency(&self, id: &str, context: &CallContext) -> Result<Emergency> {
        self.change_emergency(id, EventKind::EmergencyEnded, context, |emergency, word, standing| {
            emergency.must_be_of(&word.by)?;
            end(emergency, word, standing)
        })
        .await
    }

    /// Closes one that is over: somebody looked at what was done under it.
    ///
    /// # Errors
    /// `PermissionDenied` to whoever had it themselves.
    pub async fn review_emergency(&self, id: &str, context: &CallContext) -> Result<Emergency> {
        self.change_emergency(id, EventKind::EmergencyReviewed, context, |emergency, word, standing| {
            by_another(&emergency.asked.by, &word)?;
            is_one_of(standing, &[Standing::Open])?;
            emergency.reviewed = Some(word);
            Ok(())
        })
        .await
    }

    /// Has whoever asked use it, if it is in force now. Each use is an event; the first stands in the emergency itself.
    ///
    /// # Errors
    /// `PermissionDenied` to anybody else, and where it is not in force.
    pub async fn use_emergency(&self, id: &str, endpoint: &str, context: &CallContext) -> Result<Emergency> {
        for _ in 0..TRIES {
            let mut emergency = self.emergency(id).await?;
            let now_ms = self.0.clock.unix_ms();
            let is_theirs = context.actor.as_ref() == Some(&emergency.asked.by);
            if !is_theirs || self.standing_of(&emergency) != Standing::InForce {
                return Err(Error::new(Code::PermissionDenied, "the emergency gives the caller no access now")
                    .hint("it has to be the caller's own, approved where the policy says so, and not over"));
            }
            if emergency.used_ms.is_none() {
                let seen = emergency.revision;
                (emergency.used_ms, emergency.revision) = (Some(now_ms), seen + 1);
                if !self.put(&emergency, Some(seen)).await? {
                    continue;
                }
            }
            let context = CallContext { reason: Some(emergency.asked.reason.clone()), ..context.clone() };
            let event = Event::new(EventKind::EmergencyUsed, 1).endpoint(endpoint.to_owned());
            self.log(event.context(&CallContext { emergency: Some(id.to_owned()), ..context }));
            self.0.events.before_answer().await?;
            return Ok(emergency);
        }
        Err(taken())
    }

    /// How one stands by this policy and now.
    pub fn standing_of(&self, emergency: &Emergency) -> Standing {
        emergency.standing(self.policy().service.emergency.approval, self.0.clock.unix_ms())
    }

    async fn change_emergency(
        &self,
        id: &str,
        kind: EventKind,
        context: &CallContext,
        change: impl Fn(&mut Emergency, Word, Standing) -> Result<()>,
    ) -> Result<Emergency> {
        for _ in 0..TRIES {
            let mut emergency = self.emergency(id).await?;
            let (seen, standing) = (emergency.revision, self.standing_of(&emergency));
            change(&mut emergency, self.word(context)?, standing)?;
            emergency.revision = seen + 1;
            if self.put(&emergency, Some(seen)).await? {
                self.tell(kind, &emergency, context).await?;
                return Ok(emergency);
            }
        }
        Err(taken())
    }

    /// Who says it, and why.
    fn word(&self, context: &CallContext) -> Result<Word> {
        let reason = context.reason.as_deref().unwrap_or_default().trim();
        let (Some(by), 1..=LONGEST_REASON) = (&context.actor, reason.chars().count()) else {
            return Err(Error::new(Code::Usage, "a word on an emergency says who and why")
                .cause(format!("the reason has from 1 to {LONGEST_REASON} characters")));
        };
        Ok(Word { by: by.clone(), at_ms: self.0.clock.unix_ms(), reason: reason.to_owned() })
    }

    async fn tell(&self, kind: EventKind, emergency: &Emergency, context: &CallContext) -> Result<()> {
        let context = CallContext { emergency: Some(emergency.id.clone()), ..context.clone() };
        self.log(Event::new(kind, 1).detail(format!("asked by {}", emergency.asked.by)).context(&context));
        self.0.events.before_answer().await
    }

    async fn put(&self, emergency: &Emergency, expected: Option<u64>) -> Result<bool> {
        let document = emergency.encode()?;
        let mac = self.view_of_emergencies().await?.rows.tag_emergency(&emergency.id, &document).to_vec();
        let (id, revision, at_ms) = (emergency.id.clone(), emergency.revision, emergency.asked.at_ms);
        let stored = StoredEmergency { id, revision, at_ms, document, mac };
        let is_put = self.0.catalog.put_emergency(&stored, expected).await?;
        if is_put {
            self.0.emergencies.saw(emergency);
        }
        Ok(is_put)
    }

    fn verified(&self, view: &View, stored: &StoredEmergency) -> Result<Emergency> {
        let is_ours = view.rows.is_tag_of_emergency(&stored.id, &stored.document, &stored.mac);
        let emergency = is_ours.then(|| Emergency::decode(stored)).flatten().ok_or_else(|| {
            Error::new(Code::StateTampered, "an emergency in the catalog was changed by hand")
                .hint("find out who changed the catalog; the log of events has what was asked and decided")
        })?;
        if self.0.emergencies.saw(&emergency) {
            return Ok(emergency);
        }
        Err(Error::new(Code::StateRolledBack, "an emergency in the catalog is as it was before")
            .cause("this process has seen a later word on it")
            .hint("an old backup was restored, or somebody put an old row back"))
    }

    /// The first ring's, whose key for rows makes the MACs.
    async fn view_of_emergencies(&self) -> Result<std::sync::Arc<View>> {
        let ring = self.0.rings.values().next();
        ring.ok_or_else(|| Error::new(Code::Internal, "the policy has no ring"))?.view().await
    }
}

fn end(emergency: &mut Emergency, word: Word, standing: Standing) -> Result<()> {
    is_one_of(standing, &[Standing::Waiting, Standing::InForce])?;
    emergency.ended = Some(word);
    Ok(())
}

fn by_another(asked_by: &str, word: &Word) -> Result<()> {
    if word.by != asked_by {
        return Ok(());
    }
    Err(Error::new(Code::PermissionDenied, "nobody approves or reviews an emergency of their own")
        .hint("it is for somebody else"))
}

fn is_one_of(standing: Standing, wanted: &[Standing]) -> Result<()> {
    if wanted.contains(&standing) {
        return Ok(());
    }
    Err(Error::new(Code::Usage, format!("the emergency is `{}`, and this is not for one that is", standing.word()))
        .hint("nothing was changed"))
}

fn taken() -> Error {
    Error::new(Code::Busy, "others keep changing the emergency").hint("try again")
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
