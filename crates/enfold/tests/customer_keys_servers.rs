//! A tenant's own root key on real servers: ours and the customer's at different services, each in both parts.
#![cfg(all(feature = "aws", feature = "vault"))]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{POLICY, World, code, open, seal, set_mode};
use enfold::catalog::{DataKeyRow, Purpose};
use enfold::kms::{AwsKms, AwsOptions, KeyManagementService, StaticCredentials, VaultKms, VaultOptions};
use enfold::policy::{Mode, VaultSignIn};
use enfold::{Code, Enfold, Part, Place};
use enfold_testkit::aws::Server;
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN, unique};
use serde_json::json;

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const OTHER: Place<'static> = Place::tenant(Part::Text("other"));
/// The cache's life in a policy that says nothing else.
const LIFE: Duration = Duration::from_secs(300);

/// Providers that every process of a test opens anew.
struct Keys {
    world: World,
    ours: Arc<dyn KeyManagementService>,
    customers: Arc<dyn KeyManagementService>,
}

impl Keys {
    async fn process(&self) -> Enfold {
        let ours = format!("[{:?}]", self.ours.uri().to_string());
        let policy = POLICY.replace("[\"memory:root\"]", &ours);
        let held = format!("\n[rings.main.tenants.acme]\ncustomer_key = {:?}\n", self.customers.uri().to_string());
        let builder = self.world.builder_for(self.world.policy(&format!("{policy}{held}")));
        let builder = builder.provider(Arc::clone(&self.ours)).provider(Arc::clone(&self.customers));
        builder.prepare().build().await.unwrap()
    }

    /// A process of the operators, and a value of each tenant.
    async fn begin(&self) -> (Enfold, Vec<u8>, Vec<u8>) {
        let enfold = self.process().await;
        set_mode(&enfold, "users.email", Mode::Kms).await;
        enfold.operator().unwrap().sign_customers("main").await.unwrap();
        let email = enfold.column("users.email").unwrap();
        let (ann, bob) = (seal(&email, ACME, "ann").await.unwrap(), seal(&email, OTHER, "bob").await.unwrap());
        assert!(self.row().await.is_some());
        (enfold, ann, bob)
    }

    /// The tenant's, which has the customer's layer.
    async fn row(&self) -> Option<DataKeyRow> {
        let rows = self.world.catalog.keys("ring-main", None, 100).await.unwrap();
        rows.into_iter().find(|row| row.purpose == Purpose::Seal && row.customer.is_some())
    }

    /// What was withdrawn stops with the cache, in a process that runs and in one that starts; the other tenant goes on.
    async fn withdrawn(&self, enfold: &Enfold, ann: &[u8], bob: &[u8]) {
        let email = enfold.column("users.email").unwrap();
        assert_eq!(open(&email, ACME, ann).await.unwrap(), "ann", "it is in the cache");
        self.world.clock.advance(LIFE);
        for process in [enfold, &self.process().await] {
            let email = process.column("users.email").unwrap();
            let error = open(&email, ACME, ann).await.unwrap_err();
            assert_eq!(error.code(), Code::CustomerKeyRefused, "{error}");
            assert_eq!(code(seal(&email, ACME, "x").await), Code::CustomerKeyRefused);
            assert_eq!(open(&email, OTHER, bob).await.unwrap(), "bob");
            seal(&email, OTHER, "x").await.unwrap();
        }
    }

    async fn returned(&self, enfold: &Enfold, ann: &[u8]) {
        self.world.next_look();
        assert_eq!(open(&enfold.column("users.email").unwrap(), ACME, ann).await.unwrap(), "ann");
    }
}

async fn aws(key: &str) -> Arc<dyn KeyManagementService> {
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
    Arc::new(AwsKms::open(&Server::LocalStack.uri(key).parse().unwrap(), &options).await.unwrap())
}

/// A derived key in a mount of its own; gives the mount.
async fn transit(bao: &OpenBao) -> String {
    let mount = bao.mount("transit", "mounts").await;
    bao.write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
    mount
}

fn vault(bao: &OpenBao, mount: &str, token: &str, folder: &Path) -> Arc<dyn KeyManagementService> {
    let file = folder.join("token");
    std::fs::write(&file, token).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let options = VaultOptions { sign_in: VaultSignIn::Token { file: Some(file) }, ..VaultOptions::default() };
    let uri = format!("vault+http://{}/{mount}/orders", bao.server());
    Arc::new(VaultKms::open(&uri.parse().unwrap(), &options).unwrap())
}

