//! A wrap opens under the encryption context that it was made with, and under no other.
//!
//! The servers differ in `associated_data`: OpenBao binds it when it generates a data key, HashiCorp Vault ignores it
//! there, and neither rewraps what it binds. So nothing here may depend on it: what binds is the derivation, by `context`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use enfold::Code;
use enfold::kms::{
    EncryptionContext, GenerateRequest, KeyManagementService, KeyManagementServiceExt, KeyMaterial, RewrapRequest,
    UnwrapRequest, WrapRequest, WrappedKey,
};
use enfold_testkit::aws::{Behaviour, Listener};
use serde_json::{Value, json};

use crate::engine::{Engine, open};
use crate::key_service::{context, material};

/// Contexts that are near to each other and to [`context`], and not the same.
fn others() -> Vec<EncryptionContext> {
    let with = |pairs: &[(&str, &str)]| {
        pairs.iter().fold(EncryptionContext::new(), |made, (name, value)| made.with(name, value).unwrap())
    };
    vec![
        EncryptionContext::new(),
        with(&[("enfold:ring", "order")]),
        with(&[("enfold:rin", "gorders")]),
        with(&[("enfold:ring", "orders"), ("enfold:tenant", "a")]),
        with(&[("enfold:tenant", "orders")]),
    ]
}

fn wrap_invalid<T>(results: Vec<enfold::Result<T>>, what: &str) {
    for result in results {
        assert_eq!(result.err().unwrap_or_else(|| panic!("{what} opened")).code(), Code::WrapInvalid, "{what}");
    }
}

/// Under every other context each of `wraps` is refused, alone and in one batch with the others, and so is a rewrap.
async fn must_open_here_alone(kms: &dyn KeyManagementService, wraps: &[WrappedKey], what: &str) {
    let rewrapper = kms.rewrapper().unwrap();
    for other in others() {
        for wrapped in wraps {
            wrap_invalid(kms.unwrap(&[UnwrapRequest { wrapped, context: &other }]).await, what);
        }
        let unwraps: Vec<_> = wraps.iter().map(|wrapped| UnwrapRequest { wrapped, context: &other }).collect();
        wrap_invalid(kms.unwrap(&unwraps).await, what);
        let rewraps: Vec<_> = wraps.iter().map(|wrapped| RewrapRequest { wrapped, context: &other }).collect();
        wrap_invalid(rewrapper.rewrap(&rewraps).await, what);
    }
    let here = context();
    let unwraps: Vec<_> = wraps.iter().map(|wrapped| UnwrapRequest { wrapped, context: &here }).collect();
    assert!(kms.unwrap(&unwraps).await.iter().all(Result::is_ok), "{what}");
}

#[tokio::test]
async fn what_was_generated_wrapped_or_rewrapped_opens_under_its_own_context_alone() {
    let engine = Engine::new().await;
    let kms = engine.open_as_root();
    let here = context();
    let generated = kms.generator().unwrap().generate(&[GenerateRequest { context: &here }; 3]).await;
    let generated: Vec<_> = generated.into_iter().map(|made| made.ok().unwrap().wrapped).collect();
    must_open_here_alone(&*kms, &generated, "generated").await;

    let keys: Vec<_> = (0..3).map(|n| KeyMaterial::from_bytes(&mut [n; 32])).collect();
    let requests: Vec<_> = keys.iter().map(|key| WrapRequest { key, context: &here }).collect();
    let wrapped: Vec<_> = kms.wrap(&requests).await.into_iter().map(Result::unwrap).collect();
    must_open_here_alone(&*kms, &wrapped, "wrapped").await;

    kms.rotator().unwrap().rotate().await.unwrap();
    must_open_here_alone(&*kms, &wrapped, "wrapped under the version before").await;
    let requests: Vec<_> = wrapped.iter().map(|wrapped| RewrapRequest { wrapped, context: &here }).collect();
    let renewed = kms.rewrapper().unwrap().rewrap(&requests).await;
    let renewed: Vec<_> = renewed.into_iter().map(Result::unwrap).collect();
    must_open_here_alone(&*kms, &renewed, "rewrapped").await;
}

