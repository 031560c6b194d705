//! A root key in a file of this machine, for development.
//!
//! Whoever reads the file reads everything, there is no log of its use and no way to take a right back; so its wraps
//! begin with `dev:` and the registry refuses it where the environment is production. The file is one line,
//! `enfold-local-key-1:` and 43 characters of unpadded base64url, and nobody but its owner may have any right to it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::aead;
use super::failure::{self, Operation};
use super::material::{KeyMaterial, WrappedKey};
use super::service::{DescribeKey, KeyDescription, KeyManagementService, RootKeyState, UnwrapRequest, WrapRequest};
use super::uri::{KeyUri, RootKey};
use crate::error::{Code, Error, Result};

const PURPOSE: &[u8] = b"enfold/v1 local wrap";
const FILE_PREFIX: &str = "enfold-local-key-1:";
/// Rights of anybody but the owner.
const OTHERS: u32 = 0o077;

/// See the module's head.
pub struct LocalKms {
    uri: KeyUri,
    path: PathBuf,
    root: KeyMaterial,
}

impl LocalKms {
    /// Reads the key file. A relative path starts at `base`, the policy's folder.
    ///
    /// Refuses a file that others have rights to ([`Code::KeyFilePermissions`]) and one that holds something else
    /// ([`Code::KeyFileInvalid`]). It never makes the file: see [`LocalKms::init`].
    pub fn open(uri: &KeyUri, base: &Path) -> Result<Self> {
        let path = Self::path_of(uri, base)?;
        let root = read_key(&path)?;
        Ok(Self { uri: uri.clone(), path, root })
    }

    /// Makes the key file, mode 0600, with a key drawn here. Refuses to touch a file that is there already.
    pub fn init(uri: &KeyUri, base: &Path) -> Result<Self> {
        let path = Self::path_of(uri, base)?;
        let root = KeyMaterial::generate()?;
        write_key(&path, &root)?;
        Ok(Self { uri: uri.clone(), path, root })
    }

    fn path_of(uri: &KeyUri, base: &Path) -> Result<PathBuf> {
        match uri.root() {
            RootKey::Local(path) => Ok(base.join(path)),
            RootKey::Aws(_)
            | RootKey::Google(_)
            | RootKey::Azure(_)
            | RootKey::Vault(_)
            | RootKey::Pkcs11(_)
            | RootKey::Memory(_) => Err(Error::new(Code::KmsUriInvalid, format!("`{uri}` does not name a local key"))),
        }
    }
}

#[async_trait]
impl KeyManagementService for LocalKms {
    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        let wrap =
            |r: &WrapRequest<'_>| aead::wrap(WrappedKey::DEVELOPMENT_PREFIX, PURPOSE, &self.root, r.key, r.context);
        requests.iter().map(wrap).collect()
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        let unwrap = |r: &UnwrapRequest<'_>| {
            aead::unwrap(WrappedKey::DEVELOPMENT_PREFIX, PURPOSE, &self.root, r.wrapped, r.context)
                .ok_or_else(|| failure::wrap_invalid(Operation::Unwrap, &self.uri))
        };
        requests.iter().map(unwrap).collect()
    }

    fn describer(&self) -> Option<&dyn DescribeKey> {
        Some(self)
    }
}

#[async_trait]
impl DescribeKey for LocalKms {
    async fn describe(&self) -> Result<KeyDescription> {
        Ok(KeyDescription {
            resolved: self.path.display().to_string(),
            state: RootKeyState::Enabled,
            manager: "development".to_owned(),
            usable: true,
            versions: None,
            rotation: None,
            warnings: Vec::new(),
        })
    }
}

fn read_key(path: &Path) -> Result<KeyMaterial> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| {
        let failed =
            Error::new(Code::KeyFileInvalid, format!("cannot read the local key `{shown}`")).cause(why(&error));
        match error.kind() {
            ErrorKind::NotFound => failed
                .hint("restore it from a copy; a new key opens nothing that this one wrapped")
                .hint("where nothing is sealed yet, `enfold init` makes one for development"),
            _ => failed,
        }
    })?;
    let unreadable = |error: &std::io::Error| {
        Error::new(Code::KeyFileInvalid, format!("cannot read the local key `{shown}`")).cause(why(error))
    };
    // The rights are those of the file that was opened, not of whatever has that name by now.
    let about = file.metadata().map_err(|e| unreadable(&e))?;
    if !about.is_file() {
        return Err(Error::new(Code::KeyFileInvalid, format!("the local key `{shown}` is not a file")));
    }
    if about.mode() & OTHERS != 0 {
        return Err(Error::new(Code::KeyFilePermissions, format!("the local key `{shown}` is open to others"))
            .cause(format!("its mode is {:04o}, and may be 0600 at most", about.mode() & 0o7777))
            .hint(format!("chmod 600 {shown}"))
            .hint("if others could read it, make a new key and rewrap: this one may be known"));
    }
    let invalid = || {
        Error::new(Code::KeyFileInvalid, format!("the file `{shown}` holds no local key"))
            .cause(format!("one line is expected: `{FILE_PREFIX}` and 43 characters of base64url"))
            .hint("restore it from a copy; a new key opens nothing that this one wrapped")
    };
    // Twice the longest good file: what is longer is no key and need not be read.
    let mut text = Zeroizing::new(Vec::with_capacity(256));
    file.take(128).read_to_end(&mut text).map_err(|e| unreadable(&e))?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    let encoded = line.strip_prefix(FILE_PREFIX.as_bytes()).ok_or_else(invalid)?;
    let mut key = Zeroizing::new(vec![0; KeyMaterial::LEN + 3]);
    let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut key).map_err(|_| invalid())?;
    KeyMaterial::from_slice(&mut key[..length]).ok_or_else(invalid)
}

