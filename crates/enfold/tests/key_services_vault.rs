//! The conformance suite over a transit engine, against a real OpenBao, and what belongs to Vault and OpenBao alone.
//!
//! Nothing here was run on HashiCorp Vault. Throttling and time-outs, which the server does not give, are answers of a
//! listener. `docs/concepts/key-services.md` has the table that the suite prints.
#![cfg(feature = "vault")]

mod conformance_table;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use enfold::kms::conformance::{self, Arranged, Case, Fixture, Outcome, Trouble};
use enfold::kms::{
    EncryptionContext, KeyManagementService, KeyManagementServiceExt, KeyMaterial, RewrapRequest, RootKey,
    UnwrapRequest, VaultKms, VaultOptions,
};
use enfold::policy::VaultSignIn;
use enfold::{Code, Error};
use enfold_testkit::aws::{Behaviour, Listener};
use enfold_testkit::openbao;
use serde_json::{Value, json};
use tempfile::TempDir;

fn context() -> EncryptionContext {
    EncryptionContext::new().with("enfold:ring", "orders").unwrap()
}

fn material() -> KeyMaterial {
    KeyMaterial::from_bytes(&mut [7; 32])
}

/// A folder with credentials; it must outlive the providers that read them.
struct Secrets(TempDir);

impl Secrets {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

fn by_token(file: &Path) -> VaultOptions {
    VaultOptions { sign_in: VaultSignIn::Token { file: Some(file.to_owned()) }, ..VaultOptions::default() }
}

fn open(uri: &str, options: &VaultOptions) -> Arc<dyn KeyManagementService> {
    Arc::new(VaultKms::open(&uri.parse().unwrap(), options).unwrap())
}

fn uri(server: &str, mount: &str, key: &str) -> String {
    format!("vault+http://{server}/{mount}/{key}")
}

/// A mount with one derived key, `orders`.
async fn engine() -> String {
    let mount = openbao::mount("transit", "mounts").await;
    openbao::write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
    mount
}

/// A token with these rules, and how long it lives.
async fn token(rules: &str, more: Value) -> String {
    let policy = format!("enfold-{}", openbao::unique());
    openbao::write(&format!("sys/policies/acl/{policy}"), json!({ "policy": rules })).await;
    let mut wanted = json!({ "policies": [policy] });
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = openbao::write("auth/token/create", wanted).await;
    made["auth"]["client_token"].as_str().unwrap().to_owned()
}

/// The policy that `docs/guides/vault.md` gives to applications.
fn application(mount: &str) -> String {
    include_str!("../../../docs/guides/vault-policy.hcl").replace("transit/", &format!("{mount}/"))
}

struct OnOpenBao(Secrets);

impl OnOpenBao {
    fn root(&self) -> VaultOptions {
        by_token(&self.0.write("root", openbao::ROOT_TOKEN))
    }
}

const NO_DISABLING: &str = "a transit key cannot be disabled";
const NO_PENDING: &str = "a transit key is deleted at once";

#[async_trait]
impl Fixture for OnOpenBao {
    fn name(&self) -> String {
        "OpenBao".to_owned()
    }

    async fn key(&self) -> Arc<dyn KeyManagementService> {
        open(&uri(&openbao::server(), &engine().await, "orders"), &self.root())
    }

