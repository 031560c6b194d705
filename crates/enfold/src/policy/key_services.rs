//! `[key_services]`: what belongs together in it, and with the root keys of the rings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::model::{KeyServices, RingPolicy, VaultServer, VaultSignIn};
use super::raw::{RawKeyServices, RawLocal, RawVault, RawVaultAuth};
use super::resolve::{Resolver, keys};
use crate::kms::{KeyUri, PASSPHRASE_VARIABLE, PassphraseSource, RootKey, VaultKeyUri};

pub(super) fn resolve(at: &mut Resolver<'_>, raw: RawKeyServices, rings: &BTreeMap<String, RingPolicy>) -> KeyServices {
    let named: BTreeSet<String> = rings
        .values()
        .flat_map(|ring| &ring.roots)
        .filter_map(|root| match root.parse::<KeyUri>().ok()?.root() {
            RootKey::Vault(vault) => Some(vault.server()),
            _ => None,
        })
        .collect();
    let mut vault = BTreeMap::new();
    for (name, raw) in raw.vault {
        let path = keys(&["key_services", "vault", &name]);
        let Ok(server) = VaultKeyUri::canonical_server(&name) else {
            at.report(&path, "not a server, as `vault.example.com` or `vault.example.com:8200`");
            continue;
        };
        if !named.contains(&server) {
            at.report(&path, "no root key is on this server");
        }
        let Some(sign_in) = sign_in(at, &name, &raw) else { continue };
        let ca_file = raw.ca_file.map(|file| at.base.join(file));
        let made = VaultServer { ca_file, sign_in_namespace: raw.auth_namespace, sign_in };
        if vault.insert(server, made).is_some() {
            at.report(&path, "the same server twice");
        }
    }
    let local = local(at, raw.local, rings);
    KeyServices { min_tls: raw.min_tls, vault, local }
}

/// Where the passphrases of sealed local keys are.
fn local(
    at: &mut Resolver<'_>,
    raw: BTreeMap<String, RawLocal>,
    rings: &BTreeMap<String, RingPolicy>,
) -> BTreeMap<KeyUri, PassphraseSource> {
    let mut local = BTreeMap::new();
    for (file, raw) in raw {
        let path = keys(&["key_services", "local", &file]);
        let named = |uri: &KeyUri| rings.values().flat_map(|ring| &ring.roots).any(|root| root == uri.as_str());
        let Some(uri) = KeyUri::local(Path::new(&file)).ok().filter(named) else {
            at.report(&path, "no root key is in this file: it is written as in the URI, as `enfold-root.key`");
            continue;
        };
        let source = match (raw.passphrase_file, raw.passphrase_variable) {
            (Some(_), Some(_)) => {
                at.report(&path, "a passphrase is in a file or in a variable, not in both");
                continue;
            }
            (Some(file), None) => PassphraseSource::File(at.base.join(file)),
            (None, name) => PassphraseSource::Variable(name.unwrap_or_else(|| PASSPHRASE_VARIABLE.to_owned())),
        };
        local.insert(uri, source);
    }
    local
}

fn sign_in(at: &mut Resolver<'_>, name: &str, raw: &RawVault) -> Option<VaultSignIn> {
    let place = |key: &str| keys(&["key_services", "vault", name, key]);
    let wanted: &[&str] = match raw.auth {
        RawVaultAuth::Token => &["token_file"],
        RawVaultAuth::AppRole => &["role_id", "secret_id_file"],
    };
    for (key, value) in
        [("role_id", &raw.role_id), ("token_file", &raw.token_file), ("secret_id_file", &raw.secret_id_file)]
    {
        if value.is_some() && !wanted.contains(&key) {
            at.report(&place(key), "this way to sign in has no use for it");
        }
    }
    let mount = |default: &str| raw.auth_mount.clone().unwrap_or_else(|| default.to_owned());
    for (key, value) in [("auth_mount", &raw.auth_mount), ("auth_namespace", &raw.auth_namespace)] {
        let sound = |text: &String| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_/".contains(&b));
        if !value.as_ref().is_none_or(sound) {
            at.report(&place(key), "made of letters, digits, `-`, `_` and `/`");
        }
    }
    let base = at.base;
    let file = |given: &Option<String>| -> Option<PathBuf> { given.as_ref().map(|file| base.join(file)) };
    Some(match raw.auth {
        RawVaultAuth::Token => VaultSignIn::Token { file: file(&raw.token_file) },
        RawVaultAuth::AppRole => VaultSignIn::AppRole {
            mount: mount("approle"),
            role_id: at.required(raw.role_id.clone(), &place("role_id"), "role_id = \"…\"")?,
            secret_id_file: file(&raw.secret_id_file),
        },
    })
}
