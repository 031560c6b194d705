//! A root key in a file of this machine: for development, and for places without a key service.
//!
//! Whoever reads the file of a plain key reads everything, there is no log of its use and no way to take a right back; so
//! its wraps begin with `dev:`, and the registry refuses it where the environment is production and the ring does not say
//! `allow_local_in_production`. The file is one line that nobody but its owner may have any right to: either
//! `enfold-local-key-1:` and 43 characters of unpadded base64url, or a root key sealed under a passphrase (`sealed.rs`).
//! The root key is the same either way, so a key that is sealed later, or under another passphrase, opens what it wrapped
//! before.

mod passphrase;
mod sealed;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::aead;
use super::failure::{self, Operation};
use super::material::{KeyMaterial, WrappedKey};
use super::service::{
    Abilities, DescribeKey, KeyDescription, KeyManagementService, RootKeyState, UnwrapRequest, WrapRequest,
};
use super::uri::{KeyUri, RootKey};
use crate::error::{Code, Error, Result};
use crate::private_file::Private;

pub use passphrase::{Kdf, PASSPHRASE_VARIABLE, Passphrase, PassphraseSource};

const PURPOSE: &[u8] = b"enfold/v1 local wrap";
const FILE_PREFIX: &str = "enfold-local-key-1:";
/// Of a file that others had rights to.
const MAY_BE_KNOWN: &str = "if others could read it, make a new key and rewrap: this one may be known";
/// What a key file holds at most; the longest good one has about 300 bytes.
const LONGEST: usize = 1024;

/// See the module's head.
pub struct LocalKms {
    uri: KeyUri,
    path: PathBuf,
    root: KeyMaterial,
    sealed: bool,
}

impl LocalKms {
    /// Reads a plain key file. A relative path starts at `base`, the policy's folder.
    ///
    /// Refuses a file that others have rights to ([`Code::KeyFilePermissions`]), one that holds something else
    /// ([`Code::KeyFileInvalid`]) and one that needs a passphrase ([`Code::PassphraseMissing`]). It never makes the file:
    /// see [`LocalKms::init`].
    pub fn open(uri: &KeyUri, base: &Path) -> Result<Self> {
        Self::read(uri, base, None)
    }

    /// Reads a key file that is sealed under a passphrase. Takes the time and memory that its parameters say (about 0.2 s
    /// and 64 MiB), on this thread.
    ///
    /// Refuses a plain file as well ([`Code::KeyFileInvalid`]): where a passphrase is expected, somebody put it there. A
    /// passphrase that does not open it is [`Code::PassphraseWrong`].
    pub fn open_sealed(uri: &KeyUri, base: &Path, passphrase: &Passphrase) -> Result<Self> {
        Self::read(uri, base, Some(passphrase))
    }

    /// Makes a plain key file, mode 0600, with a key drawn here. Refuses to touch a file that is there already.
    pub fn init(uri: &KeyUri, base: &Path) -> Result<Self> {
        let path = Self::path_of(uri, base)?;
        let root = KeyMaterial::generate()?;
        let mut line = Zeroizing::new(String::with_capacity(FILE_PREFIX.len() + 44));
        line.push_str(FILE_PREFIX);
        URL_SAFE_NO_PAD.encode_string(root.expose(), &mut line);
        line.push('\n');
        key_file(&path).create(line.as_bytes())?;
        Ok(Self { uri: uri.clone(), path, root, sealed: false })
    }

    /// As [`LocalKms::init`], with the key sealed under a passphrase.
    pub fn init_sealed(uri: &KeyUri, base: &Path, passphrase: &Passphrase, kdf: Kdf) -> Result<Self> {
        let path = Self::path_of(uri, base)?;
        let root = KeyMaterial::generate()?;
        key_file(&path).create(sealed::seal(&root, passphrase, kdf)?.as_bytes())?;
        Ok(Self { uri: uri.clone(), path, root, sealed: true })
    }

    /// Seals the same root key under another passphrase, and puts that file in the place of the old one. Copies of the old
    /// file still open as they did.
    pub fn seal_again(&self, passphrase: &Passphrase, kdf: Kdf) -> Result<()> {
        let line = sealed::seal(&self.root, passphrase, kdf)?;
        key_file(&self.path).replace(line.as_bytes())
    }

    fn read(uri: &KeyUri, base: &Path, passphrase: Option<&Passphrase>) -> Result<Self> {
        let path = Self::path_of(uri, base)?;
        let root = read_key(&path, passphrase)?;
        Ok(Self { uri: uri.clone(), path, root, sealed: passphrase.is_some() })
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

    fn abilities(&self) -> Abilities<'_> {
        Abilities { describer: Some(self), ..Abilities::default() }
    }
}

#[async_trait]
impl DescribeKey for LocalKms {
    async fn describe(&self) -> Result<KeyDescription> {
        let manager = if self.sealed { "a file under a passphrase" } else { "development" };
        Ok(KeyDescription::new(self.path.display().to_string(), RootKeyState::Enabled, manager.to_owned(), true))
    }
}

fn key_file(path: &Path) -> Private<'_> {
    Private { path, what: "local key" }
}

