//! Which reader of another product's format takes a column's values for its own: by stored form, so without keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use enfold::policy::{Policy, TablePolicy};
use enfold_core::Form;
use enfold_core::readers::{Companion, Foreign, Format};
use serde::{Deserialize, Serialize};

use crate::model::Storage;

/// The readers of one column, in the order in which they are tried.
#[derive(Clone)]
pub struct Recogniser {
    form: Form,
    /// What stands beside its values.
    companions: Vec<Companion>,
    readers: Vec<(String, Arc<dyn Format>)>,
}

/// What the values of a column are that are no envelopes, of those that were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recognised {
    /// By the reader that is the first to recognise a value.
    pub by_reader: BTreeMap<String, u64>,
    /// What no reader recognises.
    pub plaintext: u64,
}

impl Recogniser {
    /// None where the policy names no readers for the column.
    pub fn of(policy: &Policy, table: &TablePolicy, column: &str, storage: Storage) -> Option<Self> {
        let column = table.columns.get(column)?;
        let reader = |name: &String| Some((name.clone(), Arc::clone(&policy.readers.get(name)?.format)));
        let readers: Vec<_> = column.reads.iter().filter_map(reader).collect();
        let companions = column.companions.keys().copied().collect();
        (!readers.is_empty()).then_some(Self { form: storage.form(), companions, readers })
    }

    /// With one of its readers alone: what it recognises counts, whichever other would be tried first.
    pub fn only(mut self, reader: &str) -> Self {
        self.readers.retain(|(name, _)| name == reader);
        self
    }

    /// Counts a value that is no envelope. `beside`: what its companions hold, in the order of the target's.
    pub fn count(&self, stored: &[u8], beside: &[Option<&[u8]>], into: &mut Recognised) {
        let held = self.companions.iter().zip(beside);
        let beside: Vec<_> = held.filter_map(|(companion, held)| Some((*companion, (*held)?))).collect();
        let value = Foreign::new(self.form, stored, &beside);
        match self.readers.iter().find(|(_, format)| format.recognises(&value)) {
            Some((name, _)) => *into.by_reader.entry(name.clone()).or_default() += 1,
            None => into.plaintext += 1,
        }
    }
}

impl Recognised {
    /// How many were looked at.
    pub fn looked_at(&self) -> u64 {
        self.plaintext + self.by_reader.values().sum::<u64>()
    }
}
