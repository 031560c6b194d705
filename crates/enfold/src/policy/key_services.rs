//! `[key_services]`: what belongs together in it, and with the root keys of the rings.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use super::model::{
    AwsRole, AzureSettings, AzureSignIn, GoogleSettings, KeyServices, Pkcs11Policy, RingPolicy, TlsIdentity,
    VaultServer, VaultSignIn,
};
use super::raw::{
    RawAws, RawAzure, RawAzureAuth, RawGoogle, RawKeyServices, RawLocal, RawPkcs11, RawVault, RawVaultAuth,
};
use super::resolve::{Resolver, keys};
use crate::kms::{KeyUri, PASSPHRASE_VARIABLE, PassphraseSource, RootKey, VaultKeyUri};

/// `foreign`: root keys that other programs encrypted under, and that readers open values with.
pub(super) fn resolve(
    at: &mut Resolver<'_>,
    raw: RawKeyServices,
    rings: &BTreeMap<String, RingPolicy>,
    foreign: Vec<KeyUri>,
) -> KeyServices {
    let ours = rings.values().flat_map(RingPolicy::root_keys).filter_map(|root| root.parse().ok());
    let roots: Vec<KeyUri> = ours.chain(foreign).collect();
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
    let local = local(at, raw.local, rings);
    let aws = aws(at, raw.aws, &roots);
    let (google, azure) = (google(at, raw.google), azure(at, raw.azure));
    let requests_per_second = raw.requests_per_second.and_then(NonZeroU32::new);
    let pkcs11 = pkcs11(&raw.pkcs11);
    KeyServices { min_tls: raw.min_tls, requests_per_second, aws, vault, google, azure, pkcs11, local }
}

/// Roles of root keys.
fn aws(at: &mut Resolver<'_>, raw: BTreeMap<String, RawAws>, roots: &[KeyUri]) -> BTreeMap<KeyUri, AwsRole> {
    let mut aws = BTreeMap::new();
    for (name, raw) in raw {
        let place = |key: &str| keys(&["key_services", "aws", &name, key]);
        let named = |uri: &KeyUri| matches!(uri.root(), RootKey::Aws(_)) && roots.contains(uri);
        let Some(uri) = name.parse::<KeyUri>().ok().filter(named) else {
            at.report(&keys(&["key_services", "aws", &name]), "no root key of AWS KMS has this URI");
            continue;
        };
        let line = "role_arn = \"arn:aws:iam::ACCOUNT:role/NAME\"";
        let Some(arn) = at.required(raw.role_arn, &place("role_arn"), line) else { continue };
        if !is_role(&arn) {
            at.report(&place("role_arn"), "not the ARN of a role, as `arn:aws:iam::111122223333:role/enfold`");
        }
        // IAM, `AssumeRole`: ExternalId.
        let good = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b);
        let sound = |id: &String| (2..=1224).contains(&id.len()) && id.bytes().all(good);
        if !raw.external_id.as_ref().is_none_or(sound) {
            at.report(&place("external_id"), "2 to 1224 letters, digits and `_+=,.@:/-`");
        }
        aws.insert(uri, AwsRole { arn, external_id: raw.external_id });
    }
    aws
}

fn is_role(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let digits = |text: &str| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@/-".contains(&b);
    match parts[..] {
        ["arn", _, "iam", "", account, role] => {
            let name = role.strip_prefix("role/").unwrap_or_default();
            digits(account) && !name.is_empty() && name.bytes().all(good)
        }
        _ => false,
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

/// Where the passphrases of sealed local keys are.
fn local(
    at: &mut Resolver<'_>,
    raw: BTreeMap<String, RawLocal>,
    rings: &BTreeMap<String, RingPolicy>,
) -> BTreeMap<KeyUri, PassphraseSource> {
    let mut local = BTreeMap::new();
    for (file, raw) in raw {
        let path = keys(&["key_services", "local", &file]);
        let named = |uri: &KeyUri| rings.values().flat_map(RingPolicy::root_keys).any(|root| root == uri.as_str());
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