fn write_key(path: &Path, root: &KeyMaterial) -> Result<()> {
    let shown = path.display();
    let failed = |error: &std::io::Error| {
        let code = if error.kind() == ErrorKind::StorageFull { Code::DiskFull } else { Code::FileFailed };
        Error::new(code, format!("cannot make the local key `{shown}`")).cause(why(error))
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| failed(&e))?;
    let mut line = Zeroizing::new(String::with_capacity(FILE_PREFIX.len() + 44));
    line.push_str(FILE_PREFIX);
    URL_SAFE_NO_PAD.encode_string(root.expose(), &mut line);
    line.push('\n');
    // Only a key that is on the disk may wrap: what it wraps would be lost with the machine otherwise.
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
    written.map_err(|error| {
        // Nothing has been wrapped under it yet, and half a key file would stand in the way of the next try.
        std::fs::remove_file(path).ok();
        failed(&error)
    })
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::kms::{EncryptionContext, KeyManagementServiceExt};

    fn uri() -> KeyUri {
        "local:dev.key".parse().unwrap()
    }

    fn refused(base: &Path) -> Error {
        LocalKms::open(&uri(), base).err().expect("must be refused")
    }

    #[tokio::test]
    async fn a_key_file_made_by_init_opens_what_it_wrapped_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let made = LocalKms::init(&uri(), folder.path()).unwrap();
        let mode = std::fs::metadata(folder.path().join("dev.key")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (key, context) = (KeyMaterial::generate().unwrap(), EncryptionContext::new());
        let wrapped = made.wrap_one(&key, &context).await.unwrap();
        assert!(wrapped.is_development(), "the wrapped form says that it is not for production");
        let again = LocalKms::open(&uri(), folder.path()).unwrap();
        assert_eq!(again.unwrap_one(&wrapped, &context).await.ok().unwrap().expose(), key.expose());
    }

    #[test]
    fn opening_never_makes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(refused(folder.path()).code(), Code::KeyFileInvalid);
        assert!(!folder.path().join("dev.key").exists());
    }

    #[test]
    fn init_does_not_replace_a_key() {
        let folder = tempfile::tempdir().unwrap();
        LocalKms::init(&uri(), folder.path()).unwrap();
        let before = std::fs::read(folder.path().join("dev.key")).unwrap();
        assert_eq!(LocalKms::init(&uri(), folder.path()).err().unwrap().code(), Code::FileFailed);
        assert_eq!(std::fs::read(folder.path().join("dev.key")).unwrap(), before);
    }

    #[test]
    fn a_file_that_others_have_any_right_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        LocalKms::init(&uri(), folder.path()).unwrap();
        let path = folder.path().join("dev.key");
        for bit in 0..6 {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600 | 1 << bit)).unwrap();
            assert_eq!(refused(folder.path()).code(), Code::KeyFilePermissions, "bit {bit}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert!(LocalKms::open(&uri(), folder.path()).is_ok());
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused_without_being_quoted() {
        let folder = tempfile::tempdir().unwrap();
        LocalKms::init(&uri(), folder.path()).unwrap();
        let path = folder.path().join("dev.key");
        let good = std::fs::read_to_string(&path).unwrap();
        let tail = good.trim_start_matches(FILE_PREFIX).to_owned();
        for bad in [
            String::new(),
            good.replace("key-1", "key-2"),
            good.trim_end()[..61].to_owned(),
            format!("{}AAAA\n", good.trim_end()),
            format!("{good}\n"),
            format!("{}{good}", " "),
        ] {
            std::fs::write(&path, &bad).unwrap();
            let error = refused(folder.path());
            assert_eq!(error.code(), Code::KeyFileInvalid, "{} bytes", bad.len());
            assert!(!format!("{error:?}").contains(&tail[..20]));
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(refused(folder.path()).code(), Code::KeyFileInvalid);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let uri = "local:nowhere/dev.key".parse().unwrap();
        assert_eq!(LocalKms::init(&uri, folder.path()).err().unwrap().code(), Code::FileFailed);
    }
}
