//! Keys of Google Cloud KMS, by their resource names.

use super::{endpoint_is_cleartext, invalid, only_endpoint};
use crate::error::Result;

/// A key of Google Cloud KMS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoogleKeyUri {
    name: String,
    endpoint: Option<String>,
}

impl GoogleKeyUri {
    /// Its resource name, `projects/P/locations/L/keyRings/R/cryptoKeys/K`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Data keys would cross the network in the clear: an `http` endpoint that is not this machine.
    pub fn is_cleartext(&self) -> bool {
        self.endpoint.as_deref().is_some_and(endpoint_is_cleartext)
    }

    pub(super) fn parse(uri: &str, rest: &str) -> Result<Self> {
        let (name, query) = rest.split_once('?').map_or((rest, None), |(name, query)| (name, Some(query)));
        let parts: Vec<&str> = name.split('/').collect();
        let ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key] = parts[..] else {
            let shape = "gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K";
            let error = invalid(uri, &format!("the resource name of a key is needed, as `{shape}`"));
            return Err(match parts.get(8) {
                Some(&"cryptoKeyVersions") => error.hint("leave the version away: a key that is rotated has many"),
                _ => error,
            });
        };
        if !is_project(project) || !is_location(location) {
            return Err(invalid(uri, "the project or the location is not one, as `my-project` and `europe-west3`"));
        }
        if !is_name(ring) || !is_name(key) {
            return Err(invalid(uri, "key ring and key are made of up to 63 letters, digits, `-` and `_`"));
        }
        Ok(Self { name: name.to_owned(), endpoint: only_endpoint(uri, query)? })
    }

    pub(super) fn text(&self) -> String {
        let endpoint = self.endpoint.as_ref().map(|e| format!("?endpoint={e}")).unwrap_or_default();
        format!("gcp-kms://{}{endpoint}", self.name)
    }
}

/// Some are of a domain, as `example.com:my-project`.
fn is_project(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b);
    (1..=100).contains(&text.len()) && text.bytes().all(good) && !text.starts_with('.') && !text.contains("..")
}

fn is_location(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(good)
}

/// Cloud KMS API reference, `keyRingId` and `cryptoKeyId`.
fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

#[cfg(test)]
mod tests {
    use crate::error::Code;
    use crate::kms::{KeyUri, RootKey};

    const KEY: &str = "gcp-kms://projects/shop/locations/europe-west3/keyRings/app/cryptoKeys/orders";

    #[test]
    fn a_key_is_its_resource_name_and_may_have_an_endpoint() {
        let google = |text: &str| match text.parse::<KeyUri>().unwrap().root() {
            RootKey::Google(google) => google.clone(),
            other => panic!("{other:?}"),
        };
        let key = google(KEY);
        assert_eq!(key.name(), "projects/shop/locations/europe-west3/keyRings/app/cryptoKeys/orders");
        assert_eq!((key.endpoint(), key.is_cleartext()), (None, false));
        assert_eq!(KEY.parse::<KeyUri>().unwrap().to_string(), KEY);
        google(&KEY.replace("/shop/", "/example.com:shop/"));
        for (endpoint, cleartext) in [
            ("https://cloudkms.europe-west3.rep.googleapis.com", false),
            ("http://127.0.0.1:8080", false),
            ("http://kms.internal", true),
        ] {
            let key = google(&format!("{KEY}?endpoint={endpoint}"));
            assert_eq!((key.endpoint(), key.is_cleartext()), (Some(endpoint), cleartext));
        }
    }

    #[test]
    fn what_is_no_resource_name_of_a_key_is_refused() {
        for bad in [
            "gcp-kms://".to_owned(),
            "gcp-kms://projects/p".to_owned(),
            format!("{KEY}/"),
            format!("{KEY}/cryptoKeyVersions/1"),
            KEY.replace("/app/", "/../"),
            KEY.replace("/app/", "//"),
            KEY.replace("orders", "or%2fders"),
            KEY.replace("orders", &"x".repeat(64)),
            KEY.replace("shop", "Shop"),
            format!("{KEY}?endpoint=ftp://x"),
            format!("{KEY}?endpoint=http://x&endpoint=http://y"),
            format!("{KEY}?version=1"),
            format!("{KEY}#1"),
        ] {
            assert_eq!(bad.parse::<KeyUri>().unwrap_err().code(), Code::KmsUriInvalid, "{bad}");
        }
        let error = format!("{KEY}?endpoint=http://me:hunter2@x").parse::<KeyUri>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
