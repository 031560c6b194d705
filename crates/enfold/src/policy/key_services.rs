//! `[key_services]`: what belongs together in it, and with the root keys of the rings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::model::{KeyServices, RingPolicy, TlsIdentity, VaultServer, VaultSignIn};
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
    KeyServices { min_tls: raw.min_tls, vault }
}

/// Where a pod has the token of its service account.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

fn sign_in(at: &mut Resolver<'_>, name: &str, raw: &RawVault) -> Option<VaultSignIn> {
    let place = |key: &str| keys(&["key_services", "vault", name, key]);
    let wanted: &[&str] = match raw.auth {
        // A token that is there already comes from no mount.
        RawVaultAuth::Token => &["token_file"],
        RawVaultAuth::AppRole => &["auth_mount", "role_id", "secret_id_file"],
        RawVaultAuth::Jwt | RawVaultAuth::Kubernetes => &["auth_mount", "role", "jwt_file"],
        RawVaultAuth::Cert => &["auth_mount", "role", "client_certificate_file", "client_key_file"],
    };
    for (key, value) in [
        ("auth_mount", &raw.auth_mount),
        ("role", &raw.role),
        ("role_id", &raw.role_id),
        ("token_file", &raw.token_file),
        ("secret_id_file", &raw.secret_id_file),
        ("jwt_file", &raw.jwt_file),
        ("client_certificate_file", &raw.client_certificate_file),
        ("client_key_file", &raw.client_key_file),
    ] {
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
    // Everything that is missing is reported at once.
    let mut needed = |value: &Option<String>, key: &str, line: &str| at.required(value.clone(), &place(key), line);
    Some(match raw.auth {
        RawVaultAuth::Token => VaultSignIn::Token { file: file(&raw.token_file) },
        RawVaultAuth::AppRole => VaultSignIn::AppRole {
            mount: mount("approle"),
            role_id: needed(&raw.role_id, "role_id", "role_id = \"…\"")?,
            secret_id_file: file(&raw.secret_id_file),
        },
        RawVaultAuth::Jwt => {
            let role = needed(&raw.role, "role", "role = \"…\"");
            let jwt = needed(&raw.jwt_file, "jwt_file", "jwt_file = \"…\"");
            VaultSignIn::Jwt { mount: mount("jwt"), role: role?, file: base.join(jwt?) }
        }
        RawVaultAuth::Kubernetes => VaultSignIn::Kubernetes {
            mount: mount("kubernetes"),
            role: needed(&raw.role, "role", "role = \"…\"")?,
            file: file(&raw.jwt_file).unwrap_or_else(|| PathBuf::from(SERVICE_ACCOUNT_TOKEN)),
        },
        RawVaultAuth::Cert => {
            let certificate =
                needed(&raw.client_certificate_file, "client_certificate_file", "client_certificate_file = \"…\"");
            let key = needed(&raw.client_key_file, "client_key_file", "client_key_file = \"…\"");
            let identity = TlsIdentity { certificate: base.join(certificate?), key: base.join(key?) };
            VaultSignIn::Certificate { mount: mount("cert"), role: raw.role.clone(), identity }
        }
    })
}
