//! Whether a wrap is of the newest version of its root key, as far as wraps and services say so.
//!
//! Wraps of Vault, Google Cloud KMS and Azure name the version that made them, those under an alias of AWS KMS the key. A
//! version of a key of AWS KMS is in no wrap that others can read, and keys in files and tokens have one version.

use super::recorded;
use super::service::KeyDescription;
use super::uri::{KeyUri, RootKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Newest,
    /// Another version than the one that wraps now, or another key behind the same alias.
    Former,
    Untold,
}

/// `about`: what the service says of the root key now.
pub(crate) fn age(root: &KeyUri, about: &KeyDescription, wrapped: &[u8]) -> Age {
    let newest = match root.root() {
        RootKey::Vault(_) => about.versions.map(|versions| versions.newest.to_string()),
        RootKey::Google(_) => last_part(&about.resolved, "/cryptoKeyVersions/"),
        RootKey::Azure(_) => last_part(&about.resolved, "/"),
        RootKey::Aws(_) => Some(about.resolved.clone()),
        RootKey::Pkcs11(_) | RootKey::Local(_) | RootKey::Memory(_) => None,
    };
    match (made_by(root, wrapped), newest) {
        (Some(made_by), Some(newest)) if made_by == newest => Age::Newest,
        (Some(_), Some(_)) => Age::Former,
        _ => Age::Untold,
    }
}

/// The version that made a wrap by this root key, or the key behind an alias, where the wrap names it.
pub(crate) fn made_by(root: &KeyUri, wrapped: &[u8]) -> Option<String> {
    match root.root() {
        RootKey::Vault(_) => vault(wrapped),
        RootKey::Google(_) => google(wrapped),
        RootKey::Azure(_) => azure(wrapped),
        RootKey::Aws(_) => recorded::read(wrapped).0.map(|made_by| made_by.to_string()),
        RootKey::Pkcs11(_) | RootKey::Local(_) | RootKey::Memory(_) => None,
    }
}

impl KeyUri {
    /// Whether wraps by this root key say which of its versions made them.
    pub fn names_versions(&self) -> bool {
        matches!(self.root(), RootKey::Vault(_) | RootKey::Google(_) | RootKey::Azure(_))
    }
}

/// `vault:vN:…`
fn vault(wrapped: &[u8]) -> Option<String> {
    let rest = std::str::from_utf8(wrapped).ok()?.strip_prefix("vault:v")?;
    rest.split_once(':').map(|(version, _)| version.to_owned())
}

/// `gcp1` and 32 bits, the most significant first.
fn google(wrapped: &[u8]) -> Option<String> {
    let version = wrapped.strip_prefix(b"gcp1")?.first_chunk()?;
    Some(u32::from_be_bytes(*version).to_string())
}

/// `akv1`, the way of wrapping, and 16 bytes that are written as 32 digits of hexadecimal.
fn azure(wrapped: &[u8]) -> Option<String> {
    let version = wrapped.strip_prefix(b"akv1")?.get(1..)?.first_chunk()?;
    Some(format!("{:032x}", u128::from_be_bytes(*version)))
}

fn last_part(text: &str, behind: &str) -> Option<String> {
    text.rsplit_once(behind).map(|(_, last)| last.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::service::{KeyVersions, RootKeyState};

    fn about(resolved: &str, newest: Option<u32>) -> KeyDescription {
        KeyDescription {
            versions: newest.map(|newest| KeyVersions { newest, oldest_usable: 1 }),
            ..KeyDescription::new(resolved.to_owned(), RootKeyState::Enabled, String::new(), true)
        }
    }

    fn of(root: &str, about: &KeyDescription, wrapped: &[u8]) -> Age {
        age(&root.parse().unwrap(), about, wrapped)
    }

    #[test]
    fn a_wrap_that_names_its_version_is_compared_with_the_newest() {
        let transit =
            |wrapped: &str| of("vault://h:8200/transit/k", &about("transit/keys/k", Some(12)), wrapped.as_bytes());
        assert_eq!(transit("vault:v12:AAAA"), Age::Newest);
        assert_eq!(transit("vault:v1:AAAA"), Age::Former);
        assert_eq!(transit("something else"), Age::Untold);
        let google = |version: u32| {
            let key = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
            let about = about(&format!("{key}/cryptoKeyVersions/258"), None);
            of(&format!("gcp-kms://{key}"), &about, &[b"gcp1", &version.to_be_bytes()[..], b"x"].concat())
        };
        assert_eq!((google(258), google(1)), (Age::Newest, Age::Former));
        let azure = |version: u128| {
            let about = about(&format!("https://shop.vault.azure.net/keys/k/{:032X}", 0xabc), None);
            let wrapped = [b"akv1", &[1_u8][..], &version.to_be_bytes(), b"x"].concat();
            of("azure-kv://shop.vault.azure.net/keys/k", &about, &wrapped)
        };
        assert_eq!((azure(0xabc), azure(0xabd)), (Age::Newest, Age::Former));
    }

    #[test]
    fn a_wrap_under_an_alias_is_compared_with_the_key_that_it_stands_for_and_no_other_of_aws_tells() {
        let arn = |id: u8| format!("arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890a{id}");
        let wrapped = [&b"aws1"[..], &[u8::try_from(arn(1).len()).unwrap()], arn(1).as_bytes(), b"sealed"].concat();
        let alias = "aws-kms://eu-west-1/alias/orders";
        assert_eq!(of(alias, &about(&arn(1), None), &wrapped), Age::Newest);
        assert_eq!(of(alias, &about(&arn(2), None), &wrapped), Age::Former);
        assert_eq!(of(&format!("aws-kms://{}", arn(1)), &about(&arn(1), None), b"sealed"), Age::Untold);
    }
}
