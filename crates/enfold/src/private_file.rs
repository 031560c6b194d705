//! Files that hold a key or what opens one: nobody but their owner may have any right to them.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};

/// Rights of anybody but the owner.
const OTHERS: u32 = 0o077;

/// A private file, by what is expected in it: `local key`, `passphrase`, `operators' key`.
#[derive(Clone, Copy)]
pub(crate) struct Private<'a> {
    pub(crate) path: &'a Path,
    pub(crate) what: &'static str,
}

/// Writes a private file, mode 0600, in the place of one that is there already: after a crash there is the old one or the new
/// one. `what` is what errors call it.
pub fn put(path: &Path, what: &'static str, bytes: &[u8]) -> Result<()> {
    let file = Private { path, what };
    if path.exists() { file.replace(bytes) } else { file.create(bytes) }
}

/// At most `most` bytes of a private file. Refuses one that others have rights to ([`Code::KeyFilePermissions`]).
pub fn read(path: &Path, what: &'static str, most: usize) -> Result<Zeroizing<Vec<u8>>> {
    Private { path, what }.read(most)
}

impl Private<'_> {
    /// At most `most` bytes of the file: what is longer is not what was expected and need not be read.
    ///
    /// Refuses a file that others have rights to ([`Code::KeyFilePermissions`]).
    pub(crate) fn read(self, most: usize) -> Result<Zeroizing<Vec<u8>>> {
        let unreadable = |error: &std::io::Error| {
            Error::new(Code::KeyFileInvalid, format!("cannot read the {} `{}`", self.what, self.path.display()))
                .cause(why(error))
        };
        let file = File::open(self.path).map_err(|e| unreadable(&e))?;
        // The rights are those of the file that was opened, not of whatever has that name by now.
        let about = file.metadata().map_err(|e| unreadable(&e))?;
        if !about.is_file() {
            return Err(unreadable(&ErrorKind::InvalidInput.into()).cause("it is not a file"));
        }
        if about.mode() & OTHERS != 0 {
            return Err(self.open_to_others(about.mode()));
        }
        // Room enough from the start, so that growing leaves no copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * most + 64));
        file.take(most as u64).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
        Ok(bytes)
    }

    /// Makes the file, mode 0600. Refuses to touch one that is there already.
    pub(crate) fn create(self, bytes: &[u8]) -> Result<()> {
        write_new(self.path, bytes).and_then(|()| sync_folder(self.path)).map_err(|error| self.unwritten(&error))
    }

    /// Puts another file in its place: after a crash there is the old one or the new one.
    pub(crate) fn replace(self, bytes: &[u8]) -> Result<()> {
        // A link stays a link: what it points to is replaced.
        let path = self.path.canonicalize().map_err(|error| self.unwritten(&error))?;
        let beside = beside(&path);
        let replaced =
            write_new(&beside, bytes).and_then(|()| std::fs::rename(&beside, &path).inspect_err(|_| remove(&beside)));
        replaced.and_then(|()| sync_folder(&path)).map_err(|error| self.unwritten(&error))
    }

    fn open_to_others(self, mode: u32) -> Error {
        let shown = self.path.display();
        Error::new(Code::KeyFilePermissions, format!("the {} `{shown}` is open to others", self.what))
            .cause(format!("its mode is {:04o}, and may be 0600 at most", mode & 0o7777))
            .hint(format!("chmod 600 {shown}"))
    }

    fn unwritten(self, error: &std::io::Error) -> Error {
        let code = if error.kind() == ErrorKind::StorageFull { Code::DiskFull } else { Code::FileFailed };
        Error::new(code, format!("cannot make the {} `{}`", self.what, self.path.display())).cause(why(error))
    }
}

/// Only a key that is on the disk may wrap: what it wraps would be lost with the machine otherwise.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // Nothing has been wrapped under it yet, and half a file would stand in the way of the next try.
    file.write_all(bytes).and_then(|()| file.sync_all()).inspect_err(|_| remove(path))
}

fn remove(path: &Path) {
    std::fs::remove_file(path).ok();
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The kind of an I/O error says what is needed; its text is the platform's.
fn why(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        kind => kind.to_string(),
    }
}
