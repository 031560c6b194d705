//! Root-key URIs, parsed into a type that cannot be wrong.
//!
//! | form | key |
//! |---|---|
//! | `aws-kms://REGION/KEY[?endpoint=URL]` | AWS KMS; KEY is a key id, `alias/NAME` or an ARN of that region |
//! | `aws-kms://ARN[?endpoint=URL]` | the same, the region taken from the ARN |
//! | `vault://HOST[:PORT]/MOUNT/KEY[?namespace=NAMESPACE]` | a transit key of Vault or OpenBao, over TLS; port 8200 unless another is named |
//! | `vault+http://…` | the same without TLS, for a server on this machine |
//! | `pkcs11:token=…;object=…?module-path=…&pin-source=…` | a key of a PKCS#11 token (RFC 7512, see `uri/pkcs11.rs`) |
//! | `local:PATH` | a key file on this machine, for development |
//! | `memory:NAME` | a key inside the process, for tests |

mod pkcs11;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::pkcs11::{PinSource, Pkcs11KeyUri};
use crate::error::{Code, Error, Result};

/// Names one root key. Printing it gives the canonical spelling, which is also what the catalog stores, and by which two
/// of them are compared.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyUri {
    text: String,
    root: RootKey,
}

/// What a [`KeyUri`] names. [`KeyUri::root`] lends it; only parsing makes one that is part of a URI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RootKey {
    Aws(AwsKeyUri),
    Vault(VaultKeyUri),
    Pkcs11(Pkcs11KeyUri),
    /// As written: a relative path starts at the policy's folder.
    Local(PathBuf),
    Memory(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AwsKeyUri {
    region: String,
    key: String,
    endpoint: Option<String>,
}

/// A key of a transit engine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VaultKeyUri {
    tls: bool,
    host: String,
    port: u16,
    mount: String,
    key: String,
    namespace: Option<String>,
}

impl KeyUri {
    pub fn root(&self) -> &RootKey {
        &self.root
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `memory:NAME`.
    pub fn memory(name: &str) -> Result<Self> {
        format!("memory:{name}").parse()
    }

    /// `local:PATH`.
    pub fn local(path: &Path) -> Result<Self> {
        let path = path.to_str().ok_or_else(|| invalid("local:…", "the path is not UTF-8"))?;
        format!("local:{path}").parse()
    }

    /// A key for development or tests, which production refuses.
    pub fn is_development(&self) -> bool {
        match &self.root {
            RootKey::Local(_) | RootKey::Memory(_) => true,
            RootKey::Aws(_) | RootKey::Vault(_) | RootKey::Pkcs11(_) => false,
        }
    }
}

impl AwsKeyUri {
    pub fn region(&self) -> &str {
        &self.region
    }

    /// What is named on every call: a key id, `alias/NAME` or an ARN.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Data keys would cross the network in the clear: an `http` endpoint that is not this machine.
    pub fn is_cleartext(&self) -> bool {
        self.endpoint.as_deref().is_some_and(|endpoint| {
            let url = url::Url::parse(endpoint).ok();
            !url.is_some_and(|url| url.scheme() == "https" || is_loopback(&url))
        })
    }

    /// An alias may be pointed at another key later; ids and ARNs of keys may not.
    pub fn is_alias(&self) -> bool {
        let name = self.key.rsplit_once(':').map_or(self.key.as_str(), |(_, name)| name);
        name.starts_with("alias/")
    }

    fn parse(uri: &str, rest: &str) -> Result<Self> {
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let (region, key) = if place.starts_with("arn:") {
            (arn_region(place).ok_or_else(|| invalid(uri, "the ARN is not one of a KMS key"))?, place)
        } else {
            place.split_once('/').ok_or_else(|| {
                invalid(uri, "a region and a key are needed, as `aws-kms://eu-central-1/alias/orders`")
            })?
        };
        if !is_region(region) {
            return Err(invalid(uri, "the region is not one, as `eu-central-1`"));
        }
        if !is_aws_key(key) {
            return Err(invalid(uri, "the key is neither a key id, nor `alias/NAME`, nor the ARN of one"));
        }
        if key.starts_with("arn:") && arn_region(key) != Some(region) {
            return Err(invalid(uri, "the ARN is of another region than the URI"));
        }
        let mut endpoint = None;
        for pair in query.iter().flat_map(|q| q.split('&')) {
            match pair.split_once('=') {
                Some(("endpoint", value)) if endpoint.is_none() => endpoint = Some(parse_endpoint(uri, value)?),
                _ => return Err(invalid(uri, "only `endpoint=URL` is known behind the `?`, and only once")),
            }
        }
        Ok(Self { region: region.to_owned(), key: key.to_owned(), endpoint })
    }
}

impl VaultKeyUri {
    /// What a server listens on unless its operators say otherwise.
    const PORT: u16 = 8200;