#[tokio::test]
async fn a_batch_of_several_contexts_opens_each_wrap_under_its_own() {
    let engine = Engine::new().await;
    let kms = engine.open_as_root();
    let contexts = [vec![context()], others()].concat();
    let key = material();
    let requests: Vec<_> = contexts.iter().map(|context| WrapRequest { key: &key, context }).collect();
    let wraps: Vec<_> = kms.wrap(&requests).await.into_iter().map(Result::unwrap).collect();
    // Shifted by each number of places: only the shift by none opens anything.
    for shift in 0..contexts.len() {
        let shifted = contexts.iter().cycle().skip(shift);
        let requests: Vec<_> =
            wraps.iter().zip(shifted).map(|(wrapped, context)| UnwrapRequest { wrapped, context }).collect();
        let opened = kms.unwrap(&requests).await;
        if shift == 0 {
            assert!(opened.iter().all(Result::is_ok));
        } else {
            wrap_invalid(opened, "a wrap of a neighbour's context");
        }
    }
}

#[tokio::test]
async fn no_request_leaves_its_binding_to_associated_data() {
    // The key's configuration is what lets the calls go out; nothing else is answered in a way that can be used.
    let about = json!({ "data": {
        "type": "aes256-gcm96", "derived": true, "supports_encryption": true, "supports_decryption": true,
        "latest_version": 1, "min_decryption_version": 1, "ttl": 0,
    }});
    let listener = Listener::start(Behaviour::Answer(200, about.to_string())).await;
    let engine = Engine::new().await;
    let server = listener.endpoint().strip_prefix("http://").unwrap();
    let kms = open(&format!("vault+http://{server}/transit/orders"), &engine.root());
    let wrapped = WrappedKey::new(format!("vault:v1:{}", STANDARD.encode([7; 60])).into_bytes()).unwrap();
    let here = context();
    assert!(kms.generate_one(&here).await.is_err());
    assert!(kms.wrap_one(&material(), &here).await.is_err());
    assert!(kms.unwrap_one(&wrapped, &here).await.is_err());
    assert!(kms.rewrapper().unwrap().rewrap(&[RewrapRequest { wrapped: &wrapped, context: &here }]).await[0].is_err());

    let bound = json!(STANDARD.encode(here.canonical()));
    for action in ["datakey/plaintext", "encrypt", "decrypt", "rewrap"] {
        let requests = listener.requests();
        let line = format!("POST /v1/transit/{action}/orders ");
        let sent: Vec<_> = requests.iter().filter(|request| request.starts_with(&line)).collect();
        assert_eq!(sent.len(), 1, "{action}");
        let (_, body) = sent[0].split_once("\r\n\r\n").unwrap();
        assert!(!body.contains("associated_data"), "{action}");
        let body: Value = serde_json::from_str(body).unwrap();
        let items = body["batch_input"].as_array().cloned().unwrap_or_else(|| vec![body.clone()]);
        assert!(items.iter().all(|item| item["context"] == bound), "{action}");
    }
}

#[tokio::test]
async fn more_keys_than_the_server_takes_in_one_call_go_in_several() {
    let engine = Engine::new().await;
    let kms = engine.open_as_root();
    let keys: Vec<KeyMaterial> = (0..401).map(|_| KeyMaterial::generate().unwrap()).collect();
    let context = context();
    let wrap: Vec<_> = keys.iter().map(|key| WrapRequest { key, context: &context }).collect();
    let wraps: Vec<WrappedKey> = kms.wrap(&wrap).await.into_iter().map(|wrapped| wrapped.unwrap()).collect();
    let rewrap: Vec<_> = wraps.iter().map(|wrapped| RewrapRequest { wrapped, context: &context }).collect();
    let again = kms.rewrapper().unwrap().rewrap(&rewrap).await;
    let again: Vec<WrappedKey> = again.into_iter().map(|wrapped| wrapped.unwrap()).collect();
    for wraps in [&wraps, &again] {
        let unwrap: Vec<_> = wraps.iter().map(|wrapped| UnwrapRequest { wrapped, context: &context }).collect();
        let unwrapped = kms.unwrap(&unwrap).await;
        assert_eq!(unwrapped.len(), keys.len());
        for (unwrapped, key) in unwrapped.into_iter().zip(&keys) {
            assert_eq!(unwrapped.unwrap_or_else(|e| panic!("{e}")).expose(), key.expose());
        }
    }
}
