//! Keys of a transit engine: a server, a mount, a key and a namespace.

use super::{invalid, is_loopback};
use crate::error::Result;

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

    pub fn is_tls(&self) -> bool {
        self.tls
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

    pub(super) fn parse(uri: &str, tls: bool, rest: &str) -> Result<Self> {
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

    pub(super) fn text(&self) -> String {
        let scheme = if self.tls { "vault" } else { "vault+http" };
        let namespace = self.namespace.as_ref().map(|n| format!("?namespace={n}")).unwrap_or_default();
        format!("{scheme}://{}/{}/{}{namespace}", self.server(), self.mount, self.key)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::{KeyUri, RootKey};

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
}
