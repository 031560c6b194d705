//! Signing with a transit key of the type `ed25519`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::VaultKms;
use crate::error::{Code, Result};
use crate::kms::failure::{self, Operation};
use crate::kms::json::body;
use crate::kms::service::SignBytes;

/// API documentation, "Read key": a key of an asymmetric type has a public key for each version.
#[derive(Deserialize)]
struct Public {
    #[serde(rename = "type")]
    kind: String,
    derived: bool,
    keys: BTreeMap<String, serde_json::Value>,
}

/// "Sign data".
#[derive(Serialize)]
struct Wanted {
    input: String,
    key_version: u32,
}

#[derive(Deserialize)]
struct Signed {
    signature: String,
}

#[async_trait]
impl SignBytes for VaultKms {
    async fn public_keys(&self) -> Result<BTreeMap<u32, [u8; 32]>> {
        let (operation, path) = (Operation::Describe, format!("keys/{}", self.key.key()));
        let about: Public = self.data(operation, Method::GET, &path, None).await?;
        if about.kind != "ed25519" || about.derived {
            let (mount, key) = (self.key.mount(), self.key.key());
            return Err(failure::failed(Code::KmsUriInvalid, operation, &self.uri)
                .cause("the key is none of the type `ed25519` that is not derived")
                .hint(format!(
                    "make one of another name: `bao write -f {mount}/keys/NAME type=ed25519` (or `vault write`)"
                ))
                .hint(format!("look at this one with `bao read {mount}/keys/{key}`")));
        }
        let read = |(version, about): (&String, &serde_json::Value)| {
            let key = STANDARD.decode(about.get("public_key")?.as_str()?).ok()?;
            Some((version.parse().ok()?, key.try_into().ok()?))
        };
        let keys: Option<BTreeMap<u32, [u8; 32]>> = about.keys.iter().map(read).collect();
        keys.ok_or_else(|| failure::unusable(operation, &self.uri, "a version has no public key of 32 bytes"))
    }

    async fn sign(&self, version: u32, bytes: &[u8]) -> Result<Vec<u8>> {
        let (operation, path) = (Operation::Sign, format!("sign/{}", self.key.key()));
        let wanted = Wanted { input: STANDARD.encode(bytes), key_version: version };
        let wanted = body(&wanted, wanted.input.len() + 64);
        let signed: Signed = self.data(operation, Method::POST, &path, Some(wanted)).await?;
        let signature = signed.signature.strip_prefix(&format!("vault:v{version}:")).map(|text| STANDARD.decode(text));
        match signature {
            Some(Ok(signature)) if signature.len() == 64 => Ok(signature),
            _ => {
                Err(failure::unusable(operation, &self.uri, "it holds no signature of the version that was asked for"))
            }
        }
    }
}
