//! Events as JSON lines, appended to a file.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Entry, SignedCheckpoint, Sink};
use crate::{Code, Error, Result};

/// Appends to one file, which only its owner can read when it is made here. The file may be rotated by copying and
/// truncating; each batch is one write, so that processes that share a file do not mix their lines.
///
/// The lines are those of an export: `enfold log verify` reads the file as it is.
pub struct JsonLinesSink {
    path: PathBuf,
    file: Mutex<File>,
    durable: bool,
}

impl JsonLinesSink {
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(|e| failed(path, &e))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), durable: false })
    }

    /// Has each batch on the disk before it counts as written.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    fn append(&self, lines: &str) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let before = file.seek(SeekFrom::End(0)).map_err(|e| failed(&self.path, &e))?;
        let write = |file: &mut File| {
            file.write_all(lines.as_bytes())?;
            if self.durable { file.sync_data() } else { Ok(()) }
        };
        write(&mut file).map_err(|e| {
            // Half a batch on a full disk would come twice: what was written of it is taken back.
            file.set_len(before).ok();
            failed(&self.path, &e)
        })
    }
}

#[async_trait]
impl Sink for JsonLinesSink {
    async fn write(&self, batch: &[Entry]) -> Result<()> {
        self.append(&batch.iter().fold(String::new(), |lines, entry| lines + entry.line() + "\n"))
    }

    async fn note(&self, checkpoint: &SignedCheckpoint) -> Result<()> {
        self.append(&(checkpoint.to_line() + "\n"))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    let code = if error.kind() == std::io::ErrorKind::StorageFull { Code::DiskFull } else { Code::FileFailed };
    Error::new(code, format!("cannot append events to `{}`", path.display())).cause(error.kind().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::chain::chained;
    use super::super::{Event, EventKind};
    use super::*;

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
