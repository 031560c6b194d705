//! `[key_services]`: what belongs together in it, and with the root keys of the rings.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::model::{
    AzureSettings, AzureSignIn, GoogleSettings, KeyServices, Pkcs11Policy, RingPolicy, VaultServer, VaultSignIn,
};
use super::raw::{RawAzure, RawAzureAuth, RawGoogle, RawKeyServices, RawPkcs11, RawVault, RawVaultAuth};
use super::resolve::{Resolver, keys};
use crate::kms::{KeyUri, RootKey, VaultKeyUri};

pub(super) fn resolve(at: &mut Resolver<'_>, raw: RawKeyServices, rings: &BTreeMap<String, RingPolicy>) -> KeyServices {
    let roots: Vec<KeyUri> = rings.values().flat_map(|ring| &ring.roots).filter_map(|r| r.parse().ok()).collect();
    let server = |root: &KeyUri| match root.root() {
        RootKey::Vault(vault) => Some(vault.server()),
        _ => None,
    };
    let named: BTreeSet<String> = roots.iter().filter_map(server).collect();
    let google_is_named = roots.iter().any(|root| matches!(root.root(), RootKey::Google(_)));
    let azure_is_named = roots.iter().any(|root| matches!(root.root(), RootKey::Azure(_)));
    if raw.azure != RawAzure::default() && !azure_is_named {
        at.report(&keys(&["key_services", "azure"]), "no root key is in Azure");
    }
    if raw.google != RawGoogle::default() && !google_is_named {
        at.report(&keys(&["key_services", "google"]), "no root key is in Google Cloud KMS");
    }
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
    KeyServices {
        min_tls: raw.min_tls,
        vault,
        google: google(at, raw.google),
        azure: azure(at, raw.azure),
        pkcs11: pkcs11(&raw.pkcs11),
    }
}

fn pkcs11(raw: &RawPkcs11) -> Pkcs11Policy {
    let sessions = usize::try_from(raw.sessions).ok().and_then(NonZeroUsize::new);
    sessions.map_or_else(Pkcs11Policy::default, |sessions| Pkcs11Policy { sessions })
}

fn google(at: &mut Resolver<'_>, raw: RawGoogle) -> GoogleSettings {
    // It becomes part of a URL, so nothing but what addresses of service accounts are made of may stand in it.
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.@:".contains(&b);
    let address = |text: &String| text.contains('@') && text.bytes().all(good);
    if !raw.impersonate.as_ref().is_none_or(address) {
        let path = keys(&["key_services", "google", "impersonate"]);
        at.report(&path, "not the address of a service account, as `orders@my-project.iam.gserviceaccount.com`");
    }
    let base = at.base;
    let file = |given: Option<String>| given.map(|file| base.join(file));
    GoogleSettings {
        ca_file: file(raw.ca_file),
        credentials_file: file(raw.credentials_file),
        impersonate: raw.impersonate,
    }
}

fn azure(at: &mut Resolver<'_>, raw: RawAzure) -> AzureSettings {
    let place = |key: &str| keys(&["key_services", "azure", key]);
    let (sign_in, wanted) = match raw.auth {
        RawAzureAuth::ManagedIdentity => (AzureSignIn::ManagedIdentity, None),
        RawAzureAuth::WorkloadIdentity => (AzureSignIn::WorkloadIdentity, Some("token_file")),
        RawAzureAuth::ClientSecret => (AzureSignIn::ClientSecret, Some("client_secret_file")),
        RawAzureAuth::ClientCertificate => (AzureSignIn::ClientCertificate, Some("client_certificate_file")),
    };
    let files = [
        ("token_file", raw.token_file),
        ("client_secret_file", raw.client_secret_file),
        ("client_certificate_file", raw.client_certificate_file),
    ];
    let mut file = None;
    for (key, value) in files {
        match value {
            Some(value) if wanted == Some(key) => file = Some(at.base.join(value)),
            Some(_) => at.report(&place(key), "this way to sign in has no use for it"),
            None => {}
        }
    }
    // They become parts of URLs.
    let word =
        |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    for (key, value) in [("tenant_id", &raw.tenant_id), ("client_id", &raw.client_id)] {
        if !value.as_ref().is_none_or(word) {
            at.report(&place(key), "made of letters, digits, `-` and `.`");
        }
    }
    let https = |text: &String| url::Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.path() == "/");
    if !raw.authority.as_ref().is_none_or(https) {
        at.report(&place("authority"), "not an authority, as `https://login.microsoftonline.com`");
    }
    AzureSettings {
        ca_file: raw.ca_file.map(|file| at.base.join(file)),
        sign_in,
        tenant_id: raw.tenant_id,
        client_id: raw.client_id,
        authority: raw.authority,
        file,
    }
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
