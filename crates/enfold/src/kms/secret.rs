//! Credentials that somebody else keeps up to date: a file or an environment variable, read each time they are needed.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};

/// Longer than any token that a server makes (a JWT with many claims is some kilobytes).
const LONGEST: u64 = 64 * 1024;

/// Where a credential is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that only its owner and its group may use.
    File(PathBuf),
    /// A file that only its owner may use.
    OwnersFile(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
}

/// What a file looks like from outside: another one, and it is worth reading again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(SystemTime, u64, u64)>);

impl Stamp {
    /// Files that cannot be looked at are all alike.
    pub(super) fn of(path: &Path) -> Self {
        let look = || {
            let about = std::fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len(), about.ino()))
        };
        Self(look())
    }

    /// The file could not be looked at: it is being replaced just now, or gone.
    pub(super) fn is_of_nothing(&self) -> bool {
        self.0.is_none()
    }
}

/// Who may read a file of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner alone.
    Owner,
    /// Its owner and its group.
    Closed,
    /// Anybody: what is in it is no secret, or is made and guarded by somebody else (a token that Kubernetes projects
    /// into a container is readable to all in it, and ends soon).
    Any,
}

impl Readers {
    /// The bits of a file's mode that must not be set.
    fn barred(self) -> u32 {
        match self {
            Self::Owner => 0o077,
            Self::Closed => 0o007,
            Self::Any => 0,
        }
    }
}

/// The whole text of a file of credentials.
pub(crate) fn read(path: &Path, readers: Readers) -> Result<Zeroizing<String>> {
    let file = File::open(path).map_err(|e| unreadable(path, &e))?;
    refuse_open_to_others(path, &file, readers.barred())?;
    // Room enough from the start, so that growing leaves no copies behind.
    let length = file.metadata().map_err(|e| unreadable(path, &e))?.len().min(LONGEST);
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(LONGEST).read_to_string(&mut text).map_err(|e| unreadable(path, &e))?;
    Ok(text)
}

impl SecretSource {
    /// The credential without the white space around it. It is read anew, so that whoever renews it needs no restart.
    pub(crate) fn read(&self) -> Result<Zeroizing<String>> {
        self.read_among(Readers::Closed)
    }

    /// The same, of a file that need not be closed to others.
    pub(super) fn read_among(&self, readers: Readers) -> Result<Zeroizing<String>> {
        let text = match self {
            Self::File(path) => read(path, readers)?,
            Self::OwnersFile(path) => read(path, Readers::Owner)?,
            Self::Variable(name) => Zeroizing::new(std::env::var(name).unwrap_or_default()),
        };
        let trimmed = text.trim();
        // It becomes a header, a JSON string or a PIN: nothing but printable characters is a credential.
        if trimmed.is_empty() || !trimmed.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(self.missing());
        }
        Ok(Zeroizing::new(trimmed.to_owned()))
    }

    fn missing(&self) -> Error {
        let error = Error::new(Code::KmsAccessDenied, "there is no credential for the key service");
        match self {
            Self::File(path) | Self::OwnersFile(path) => {
                error.cause(format!("the file `{}` does not hold one", path.display()))
            }
            Self::Variable(name) => error.cause(format!("the environment variable `{name}` is not set")),
        }
    }
}

/// Refuses a file to which those in the bits of `barred` have any right. The rights are those of the file that was opened.
fn refuse_open_to_others(path: &Path, file: &File, barred: u32) -> Result<()> {
    let mode = file.metadata().map_err(|e| unreadable(path, &e))?.mode();
    if mode & barred == 0 {
        return Ok(());
    }
    let shown = path.display();
    let most = 0o666 & !barred;
    let who = if barred & 0o070 == 0 { "o" } else { "go" };
    Err(Error::new(Code::KeyFilePermissions, format!("the credential file `{shown}` is open to others"))
        .cause(format!("its mode is {:04o}, and may be {most:04o} at most", mode & 0o7777))
        .hint(format!("chmod {who}= {shown}"))
        .hint("if others could read it, have a new credential made: this one may be known"))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::FileFailed, format!("cannot read the credential file `{}`", path.display()))
        .cause(error.kind().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_credential_is_read_anew_each_time_and_only_from_a_file_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let private = SecretSource::File(path.clone());
        write("one\n", 0o600);
        assert_eq!(private.read().unwrap().as_str(), "one");
        write("two", 0o640);
        assert_eq!(private.read().unwrap().as_str(), "two");
        write("three", 0o644);
        assert_eq!(private.read().unwrap_err().code(), Code::KeyFilePermissions);
        let own = SecretSource::OwnersFile(path.clone());
        for mode in [0o640, 0o604, 0o610] {
            write("four", mode);
            assert_eq!(own.read().unwrap_err().code(), Code::KeyFilePermissions, "{mode:o}");
        }
        write("four", 0o600);
        assert_eq!(own.read().unwrap().as_str(), "four");
        for bad in ["", " \n", "a b", "a\nX-Header: b"] {
            write(bad, 0o600);
            let error = private.read().unwrap_err();
            assert_eq!(error.code(), Code::KmsAccessDenied, "{bad:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(private.read().unwrap_err().code(), Code::FileFailed);
    }
}
