//! The conformance suite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use enfold::kms::conformance::{self, Arranged, Case, Change, Fixture, NO_ABILITY, Outcome, Trouble};
use enfold::kms::{KeyManagementService, KeyManagementServiceExt, RootKey, VaultOptions, WrappedKey};
use enfold_testkit::aws::{Behaviour, Listener};
use serde_json::{Value, json};

use crate::conformance_table;
use crate::engine::{Engine, by_token, open};

/// Every key of it is in a mount of its own; the first engine's folder has the credentials.
struct OnOpenBao(Engine);

const NO_DISABLING: &str = "a transit key cannot be disabled";
const NO_PENDING: &str = "a transit key is deleted at once";

#[async_trait]
impl Fixture for OnOpenBao {
    fn name(&self) -> String {
        "OpenBao".to_owned()
    }

    async fn key(&self) -> Arc<dyn KeyManagementService> {
        open(&Engine::new().await.uri(), &self.0.root())
    }

    async fn trouble(&self, kms: &Arc<dyn KeyManagementService>, trouble: Trouble) -> Arranged {
        let RootKey::Vault(key) = kms.uri().root() else { panic!("not a transit key") };
        let (mount, key, bao) = (key.mount(), key.key(), &self.0.bao);
        let elsewhere = |listener: &Listener, options: &VaultOptions| {
            let server = listener.endpoint().strip_prefix("http://").unwrap().to_owned();
            Arranged::Done(open(&format!("vault+http://{server}/{mount}/{key}"), options))
        };
        match trouble {
            Trouble::Disabled => Arranged::Impossible(NO_DISABLING),
            Trouble::PendingDeletion => Arranged::Impossible(NO_PENDING),
            Trouble::Deleted => {
                bao.write(&format!("{mount}/keys/{key}/config"), json!({ "deletion_allowed": true })).await;
                let (status, _) = bao.call("DELETE", &format!("{mount}/keys/{key}"), &Value::Null).await;
                assert_eq!(status, 204);
                Arranged::Done(kms.clone())
            }
            Trouble::Denied => {
                let token = self.0.token_for("path \"nothing/*\" { capabilities = [\"read\"] }", json!({})).await;
                Arranged::Done(open(kms.uri().as_str(), &by_token(&self.0.secret("denied", &token))))
            }
            Trouble::CredentialExpired => {
                let token =
                    self.0.token_for("path \"*\" { capabilities = [\"read\", \"update\"] }", short_lived()).await;
                let file = self.0.secret("expired", &token);
                self.0.until_gone(&token).await;
                Arranged::Done(open(kms.uri().as_str(), &by_token(&file)))
            }
            Trouble::Throttled => {
                let body = json!({ "errors": ["secret-text"] }).to_string();
                elsewhere(&Listener::start(Behaviour::Answer(429, body)).await, &self.0.root())
            }
            Trouble::TimedOut => {
                let mut options = self.0.root();
                options.http.answer_within = Duration::from_millis(100);
                elsewhere(&Listener::start(Behaviour::Silent).await, &options)
            }
        }
    }

    async fn versions(&self, kms: &Arc<dyn KeyManagementService>, change: Change) -> Arranged {
        let RootKey::Vault(key) = kms.uri().root() else { panic!("not a transit key") };
        match change {
            Change::Rotate => kms.rotator().unwrap().rotate().await.unwrap(),
            Change::RetireOld => {
                let newest = kms.describer().unwrap().describe().await.unwrap().versions.unwrap().newest;
                let retire = json!({ "min_decryption_version": newest });
                self.0.bao.write(&format!("{}/keys/{}/config", key.mount(), key.key()), retire).await;
            }
        }
        Arranged::Done(kms.clone())
    }

    fn version_of(&self, wrapped: &WrappedKey) -> Option<u32> {
        let text = std::str::from_utf8(wrapped.as_bytes()).unwrap();
        Some(text.strip_prefix("vault:v").unwrap().split(':').next().unwrap().parse().unwrap())
    }
}

/// A token that cannot be renewed, and ends on its own.
fn short_lived() -> Value {
    json!({ "ttl": "1s", "renewable": false })
}

#[tokio::test]
async fn on_openbao_every_case_passes_that_it_can_be_brought_into() {
    let report = conformance::run(&OnOpenBao(Engine::new().await)).await;
    println!("{report}");
    let exceptions = [
        (Case::Disabled, NO_DISABLING),
        (Case::PendingDeletion, NO_PENDING),
        (Case::DisabledAndEnabled, NO_ABILITY),
        (Case::DeletionCancelled, NO_ABILITY),
    ]
    .map(|(case, why)| (case, Outcome::NotRun(why)));
    assert_eq!(report.exceptions(), exceptions);
    conformance_table::must_be_documented("OpenBao", &report);
}
