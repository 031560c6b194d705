//! What the caller may do with a key: `testIamPermissions`, which whoever can sign in may call.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::kms::json;
use crate::kms::service::{Held, NeededBy, Permission};

/// Of a key and its versions, in the words of IAM.
const ASKED: [(&str, NeededBy); 9] = [
    ("cloudkms.cryptoKeyVersions.useToEncrypt", NeededBy::Applications),
    ("cloudkms.cryptoKeyVersions.useToDecrypt", NeededBy::Applications),
    ("cloudkms.cryptoKeys.get", NeededBy::Applications),
    ("cloudkms.cryptoKeys.update", NeededBy::Operators),
    ("cloudkms.cryptoKeyVersions.create", NeededBy::Operators),
    ("cloudkms.cryptoKeyVersions.update", NeededBy::Operators),
    ("cloudkms.cryptoKeyVersions.destroy", NeededBy::Operators),
    ("cloudkms.cryptoKeyVersions.restore", NeededBy::Operators),
    ("cloudkms.cryptoKeys.setIamPolicy", NeededBy::Nobody),
];

#[derive(Serialize)]
struct Question {
    permissions: Vec<&'static str>,
}

/// Those of the permissions that were asked for which the caller has.
#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    permissions: Vec<String>,
}

pub(super) fn question() -> Bytes {
    json::body(&Question { permissions: ASKED.iter().map(|(name, _)| *name).collect() }, 512)
}

pub(super) fn answered(answer: &Answer) -> Vec<Permission> {
    let permission = |(name, needed_by): (&str, NeededBy)| {
        let held = if answer.permissions.iter().any(|held| held == name) { Held::Yes } else { Held::No };
        Permission { name: name.to_owned(), held, needed_by }
    };
    ASKED.into_iter().map(permission).collect()
}
