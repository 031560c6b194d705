//! Tokens and AppRoles, from the sign-in to the end.

use std::time::Duration;

use enfold::Code;
use enfold::kms::{KeyManagementServiceExt, VaultOptions};
use enfold::policy::VaultSignIn;
use serde_json::{Value, json};

use crate::engine::{Engine, open, shown};
use crate::key_service::{context, material};

/// An AppRole of the engine's, and how to sign in with it.
pub(crate) struct Role {
    mount: String,
    pub(crate) options: VaultOptions,
}

impl Role {
    /// With the rights of an application; `more`: what its tokens are like.
    pub(crate) async fn new(engine: &Engine, more: Value) -> Self {
        Self::with_rules(engine, &engine.application(), more).await
    }

    pub(crate) async fn with_rules(engine: &Engine, rules: &str, more: Value) -> Self {
        let mount = engine.bao.mount("approle", "auth").await;
        let mut wanted = json!({ "token_policies": [engine.policy(rules).await] });
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let role = format!("auth/{mount}/role/orders");
        engine.bao.write(&role, wanted).await;
        let about = engine.bao.read(&format!("{role}/role-id")).await;
        let secret = engine.bao.write(&format!("{role}/secret-id"), json!({})).await;
        let file = engine.secret("secret-id", secret["data"]["secret_id"].as_str().unwrap());
        let role_id = about["data"]["role_id"].as_str().unwrap().to_owned();
        let sign_in = VaultSignIn::AppRole { mount: mount.clone(), role_id, secret_id_file: Some(file) };
        Self { mount, options: VaultOptions { sign_in, ..VaultOptions::default() } }
    }

    /// How many more times its SecretID may be used.
    pub(crate) async fn sign_ins_left(&self, engine: &Engine) -> u64 {
        let VaultSignIn::AppRole { secret_id_file: Some(file), .. } = &self.options.sign_in else { unreachable!() };
        let asked = json!({ "secret_id": std::fs::read_to_string(file).unwrap() });
        let about = engine.bao.write(&format!("auth/{}/role/orders/secret-id/lookup", self.mount), asked).await;
        about["data"]["secret_id_num_uses"].as_u64().unwrap()
    }

    /// Every token of the mount ends, as it would at its time.
    pub(crate) async fn end_tokens(&self, engine: &Engine) {
        engine.bao.write(&format!("sys/leases/revoke-prefix/auth/{}", self.mount), json!({ "sync": true })).await;
    }
}

#[tokio::test]
async fn an_app_role_signs_in_again_when_its_token_is_gone() {
    let engine = Engine::new().await;
    let role = Role::new(&engine, json!({ "token_ttl": "1h" })).await;
    let kms = open(&engine.uri(), &role.options);
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    role.end_tokens(&engine).await;
    assert_eq!(kms.unwrap_one(&wrapped, &context()).await.ok().unwrap().expose(), material().expose());

    let VaultSignIn::AppRole { secret_id_file: Some(file), .. } = &role.options.sign_in else { unreachable!() };
    let good = std::fs::read_to_string(file).unwrap();
    engine.secret("secret-id", "11111111-0000-4000-8000-000000000000");
    role.end_tokens(&engine).await;
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
    assert!(error.hints().any(|h| h.contains("SecretID")), "{}", shown(&error));
    assert!(!format!("{error:?}").contains("11111111"), "the SecretID is not repeated");
    engine.secret("secret-id", &good);
    assert!(kms.unwrap_one(&wrapped, &context()).await.is_ok(), "a SecretID that was replaced is taken up");
}

#[tokio::test]
async fn a_token_that_was_replaced_in_its_file_is_taken_up() {
    let engine = Engine::new().await;
    let first = engine.token(json!({})).await;
    let kms = engine.open_with(&first);
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    engine.bao.write("auth/token/revoke", json!({ "token": first })).await;
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied, "no other token is there yet: {error}");
    engine.secret("token", &engine.token(json!({})).await);
    assert!(kms.unwrap_one(&wrapped, &context()).await.is_ok());
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end_though_nothing_is_called() {
    let engine = Engine::new().await;
    let token = engine.token(json!({ "ttl": "3s" })).await;
    let kms = engine.open_with(&token);
    kms.wrap_one(&material(), &context()).await.unwrap();
    let renewed = async {
        loop {
            let (status, about) = engine.bao.call("POST", "auth/token/lookup", &json!({ "token": token })).await;
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

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_replaced_before_its_end_though_nothing_is_called() {
    // Tokens of a batch are in no store of the server.
    is_replaced_unasked(json!({ "token_ttl": "9s", "token_type": "batch" })).await;
}

#[tokio::test]
async fn a_token_near_its_longest_life_is_replaced_before_its_end_though_nothing_is_called() {
    is_replaced_unasked(json!({ "token_ttl": "9s", "token_max_ttl": "10s" })).await;
}

/// Two thirds of nine seconds into its life. A machine that stood still for the other three would let it end, and then
/// nobody signs in before the next call.
async fn is_replaced_unasked(mut tokens: Value) {
    let engine = Engine::new().await;
    // A SecretID counts the sign-ins.
    tokens["secret_id_num_uses"] = json!(1000);
    let role = Role::new(&engine, tokens).await;
    let kms = open(&engine.uri(), &role.options);
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    let first = role.sign_ins_left(&engine).await;
    let replaced = async {
        while role.sign_ins_left(&engine).await == first {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), replaced).await.unwrap();
    assert!(kms.unwrap_one(&wrapped, &context()).await.is_ok());
}

#[tokio::test]
async fn a_token_that_came_to_its_end_and_has_no_successor_is_said_to_be_over() {
    let engine = Engine::new().await;
    let token = engine.token(json!({ "ttl": "1s", "renewable": false })).await;
    let kms = engine.open_with(&token);
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    engine.until_gone(&token).await;
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
    assert!(shown(&error).contains("is not valid any more"), "{}", shown(&error));
    assert!(!shown(&error).contains(&token), "the token is not repeated");
    engine.secret("token", &engine.token(json!({})).await);
    assert!(kms.unwrap_one(&wrapped, &context()).await.is_ok());
}
