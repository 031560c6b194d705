//! What requests to key services cost, by a file.

use std::collections::BTreeMap;
use std::path::Path;

use enfold::kms::{KeyUri, RootKey};
use enfold::{Code, Error, Result, RootCalls};
use serde::Deserialize;

use crate::commands::io_fact;

/// Taken where no file is named.
const DEFAULT: &str = include_str!("../../../../../docs/reference/kms-prices.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prices {
    pub(super) currency: String,
    /// When they were read.
    pub(super) as_of: String,
    services: BTreeMap<String, Price>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    per_10000_requests: f64,
    /// Where they were read.
    #[serde(rename = "source")]
    _source: Option<String>,
}

impl Prices {
    pub(super) fn load(file: Option<&Path>) -> Result<Self> {
        let (text, shown) = match file {
            None => (DEFAULT.to_owned(), "the prices of this program".to_owned()),
            Some(path) => {
                let shown = format!("`{}`", path.display());
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Error::new(Code::FileFailed, format!("cannot read prices from {shown}")).cause(io_fact(&error))
                })?;
                (text, shown)
            }
        };
        let prices: Self = toml::from_str(&text).map_err(|error| {
            Error::new(Code::Usage, format!("cannot make sense of {shown}"))
                .cause(error.message().to_owned())
                .hint("`docs/reference/kms-prices.toml` is an example")
        })?;
        let good = |price: &Price| price.per_10000_requests.is_finite() && price.per_10000_requests >= 0.0;
        match prices.services.iter().find(|(_, price)| !good(price)) {
            None => Ok(prices),
            Some((service, _)) => Err(Error::new(Code::Usage, format!("cannot make sense of {shown}"))
                .cause(format!("the price of `{service}` is no amount"))),
        }
    }

    /// None where there is no price for the service.
    pub(super) fn cost(&self, calls: &RootCalls) -> Option<f64> {
        let price = self.services.get(service(&calls.root.parse().ok()?))?;
        Some(calls.requests() as f64 / 10_000.0 * price.per_10000_requests)
    }
}

fn service(root: &KeyUri) -> &'static str {
    match root.root() {
        RootKey::Aws(_) => "aws-kms",
        RootKey::Google(_) => "gcp-kms",
        RootKey::Azure(_) if root.as_str().contains(".managedhsm.azure.net/") => "azure-managed-hsm",
        RootKey::Azure(_) => "azure-key-vault",
        RootKey::Vault(_) => "vault",
        RootKey::Pkcs11(_) => "pkcs11",
        RootKey::Local(_) | RootKey::Memory(_) => "local",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(root: &str) -> RootCalls {
        RootCalls { root: root.to_owned(), wraps: 100_000, unwraps: 200_000, ..RootCalls::default() }
    }

    #[test]
    fn every_service_has_a_price_and_requests_are_what_is_paid_for() {
        let prices = Prices::load(None).unwrap();
        let cost = |root: &str| prices.cost(&calls(root)).unwrap();
        let close = |cost: f64, to: f64| (cost - to).abs() < 1e-9;
        assert!(close(cost("aws-kms://eu-west-1/alias/a"), 0.9));
        assert!(close(cost("gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k"), 0.9));
        assert!(close(cost("azure-kv://shop.vault.azure.net/keys/k"), 0.9));
        assert!(close(cost("azure-kv://shop.managedhsm.azure.net/keys/k"), 0.0));
        assert!(close(cost("vault://h:8200/transit/k"), 0.0));
        assert!(close(cost("local:root.key"), 0.0));
    }

    #[test]
    fn prices_that_are_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prices.toml");
        for bad in
            ["", "currency = 1", "currency = \"EUR\"\nas_of = \"2026\"\n[services.vault]\nper_10000_requests = -1.0"]
        {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(Prices::load(Some(&file)).unwrap_err().code(), Code::Usage, "{bad}");
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(Prices::load(Some(&file)).unwrap_err().code(), Code::FileFailed);
    }
}
