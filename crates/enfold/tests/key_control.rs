//! Root keys that are disabled, deleted and rotated by Enfold, where a key has several versions: on the fakes of Google Cloud
//! KMS and of Azure. What all services have in common is in the conformance suite.
#![cfg(all(feature = "azure", feature = "google"))]

mod key_service;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use enfold::Code;
use enfold::kms::{
    AzureKms, AzureOptions, GoogleKms, GoogleOptions, KeyManagementService, KeyManagementServiceExt, RootKeyState,
    WrappedKey,
};
use enfold::policy::{AzureSettings, AzureSignIn};
use enfold_testkit::cloud::azure::{self, CLIENT, FakeAzure, Kind, TENANT};
use enfold_testkit::cloud::google::{self, FakeGoogle, VersionState};
use key_service::{context, material, opens};
use tempfile::TempDir;

const ACCOUNT: &str = "operator@fake.iam.gserviceaccount.com";
const DAY: Duration = Duration::from_secs(24 * 3600);

type Kms = Arc<dyn KeyManagementService>;

fn secret(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A key of Google's with so many versions, and a wrap by each.
async fn on_google(fake: &FakeGoogle, folder: &TempDir, versions: usize) -> (Kms, Vec<WrappedKey>) {
    let file = secret(folder, "google.json", &fake.service_account(ACCOUNT).to_string());
    let options = GoogleOptions { credentials_file: Some(file), ..GoogleOptions::default() };
    let kms: Kms = Arc::new(GoogleKms::open(&fake.create_key().parse().unwrap(), &options).unwrap());
    let wraps = wraps_of(&kms, versions).await;
    (kms, wraps)
}

fn open_azure(fake: &FakeAzure, folder: &TempDir, uri: &str) -> Kms {
    fake.set_secret("a-secret");
    let settings = AzureSettings {
        sign_in: AzureSignIn::ClientSecret,
        tenant_id: Some(TENANT.to_owned()),
        client_id: Some(CLIENT.to_owned()),
        authority: Some(fake.endpoint().to_owned()),
        file: Some(secret(folder, "azure", "a-secret")),
        ..AzureSettings::default()
    };
    let options = AzureOptions { settings, ..AzureOptions::default() };
    Arc::new(AzureKms::open(&uri.parse().unwrap(), &options).unwrap())
}

/// The same of Azure's, for somebody with every right.
async fn on_azure(fake: &FakeAzure, folder: &TempDir, versions: usize) -> (Kms, Vec<WrappedKey>) {
    use azure::Right::{Get, Manage, Rotate, Unwrap, Wrap};
    fake.grant(CLIENT, &[Get, Wrap, Unwrap, Rotate, Manage]);
    let kms = open_azure(fake, folder, &fake.create_key(Kind::Rsa));
    let wraps = wraps_of(&kms, versions).await;
    (kms, wraps)
}

async fn wraps_of(kms: &Kms, versions: usize) -> Vec<WrappedKey> {
    let mut wraps = vec![kms.wrap_one(&material(), &context()).await.unwrap()];
    while wraps.len() < versions {
        kms.rotator().unwrap().rotate().await.unwrap();
        wraps.push(kms.wrap_one(&material(), &context()).await.unwrap());
    }
    wraps
}

async fn refused(kms: &Kms, wrapped: &WrappedKey) -> Code {
    kms.unwrap_one(wrapped, &context()).await.err().expect("must be refused").code()
}

#[tokio::test]
async fn a_disabled_key_opens_the_wraps_of_none_of_its_versions() {
    let folder = tempfile::tempdir().unwrap();
    let (google, azure) = (FakeGoogle::start().await, FakeAzure::start().await);
    // More versions than the fakes show on two pages.
    for (kms, wraps) in [on_google(&google, &folder, 5).await, on_azure(&azure, &folder, 5).await] {
        kms.controller().unwrap().disable().await.unwrap();
        for wrapped in &wraps {
            assert_eq!(refused(&kms, wrapped).await, Code::KmsKeyDisabled);
        }
        kms.controller().unwrap().enable().await.unwrap();
        for wrapped in &wraps {
            opens(&kms, wrapped).await;
        }
    }
}

#[tokio::test]
async fn what_somebody_destroyed_before_is_not_brought_back_with_the_key() {
    use VersionState::{DestroyScheduled, Destroyed, Disabled, Enabled};
    let (fake, folder) = (FakeGoogle::start().await, tempfile::tempdir().unwrap());
    let (kms, wraps) = on_google(&fake, &folder, 4).await;
    let uri = kms.uri().as_str();
    fake.set_version(uri, 1, Destroyed);
    fake.set_version(uri, 2, DestroyScheduled);
    let controller = kms.controller().unwrap();
    let gone = controller.schedule_deletion(30 * DAY).await.unwrap();
    assert!(gone > jiff::Timestamp::now());
    assert_eq!(kms.describer().unwrap().describe().await.unwrap().state, RootKeyState::PendingDeletion);
    // Where the first answer was lost, the second says the same.
    assert_eq!(controller.schedule_deletion(30 * DAY).await.unwrap(), gone);

    controller.cancel_deletion().await.unwrap();
    assert_eq!(fake.version(uri, 3), Disabled, "it comes back disabled");
    controller.enable().await.unwrap();
    let states: Vec<_> = (1..=4).map(|number| fake.version(uri, number)).collect();
    assert_eq!(states, [Destroyed, DestroyScheduled, Enabled, Enabled]);
    opens(&kms, &wraps[2]).await;
    assert_eq!(refused(&kms, &wraps[1]).await, Code::KmsVersionRetired);
}

#[tokio::test]
async fn a_key_that_could_not_be_brought_back_for_as_long_as_asked_is_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (google, azure) = (FakeGoogle::start().await, FakeAzure::start().await);
    let (of_google, of_azure) = (on_google(&google, &folder, 1).await, on_azure(&azure, &folder, 1).await);
    google.set_destroyed_after(of_google.0.uri().as_str(), 24);
    azure.set_recoverable_days(of_azure.0.uri().as_str(), 0);
    for (at_least, (kms, wraps)) in [(2 * DAY, &of_google), (Duration::ZERO, &of_azure)] {
        let error = kms.controller().unwrap().schedule_deletion(at_least).await.unwrap_err();
        assert_eq!(error.code(), Code::Usage, "{error}");
        opens(kms, &wraps[0]).await;
    }
    assert!(of_google.0.controller().unwrap().schedule_deletion(DAY).await.is_ok());
}

