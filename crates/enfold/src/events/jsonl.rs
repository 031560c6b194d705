//! Events as JSON lines, appended to a file.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::lines::{Lines, of};
use super::{Entry, SignedCheckpoint, Sink};
use crate::Result;

/// Appends to one file, which only its owner can read when it is made here. The file may be rotated by copying and
/// truncating; each batch is one write, so that processes that share a file do not mix their lines.
///
/// The lines are those of an export: `enfold log verify` reads the file as it is.
pub struct JsonLinesSink(Mutex<Lines>);

impl JsonLinesSink {
    pub fn open(path: &Path) -> Result<Self> {
        Lines::open(path, "append events to").map(Mutex::new).map(Self)
    }

    /// Has each batch on the disk before it counts as written.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).durable = durable;
        self
    }

    fn append(&self, lines: &str) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(lines)
    }
}

#[async_trait]
impl Sink for JsonLinesSink {
    async fn write(&self, batch: &[Entry]) -> Result<()> {
        self.append(&of(batch))
    }

    async fn note(&self, checkpoint: &SignedCheckpoint) -> Result<()> {
        self.append(&(checkpoint.to_line() + "\n"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::chain::chained;
    use super::super::{Event, EventKind};
    use super::*;
    use crate::Code;

    #[tokio::test]
    async fn each_event_is_a_line_that_only_the_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        for count in [1, 2] {
            let sink = JsonLinesSink::open(&path).unwrap();
            let batch = chained([Event::new(EventKind::Seal, count), Event::new(EventKind::Open, count)]);
            sink.write(&batch).await.unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let kinds = text.lines().map(|l| Event::from_json(l).unwrap().kind).collect::<Vec<_>>();
        assert_eq!(kinds, [EventKind::Seal, EventKind::Open, EventKind::Seal, EventKind::Open]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_full_disk_is_said_to_be_one() {
        let sink = JsonLinesSink::open(Path::new("/dev/full")).unwrap();
        let error = sink.write(&chained([Event::new(EventKind::Seal, 1)])).await.unwrap_err();
        assert_eq!(error.code(), Code::DiskFull);
    }
}
