//! What a token may do, when a key is rotated by itself, and the server's clock.

use std::time::Duration;

use enfold::kms::{Held, KeyManagementService, KeyManagementServiceExt, NeededBy, Permission};
use serde_json::json;

use crate::engine::Engine;
use crate::key_service::context;

async fn rights(kms: &dyn KeyManagementService) -> Vec<Permission> {
    kms.describer().unwrap().permissions(&context()).await.unwrap()
}

fn held(permissions: &[Permission], held: Held) -> Vec<&str> {
    permissions.iter().filter(|p| p.held == held).map(|p| p.name.as_str()).collect()
}

#[tokio::test]
async fn the_rules_of_the_guide_give_what_an_application_needs_and_nothing_else() {
    let engine = Engine::new().await;
    let told = rights(&*engine.open_with(&engine.token(json!({})).await)).await;
    for permission in &told {
        let wanted = if permission.needed_by == NeededBy::Applications { Held::Yes } else { Held::No };
        assert_eq!(permission.held, wanted, "{permission:?}");
    }
}

#[tokio::test]
async fn rights_beyond_that_are_named_as_the_server_names_them() {
    let engine = Engine::new().await;
    let mount = &engine.mount;
    let rules = format!(
        "path \"{mount}/keys/orders\" {{ capabilities = [\"read\", \"delete\", \"sudo\"] }}\n\
         path \"{mount}/encrypt/*\" {{ capabilities = [\"create\", \"update\"] }}\n\
         path \"{mount}/export/+/orders\" {{ capabilities = [\"read\"] }}"
    );
    let told = rights(&*engine.open_with(&engine.token_for(&rules, json!({})).await)).await;
    let expected = [
        format!("update on {mount}/encrypt/orders"),
        format!("read on {mount}/keys/orders"),
        format!("delete on {mount}/keys/orders"),
        format!("create on {mount}/encrypt/orders"),
        format!("read on {mount}/export/encryption-key/orders"),
        format!("sudo on {mount}/keys/orders"),
    ];
    assert_eq!(held(&told, Held::Yes), expected);
    assert!(held(&told, Held::NotTold).is_empty());
}

#[tokio::test]
async fn a_root_token_is_told_as_one() {
    let engine = Engine::new().await;
    let told = rights(&*engine.open_as_root()).await;
    assert!(told.iter().all(|p| p.held == Held::Yes));
    assert_eq!(told.last().unwrap().name, "everything (a root token)");
    assert_eq!(told.last().unwrap().needed_by, NeededBy::Nobody);
}

#[tokio::test]
async fn a_token_that_may_not_ask_is_told_nothing_and_still_works() {
    let engine = Engine::new().await;
    let token = engine.token(json!({ "no_default_policy": true })).await;
    let kms = engine.open_with(&token);
    let told = rights(&*kms).await;
    assert_eq!(held(&told, Held::NotTold).len(), told.len());
    assert!(crate::engine::serves(&*kms).await.is_ok());
}

#[tokio::test]
async fn a_key_says_when_the_server_rotates_it() {
    let engine = Engine::new().await;
    let kms = engine.open_as_root();
    let plan = kms.describer().unwrap().describe().await.unwrap().rotation.expect("it is told");
    assert_eq!((plan.period, plan.next), (None, None));
    let config = format!("{}/keys/orders/config", engine.mount);
    engine.bao.write(&config, json!({ "auto_rotate_period": "720h" })).await;
    let plan = kms.describer().unwrap().describe().await.unwrap().rotation.unwrap();
    let (period, next) = (plan.period.unwrap(), plan.next.unwrap());
    assert_eq!(period, Duration::from_secs(720 * 3600));
    let left = next.duration_since(jiff::Timestamp::now()).as_hours();
    assert!((718..=720).contains(&left), "{next}");
}

#[tokio::test]
async fn the_servers_clock_is_compared() {
    let engine = Engine::new().await;
    let kms = engine.open_as_root();
    assert_eq!(kms.describer().unwrap().clock_skew(), None);
    kms.describer().unwrap().describe().await.unwrap();
    let skew = kms.describer().unwrap().clock_skew().unwrap();
    assert!(skew.abs().as_secs() < 20, "{skew:?}");
}
