//! The kinds of events: one table, of which the words in the log, their reading, and `docs/reference/events.md` are made.

use std::fmt;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Event;

/// How what an event tells of went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Success,
    /// It could not be done, or was found broken.
    Failure,
    /// Who asked may not.
    Denied,
}

/// Whether an event has a field.
type IsSet = fn(&Event) -> bool;

/// Fields that only some kinds of events have. What is not here may stand in any event.
const OF_SOME: [(&str, IsSet); 7] = [
    ("ring", |event| event.ring.is_some()),
    ("column", |event| event.column.is_some()),
    ("key", |event| event.key.is_some()),
    ("key_version", |event| event.key_version.is_some()),
    ("job", |event| event.job.is_some()),
    ("endpoint", |event| event.endpoint.is_some()),
    ("restored", |event| event.restored.is_some()),
];

/// What a value, a data key, and everything that can be refused has.
const VALUES: &[&str] = &["ring", "column", "key", "key_version"];
const DATA_KEY: &[&str] = &["ring", "key", "key_version"];
const REFUSAL: &[&str] = &["ring", "column"];
const ENDPOINT: &[&str] = &["endpoint"];
const RING: &[&str] = &["ring"];
const JOB: &[&str] = &["job"];
const RESTORED: &[&str] = &["restored"];
const ASKED: &[&str] = &["ring", "column", "endpoint"];
const NONE: &[&str] = &[];

/// `/// says`, the name, the word in the log, how it went, which fields it has besides those of all, and what others call it.
macro_rules! kinds {
    ($($(#[doc = $says:literal])+ $kind:ident $word:literal $outcome:ident $has:ident [$($name:literal),*];)+) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind { $($(#[doc = $says])+ $kind),+ }

        impl EventKind {
            /// In the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// The word that stands in the log.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $word),+ }
            }

            /// How it went, unless the event itself says otherwise.
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$kind => Outcome::$outcome),+ }
            }

            /// What it means, in the words of the reference.
            pub const fn says(self) -> &'static str {
                match self { $(Self::$kind => concat!($($says),+)),+ }
            }

            /// Which fields it can have besides those that any event can.
            pub const fn has(self) -> &'static [&'static str] {
                match self { $(Self::$kind => $has),+ }
            }

            /// What other products call it.
            pub const fn elsewhere(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($name),*]),+ }
            }
        }
    };
}

