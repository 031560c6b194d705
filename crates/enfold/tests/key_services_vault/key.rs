//! Keys and the rights to them.

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
