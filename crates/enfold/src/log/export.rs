//! The lines of the log, a piece at a time.

use std::sync::Arc;
use std::vec::IntoIter;

use super::PAGE;
use crate::Result;
use crate::catalog::Catalog;
use crate::events::{SignedCheckpoint, WriterId};

/// An export that has come so far. What is added meanwhile is not waited for, so that a busy log has an end.
pub struct LogExport {
    catalog: Arc<dyn Catalog>,
    at: At,
}

enum At {
    /// After this place among the lines of before there were chains.
    Unchained(i64),
    /// After this number of a writer whose last one is given too, and the writers that follow.
    Chains(Option<(WriterId, u64)>, u64, IntoIter<(WriterId, u64)>),
    /// After this number.
    Checkpoints(u64),
}

impl LogExport {
    pub(super) fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog, at: At::Unchained(0) }
    }

    /// The lines that follow; none at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>> {
        loop {
            match &mut self.at {
                At::Unchained(after) => {
                    let lines = self.catalog.unchained_log(*after, PAGE).await?;
                    if let Some((place, _)) = lines.last() {
                        *after = *place;
                        return Ok(Some(lines.into_iter().map(|(_, line)| line).collect()));
                    }
                    let mut writers = self.catalog.log_heads().await?;
                    writers.sort_unstable();
                    self.at = At::Chains(None, 0, writers.into_iter());
                }
                At::Chains(writer, after, others) => {
                    let Some((of, last)) = writer.filter(|(_, last)| *after < *last) else {
                        match others.next() {
                            Some(next) => (*writer, *after) = (Some(next), 0),
                            None => self.at = At::Checkpoints(0),
                        }
                        continue;
                    };
                    let lines = self.catalog.log_of(of, *after, PAGE).await?;
                    *after = lines.last().map_or(last, |(number, _)| *number);
                    let until = |(number, line): (u64, String)| (number <= last).then_some(line);
                    return Ok(Some(lines.into_iter().filter_map(until).collect()));
                }
                At::Checkpoints(after) => {
                    let checkpoints = self.catalog.checkpoints(*after, PAGE).await?;
                    let Some(last) = checkpoints.last() else { return Ok(None) };
                    *after = last.number;
                    return Ok(Some(checkpoints.iter().map(SignedCheckpoint::to_line).collect()));
                }
            }
        }
    }
}
