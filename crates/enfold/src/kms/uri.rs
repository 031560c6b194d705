//! Root-key URIs, parsed into a type that cannot be wrong.
//!
//! | form | key |
//! |---|---|
//! | `aws-kms://REGION/KEY[?endpoint=URL]` | AWS KMS; KEY is a key id, `alias/NAME` or an ARN of that region |
//! | `aws-kms://ARN[?endpoint=URL]` | the same, the region taken from the ARN |
//! | `gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K[?endpoint=URL]` | Google Cloud KMS, the key's resource name |
//! | `azure-kv://VAULT.vault.azure.net/keys/NAME[/VERSION][?endpoint=URL]` | Azure Key Vault, or a managed HSM below `managedhsm.azure.net`; the key's identifier |
//! | `vault://HOST[:PORT]/MOUNT/KEY[?namespace=NAMESPACE]` | a transit key of Vault or OpenBao, over TLS; port 8200 unless another is named |
//! | `vault+http://…` | the same without TLS, for a server on this machine |
//! | `pkcs11:token=…;object=…?module-path=…&pin-source=…` | a key of a PKCS#11 token (RFC 7512, see `uri/pkcs11.rs`) |
//! | `local:PATH` | a key file on this machine, for development |
//! | `memory:NAME` | a key inside the process, for tests |

mod aws;
mod azure;
mod google;
mod pkcs11;
mod vault;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::aws::AwsKeyUri;
pub use self::azure::AzureKeyUri;
pub use self::google::GoogleKeyUri;
pub use self::pkcs11::{PinSource, Pkcs11KeyUri};
pub use self::vault::VaultKeyUri;
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
    Google(GoogleKeyUri),
    Azure(AzureKeyUri),
    Vault(VaultKeyUri),
    Pkcs11(Pkcs11KeyUri),
    /// As written: a relative path starts at the policy's folder.
    Local(PathBuf),
    Memory(String),
}

impl KeyUri {
    pub fn root(&self) -> &RootKey {
        &self.root
    }

    /// What kind of key service it is in, by the word that its URI begins with.
    pub fn provider(&self) -> &'static str {
        match &self.root {
            RootKey::Aws(_) => "aws-kms",
            RootKey::Google(_) => "gcp-kms",
            RootKey::Azure(_) => "azure-kv",
            RootKey::Vault(_) => "vault",
            RootKey::Pkcs11(_) => "pkcs11",
            RootKey::Local(_) => "local",
            RootKey::Memory(_) => "memory",
        }
    }

    /// Whether what other programs keep to name a root key (its URI; of AWS its ARN, id or alias) is this one.
    pub fn is_named(&self, name: &str) -> bool {
        let by_name = matches!(&self.root, RootKey::Aws(key) if key.is_named(name));
        by_name || name.parse::<Self>().is_ok_and(|uri| uri == *self)
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

    /// Enfold's way to this key service was tried on a fake of ours, and not yet on the service itself.
    pub fn is_proved_on_a_fake_alone(&self) -> bool {
        matches!(self.root, RootKey::Google(_) | RootKey::Azure(_))
    }

    /// What it wraps can be made by others as well, who have no right to the key: under an RSA key by whoever has the
    /// public half. A wrap alone then proves nothing, and has to stand in a row that is authenticated.
    pub fn may_be_public(&self) -> bool {
        matches!(self.root, RootKey::Azure(_))
    }

    /// A key for development or tests, which production refuses.
    pub fn is_development(&self) -> bool {
        match &self.root {
            RootKey::Local(_) | RootKey::Memory(_) => true,
            RootKey::Aws(_) | RootKey::Google(_) | RootKey::Azure(_) | RootKey::Vault(_) | RootKey::Pkcs11(_) => false,
        }
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
            return Ok(Self { text: aws.text(), root: RootKey::Aws(aws) });
        }
        if let Some(rest) = uri.strip_prefix("gcp-kms://") {
            let google = GoogleKeyUri::parse(uri, rest)?;
            return Ok(Self { text: google.text(), root: RootKey::Google(google) });
        }
        if let Some(rest) = uri.strip_prefix("azure-kv://") {
            let azure = AzureKeyUri::parse(uri, rest)?;
            return Ok(Self { text: azure.text(), root: RootKey::Azure(azure) });
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

/// `endpoint=URL` behind the `?`, or nothing.
fn only_endpoint(uri: &str, query: Option<&str>) -> Result<Option<String>> {
    let mut endpoint = None;
    for pair in query.iter().flat_map(|q| q.split('&')) {
        match pair.split_once('=') {
            Some(("endpoint", value)) if endpoint.is_none() => endpoint = Some(parse_endpoint(uri, value)?),
            _ => return Err(invalid(uri, "only `endpoint=URL` is known behind the `?`, and only once")),
        }
    }
    Ok(endpoint)
}

fn endpoint_is_cleartext(endpoint: &str) -> bool {
    let url = url::Url::parse(endpoint).ok();
    !url.is_some_and(|url| url.scheme() == "https" || is_loopback(&url))
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
        let scheme = uri.split(':').next().unwrap_or_default();
        return Err(invalid(&format!("{scheme}://…"), "the endpoint holds a user name or a password")
            .hint("docs/concepts/key-services.md says where credentials of each key service come from"));
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
    const KNOWN: [&str; 7] = ["aws-kms", "gcp-kms", "azure-kv", "vault", "pkcs11", "local", "memory"];
    let scheme = uri.split(':').next().unwrap_or_default();
    let error = invalid(
        uri,
        "no key service of that name is built in: `aws-kms://…`, `gcp-kms://…`, `azure-kv://…`, `vault://…`, `pkcs11:…` and \
         `local:…` are",
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
