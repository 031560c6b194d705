//! Keys of Azure Key Vault and Managed HSM, by their identifiers.

use super::{endpoint_is_cleartext, invalid, only_endpoint};
use crate::error::Result;

/// The domains below which vaults and managed HSMs are, in all of Azure's clouds. A token of ours goes nowhere else.
const DOMAINS: [&str; 6] = [
    "vault.azure.net",
    "managedhsm.azure.net",
    "vault.azure.cn",
    "managedhsm.azure.cn",
    "vault.usgovcloudapi.net",
    "managedhsm.usgovcloudapi.net",
];

/// A key of Azure Key Vault or of a managed HSM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AzureKeyUri {
    host: String,
    name: String,
    version: Option<String>,
    endpoint: Option<String>,
}

impl AzureKeyUri {
    /// Of the vault, as `orders.vault.azure.net`.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where one version alone is meant: 32 hex digits.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What tokens for it are asked for, as `https://vault.azure.net`.
    pub fn resource(&self) -> String {
        let domain = self.host.split_once('.').map_or("", |(_, domain)| domain);
        format!("https://{domain}")
    }

    /// Where it is called: its own host, unless another endpoint is named.
    pub fn address(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| format!("https://{}", self.host))
    }

    /// Data keys would cross the network in the clear: an `http` endpoint that is not this machine.
    pub fn is_cleartext(&self) -> bool {
        self.endpoint.as_deref().is_some_and(endpoint_is_cleartext)
    }

    pub(super) fn parse(uri: &str, rest: &str) -> Result<Self> {
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let parts: Vec<&str> = place.split('/').collect();
        let (host, name, version) = match parts[..] {
            [host, "keys", name] => (host, name, None),
            [host, "keys", name, version] => (host, name, Some(version)),
            _ => {
                let shape = "azure-kv://VAULT.vault.azure.net/keys/NAME";
                return Err(invalid(uri, &format!("a key's identifier is needed, as `{shape}`")));
            }
        };
        let host = host.to_ascii_lowercase();
        let known = host.split_once('.').is_some_and(|(vault, domain)| is_vault(vault) && DOMAINS.contains(&domain));
        if !known {
            return Err(invalid(uri, "the host is not one of a vault or a managed HSM, as `orders.vault.azure.net`"));
        }
        if !is_name(name) {
            return Err(invalid(uri, "the key's name is made of up to 127 letters, digits and `-`"));
        }
        if !version.is_none_or(is_version) {
            return Err(invalid(uri, "a version is 32 digits of hexadecimal"));
        }
        let version = version.map(str::to_owned);
        Ok(Self { host, name: name.to_owned(), version, endpoint: only_endpoint(uri, query)? })
    }

    pub(super) fn text(&self) -> String {
        let version = self.version.as_ref().map(|v| format!("/{v}")).unwrap_or_default();
        let endpoint = self.endpoint.as_ref().map(|e| format!("?endpoint={e}")).unwrap_or_default();
        format!("azure-kv://{}/keys/{}{version}{endpoint}", self.host, self.name)
    }
}

fn is_vault(text: &str) -> bool {
    (3..=24).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Key Vault REST reference: `^[0-9a-zA-Z-]+$`.
fn is_name(text: &str) -> bool {
    (1..=127).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_version(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use crate::error::Code;
    use crate::kms::{KeyUri, RootKey};

    #[test]
    fn a_key_is_its_identifier_with_or_without_a_version() {
        let azure = |text: &str| match text.parse::<KeyUri>().unwrap().root() {
            RootKey::Azure(azure) => azure.clone(),
            other => panic!("{other:?}"),
        };
        let key = azure("azure-kv://Shop.vault.azure.net/keys/orders");
        assert_eq!((key.host(), key.name(), key.version()), ("shop.vault.azure.net", "orders", None));
        assert_eq!(
            (key.resource(), key.address()),
            ("https://vault.azure.net".to_owned(), "https://shop.vault.azure.net".to_owned())
        );
        let version = "0123456789abcdef0123456789abcdef";
        let key = azure(&format!("azure-kv://shop.managedhsm.azure.net/keys/orders/{version}"));
        assert_eq!((key.version(), key.resource().as_str()), (Some(version), "https://managedhsm.azure.net"));
        let key = azure("azure-kv://shop.vault.azure.net/keys/orders?endpoint=http://127.0.0.1:1");
        assert_eq!((key.address().as_str(), key.is_cleartext()), ("http://127.0.0.1:1", false));
        assert!(azure("azure-kv://shop.vault.azure.net/keys/orders?endpoint=http://h").is_cleartext());
        let uri: KeyUri = "azure-kv://SHOP.vault.azure.net/keys/orders".parse().unwrap();
        assert_eq!(uri.to_string().parse::<KeyUri>().unwrap(), uri);
    }

    #[test]
    fn what_is_no_identifier_of_a_key_is_refused() {
        for bad in [
            "azure-kv://",
            "azure-kv://shop.vault.azure.net",
            "azure-kv://shop.vault.azure.net/orders",
            "azure-kv://shop.vault.azure.net/keys/",
            "azure-kv://shop.vault.azure.net/secrets/orders",
            "azure-kv://shop.vault.azure.net/keys/or_ders",
            "azure-kv://shop.vault.azure.net/keys/orders/1",
            "azure-kv://shop.vault.azure.net/keys/orders/0123456789ABCDEF0123456789ABCDEF",
            "azure-kv://shop.vault.azure.net.example.com/keys/orders",
            "azure-kv://evil.example.com/keys/orders",
            "azure-kv://me:x@shop.vault.azure.net/keys/orders",
            "azure-kv://shop.vault.azure.net:8443/keys/orders",
            "azure-kv://vault.azure.net/keys/orders",
            "azure-kv://shop.vault.azure.net/keys/orders?version=1",
        ] {
            assert_eq!(bad.parse::<KeyUri>().unwrap_err().code(), Code::KmsUriInvalid, "{bad}");
        }
    }
}