kinds! {
    /// Values were sealed.
    Seal "seal" Success VALUES ["encryption_performed", "crypto.encrypt"];
    /// Values were opened.
    Open "open" Success VALUES ["decryption_performed", "crypto.decrypt"];
    /// Values could not be sealed, or were not to be.
    SealFailed "seal-failed" Failure REFUSAL ["encryption_failed"];
    /// Values did not open, or were not to be opened.
    OpenFailed "open-failed" Failure REFUSAL ["decryption_failed"];
    /// A data key was made and stored.
    KeyMade "key-made" Success DATA_KEY ["key_generated"];
    /// A data key was unwrapped: a key service was asked.
    KeyUsed "key-used" Success DATA_KEY ["key_accessed"];
    /// Look-ups in a process's cache of data keys that found what they looked for, summed by the minute.
    CacheHit "cache-hit" Success RING ["key_cache_hit"];
    /// Look-ups that found nothing there, so that the catalog and a key service were asked, summed by the minute.
    CacheMiss "cache-miss" Success RING ["key_cache_miss"];
    /// Data keys are to be rotated; `count` says of how many scopes.
    RotationStarted "rotation-started" Success RING ["KEY_ROTATION_INITIATED"];
    /// A new version of a data key seals from now on.
    KeyRotated "key-rotated" Success DATA_KEY ["KEY_ROTATION_COMPLETED", "key_rotated"];
    /// A rotation was given up, and former data keys seal as before.
    RotationFailed "rotation-failed" Failure RING ["KEY_ROTATION_FAILED"];
    /// A data key seals no more: a later version does.
    KeyRetired "key-retired" Success DATA_KEY [];
    /// A data key was disabled: it neither seals nor opens.
    KeyDisabled "key-disabled" Success DATA_KEY [];
    /// It was enabled again.
    KeyEnabled "key-enabled" Success DATA_KEY [];
    /// Data keys were given other wraps; `count` says how many.
    KeysRewrapped "keys-rewrapped" Success RING [];
    /// A root key was registered, rotated, retired, disabled, taken back or restored; `detail` says which and what.
    RootKey "root-key" Success RING [];
    /// A root key or a ring was tried with a throw-away key or value; `detail` says which.
    HealthCheck "health-check" Success RING ["KEY_HEALTH_CHECK"];
    /// The rules of a blind index were signed, or a generation of it was begun, took over or was given up; `detail` says which
    /// and what.
    Index "index" Success RING [];
    /// Values under versions below one do not open any more; `detail` says which scope and version.
    MinimumSet "minimum-set" Success RING [];
    /// Data keys are to be destroyed, and do nothing meanwhile; `detail` says whose.
    DestructionAnnounced "destruction-announced" Success RING [];
    /// That was taken back.
    DestructionCancelled "destruction-cancelled" Success RING [];
    /// They were destroyed.
    KeysDestroyed "keys-destroyed" Success RING [];
    /// A process began to work on a job, or went on with one; `detail` says what for.
    JobStarted "job-started" Success JOB ["RE_ENCRYPTION_STARTED"];
    /// A job came to its end; `count` says how many rows it changed, `detail` how many it could not.
    JobCompleted "job-completed" Success JOB ["RE_ENCRYPTION_COMPLETED"];
    /// A job stopped at what does not pass by itself.
    JobFailed "job-failed" Failure JOB ["RE_ENCRYPTION_FAILED"];
    /// Rows were deleted by a rule of the policy; `count` says how many, `detail` which.
    RowsPruned "rows-pruned" Success JOB [];
    /// A restored backup was opened with the keys that were restored with it; `count` says how many rows were read.
    RestoreTested "restore-tested" Success RESTORED [];
    /// Access in an emergency was asked for; `reason` says why.
    EmergencyAsked "emergency-asked" Success NONE [];
    /// Somebody else approved it.
    EmergencyApproved "emergency-approved" Success NONE [];
    /// Somebody else denied it.
    EmergencyDenied "emergency-denied" Denied NONE [];
    /// A request was let in by it; `endpoint` says to what. Events of what the request did carry its `emergency`.
    EmergencyUsed "emergency-used" Success ENDPOINT ["EMERGENCY_KEY_ACCESS"];
    /// It was ended before its time, or the request was taken back.
    EmergencyEnded "emergency-ended" Success NONE [];
    /// Somebody else looked at what was done under it, and closed it.
    EmergencyReviewed "emergency-reviewed" Success NONE [];
    /// Somebody asked who may not: of this service, or of a key service. What the service refuses is summed by the minute.
    Denied "denied" Denied ASKED ["KEY_ACCESS_DENIED"];
    /// Something else was refused; `code` says why.
    Refused "refused" Failure ASKED [];
    /// A service key was made; `detail` says for whom, and what it may do.
    ServiceKeyMade "service-key-made" Success NONE [];
    /// A service key lets nobody in any more; `detail` says whose it was.
    ServiceKeyRevoked "service-key-revoked" Success NONE [];
    /// A writer's chain does not hold together in the catalog; `detail` says whose, and where.
    LogBroken "log-broken" Failure NONE [];
    /// What was kept for as long as the policy says was taken out of the log; `count` says how many entries, `detail` until when.
    LogCut "log-cut" Success NONE [];
    /// Events were lost because sinks could not keep up; `count` says how many.
    Lost "lost" Failure NONE [];
    /// Events did not reach a receiver outside (`events.sinks`), and will not; `count` says how many, `detail` which receiver.
    Undelivered "undelivered" Failure NONE [];
}

impl EventKind {
    /// From the word in the log.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }

    /// The first field of an event that its kind has not: the reference would not know of it.
    pub(super) fn stray(event: &Event) -> Option<&'static str> {
        let has = event.kind.has();
        OF_SOME.into_iter().find(|(field, is_set)| is_set(event) && !has.contains(field)).map(|(field, _)| field)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Self::parse(&word).ok_or_else(|| D::Error::custom("no kind of event"))
    }
}

#[cfg(test)]
mod tests;
