//! Weighs a claim against values, and picks the class.

use crate::Evidence;
use crate::classes::Class;
use crate::detect::{DETECTORS, Detector, contains_personal};
use crate::words::{Claim, Strength};

pub(crate) struct Scored {
    pub(crate) class: Class,
    pub(crate) confidence: u8,
    pub(crate) evidence: Evidence,
}

/// The best class for a column, or none.
pub(crate) fn best(claim: &Claim, sql_type: &str, primary_key: bool, values: &[&str]) -> Option<Scored> {
    let kind = Kind::of(sql_type);
    let mut best: Option<Scored> = None;
    for detector in DETECTORS.iter().filter(|d| kind.may_hold(d.class)) {
        // A key made of numbers is a key, even when some of them pass a checksum.
        if primary_key && kind == Kind::Number {
            continue;
        }
        let Some(scored) = score(detector, claim, kind, values) else { continue };
        // Strictly greater: the earlier detector is the more specific one.
        if best.as_ref().is_none_or(|b| scored.confidence > b.confidence) {
            best = Some(scored);
        }
    }
    best
}

fn score(detector: &Detector, claim: &Claim, kind: Kind, values: &[&str]) -> Option<Scored> {
    let class = detector.class;
    let claimed = claim.claims(class);
    let matched = values.iter().filter(|v| (detector.matches)(v, claimed.is_some())).count();
    // Free text is also told by what is in it.
    let embedded = if class == Class::FreeText && kind == Kind::Text {
        values.iter().filter(|v| v.split_whitespace().count() >= 3 && contains_personal(v)).count()
    } else {
        0
    };
    let share = if values.is_empty() { None } else { Some(matched as f32 / values.len() as f32) };
    let strength = claimed.as_ref().map(|(_, s)| *s);
    let mut confidence = match (strength, share) {
        // Nothing to look at: the claim stands alone.
        (Some(Strength::Strong), None) => 70,
        (Some(Strength::Weak), None) => 50,
        (None, None) => 0,
        (Some(strength), Some(share)) => with_claim(strength, share, kind, class),
        (None, Some(share)) => without_claim(detector, share, values.len()),
    };
    if class == Class::FreeText && embedded > 0 {
        confidence = confidence.max(if embedded * 20 >= values.len() { 85 } else { 65 });
    }
    // A kind of its own for addresses on the Internet decides without values.
    if class == Class::IpAddress && kind == Kind::Inet {
        confidence = confidence.max(80);
    }
    (confidence > 0).then(|| Scored {
        class,
        confidence,
        evidence: Evidence {
            sampled: count(values.len()),
            matched: count(matched.max(embedded)),
            named: claimed.map(|(word, _)| word),
        },
    })
}

/// A claim that the values bear out is as good as certain; one that they contradict is nothing.
fn with_claim(strength: Strength, share: f32, kind: Kind, class: Class) -> u8 {
    if kind == Kind::Date && class == Class::BirthDate {
        return 95;
    }
    match (strength, share) {
        (_, s) if s < 0.1 => 0,
        (Strength::Strong, s) if s >= 0.6 => 95,
        (Strength::Strong, s) if s >= 0.3 => 80,
        (Strength::Strong, _) => 60,
        // A country or a description is only as telling as its table; see `classify` for the first.
        (Strength::Weak, s) if s >= 0.6 => match class {
            Class::FreeText => 40,
            Class::Locality => 65,
            _ => 80,
        },
        (Strength::Weak, s) if s >= 0.3 => 45,
        (Strength::Weak, _) => 0,
    }
}

fn without_claim(detector: &Detector, share: f32, sampled: usize) -> u8 {
    match detector.alone {
        Some(needed) if sampled >= detector.at_least && share >= needed => {
            if share >= 0.95 {
                90
            } else {
                75
            }
        }
        // Some of them: a column that holds several things, of which this is one.
        Some(needed) if sampled >= detector.at_least && share >= needed / 3.0 => 55,
        _ => 0,
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// What a column's type can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Number,
    Date,
    Inet,
    /// Bytes, booleans, uuids, arrays, geometry: nothing here reads them.
    Other,
}

impl Kind {
    fn of(sql_type: &str) -> Self {
        let t = sql_type.to_ascii_lowercase();
        let any = |words: &[&str]| words.iter().any(|w| t.contains(w));
        if any(&["[]", "bool", "uuid", "bytea", "blob", "interval", "point"]) {
            Kind::Other
        } else if any(&["inet", "cidr"]) {
            Kind::Inet
        } else if any(&["date", "time"]) {
            Kind::Date
        } else if any(&["char", "text", "clob", "json", "string", "enum"]) || t.is_empty() {
            Kind::Text
        } else if any(&["int", "serial", "numeric", "decimal", "real", "double", "float", "number"]) {
            Kind::Number
        } else {
            // Domains and extension types: their values tell.
            Kind::Text
        }
    }

    fn may_hold(self, class: Class) -> bool {
        match self {
            Kind::Text => true,
            Kind::Number => {
                matches!(
                    class,
                    Class::Phone | Class::NationalId | Class::CardNumber | Class::Credential | Class::Locality
                )
            }
            Kind::Date => class == Class::BirthDate,
            Kind::Inet => class == Class::IpAddress,
            Kind::Other => false,
        }
    }
}
