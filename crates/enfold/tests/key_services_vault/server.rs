//! Namespaces, quotas and a sealed server.

use std::sync::Arc;
use std::time::Duration;

use enfold::Code;
use enfold::error::Retry as May;
use enfold::kms::{KeyManagementServiceExt, Meter, Operation, Retry, RetryOptions, VaultOptions, WrappedKey};
use enfold_testkit::openbao::{OpenBao, Private, unique};
use serde_json::{Value, json};

use crate::engine::{Engine, by_token, open, serves, shown};
use crate::key_service::{context, material};
use crate::session::Role;

/// A namespace of its own, and its name.
async fn namespace() -> (OpenBao, String) {
    let (root, name) = (OpenBao::shared(), format!("shop-{}", unique()));
    root.write(&format!("sys/namespaces/{name}"), json!({})).await;
    (root.within(&name), name)
}

#[tokio::test]
async fn a_key_in_a_namespace_is_reached_by_who_signs_in_there() {
    let (inside, name) = namespace().await;
    let engine = Engine::on(inside).await;
    let role = Role::new(&engine, json!({ "token_ttl": "1h" })).await;
    let within = format!("{}?namespace={name}", engine.uri());
    let kms = open(&within, &role.options);
    serves(&*kms).await.unwrap();
    let about = kms.describer().unwrap().describe().await.unwrap();
    assert_eq!(about.resolved, format!("{name}/{}/keys/orders", engine.mount));

    // The mount is not in the root namespace, and neither is the role.
    let error = serves(&*open(&engine.uri(), &role.options)).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
    let at_root = VaultOptions { sign_in_namespace: Some(String::new()), ..role.options.clone() };
    let error = serves(&*open(&within, &at_root)).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied, "the empty name is the root namespace: {error}");
}

#[tokio::test]
async fn who_signs_in_elsewhere_reaches_the_key_and_signs_in_again_only_when_the_token_is_gone() {
    let (inside, name) = namespace().await;
    let (engine, outside) = (Engine::on(inside).await, Engine::new().await);
    let rules = engine.application().replace(&engine.mount, &format!("{name}/{}", engine.mount));
    let role = Role::with_rules(&outside, &rules, json!({ "token_ttl": "1h", "secret_id_num_uses": 1000 })).await;
    let within = format!("{}?namespace={name}", engine.uri());
    let elsewhere = VaultOptions { sign_in_namespace: Some(String::new()), ..role.options.clone() };
    let kms = open(&within, &elsewhere);
    serves(&*kms).await.unwrap();
    // What is refused for want of a right is no reason to sign in again.
    let before = role.sign_ins_left(&outside).await;
    let error = kms.rotator().unwrap().rotate().await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
    assert_eq!(role.sign_ins_left(&outside).await, before);
    role.end_tokens(&outside).await;
    serves(&*kms).await.unwrap();
    assert_eq!(role.sign_ins_left(&outside).await, before - 1);
}

#[tokio::test]
async fn a_quota_throttles_and_is_waited_for_within_the_retries() {
    let engine = Engine::new().await;
    let kms = engine.open_as_root();
    serves(&*kms).await.unwrap();
    let quota = format!("sys/quotas/rate-limit/{}", unique());
    let wanted = json!({ "path": engine.mount, "rate": 1, "interval": "1h" });
    engine.bao.write(&quota, wanted).await;
    let throttled = loop {
        if let Err(error) = kms.wrap_one(&material(), &context()).await {
            break error;
        }
    };
    assert_eq!(throttled.code(), Code::KmsThrottled, "{throttled}");
    assert_eq!(throttled.code().retry(), May::Later);

    // The quota is lifted when the first try has failed.
    let meter = Arc::new(Meter::new(kms));
    let patient = RetryOptions {
        attempts: u32::MAX,
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(20),
        deadline: Duration::from_secs(60),
        budget: u32::MAX,
    };
    let wrapping = {
        let retry = Retry::new(meter.clone(), patient);
        tokio::spawn(async move { retry.wrap_one(&material(), &context()).await })
    };
    while meter.figures(Operation::Wrap).calls == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, _) = engine.bao.call("DELETE", &quota, &Value::Null).await;
    assert_eq!(status, 204);
    wrapping.await.unwrap().unwrap();
    assert!(meter.figures(Operation::Wrap).calls > 1, "it was tried again");
}

#[tokio::test]
async fn retries_against_a_quota_end_with_their_number() {
    let engine = Engine::new().await;
    let meter = Arc::new(Meter::new(engine.open_as_root()));
    serves(&*meter).await.unwrap();
    let before = meter.figures(Operation::Unwrap).calls;
    let wanted = json!({ "path": engine.mount, "rate": 1, "interval": "1h" });
    engine.bao.write(&format!("sys/quotas/rate-limit/{}", unique()), wanted).await;
    while meter.describer().unwrap().describe().await.is_ok() {}
    let options = RetryOptions { attempts: 4, first_pause: Duration::from_millis(1), ..RetryOptions::default() };
    let retry = Retry::new(meter.clone(), options);
    let wrapped = WrappedKey::new(sound_wrap()).unwrap();
    let error = retry.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsThrottled, "{error}");
    assert_eq!(meter.figures(Operation::Unwrap).calls - before, 4);
}

/// Of the right shape; whether it opens is not asked where nothing is answered.
fn sound_wrap() -> Vec<u8> {
    format!("vault:v1:{}", "A".repeat(80)).into_bytes()
}

#[tokio::test]
async fn a_sealed_server_is_unavailable_until_it_is_unsealed() {
    let server = Private::start(&[]).await;
    let engine = Engine::on(server.plain().clone()).await;
    let kms = engine.open_as_root();
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    server.seal().await;
    // With a token in hand, and without one.
    let held = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    let token = by_token(&engine.secret("other", enfold_testkit::openbao::ROOT_TOKEN));
    let fresh = open(&engine.uri(), &token).unwrap_one(&wrapped, &context()).await.err().unwrap();
    for error in [held, fresh] {
        assert_eq!(error.code(), Code::KmsUnavailable, "{error}");
        assert!(shown(&error).contains("the server is sealed") && shown(&error).contains("operator unseal"), "{error}");
    }
    server.unseal().await;
    assert_eq!(kms.unwrap_one(&wrapped, &context()).await.ok().unwrap().expose(), material().expose());
}
