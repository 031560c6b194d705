//! `[key_services]`: what belongs together in it, and with the root keys of the rings.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::model::{KeyServices, Pkcs11Policy, RingPolicy, VaultServer, VaultSignIn};
use super::raw::{RawKeyServices, RawVault, RawVaultAuth};
use super::resolve::{Resolver, keys};
use crate::kms::{KeyUri, RootKey, VaultKeyUri};

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
    let sessions = usize::try_from(raw.pkcs11.sessions).ok().and_then(NonZeroUsize::new);
    let pkcs11 = sessions.map_or_else(Pkcs11Policy::default, |sessions| Pkcs11Policy { sessions });
    KeyServices { min_tls: raw.min_tls, vault, pkcs11 }
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
