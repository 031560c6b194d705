//! A file that lines are appended to, whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Entry;
use crate::{Code, Error, Result};

/// Only its owner can read it when it is made here. Each append is one write, so that processes that share a file do not mix their
/// lines.
pub(super) struct Lines {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Whether what was appended is on the disk when it counts as written.
    pub(super) durable: bool,
    /// What the file is for, in errors: `append events to`.
    pub(super) doing: &'static str,
}

impl Lines {
    pub(super) fn open(path: &Path, doing: &'static str) -> Result<Self> {
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = opened.map_err(|e| failed(doing, path, &e))?;
        Ok(Self { path: path.to_owned(), file, durable: false, doing })
    }

    pub(super) fn append(&mut self, lines: &str) -> Result<()> {
        let before = self.file.seek(SeekFrom::End(0)).map_err(|e| failed(self.doing, &self.path, &e))?;
        let written = self.file.write_all(lines.as_bytes());
        let written = written.and_then(|()| if self.durable { self.file.sync_data() } else { Ok(()) });
        written.map_err(|e| {
            // Half a batch on a full disk would come twice: what was written of it is taken back.
            self.file.set_len(before).ok();
            failed(self.doing, &self.path, &e)
        })
    }
}

/// Entries as they are appended.
pub(super) fn of(batch: &[Entry]) -> String {
    batch.iter().fold(String::new(), |lines, entry| lines + entry.line() + "\n")
}

pub(crate) fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Error {
    let code = if error.kind() == ErrorKind::StorageFull { Code::DiskFull } else { Code::FileFailed };
    Error::new(code, format!("cannot {doing} `{}`", path.display())).cause(error.kind().to_string())
}
