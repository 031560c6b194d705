//! Keys of AWS KMS: a region and a key id, an alias or an ARN.

use super::{endpoint_is_cleartext, invalid, only_endpoint};
use crate::error::Result;

/// A key of AWS KMS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AwsKeyUri {
    region: String,
    key: String,
    endpoint: Option<String>,
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
        self.endpoint.as_deref().is_some_and(endpoint_is_cleartext)
    }

    /// An alias may be pointed at another key later; ids and ARNs of keys may not.
    pub fn is_alias(&self) -> bool {
        let name = self.key.rsplit_once(':').map_or(self.key.as_str(), |(_, name)| name);
        name.starts_with("alias/")
    }

    /// Whether an ARN, as other programs keep it, or what stands in the URI, is this key's. The account of an ARN is compared
    /// only where the URI has one: what is called is the URI's key in any case.
    pub(super) fn is_named(&self, name: &str) -> bool {
        // Some write `key/` before an alias, too.
        let resource = |key: &str| {
            let resource = if key.starts_with("arn:") { key.splitn(6, ':').nth(5).unwrap_or_default() } else { key };
            resource.strip_prefix("key/").unwrap_or(resource).to_owned()
        };
        let account = |key: &str| key.starts_with("arn:").then(|| key.split(':').nth(4).map(str::to_owned));
        let region = if name.starts_with("arn:") { arn_region(name) } else { Some(self.region()) };
        let accounts = account(&self.key).zip(account(name));
        region == Some(self.region())
            && resource(name) == resource(&self.key)
            && accounts.is_none_or(|(ours, theirs)| ours == theirs)
    }

    pub(super) fn parse(uri: &str, rest: &str) -> Result<Self> {
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
        Ok(Self { region: region.to_owned(), key: key.to_owned(), endpoint: only_endpoint(uri, query)? })
    }

    pub(super) fn text(&self) -> String {
        let endpoint = self.endpoint.as_ref().map(|e| format!("?endpoint={e}")).unwrap_or_default();
        format!("aws-kms://{}/{}{endpoint}", self.region, self.key)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::{KeyUri, RootKey};

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
    fn a_key_is_known_by_the_arn_that_others_keep() {
        let arn = format!("arn:aws:kms:eu-central-1:111122223333:key/{ID}");
        let of = |uri: &str, name: &str| uri.parse::<KeyUri>().unwrap().is_named(name);
        for uri in [format!("aws-kms://eu-central-1/{ID}"), format!("aws-kms://{arn}")] {
            assert!(of(&uri, &arn) && of(&uri, ID) && of(&uri, &uri), "{uri}");
            assert!(!of(&uri, &arn.replace("eu-central-1", "eu-west-1")), "{uri}: of another region");
            assert!(!of(&uri, &arn.replace("1234abcd", "1234abce")), "{uri}: another key");
            assert!(!of(&uri, "") && !of(&uri, "arn:aws:kms"), "{uri}");
        }
        assert!(!of(&format!("aws-kms://{arn}"), &arn.replace("3333:", "3334:")), "of another account");
        let alias = "aws-kms://us-east-1/alias/app/master?endpoint=http://127.0.0.1:4566";
        assert!(of(alias, "arn:aws:kms:us-east-1:123456789012:key/alias/app/master") && of(alias, "alias/app/master"));
        assert!(!of(alias, "alias/app"));
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
}