#[tokio::test]
async fn automatic_rotation_is_refused_more_often_than_the_services_do_it() {
    let folder = tempfile::tempdir().unwrap();
    let (google, azure) = (FakeGoogle::start().await, FakeAzure::start().await);
    let half_a_day = [on_google(&google, &folder, 1).await.0, on_azure(&azure, &folder, 1).await.0];
    for kms in half_a_day {
        let error = kms.rotator().unwrap().rotate_every(Some(DAY / 2)).await.unwrap_err();
        assert_eq!(error.code(), Code::Usage, "{error}");
    }
}

#[tokio::test]
async fn what_else_a_rotation_policy_of_azure_says_stays() {
    let (fake, folder) = (FakeAzure::start().await, tempfile::tempdir().unwrap());
    let (kms, _) = on_azure(&fake, &folder, 1).await;
    let (uri, rotator) = (kms.uri().as_str(), kms.rotator().unwrap());
    let mut policy = fake.rotation_policy(uri);
    policy["attributes"]["expiryTime"] = "P2Y".into();
    fake.set_rotation_policy(uri, policy.clone());
    for days in [90, 120] {
        rotator.rotate_every(Some(days * DAY)).await.unwrap();
        let now = fake.rotation_policy(uri);
        assert_eq!(now["lifetimeActions"].as_array().unwrap().len(), 2, "the notice, and one rotation: {now}");
        assert_eq!(now["lifetimeActions"][0], policy["lifetimeActions"][0]);
        assert_eq!(now["attributes"]["expiryTime"], "P2Y");
    }
    rotator.rotate_every(None).await.unwrap();
    assert_eq!(fake.rotation_policy(uri)["lifetimeActions"], policy["lifetimeActions"]);
    // Periods that others wrote are understood, as long as they are.
    policy["lifetimeActions"][0] =
        serde_json::json!({ "trigger": { "timeAfterCreate": "P1Y" }, "action": { "type": "rotate" } });
    fake.set_rotation_policy(uri, policy);
    let plan = kms.describer().unwrap().describe().await.unwrap().rotation.unwrap();
    assert!([Some(365 * DAY), Some(366 * DAY)].contains(&plan.period), "{plan:?}");
}

#[tokio::test]
async fn a_uri_of_one_version_stands_for_that_one_alone() {
    let (fake, folder) = (FakeAzure::start().await, tempfile::tempdir().unwrap());
    let (kms, wraps) = on_azure(&fake, &folder, 2).await;
    let first = fake.versions(kms.uri().as_str())[0].clone();
    let pinned = open_azure(&fake, &folder, &kms.uri().as_str().replace('?', &format!("/{first}?")));
    pinned.controller().unwrap().disable().await.unwrap();
    assert_eq!(refused(&kms, &wraps[0]).await, Code::KmsVersionRetired);
    assert_eq!(refused(&pinned, &wraps[0]).await, Code::KmsKeyDisabled);
    opens(&kms, &wraps[1]).await;
    let error = pinned.controller().unwrap().schedule_deletion(DAY).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsUriInvalid, "{error}");
    pinned.controller().unwrap().enable().await.unwrap();
    opens(&kms, &wraps[0]).await;
}

#[tokio::test]
async fn applications_that_use_a_key_may_not_take_it_from_others() {
    let folder = tempfile::tempdir().unwrap();
    let (google, azure) = (FakeGoogle::start().await, FakeAzure::start().await);
    let of_both = [on_google(&google, &folder, 1).await, on_azure(&azure, &folder, 1).await];
    google.grant(ACCOUNT, &[google::Right::Encrypt, google::Right::Decrypt, google::Right::Get]);
    azure.grant(CLIENT, &[azure::Right::Get, azure::Right::Wrap, azure::Right::Unwrap]);
    for ((kms, wraps), role) in of_both.into_iter().zip(["roles/cloudkms.admin", "Key Vault Crypto Officer"]) {
        let (controller, rotator) = (kms.controller().unwrap(), kms.rotator().unwrap());
        let errors = [
            controller.disable().await.unwrap_err(),
            controller.schedule_deletion(DAY).await.unwrap_err(),
            rotator.rotate_every(Some(90 * DAY)).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
            assert!(error.hints().any(|hint| hint.contains(role)), "{:?}", error.hints().collect::<Vec<_>>());
        }
        // Who may not read a rotation policy still learns the rest.
        assert_eq!(kms.describer().unwrap().describe().await.unwrap().state, RootKeyState::Enabled);
        opens(&kms, &wraps[0]).await;
    }
}
