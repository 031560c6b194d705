//! The key that signs the log where a real OpenBao keeps it.

use std::os::unix::fs::PermissionsExt;

use enfold::policy::format_operator_key;
use enfold::{Code, Enfold, Error};
use enfold_testkit::openbao::{OpenBao, unique};
use serde_json::json;

use super::prune::{exported, verify_by};
use super::{World, common, work};

/// A mount with a key of the type `ed25519`, and a token that may do what a process that signs does.
struct Engine {
    bao: OpenBao,
    mount: String,
    token: String,
}

impl Engine {
    async fn new() -> Self {
        let bao = OpenBao::shared();
        let mount = bao.mount("transit", "mounts").await;
        bao.write(&format!("{mount}/keys/log"), json!({ "type": "ed25519" })).await;
        bao.write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
        let rules = format!(
            "path \"{mount}/keys/*\" {{ capabilities = [\"read\"] }}\n\
             path \"{mount}/sign/log\" {{ capabilities = [\"update\"] }}"
        );
        let policy = format!("enfold-{}", unique());
        bao.write(&format!("sys/policies/acl/{policy}"), json!({ "policy": rules })).await;
        let made = bao.write("auth/token/create", json!({ "policies": [policy] })).await;
        let token = made["auth"]["client_token"].as_str().unwrap().to_owned();
        Self { bao, mount, token }
    }

    /// A process whose policy has this key sign, and believes these.
    async fn process(&self, world: &World, key: &str, believed: &[[u8; 32]]) -> Enfold {
        let file = world.dir.path().join("token");
        std::fs::write(&file, &self.token).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (server, mount) = (self.bao.server(), &self.mount);
        let believed: Vec<String> = believed.iter().map(format_operator_key).collect();
        let text = format!(
            "{}\n[events]\ncatalog = true\nsigning_key = \"vault+http://{server}/{mount}/{key}\"\nlog_keys = {believed:?}\n\
             [key_services.vault.\"{server}\"]\nauth = \"token\"\ntoken_file = \"token\"\n",
            common::POLICY
        );
        world.builder_for(world.policy(&text)).prepare().build().await.unwrap()
    }

    async fn rotate(&self) {
        let (status, _) = self.bao.call("POST", &format!("{}/keys/log/rotate", self.mount), &json!({})).await;
        assert!(status < 300, "{status}");
    }
}

async fn refused(process: &Enfold) -> Error {
    process.log_signer().await.err().expect("no key that signs")
}

#[tokio::test]
async fn a_transit_key_signs_and_its_public_key_is_all_that_verifies() {
    let (engine, world) = (Engine::new().await, World::new());
    let unpinned = engine.process(&world, "log", &[]).await;
    let first = unpinned.log_key_in_service().await.unwrap().unwrap();
    let process = engine.process(&world, "log", &[first]).await;
    work_on(&process).await;
    let signer = process.log_signer().await.unwrap().unwrap();
    assert_eq!(signer.public_key(), first);
    process.sign_log(&*signer).await.unwrap().unwrap();
    let report = verify_by(&first, &exported(&process).await).await;
    assert!(report.is_whole() && report.signed == report.entries, "{report:?}");
    // Rotated in its service, it goes on by the version that is believed, until another is.
    engine.rotate().await;
    let second = process.log_key_in_service().await.unwrap().unwrap();
    assert_ne!(second, first);
    assert_eq!(process.log_signer().await.unwrap().unwrap().public_key(), first);
    let process = engine.process(&world, "log", &[first, second]).await;
    let signer = process.log_signer().await.unwrap().unwrap();
    assert_eq!(signer.public_key(), second);
    work_on(&process).await;
    process.sign_log(&*signer).await.unwrap().unwrap();
    assert!(process.verify_log(Vec::new()).await.unwrap().is_whole());
}

#[tokio::test]
async fn a_key_that_the_policy_does_not_believe_or_that_cannot_sign_is_refused() {
    let (engine, world) = (Engine::new().await, World::new());
    let process = engine.process(&world, "log", &[[7; 32]]).await;
    let error = refused(&process).await;
    assert_eq!(error.code(), Code::LogKeyMissing);
    let newest = format_operator_key(&process.log_key_in_service().await.unwrap().unwrap());
    assert!(error.hints().any(|hint| hint.contains(&newest)), "{error:?}");
    let error = refused(&engine.process(&world, "orders", &[]).await).await;
    assert_eq!(error.code(), Code::KmsUriInvalid);
    assert!(error.hints().any(|hint| hint.contains("type=ed25519")), "{error:?}");
    let error = refused(&engine.process(&world, "missing", &[]).await).await;
    assert_eq!(error.code(), Code::KmsKeyNotFound);
}

#[tokio::test]
async fn who_may_look_at_the_key_and_not_sign_is_told_which_right_is_missing() {
    let (mut engine, world) = (Engine::new().await, World::new());
    let first = engine.process(&world, "log", &[]).await.log_key_in_service().await.unwrap().unwrap();
    let rules = format!("path \"{}/keys/log\" {{ capabilities = [\"read\"] }}", engine.mount);
    let policy = format!("enfold-{}", unique());
    engine.bao.write(&format!("sys/policies/acl/{policy}"), json!({ "policy": rules })).await;
    let made = engine.bao.write("auth/token/create", json!({ "policies": [policy] })).await;
    engine.token = made["auth"]["client_token"].as_str().unwrap().to_owned();
    let process = engine.process(&world, "log", &[first]).await;
    work_on(&process).await;
    let signer = process.log_signer().await.unwrap().unwrap();
    let error = process.sign_log(&*signer).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.hints().any(|hint| hint.contains("`sign/KEY`")), "{error:?}");
    assert!(process.catalog().last_checkpoint().await.unwrap().is_none());
}

async fn work_on(process: &Enfold) {
    common::set_mode(process, "notes.title", enfold::policy::Mode::Hybrid).await;
    work(process, 2).await;
}