    /// `HOST:PORT`, under which the policy has what is to be known of the server.
    pub fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// `https://HOST:PORT`.
    pub fn address(&self) -> String {
        format!("{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }

    /// Where the transit engine is mounted.
    pub fn mount(&self) -> &str {
        &self.mount
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Data keys would cross the network in the clear.
    pub fn is_cleartext(&self) -> bool {
        !self.tls && !url::Url::parse(&self.address()).is_ok_and(|url| is_loopback(&url))
    }

    /// The `HOST[:PORT]` of a policy, with its port.
    pub fn canonical_server(text: &str) -> Result<String> {
        Self::authority(text, text).map(|(host, port)| format!("{host}:{port}"))
    }

    fn parse(uri: &str, tls: bool, rest: &str) -> Result<Self> {
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let needed =
            || invalid(uri, "a server, a mount and a key are needed, as `vault://vault.example.com/transit/orders`");
        let (authority, path) = place.split_once('/').ok_or_else(needed)?;
        let (mount, key) = path.rsplit_once('/').ok_or_else(needed)?;
        let (host, port) = Self::authority(uri, authority)?;
        if !is_vault_path(mount) || !is_vault_path(key) {
            return Err(invalid(uri, "mount and key are made of letters, digits, `-`, `_` and `.`"));
        }
        let mut namespace = None;
        for pair in query.iter().flat_map(|q| q.split('&')) {
            match pair.split_once('=') {
                Some(("namespace", value)) if namespace.is_none() && is_vault_path(value) => {
                    namespace = Some(value.to_owned());
                }
                _ => return Err(invalid(uri, "only `namespace=NAMESPACE` is known behind the `?`, and only once")),
            }
        }
        Ok(Self { tls, host, port, mount: mount.to_owned(), key: key.to_owned(), namespace })
    }

    fn authority(uri: &str, text: &str) -> Result<(String, u16)> {
        // A token here would be printed with the URI and stored in the catalog.
        if text.contains('@') {
            return Err(invalid("vault://…", "the server holds a user name or a password")
                .hint("how to sign in stands in the policy, under `key_services.vault`"));
        }
        let refused = || invalid(uri, "the server is not one, as `vault.example.com` or `vault.example.com:8200`");
        let url = url::Url::parse(&format!("https://{text}")).map_err(|_| refused())?;
        let host = url.host_str().ok_or_else(refused)?.to_owned();
        // The parser forgets the port that is https's own, and takes a path for an authority's end.
        let port = if text.ends_with(":443") { Some(443) } else { url.port() };
        if url.path() != "/" || text.contains(['/', '?', '#', '\\']) {
            return Err(refused());
        }
        Ok((host, port.unwrap_or(Self::PORT)))
    }

    fn text(&self) -> String {
        let scheme = if self.tls { "vault" } else { "vault+http" };
        let namespace = self.namespace.as_ref().map(|n| format!("?namespace={n}")).unwrap_or_default();
        format!("{scheme}://{}/{}/{}{namespace}", self.server(), self.mount, self.key)
    }
}

impl FromStr for KeyUri {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        if uri.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(invalid(uri, "it holds white space or control characters"));
        }
        if let Some(rest) = uri.strip_prefix("aws-kms://") {
            let aws = AwsKeyUri::parse(uri, rest)?;
            let endpoint = aws.endpoint.as_ref().map(|e| format!("?endpoint={e}")).unwrap_or_default();
            let text = format!("aws-kms://{}/{}{endpoint}", aws.region, aws.key);
            return Ok(Self { text, root: RootKey::Aws(aws) });
        }
        for (scheme, tls) in [("vault://", true), ("vault+http://", false)] {
            if let Some(rest) = uri.strip_prefix(scheme) {
                let vault = VaultKeyUri::parse(uri, tls, rest)?;
                return Ok(Self { text: vault.text(), root: RootKey::Vault(vault) });
            }
        }
        if let Some(rest) = uri.strip_prefix("pkcs11:") {
            let key = Pkcs11KeyUri::parse(rest)?;
            return Ok(Self { text: key.text(), root: RootKey::Pkcs11(key) });
        }
        if let Some(path) = uri.strip_prefix("local:") {
            if path.is_empty() || path.starts_with("//") || path.ends_with('/') {
                return Err(invalid(uri, "a file is needed, as `local:dev.key` or `local:/etc/enfold/dev.key`"));
            }
            return Ok(Self { text: uri.to_owned(), root: RootKey::Local(PathBuf::from(path)) });
        }
        if let Some(name) = uri.strip_prefix("memory:") {
            let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            if name.is_empty() || !name.bytes().all(good) {
                return Err(invalid(uri, "a name of letters, digits, `-`, `_` and `.` is needed"));
            }
            return Ok(Self { text: uri.to_owned(), root: RootKey::Memory(name.to_owned()) });
        }
        Err(unknown_scheme(uri))
    }
}

impl PartialEq for KeyUri {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for KeyUri {}

impl PartialOrd for KeyUri {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyUri {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for KeyUri {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl TryFrom<String> for KeyUri {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<KeyUri> for String {
    fn from(uri: KeyUri) -> String {
        uri.text
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyUri({})", self.text)
    }
}

/// The region of `arn:PARTITION:kms:REGION:ACCOUNT:RESOURCE`.
fn arn_region(arn: &str) -> Option<&str> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts[..] {
        ["arn", _, "kms", region, account, _] if account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()) => {
            Some(region)
        }
        _ => None,
    }
}

/// It becomes part of a host name, so nothing but what regions are made of may stand in it.
fn is_region(text: &str) -> bool {
    text.len() <= 32
        && text.contains('-')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// AWS KMS API reference, parameter `KeyId`: an id is a UUID, or `mrk-` and 32 hex digits.
fn is_aws_key(key: &str) -> bool {
    let name = if key.starts_with("arn:") {
        let resource = key.splitn(6, ':').nth(5).unwrap_or_default();
        match resource.strip_prefix("key/") {
            Some(id) => return is_aws_key_id(id),
            None => resource,
        }
    } else {
        key
    };
    match name.strip_prefix("alias/") {
        Some(alias) => {
            !alias.is_empty()
                && alias.len() <= 250
                && alias.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-".contains(&b))
        }
        None => !key.starts_with("arn:") && is_aws_key_id(name),
    }
}

fn is_aws_key_id(id: &str) -> bool {
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_hexdigit());
    match id.strip_prefix("mrk-") {
        Some(rest) => hex(rest, 32),
        None => {
            let parts: Vec<&str> = id.split('-').collect();
            parts.len() == 5 && parts.iter().zip([8, 4, 4, 4, 12]).all(|(part, n)| hex(part, n))
        }
    }
}

/// Segments that no server reads as anything but a name. Vault's own pattern for a key is `\w(([\w-.]+)?\w)?`.
fn is_vault_path(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    text.len() <= 250
        && text.split('/').all(|segment| {
            !segment.is_empty() && segment.bytes().all(good) && !segment.starts_with('.') && !segment.ends_with('.')
        })
}

fn parse_endpoint(uri: &str, text: &str) -> Result<String> {
    let Ok(url) = url::Url::parse(text) else {
        return Err(invalid(uri, "the endpoint is not a URL"));
    };
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(invalid(uri, "the endpoint is neither `http` nor `https`"));
    }
    // A password here would be printed with the URI and stored in the catalog.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("aws-kms://…", "the endpoint holds a user name or a password")
            .hint("credentials come from the default chain: environment, profile or role"));
    }
    if url.query().is_some() || url.fragment().is_some() || text.contains('#') {
        return Err(invalid(uri, "the endpoint has a query or a fragment"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn unknown_scheme(uri: &str) -> Error {
    const KNOWN: [&str; 5] = ["aws-kms", "vault", "pkcs11", "local", "memory"];
    let scheme = uri.split(':').next().unwrap_or_default();
    let error = invalid(
        uri,
        "no key service of that name is built in: `aws-kms://…`, `vault://…`, `pkcs11:…` and `local:…` are",
    );
    let nearest =
        KNOWN.iter().max_by(|a, b| strsim::jaro_winkler(scheme, a).total_cmp(&strsim::jaro_winkler(scheme, b)));
    match nearest {
        Some(name) if uri.contains(':') && strsim::jaro_winkler(scheme, name) > 0.75 => {
            error.hint(format!("did you mean `{name}`?"))
        }
        _ => error,
    }
}

/// A URI that is no URI may be a pasted secret or hold line breaks, so no more than its beginning is shown.
fn invalid(uri: &str, why: &str) -> Error {
    let mut shown: String = uri.chars().take(120).collect::<String>().escape_debug().to_string();
    if let Some(at) = shown.rfind('@') {
        shown = format!("…{}", &shown[at..]);
    }
    if let Some(at) = shown.find("pin-value") {
        shown.replace_range(at.., "…");
    }
    Error::new(Code::KmsUriInvalid, format!("`{shown}` is not a root-key URI")).cause(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    fn aws(uri: &str) -> AwsKeyUri {
        match uri.parse::<KeyUri>().unwrap().root() {
            RootKey::Aws(aws) => aws.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_three_ways_to_name_an_aws_key_are_understood() {
        let key = aws(&format!("aws-kms://eu-central-1/{ID}"));
        assert_eq!((key.region(), key.key(), key.endpoint()), ("eu-central-1", ID, None));
        assert!(!key.is_alias());
        assert!(aws("aws-kms://us-gov-west-1/alias/team/orders").is_alias());
        assert_eq!(aws("aws-kms://eu-west-1/mrk-1234abcd12ab34cd56ef1234567890ab").region(), "eu-west-1");
        let arn = format!("arn:aws:kms:eu-central-1:111122223333:key/{ID}");
        assert_eq!(aws(&format!("aws-kms://{arn}")).region(), "eu-central-1");
        assert!(aws("aws-kms://arn:aws:kms:eu-central-1:111122223333:alias/orders").is_alias());
    }

    #[test]
    fn both_spellings_of_an_arn_are_one_uri() {
        let arn = format!("arn:aws:kms:eu-central-1:111122223333:key/{ID}");
        let short: KeyUri = format!("aws-kms://{arn}").parse().unwrap();
        let long: KeyUri = format!("aws-kms://eu-central-1/{arn}").parse().unwrap();
        assert_eq!(short, long);
        assert_eq!(short.to_string().parse::<KeyUri>().unwrap(), short);
    }

    #[test]
    fn an_endpoint_belongs_to_the_uri_and_cleartext_beyond_this_machine_is_noticed() {
        for (endpoint, cleartext) in [
            ("http://127.0.0.1:4566", false),
            ("http://localhost:4566/", false),
            ("http://[::1]:4566", false),
            ("https://kms.example.com", false),
            ("http://localstack:4566", true),
            ("http://127.0.0.1.example.com", true),
        ] {
            let key = aws(&format!("aws-kms://eu-central-1/{ID}?endpoint={endpoint}"));
            assert_eq!(key.endpoint(), Some(endpoint.trim_end_matches('/')));
            assert_eq!(key.is_cleartext(), cleartext, "{endpoint}");
        }
    }

    #[test]
    fn what_is_no_uri_is_refused_with_its_own_code() {
        for bad in [
            "",
            "orders",
            "aws-kms://",
            "aws-kms://eu-central-1",
            "aws-kms://eu-central-1/",
            "aws-kms://eu-central-1/alias/",
            "aws-kms://eu-central-1/not-a-key-id",
            "aws-kms://evil.example.com#-1/alias/a",
            "aws-kms://eu-central-1/alias/a?endpoint=ftp://x",
            "aws-kms://eu-central-1/alias/a?endpoint=http://x&endpoint=http://y",
            "aws-kms://eu-central-1/alias/a?region=x",
            "aws-kms://eu-west-1/arn:aws:kms:eu-central-1:111122223333:alias/a",
            "aws-kms://arn:aws:s3:eu-central-1:111122223333:alias/a",
            "aws-kms://arn:aws:kms:eu-central-1:1:alias/a",
            "vault://",
            "vault://h",
            "vault://h/orders",
            "vault://h//orders",
            "vault://h/transit/",
            "vault://h/transit/../orders",
            "vault://h/transit/or%2fders",
            "vault://h/transit/orders?namespace=",
            "vault://h/transit/orders?namespace=a&namespace=b",
            "vault://h/transit/orders?token=hvs.x",
            "vault://h:x/transit/orders",
            "vault://h#a/transit/orders",
            "vault+https://h/transit/orders",
            "local:",
            "local://host/file",
            "local:folder/",
            "memory:",
            "memory:a/b",
            "gcp-kms://projects/p",
            "local:a b",
            "local:a\nb",
        ] {
            let error = bad.parse::<KeyUri>().unwrap_err();
            assert_eq!(error.code(), Code::KmsUriInvalid, "{bad:?}");
            assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn a_password_in_an_endpoint_is_refused_and_not_repeated() {
        let error = "aws-kms://eu-central-1/alias/a?endpoint=http://me:hunter2@x".parse::<KeyUri>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        let error = "aws-kms:/eu-central-1/alias/a?endpoint=http://me:hunter2@x".parse::<KeyUri>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn a_transit_key_is_a_server_a_mount_a_key_and_a_namespace() {
        let vault = |text: &str| match text.parse::<KeyUri>().unwrap().root() {
            RootKey::Vault(vault) => vault.clone(),
            other => panic!("{other:?}"),
        };
        let key = vault("vault://Vault.example.com/teams/transit/orders?namespace=shop/eu");
        assert_eq!(key.address(), "https://vault.example.com:8200");
        assert_eq!((key.mount(), key.key(), key.namespace()), ("teams/transit", "orders", Some("shop/eu")));
        assert_eq!(vault("vault://h:443/transit/orders").server(), "h:443");
        assert_eq!(vault("vault://[::1]:8210/transit/orders").address(), "https://[::1]:8210");
        // One key has one spelling, whether its port is written or not.
        let short: KeyUri = "vault://h/transit/orders".parse().unwrap();
        assert_eq!(short, "vault://h:8200/transit/orders".parse().unwrap());
        assert_eq!(short.to_string().parse::<KeyUri>().unwrap(), short);
        assert_eq!(VaultKeyUri::canonical_server("h").unwrap(), "h:8200");
        for (text, cleartext) in [
            ("vault://h/transit/orders", false),
            ("vault+http://127.0.0.1/transit/orders", false),
            ("vault+http://localhost:1/transit/orders", false),
            ("vault+http://h/transit/orders", true),
        ] {
            assert_eq!(vault(text).is_cleartext(), cleartext, "{text}");
        }
    }

    #[test]
    fn a_token_in_a_server_is_refused_and_not_repeated() {
        let error = "vault://hvs.secret@h/transit/orders".parse::<KeyUri>().unwrap_err();
        assert!(!error.to_string().contains("hvs.secret"), "{error}");
    }

    #[test]
    fn a_near_miss_names_the_right_scheme() {
        let error = "aws-kns://eu-central-1/alias/a".parse::<KeyUri>().unwrap_err();
        assert_eq!(error.hints().collect::<Vec<_>>(), ["did you mean `aws-kms`?"]);
        assert_eq!("gopher://x".parse::<KeyUri>().unwrap_err().hints().count(), 0);
    }

    #[test]
    fn serialised_it_is_its_text() {
        let uri: KeyUri = "local:dev.key".parse().unwrap();
        assert_eq!(serde_json::to_string(&uri).unwrap(), "\"local:dev.key\"");
        assert!(serde_json::from_str::<KeyUri>("\"local:\"").is_err());
    }
}