    async fn trouble(&self, kms: &Arc<dyn KeyManagementService>, trouble: Trouble) -> Arranged {
        let RootKey::Vault(key) = kms.uri().root() else { panic!("not a transit key") };
        let (mount, key) = (key.mount(), key.key());
        let elsewhere = |listener: &Listener, options: &VaultOptions| {
            let server = listener.endpoint().strip_prefix("http://").unwrap().to_owned();
            Arranged::Done(open(&uri(&server, mount, key), options))
        };
        match trouble {
            Trouble::Disabled => Arranged::Impossible(NO_DISABLING),
            Trouble::PendingDeletion => Arranged::Impossible(NO_PENDING),
            Trouble::Deleted => {
                openbao::write(&format!("{mount}/keys/{key}/config"), json!({ "deletion_allowed": true })).await;
                let (status, _) = openbao::call("DELETE", &format!("{mount}/keys/{key}"), &Value::Null).await;
                assert_eq!(status, 204);
                Arranged::Done(kms.clone())
            }
            Trouble::Denied => {
                let token = token("path \"nothing/*\" { capabilities = [\"read\"] }", json!({})).await;
                Arranged::Done(open(kms.uri().as_str(), &by_token(&self.0.write("denied", &token))))
            }
            Trouble::Throttled => {
                let body = json!({ "errors": ["secret-text"] }).to_string();
                elsewhere(&Listener::start(Behaviour::Answer(429, body)).await, &self.root())
            }
            Trouble::TimedOut => {
                let mut options = self.root();
                options.http.answer_within = Duration::from_millis(100);
                elsewhere(&Listener::start(Behaviour::Silent).await, &options)
            }
        }
    }
}

#[tokio::test]
async fn on_openbao_every_case_passes_that_it_can_be_brought_into() {
    let report = conformance::run(&OnOpenBao(Secrets::new())).await;
    println!("{report}");
    let exceptions =
        [(Case::Disabled, Outcome::NotRun(NO_DISABLING)), (Case::PendingDeletion, Outcome::NotRun(NO_PENDING))];
    assert_eq!(report.exceptions(), exceptions);
    conformance_table::must_be_documented("OpenBao", &report);
}

#[tokio::test]
async fn the_documented_policy_is_enough_and_a_missing_key_is_not_made_anew() {
    let (mount, secrets) = (engine().await, Secrets::new());
    let file = secrets.write("token", &token(&application(&mount), json!({})).await);
    let kms = open(&uri(&openbao::server(), &mount, "orders"), &by_token(&file));
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    assert_eq!(kms.unwrap_one(&wrapped, &context()).await.ok().unwrap().expose(), material().expose());
    assert!(kms.generate_one(&context()).await.is_ok());
    let rotation = kms.rotator().unwrap().rotate().await.unwrap_err();
    assert_eq!(rotation.code(), Code::KmsAccessDenied, "applications do not rotate: {rotation}");

    for options in [by_token(&file), by_token(&secrets.write("root", openbao::ROOT_TOKEN))] {
        let missing = open(&uri(&openbao::server(), &mount, "missing"), &options);
        missing.wrap_one(&material(), &context()).await.unwrap_err();
    }
    let (status, _) = openbao::call("GET", &format!("{mount}/keys/missing"), &Value::Null).await;
    assert_eq!(status, 404, "nobody made the key");
}

#[tokio::test]
async fn a_token_without_a_right_is_refused_and_told_which() {
    let (mount, secrets) = (engine().await, Secrets::new());
    let rules = format!(
        "path \"{mount}/keys/orders\" {{ capabilities = [\"read\"] }}\n\
         path \"{mount}/encrypt/orders\" {{ capabilities = [\"update\"] }}"
    );
    let file = secrets.write("token", &token(&rules, json!({})).await);
    let kms = open(&uri(&openbao::server(), &mount, "orders"), &by_token(&file));
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
    assert!(error.hints().any(|h| h.contains("`decrypt/KEY`")), "{:?}", error.hints().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_rotated_key_opens_its_old_wraps_until_their_version_is_retired() {
    let (mount, secrets) = (engine().await, Secrets::new());
    let kms = open(&uri(&openbao::server(), &mount, "orders"), &by_token(&secrets.write("root", openbao::ROOT_TOKEN)));
    let (old, context) = (kms.wrap_one(&material(), &context()).await.unwrap(), context());
    kms.rotator().unwrap().rotate().await.unwrap();
    assert_eq!(kms.unwrap_one(&old, &context).await.ok().unwrap().expose(), material().expose());
    let request = RewrapRequest { wrapped: &old, context: &context };
    let new = kms.rewrapper().unwrap().rewrap(&[request]).await.remove(0).unwrap();
    assert!(new.as_bytes().starts_with(b"vault:v2:"), "a rewrap is under the newest version");

    openbao::write(&format!("{mount}/keys/orders/config"), json!({ "min_decryption_version": 2 })).await;
    let requests = [&old, &new].map(|wrapped| UnwrapRequest { wrapped, context: &context });
    let mut opened = kms.unwrap(&requests).await.into_iter();
    assert_eq!(opened.next().unwrap().err().unwrap().code(), Code::KmsVersionRetired);
    assert_eq!(opened.next().unwrap().ok().unwrap().expose(), material().expose(), "the other item of the batch");
}

#[tokio::test]
async fn a_key_that_would_ignore_the_context_is_refused() {
    let (mount, secrets) = (engine().await, Secrets::new());
    openbao::write(&format!("{mount}/keys/loose"), json!({})).await;
    let kms = open(&uri(&openbao::server(), &mount, "loose"), &by_token(&secrets.write("root", openbao::ROOT_TOKEN)));
    for error in
        [kms.wrap_one(&material(), &context()).await.err().unwrap(), kms.generate_one(&context()).await.err().unwrap()]
    {
        assert_eq!(error.code(), Code::KmsUriInvalid, "{error}");
    }
    assert!(!kms.describer().unwrap().describe().await.unwrap().usable);
}

/// An AppRole whose tokens live `ttl` and never longer than `longest`.
async fn app_role(mount: &str, secrets: &Secrets, ttl: &str, longest: &str) -> VaultOptions {
    let auth = openbao::mount("approle", "auth").await;
    let policy = format!("enfold-{}", openbao::unique());
    openbao::write(&format!("sys/policies/acl/{policy}"), json!({ "policy": application(mount) })).await;
    let role = format!("auth/{auth}/role/orders");
    openbao::write(&role, json!({ "token_policies": [policy], "token_ttl": ttl, "token_max_ttl": longest })).await;
    let (_, about) = openbao::call("GET", &format!("{role}/role-id"), &Value::Null).await;
    let secret = openbao::write(&format!("{role}/secret-id"), json!({})).await;
    VaultOptions {
        sign_in: VaultSignIn::AppRole {
            mount: auth,
            role_id: about["data"]["role_id"].as_str().unwrap().to_owned(),
            secret_id_file: Some(secrets.write("secret-id", secret["data"]["secret_id"].as_str().unwrap())),
        },
        ..VaultOptions::default()
    }
}

#[tokio::test]
async fn an_app_role_signs_in_again_when_its_token_is_gone() {
    let (mount, secrets) = (engine().await, Secrets::new());
    let options = app_role(&mount, &secrets, "1h", "1h").await;
    let kms = open(&uri(&openbao::server(), &mount, "orders"), &options);
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    let VaultSignIn::AppRole { mount: auth, .. } = &options.sign_in else { unreachable!() };
    // Every token of the mount ends, as it would at its time.
    openbao::write(&format!("sys/leases/revoke-prefix/auth/{auth}"), json!({ "sync": true })).await;
    assert_eq!(kms.unwrap_one(&wrapped, &context()).await.ok().unwrap().expose(), material().expose());

    secrets.write("secret-id", "11111111-0000-4000-8000-000000000000");
    openbao::write(&format!("sys/leases/revoke-prefix/auth/{auth}"), json!({ "sync": true })).await;
    let error: Error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
    assert!(error.hints().any(|h| h.contains("SecretID")), "{:?}", error.hints().collect::<Vec<_>>());
    assert!(!format!("{error:?}").contains("11111111"), "the SecretID is not repeated");
}

#[tokio::test]
async fn a_token_that_was_replaced_in_its_file_is_taken_up() {
    let (mount, secrets) = (engine().await, Secrets::new());
    let first = token(&application(&mount), json!({})).await;
    let file = secrets.write("token", &first);
    let kms = open(&uri(&openbao::server(), &mount, "orders"), &by_token(&file));
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    openbao::write("auth/token/revoke", json!({ "token": first })).await;
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied, "no other token is there yet: {error}");
    secrets.write("token", &token(&application(&mount), json!({})).await);
    assert!(kms.unwrap_one(&wrapped, &context()).await.is_ok());
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end_though_nothing_is_called() {
    let (mount, secrets) = (engine().await, Secrets::new());
    let token = token(&application(&mount), json!({ "ttl": "3s" })).await;
    let kms = open(&uri(&openbao::server(), &mount, "orders"), &by_token(&secrets.write("token", &token)));
    kms.wrap_one(&material(), &context()).await.unwrap();
    let renewed = async {
        loop {
            let (status, about) = openbao::call("POST", "auth/token/lookup", &json!({ "token": token })).await;
            assert_eq!(status, 200, "the token ended without being renewed");
            if about["data"]["last_renewal_time"].is_number() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed).await.unwrap();
    assert!(kms.wrap_one(&material(), &context()).await.is_ok());
}