#[tokio::test]
async fn a_customers_key_in_aws_kms_over_ours_in_openbao_is_withdrawn_by_disabling_it() {
    let (world, bao) = (World::new(), OpenBao::shared());
    let key = Server::LocalStack.create_key().await;
    let ours = vault(&bao, &transit(&bao).await, ROOT_TOKEN, world.dir.path());
    let keys = Keys { world, ours, customers: aws(&key).await };
    let (enfold, ann, bob) = keys.begin().await;

    Server::LocalStack.kms("DisableKey", json!({ "KeyId": key })).await;
    keys.withdrawn(&enfold, &ann, &bob).await;
    Server::LocalStack.kms("EnableKey", json!({ "KeyId": key })).await;
    keys.returned(&enfold, &ann).await;

    Server::LocalStack.kms("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 })).await;
    keys.withdrawn(&enfold, &ann, &bob).await;
    Server::LocalStack.kms("CancelKeyDeletion", json!({ "KeyId": key })).await;
    Server::LocalStack.kms("EnableKey", json!({ "KeyId": key })).await;
    keys.returned(&enfold, &ann).await;
}

#[tokio::test]
async fn a_customers_key_in_openbao_over_ours_in_aws_kms_is_withdrawn_by_its_policy() {
    let (world, bao) = (World::new(), OpenBao::shared());
    let (mount, name) = (transit(&bao).await, format!("enfold-{}", unique()));
    let rules = include_str!("../../../docs/guides/vault-policy.hcl").replace("transit/", &format!("{mount}/"));
    let allow =
        async |rules: &str| drop(bao.write(&format!("sys/policies/acl/{name}"), json!({ "policy": rules })).await);
    allow(&rules).await;
    let made = bao.write("auth/token/create", json!({ "policies": [name] })).await;
    let customers = vault(&bao, &mount, made["auth"]["client_token"].as_str().unwrap(), world.dir.path());
    let keys = Keys { world, ours: aws(&Server::LocalStack.create_key().await).await, customers };
    let (enfold, ann, bob) = keys.begin().await;

    allow(&format!("path \"{mount}/keys/orders\" {{ capabilities = [\"read\"] }}")).await;
    keys.withdrawn(&enfold, &ann, &bob).await;
    allow(&rules).await;
    keys.returned(&enfold, &ann).await;
}

/// Another root key of ours wraps what is there while the customer's is withdrawn; with the customer it opens everything.
#[tokio::test]
async fn wraps_are_repaired_on_real_servers_without_the_customers_key() {
    let (world, bao) = (World::new(), OpenBao::shared());
    let key = Server::LocalStack.create_key().await;
    let ours = vault(&bao, &transit(&bao).await, ROOT_TOKEN, world.dir.path());
    let mut keys = Keys { world, ours, customers: aws(&key).await };
    let (_, ann, _) = keys.begin().await;
    Server::LocalStack.kms("DisableKey", json!({ "KeyId": key })).await;

    let (first, second) = (Arc::clone(&keys.ours), aws(&Server::LocalStack.create_key().await).await);
    let roots = format!("[{:?}, {:?}]", first.uri().to_string(), second.uri().to_string());
    let held = format!("\n[rings.main.tenants.acme]\ncustomer_key = {:?}\n", keys.customers.uri().to_string());
    let policy = format!("{}{held}", POLICY.replace("[\"memory:root\"]", &roots));
    let builder = keys.world.builder_for(keys.world.policy(&policy)).provider(first).provider(Arc::clone(&second));
    let both = builder.provider(Arc::clone(&keys.customers)).build().await.unwrap();
    for ring in both.policy().rings.keys() {
        let repaired = both.repair_wraps(ring).await.unwrap();
        assert_eq!((repaired.incomplete, repaired.errors), (0, Vec::new()), "{ring}");
    }
    assert_eq!(keys.row().await.unwrap().wraps.len(), 2);

    Server::LocalStack.kms("EnableKey", json!({ "KeyId": key })).await;
    keys.ours = second;
    let email = keys.process().await.column("users.email").unwrap();
    assert_eq!(open(&email, ACME, &ann).await.unwrap(), "ann");
}
