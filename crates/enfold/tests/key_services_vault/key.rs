//! Keys and the rights to them.

use std::time::Duration;

use enfold::Code;
use enfold::kms::KeyManagementServiceExt;
use serde_json::{Value, json};

use crate::engine::{Engine, by_token, open, serves};
use crate::key_service::{context, material};

#[tokio::test]
async fn the_documented_policy_is_enough_and_a_missing_key_is_not_made_anew() {
    let engine = Engine::new().await;
    let token = engine.token(json!({})).await;
    let kms = engine.open_with(&token);
    serves(&*kms).await.unwrap();
    assert!(kms.generate_one(&context()).await.is_ok());
    let rotation = kms.rotator().unwrap().rotate().await.unwrap_err();
    assert_eq!(rotation.code(), Code::KmsAccessDenied, "applications do not rotate: {rotation}");

    // Who has no right to a key does not learn whether it is there.
    let application = by_token(&engine.secret("token", &token));
    for (options, code) in [(application, Code::KmsAccessDenied), (engine.root(), Code::KmsKeyNotFound)] {
        let missing = open(&engine.uri_of("missing"), &options);
        let error = missing.wrap_one(&material(), &context()).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    let (status, _) = engine.bao.call("GET", &format!("{}/keys/missing", engine.mount), &Value::Null).await;
    assert_eq!(status, 404, "nobody made the key");
}

#[tokio::test]
async fn transit_rotates_by_itself_every_hour_at_most_and_can_neither_disable_a_key_nor_let_its_deletion_wait() {
    let engine = Engine::new().await;
    let kms = open(&engine.uri(), &engine.root());
    let error = kms.rotator().unwrap().rotate_every(Some(Duration::from_secs(3599))).await.unwrap_err();
    assert_eq!(error.code(), Code::Usage, "{error}");
    kms.rotator().unwrap().rotate_every(Some(Duration::from_secs(3600))).await.unwrap();
    let plan = kms.describer().unwrap().describe().await.unwrap().rotation.unwrap();
    assert_eq!(plan.period, Some(Duration::from_secs(3600)));
    assert!(kms.controller().is_none());
    // Applications do not choose it.
    let application = engine.open_with(&engine.token(json!({})).await);
    let error = application.rotator().unwrap().rotate_every(None).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.hints().any(|hint| hint.contains("`keys/KEY/config`")), "{:?}", error.hints().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_token_without_a_right_is_refused_and_told_which() {
    let engine = Engine::new().await;
    let mount = &engine.mount;
    let rules = format!(
        "path \"{mount}/keys/orders\" {{ capabilities = [\"read\"] }}\n\
         path \"{mount}/encrypt/orders\" {{ capabilities = [\"update\"] }}"
    );
    let kms = engine.open_with(&engine.token_for(&rules, json!({})).await);
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
    assert!(error.hints().any(|h| h.contains("`decrypt/KEY`")), "{:?}", error.hints().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_key_that_would_ignore_the_context_is_refused() {
    let engine = Engine::new().await;
    engine.bao.write(&format!("{}/keys/loose", engine.mount), json!({})).await;
    let kms = open(&engine.uri_of("loose"), &engine.root());
    for error in
        [kms.wrap_one(&material(), &context()).await.err().unwrap(), kms.generate_one(&context()).await.err().unwrap()]
    {
        assert_eq!(error.code(), Code::KmsUriInvalid, "{error}");
    }
    assert!(!kms.describer().unwrap().describe().await.unwrap().usable);
}
