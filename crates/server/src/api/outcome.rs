//! What became of each item of a batch.

use std::collections::BTreeMap;

use enfold::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

use super::edge::Call;
use super::error::ErrorBody;
use crate::Shared;
use crate::identity::Caller;

/// A result for each item, in their order.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Results<T> {
    pub(super) items: Vec<ItemResult<T>>,
}

/// Items that are done together, each with its place in the request.
pub(super) type Group<T> = (Vec<usize>, Vec<T>);

#[derive(Serialize, JsonSchema)]
pub(super) struct ItemResult<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(flatten)]
    outcome: Outcome<T>,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Outcome<T> {
    Done(T),
    Failed { error: ErrorBody },
}

impl<T> ItemResult<T> {
    pub(super) fn of(reference: Option<String>, outcome: Option<Result<T>>) -> Self {
        let nothing = || Err(Error::new(Code::Internal, "an item had no result"));
        let outcome = match outcome.unwrap_or_else(nothing) {
            Ok(done) => Outcome::Done(done),
            Err(error) => Outcome::Failed { error: ErrorBody::of(&error) },
        };
        Self { reference, outcome }
    }
}

/// Puts items that the caller may not have done into the log, by what they are of.
pub(super) fn note_refusals<'a, T: 'a>(
    shared: &Shared,
    caller: &Caller,
    call: &Call,
    outcomes: impl Iterator<Item = (&'a str, &'a Option<Result<T>>)>,
) {
    let mut denied: BTreeMap<&str, (&Error, u64)> = BTreeMap::new();
    for (of, outcome) in outcomes {
        if let Some(Err(error)) = outcome
            && error.code() == Code::PermissionDenied
        {
            denied.entry(of).or_insert((error, 0)).1 += 1;
        }
    }
    for (of, (error, count)) in denied {
        shared.note_refusal(error, call, Some(caller), Some(of), count);
    }
}