fn read_key(path: &Path, passphrase: Option<&Passphrase>) -> Result<KeyMaterial> {
    let restore = "restore it from a copy; a new key opens nothing that this one wrapped";
    let shown = path.display().to_string();
    let text = key_file(path).read(LONGEST).map_err(|error| match path.exists() {
        true if error.code() == Code::KeyFilePermissions => error.hint(MAY_BE_KNOWN),
        true => error,
        false => error.hint(restore).hint("where nothing is sealed yet, `enfold init` makes one"),
    })?;
    let is_sealed = text.starts_with(sealed::PREFIX.as_bytes());
    match (passphrase, std::str::from_utf8(&text)) {
        (Some(passphrase), Ok(line)) if is_sealed => sealed::open(line, passphrase, &shown),
        (None, _) if is_sealed => {
            Err(Error::new(Code::PassphraseMissing, format!("the local key `{shown}` is sealed under a passphrase"))
                .cause("the policy does not say where the passphrase is")
                .hint("add `[key_services.local.\"FILE\"]`, with the file as in the root key's URI"))
        }
        (Some(_), _) => Err(Error::new(Code::KeyFileInvalid, format!("the file `{shown}` holds no sealed key"))
            .cause("the policy says that this key is sealed under a passphrase")
            .hint(restore)),
        (None, _) => plain_key(&text).ok_or_else(|| {
            Error::new(Code::KeyFileInvalid, format!("the file `{shown}` holds no local key"))
                .cause(format!("one line is expected: `{FILE_PREFIX}` and 43 characters of base64url"))
                .hint(restore)
        }),
    }
}

fn plain_key(text: &[u8]) -> Option<KeyMaterial> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    let encoded = line.strip_prefix(FILE_PREFIX.as_bytes())?;
    let mut key = Zeroizing::new(vec![0; KeyMaterial::LEN + 3]);
    let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut key).ok()?;
    KeyMaterial::from_slice(&mut key[..length])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

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

    const QUICK: Kdf = Kdf::Argon2id { memory_kib: 8, passes: 1, lanes: 1 };

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned().into()).unwrap()
    }

    #[tokio::test]
    async fn another_passphrase_keeps_the_root_key_and_ends_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (passphrase("the old passphrase"), passphrase("the new passphrase"));
        let made = LocalKms::init_sealed(&uri(), folder.path(), &old, QUICK).unwrap();
        let (key, context) = (KeyMaterial::generate().unwrap(), EncryptionContext::new());
        let wrapped = made.wrap_one(&key, &context).await.unwrap();
        assert!(wrapped.is_development());

        let opened = LocalKms::open_sealed(&uri(), folder.path(), &old).unwrap();
        opened.seal_again(&new, QUICK).unwrap();
        let mode = std::fs::metadata(folder.path().join("dev.key")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no file is left beside it");
        let again = LocalKms::open_sealed(&uri(), folder.path(), &new).unwrap();
        assert_eq!(again.unwrap_one(&wrapped, &context).await.ok().unwrap().expose(), key.expose());
        let error = LocalKms::open_sealed(&uri(), folder.path(), &old).err().unwrap();
        assert_eq!(error.code(), Code::PassphraseWrong);
    }

    #[tokio::test]
    async fn a_plain_key_that_is_sealed_later_opens_what_it_wrapped() {
        let folder = tempfile::tempdir().unwrap();
        let plain = LocalKms::init(&uri(), folder.path()).unwrap();
        let (key, context) = (KeyMaterial::generate().unwrap(), EncryptionContext::new());
        let wrapped = plain.wrap_one(&key, &context).await.unwrap();
        plain.seal_again(&passphrase("correct horse"), QUICK).unwrap();
        let sealed = LocalKms::open_sealed(&uri(), folder.path(), &passphrase("correct horse")).unwrap();
        assert_eq!(sealed.unwrap_one(&wrapped, &context).await.ok().unwrap().expose(), key.expose());
    }

    #[test]
    fn plain_and_sealed_are_not_taken_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = "local:sealed.key".parse().unwrap();
        LocalKms::init_sealed(&sealed, folder.path(), &passphrase("correct horse"), QUICK).unwrap();
        assert_eq!(LocalKms::open(&sealed, folder.path()).err().unwrap().code(), Code::PassphraseMissing);
        LocalKms::init(&uri(), folder.path()).unwrap();
        let error = LocalKms::open_sealed(&uri(), folder.path(), &passphrase("correct horse")).err().unwrap();
        assert_eq!(error.code(), Code::KeyFileInvalid);
    }

    #[test]
    fn a_sealed_file_and_the_file_of_a_passphrase_are_refused_while_others_have_rights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        std::fs::write(&path, "correct horse\n").unwrap();
        let chmod = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let source = PassphraseSource::File(path.clone());
        for bit in 0..6 {
            chmod(&path, 0o600 | 1 << bit);
            assert_eq!(source.read().err().unwrap().code(), Code::KeyFilePermissions, "bit {bit}");
        }
        chmod(&path, 0o600);
        let passphrase = source.read().unwrap();
        LocalKms::init_sealed(&uri(), folder.path(), &passphrase, QUICK).unwrap();
        let key = folder.path().join("dev.key");
        chmod(&key, 0o640);
        let error = LocalKms::open_sealed(&uri(), folder.path(), &passphrase).err().unwrap();
        assert_eq!(error.code(), Code::KeyFilePermissions);
        chmod(&key, 0o600);
        assert!(LocalKms::open_sealed(&uri(), folder.path(), &source.read().unwrap()).is_ok());
    }

    #[test]
    fn a_file_without_a_passphrase_in_it_says_so_and_a_line_break_of_windows_is_no_part_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        let source = PassphraseSource::File(path.clone());
        let write = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        for bad in [&b""[..], b"\n", b"two\nlines\n", b"\xff\xfe", &[b'a'; 2000]] {
            write(bad);
            assert_eq!(source.read().err().unwrap().code(), Code::PassphraseMissing, "{} bytes", bad.len());
        }
        write(b"correct horse\r\n");
        let read = source.read().unwrap();
        LocalKms::init_sealed(&uri(), folder.path(), &read, QUICK).unwrap();
        assert!(LocalKms::open_sealed(&uri(), folder.path(), &passphrase("correct horse")).is_ok());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source.read().err().unwrap().code(), Code::KeyFileInvalid);
    }
}
