//! The whole library over AWS KMS: two root keys on two servers, and one of them refuses.
#![cfg(feature = "aws")]

mod common;

use std::sync::Arc;

use common::{POLICY, World, code, open, seal, set_mode};
use enfold::kms::{AwsKms, AwsOptions, KeyManagementService, StaticCredentials};
use enfold::policy::Mode;
use enfold::{Builder, Code, Part, Place};
use enfold_testkit::aws::Server;
use serde_json::json;

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const OTHER: Place<'static> = Place::tenant(Part::Text("other"));

/// A new process with nothing in its cache.
async fn process(world: &World, roots: &[&str]) -> Builder {
    let quoted: Vec<_> = roots.iter().map(|uri| format!("{uri:?}")).collect();
    let policy = POLICY.replace(r#"["memory:root"]"#, &format!("[{}]", quoted.join(", ")));
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
    let mut builder = world.builder_for(world.policy(&policy));
    for uri in roots {
        let kms: Arc<dyn KeyManagementService> = Arc::new(AwsKms::open(&uri.parse().unwrap(), &options).await.unwrap());
        builder = builder.provider(kms);
    }
    builder
}

#[tokio::test]
async fn values_open_by_the_second_root_key_while_the_first_refuses() {
    let world = World::new();
    let (first, second) = (Server::LocalStack.create_key().await, Server::Moto.create_key().await);
    let roots = [Server::LocalStack.uri(&first), Server::Moto.uri(&second)];
    let roots: Vec<&str> = roots.iter().map(String::as_str).collect();

    let operators = process(&world, &roots).await.prepare().build().await.unwrap();
    set_mode(&operators, "users.email", Mode::Kms).await;
    let stored = seal(&operators.column("users.email").unwrap(), ACME, "ann@example.com").await.unwrap();

    Server::LocalStack.kms("DisableKey", json!({ "KeyId": first })).await;
    let application = process(&world, &roots).await.build().await.unwrap();
    let email = application.column("users.email").unwrap();
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann@example.com");
    // A tenant's first value needs a new data key, and a root key that refuses would be missing from its wraps.
    assert_eq!(code(seal(&email, OTHER, "bob@example.com").await), Code::KmsKeyDisabled);

    Server::LocalStack.kms("EnableKey", json!({ "KeyId": first })).await;
    // A failure is remembered for a moment, so that a crowd of callers asks once.
    world.next_look();
    let stored = seal(&email, OTHER, "bob@example.com").await.unwrap();
    assert_eq!(open(&email, OTHER, &stored).await.unwrap(), "bob@example.com");
}
