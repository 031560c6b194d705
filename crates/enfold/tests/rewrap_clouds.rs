//! Data keys follow a new version of their root key on the fakes of Google Cloud KMS and of Azure.
#![cfg(all(feature = "azure", feature = "google"))]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use common::{World, open, seal, set_mode, who};
use enfold::kms::{AzureKms, AzureOptions, GoogleKms, GoogleOptions, KeyManagementService};
use enfold::policy::{AzureSettings, AzureSignIn, Mode};
use enfold::{Enfold, Part, Place, RewrapOptions};
use enfold_testkit::cloud::azure::{self, CLIENT, FakeAzure, Kind, TENANT};
use enfold_testkit::cloud::google::{FakeGoogle, VersionState};

const POLICY: &str = r#"
environment = "staging"
[database]
url = "sqlite:unused.db"
[rings.main]
id = "ring-main"
roots = ROOTS
scope = "tenant"
[tables.users]
tenant = "org"
[tables.users.columns.email]
id = "users.email"
ring = "main"
"#;
const ACME: Place<'static> = Place::tenant(Part::Text("acme"));

fn secret(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

async fn process(world: &World, kms: &Arc<dyn KeyManagementService>) -> Enfold {
    let policy = world.policy(&POLICY.replace("ROOTS", &format!("[{:?}]", kms.uri().to_string())));
    world.builder_for(policy).provider(Arc::clone(kms)).prepare().build().await.unwrap()
}

/// Rotates and rewraps; gives a value that was sealed before.
async fn follows(world: &World, kms: &Arc<dyn KeyManagementService>) -> Vec<u8> {
    let enfold = process(world, kms).await;
    set_mode(&enfold, "users.email", Mode::Kms).await;
    let stored = seal(&enfold.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    let options = RewrapOptions::default();
    assert_eq!(enfold.plan_rewrap("main", &options).await.unwrap().to_do, 0);
    enfold.rotate_root(kms.uri().as_str(), &who()).await.unwrap();
    let plan = enfold.plan_rewrap("main", &options).await.unwrap();
    assert!(plan.keys >= 2 && plan.to_do == plan.keys, "{plan:?}");
    assert_eq!(plan.roots[0].calls, 3 * plan.keys, "these services take one data key a call");
    assert!(plan.roots[0].seconds().is_some(), "they have a quota");
    let done = enfold.rewrap("main", &options, &who(), &|_| true).await.unwrap();
    assert_eq!((done.done, done.failed), (plan.keys, 0), "{:?}", done.failures);
    assert_eq!(enfold.plan_rewrap("main", &options).await.unwrap().to_do, 0);
    stored
}

#[tokio::test]
async fn data_keys_follow_a_new_version_on_google_and_the_former_one_may_go() {
    let (world, fake) = (World::new(), FakeGoogle::start().await);
    let account = fake.service_account("operator@fake.iam.gserviceaccount.com").to_string();
    let options =
        GoogleOptions { credentials_file: Some(secret(&world, "google.json", &account)), ..GoogleOptions::default() };
    let kms: Arc<dyn KeyManagementService> =
        Arc::new(GoogleKms::open(&fake.create_key().parse().unwrap(), &options).unwrap());
    let stored = follows(&world, &kms).await;
    fake.set_version(kms.uri().as_str(), 1, VersionState::Destroyed);
    let email = process(&world, &kms).await.column("users.email").unwrap();
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
}

#[tokio::test]
async fn data_keys_follow_a_new_version_on_azure() {
    use azure::Right::{Get, Manage, Rotate, Unwrap, Wrap};
    let (world, fake) = (World::new(), FakeAzure::start().await);
    fake.grant(CLIENT, &[Get, Wrap, Unwrap, Rotate, Manage]);
    fake.set_secret("a-secret");
    let settings = AzureSettings {
        sign_in: AzureSignIn::ClientSecret,
        tenant_id: Some(TENANT.to_owned()),
        client_id: Some(CLIENT.to_owned()),
        authority: Some(fake.endpoint().to_owned()),
        file: Some(secret(&world, "azure", "a-secret")),
        ..AzureSettings::default()
    };
    let options = AzureOptions { settings, ..AzureOptions::default() };
    let uri = fake.create_key(Kind::Rsa);
    let kms: Arc<dyn KeyManagementService> = Arc::new(AzureKms::open(&uri.parse().unwrap(), &options).unwrap());
    let stored = follows(&world, &kms).await;
    let email = process(&world, &kms).await.column("users.email").unwrap();
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
}
