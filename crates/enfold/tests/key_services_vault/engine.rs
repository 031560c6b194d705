//! A transit engine for one test, with one derived key, and a folder for credentials.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use enfold::kms::{KeyManagementService, KeyManagementServiceExt, VaultKms, VaultOptions};
use enfold::policy::VaultSignIn;
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN, unique};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::key_service::{context, material};

/// The folder must outlive the providers that read it.
pub(crate) struct Engine {
    pub(crate) bao: OpenBao,
    pub(crate) mount: String,
    secrets: TempDir,
}

impl Engine {
    /// On the server that all tests share.
    pub(crate) async fn new() -> Self {
        Self::on(OpenBao::shared()).await
    }

    /// A mount with one derived key, `orders`.
    pub(crate) async fn on(bao: OpenBao) -> Self {
        let mount = bao.mount("transit", "mounts").await;
        bao.write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
        Self { bao, mount, secrets: tempfile::tempdir().unwrap() }
    }

    /// Of `orders`, without TLS.
    pub(crate) fn uri(&self) -> String {
        self.uri_of("orders")
    }

    pub(crate) fn uri_of(&self, key: &str) -> String {
        format!("vault+http://{}/{}/{key}", self.bao.server(), self.mount)
    }

    /// `orders`, with everything allowed.
    pub(crate) fn open_as_root(&self) -> Arc<dyn KeyManagementService> {
        open(&self.uri(), &self.root())
    }

    /// `orders`, by a token.
    pub(crate) fn open_with(&self, token: &str) -> Arc<dyn KeyManagementService> {
        open(&self.uri(), &by_token(&self.secret("token", token)))
    }

    pub(crate) fn root(&self) -> VaultOptions {
        by_token(&self.secret("root", ROOT_TOKEN))
    }

    /// A file that is closed to others.
    pub(crate) fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.secrets.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A token with the rights of an application, and what else is wanted of it.
    pub(crate) async fn token(&self, more: Value) -> String {
        self.token_for(&self.application(), more).await
    }

    pub(crate) async fn token_for(&self, rules: &str, more: Value) -> String {
        let mut wanted = json!({ "policies": [self.policy(rules).await] });
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.bao.write("auth/token/create", wanted).await;
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a token's life.
    pub(crate) async fn until_gone(&self, token: &str) {
        let gone = async {
            while self.bao.call("POST", "auth/token/lookup", &json!({ "token": token })).await.0 == 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
    }

    /// The name of a policy with these rules.
    pub(crate) async fn policy(&self, rules: &str) -> String {
        let policy = format!("enfold-{}", unique());
        self.bao.write(&format!("sys/policies/acl/{policy}"), json!({ "policy": rules })).await;
        policy
    }

    /// The policy that `docs/guides/vault.md` gives to applications.
    pub(crate) fn application(&self) -> String {
        include_str!("../../../../docs/guides/vault-policy.hcl").replace("transit/", &format!("{}/", self.mount))
    }
}

pub(crate) fn open(uri: &str, options: &VaultOptions) -> Arc<dyn KeyManagementService> {
    Arc::new(VaultKms::open(&uri.parse().unwrap(), options).unwrap())
}

pub(crate) fn by_token(file: &Path) -> VaultOptions {
    VaultOptions { sign_in: VaultSignIn::Token { file: Some(file.to_owned()) }, ..VaultOptions::default() }
}

/// Wraps and unwraps once, in two calls.
pub(crate) async fn serves(kms: &dyn KeyManagementService) -> enfold::Result<()> {
    let wrapped = kms.wrap_one(&material(), &context()).await?;
    let opened = kms.unwrap_one(&wrapped, &context()).await?;
    assert_eq!(opened.expose(), material().expose());
    Ok(())
}

/// Everything that a user sees of an error, or of what is in it.
pub(crate) fn shown(error: &enfold::Error) -> String {
    format!("{error:?} {:?}", error.hints().collect::<Vec<_>>())
}
