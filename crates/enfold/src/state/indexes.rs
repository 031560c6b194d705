//! What is signed of a blind index: by which rules its values are made, and which generation is to take over.

use enfold_core::index::{IndexSpec, Normaliser};
use serde::{Deserialize, Serialize};

use crate::{Code, Error, Result};

/// A blind index whose rules were signed: what a policy says of them later holds from the next rotation on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexState {
    /// The generation in the index's column.
    pub now: IndexRules,
    /// The one that is to take over: writers store both, and lookups match either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<IndexRules>,
    /// The latest that ever was. A number is never given twice: its key outlives a rotation that was given up.
    pub latest: u16,
}

/// What makes a generation's values, besides its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexRules {
    pub generation: u16,
    #[serde(with = "steps")]
    pub normalise: Vec<Normaliser>,
    pub bits: u16,
    pub cross_tenant: bool,
}

impl IndexState {
    /// With the rules of a policy, before anything was rotated.
    pub fn first(spec: &IndexSpec) -> Self {
        Self { now: IndexRules::of(spec, 1), next: None, latest: 1 }
    }

    /// A new generation by the rules of a policy is to take over. One that is on its way already stays.
    pub(crate) fn begin(&mut self, spec: &IndexSpec) -> Result<()> {
        if self.next.is_none() {
            let used_up = || Error::new(Code::Internal, "the generations of a blind index are used up");
            self.latest = self.latest.checked_add(1).ok_or_else(used_up)?;
            self.next = Some(IndexRules::of(spec, self.latest));
        }
        Ok(())
    }

    /// This generation takes over, if it is the one that was to.
    pub(crate) fn cut(&mut self, generation: u16) {
        if let Some(next) = self.next.take_if(|next| next.generation == generation) {
            self.now = next;
        }
    }

    /// This generation does not take over after all.
    pub(crate) fn give_up(&mut self, generation: u16) {
        self.next.take_if(|next| next.generation == generation);
    }
}

impl IndexRules {
    fn of(spec: &IndexSpec, generation: u16) -> Self {
        let IndexSpec { normalise, bits, cross_tenant, .. } = spec;
        Self { generation, normalise: normalise.clone(), bits: *bits, cross_tenant: *cross_tenant }
    }

    /// An index of the policy, by these rules.
    pub(crate) fn spec(&self, policy: &IndexSpec) -> IndexSpec {
        IndexSpec {
            normalise: self.normalise.clone(),
            bits: self.bits,
            cross_tenant: self.cross_tenant,
            generation: self.generation,
            ..policy.clone()
        }
    }

    /// Whether a policy says the same.
    pub(crate) fn is(&self, policy: &IndexSpec) -> bool {
        *self == Self::of(policy, self.generation)
    }
}

/// Normalisers as the policy spells them.
mod steps {
    use enfold_core::index::Normaliser;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::policy::{format_normaliser, parse_normaliser};

    pub(super) fn serialize<S: Serializer>(steps: &[Normaliser], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(steps.iter().map(|step| format_normaliser(*step)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Normaliser>, D::Error> {
        let steps = Vec::<String>::deserialize(deserializer)?;
        steps.iter().map(|step| parse_normaliser(step).map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(normalise: Vec<Normaliser>) -> IndexSpec {
        IndexSpec {
            ring_id: "r1".into(),
            column_ids: vec!["u1".into()],
            name: "eq".into(),
            normalise,
            bits: 256,
            unique: true,
            cross_tenant: false,
            generation: 1,
        }
    }

    #[test]
    fn the_number_of_a_generation_that_was_given_up_is_not_given_again() {
        let (old, new) = (policy(vec![]), policy(vec![Normaliser::Trim, Normaliser::LastN(4)]));
        let mut state = IndexState::first(&old);
        state.begin(&new).unwrap();
        state.begin(&old).unwrap();
        assert_eq!(state.next.as_ref().map(|next| next.generation), Some(2), "one is on its way");
        assert!(state.next.as_ref().is_some_and(|next| next.is(&new)));
        state.give_up(2);
        assert_eq!((state.now.generation, &state.next), (1, &None));
        state.begin(&new).unwrap();
        state.cut(2);
        assert_eq!(state.now.generation, 1, "another one was to take over");
        state.cut(3);
        assert_eq!((state.now.generation, &state.next, state.latest), (3, &None, 3));
        state.latest = u16::MAX;
        assert_eq!(state.begin(&new).unwrap_err().code(), Code::Internal);
    }

    #[test]
    fn rules_are_spelled_as_the_policy_spells_them() {
        let state = IndexState::first(&policy(vec![Normaliser::Trim, Normaliser::LastN(4)]));
        let text = serde_json::to_string(&state).unwrap();
        let spelled =
            r#"{"now":{"generation":1,"normalise":["trim","last:4"],"bits":256,"cross_tenant":false},"latest":1}"#;
        assert_eq!(text, spelled);
        assert_eq!(serde_json::from_str::<IndexState>(&text).unwrap(), state);
        assert!(serde_json::from_str::<IndexState>(&text.replace("trim", "trimm")).is_err());
    }
}
