//! The conformance suite over Google Cloud KMS, and what belongs to it alone.
//!
//! All of it runs on a fake of ours: nothing here shows what the real service does. `make test-cloud` runs the suite there.
#![cfg(feature = "google")]

mod conformance_table;
mod key_service;
/// What `make test-cloud` runs on a key of somebody's.
#[path = "../examples/own_key/fixture.rs"]
mod own_key;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use enfold::Code;
use enfold::kms::conformance::{self, Arranged, Case, Change, Fixture, Outcome, Trouble};
use enfold::kms::{
    GoogleKms, GoogleOptions, KeyManagementService, KeyManagementServiceExt, Retry, RetryOptions, RootKeyState,
    WrappedKey,
};
use enfold::policy::{GoogleSettings, KeyServices};
use enfold_testkit::cloud::google::{EXTERNAL, FakeGoogle, Fault, PERSON, Right, VersionState};
use key_service::{context, material, opens, round_trip};
use serde_json::{Value, json};
use tempfile::TempDir;

const ACCOUNT: &str = "orders@fake.iam.gserviceaccount.com";

/// A fake with a file of credentials for it.
struct World {
    fake: FakeGoogle,
    folder: TempDir,
}

impl World {
    async fn new() -> Self {
        Self { fake: FakeGoogle::start().await, folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn by(&self, credentials: &Value) -> GoogleOptions {
        let file = self.write("credentials.json", &credentials.to_string());
        GoogleOptions { credentials_file: Some(file), ..GoogleOptions::default() }
    }

    /// Options of a service account that may do everything.
    fn account(&self) -> GoogleOptions {
        self.by(&self.fake.service_account(ACCOUNT))
    }

    /// A provider over a new key.
    fn kms(&self, options: &GoogleOptions) -> Arc<dyn KeyManagementService> {
        open(&self.fake.create_key(), options)
    }
}

fn open(uri: &str, options: &GoogleOptions) -> Arc<dyn KeyManagementService> {
    Arc::new(GoogleKms::open(&uri.parse().unwrap(), options).unwrap())
}

/// The number of the version that made a wrap.
fn version(wrapped: &WrappedKey) -> u32 {
    u32::from_be_bytes(wrapped.as_bytes()[4..8].try_into().unwrap())
}

#[async_trait]
impl Fixture for World {
    fn name(&self) -> String {
        "Google Cloud KMS (a fake)".to_owned()
    }

    async fn key(&self) -> Arc<dyn KeyManagementService> {
        self.fake.always(None);
        self.kms(&self.account())
    }

    async fn trouble(&self, kms: &Arc<dyn KeyManagementService>, trouble: Trouble) -> Arranged {
        let uri = kms.uri().as_str();
        let first = |state| self.fake.set_version(uri, 1, state);
        match trouble {
            Trouble::Disabled => first(VersionState::Disabled),
            Trouble::PendingDeletion => first(VersionState::DestroyScheduled),
            Trouble::Deleted => first(VersionState::Destroyed),
            Trouble::Throttled => self.fake.always(Some(Fault::Throttle(50))),
            Trouble::Denied => {
                let stranger = "stranger@fake.iam.gserviceaccount.com";
                let options = self.by(&self.fake.service_account(stranger));
                self.fake.grant(stranger, &[]);
                return Arranged::Done(open(uri, &options));
            }
            Trouble::TimedOut => {
                self.fake.always(Some(Fault::Silence));
                let mut options = self.account();
                options.http.answer_within = Duration::from_millis(100);
                return Arranged::Done(open(uri, &options));
            }
            Trouble::CredentialExpired => self.fake.expire_account_keys(ACCOUNT),
        }
        Arranged::Done(kms.clone())
    }

    async fn versions(&self, kms: &Arc<dyn KeyManagementService>, change: Change) -> Arranged {
        match change {
            Change::Rotate => kms.rotator().unwrap().rotate().await.unwrap(),
            Change::RetireOld => {
                let newest = version(&kms.wrap_one(&material(), &context()).await.unwrap());
                (1..newest).for_each(|old| self.fake.set_version(kms.uri().as_str(), old, VersionState::Disabled));
            }
        }
        Arranged::Done(kms.clone())
    }

    fn version_of(&self, wrapped: &WrappedKey) -> Option<u32> {
        Some(version(wrapped))
    }
}

#[tokio::test]
async fn on_the_fake_every_case_passes() {
    let report = conformance::run(&World::new().await).await;
    println!("{report}");
    assert!(report.exceptions().is_empty(), "every case is expected to pass");
    conformance_table::must_be_documented("Google Cloud KMS (a fake)", &report);
}

#[tokio::test]
async fn on_a_key_of_somebodys_everything_is_tried_that_changes_nothing_about_it() {
    let world = World::new().await;
    let credentials_file = world.account().credentials_file;
    let keys = [world.fake.create_key(), world.fake.create_key()];
    let google = GoogleSettings { credentials_file, ..GoogleSettings::default() };
    let services = KeyServices { google, ..KeyServices::default() };
    let not_run = |report: &conformance::Report| -> Vec<Case> {
        let exceptions = report.exceptions();
        assert!(exceptions.iter().all(|(_, outcome)| matches!(outcome, Outcome::NotRun(_))), "{report}");
        exceptions.into_iter().map(|(case, _)| case).collect()
    };
    let troubles = [
        Case::Rotated,
        Case::OldVersion,
        Case::RetiredVersion,
        Case::Disabled,
        Case::PendingDeletion,
        Case::Deleted,
        Case::Denied,
        Case::CredentialExpired,
        Case::Throttled,
        Case::TimedOut,
        Case::DisabledAndEnabled,
        Case::DeletionCancelled,
        Case::RotatedByUs,
        Case::RotatedByItself,
    ];
    let two = own_key::OwnKeys::new("two", &keys, services.clone()).await.unwrap();
    assert_eq!(not_run(&conformance::run(&two).await), troubles);

    world.fake.grant(ACCOUNT, &[Right::Encrypt, Right::Decrypt]);
    let one = own_key::OwnKeys::new("one", &keys[..1], services).await.unwrap();
    let lacking = [&[Case::WrongKey, Case::Describe][..], &troubles].concat();
    assert_eq!(not_run(&conformance::run(&one).await), lacking);
    assert!(world.fake.calls().iter().all(|(call, _)| !call.contains("cryptoKeyVersions")), "nothing was changed");
}

#[tokio::test]
async fn bytes_that_are_changed_on_their_way_are_noticed_in_both_directions_and_the_call_is_made_again() {
    let world = World::new().await;
    let kms = world.kms(&world.account());
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    let unseen = [Fault::IgnoreChecksum("plaintext"), Fault::IgnoreChecksum("additionalAuthenticatedData")];
    for fault in [Fault::DamageRequest, Fault::DamageAnswer, unseen[0], unseen[1]] {
        world.fake.next(fault);
        let error = kms.wrap_one(&material(), &context()).await.unwrap_err();
        assert_eq!(error.code(), Code::KmsUnavailable, "{fault:?}: {error}");
        assert!(error.to_string().contains("checksum"), "{error}");
    }
    for fault in [Fault::DamageRequest, Fault::DamageAnswer] {
        world.fake.next(fault);
        let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
        assert_eq!(error.code(), Code::KmsUnavailable, "{fault:?}: {error}");
        assert!(error.to_string().contains("checksum"), "{error}");
    }
    let quick = RetryOptions { first_pause: Duration::ZERO, ..RetryOptions::default() };
    let retried: Arc<dyn KeyManagementService> = Arc::new(Retry::new(kms, quick));
    let before = world.fake.calls().len();
    world.fake.next(Fault::DamageAnswer);
    opens(&retried, &wrapped).await;
    assert_eq!(world.fake.calls().len() - before, 2);
}

#[tokio::test]
async fn an_answer_of_another_key_is_refused() {
    let world = World::new().await;
    let kms = world.kms(&world.account());
    world.fake.next(Fault::AnswerOfAnotherKey);
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsProtocol);
}

#[tokio::test]
async fn a_refusal_for_its_quota_says_when_to_come_again_and_nothing_else() {
    let world = World::new().await;
    let kms = world.kms(&world.account());
    world.fake.next(Fault::Unavailable);
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsUnavailable);
    world.fake.next(Fault::Throttle(1_250));
    let error = kms.wrap_one(&material(), &context()).await.unwrap_err();
    assert_eq!((error.code(), error.again_after()), (Code::KmsThrottled, Some(Duration::from_millis(1_250))));
    assert!(error.to_string().contains("`RESOURCE_EXHAUSTED`, `RATE_LIMIT_EXCEEDED`"), "{error}");
    assert!(!error.to_string().contains("Quota exceeded"), "its sentences are not repeated: {error}");
}

#[tokio::test]
async fn a_rotated_key_opens_its_old_wraps_and_each_wrap_says_its_version() {
    let world = World::new().await;
    let kms = world.kms(&world.account());
    let uri = kms.uri().to_string();
    let old = kms.wrap_one(&material(), &context()).await.unwrap();
    world.fake.slow_generation(&uri, 2);
    kms.rotator().unwrap().rotate().await.unwrap();
    let new = kms.wrap_one(&material(), &context()).await.unwrap();
    assert_eq!((version(&old), version(&new)), (1, 2));
    opens(&kms, &old).await;
    opens(&kms, &new).await;
    let about = kms.describer().unwrap().describe().await.unwrap();
    assert!(about.resolved.ends_with("/cryptoKeyVersions/2"), "{}", about.resolved);

    // Version 1 is shut out while version 2 goes on; then it is gone for good.
    world.fake.set_version(&uri, 1, VersionState::Disabled);
    let error = kms.unwrap_one(&old, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsVersionRetired, "{error}");
    opens(&kms, &new).await;
    world.fake.set_version(&uri, 1, VersionState::Enabled);
    opens(&kms, &old).await;
    world.fake.set_version(&uri, 1, VersionState::Destroyed);
    assert_eq!(kms.unwrap_one(&old, &context()).await.err().unwrap().code(), Code::KmsKeyNotFound);
    opens(&kms, &new).await;
}

#[tokio::test]
async fn a_version_that_does_not_get_ready_leaves_the_former_one_in_place() {
    let world = World::new().await;
    let kms = world.kms(&world.account());
    world.fake.slow_generation(kms.uri().as_str(), 1000);
    let error = kms.rotator().unwrap().rotate().await.unwrap_err();
    assert_eq!(error.code(), Code::KmsProtocol);
    assert!(error.hints().any(|h| h.contains("set-primary-version")), "{:?}", error.hints().collect::<Vec<_>>());
    assert_eq!(version(&kms.wrap_one(&material(), &context()).await.unwrap()), 1);
}

#[tokio::test]
async fn a_description_has_the_state_the_protection_and_the_rotation() {
    let world = World::new().await;
    let kms = world.kms(&world.account());
    world.fake.set_rotation(kms.uri().as_str(), "7776000s", "2030-01-02T03:04:05Z");
    let about = kms.describer().unwrap().describe().await.unwrap();
    assert_eq!((about.state, about.manager.as_str(), about.usable), (RootKeyState::Enabled, "Google (SOFTWARE)", true));
    let rotation = about.rotation.unwrap();
    assert_eq!(rotation.period, Some(Duration::from_secs(90 * 24 * 3600)));
    assert_eq!(rotation.next.unwrap().to_string(), "2030-01-02T03:04:05Z");
}

#[tokio::test]
async fn a_key_for_another_purpose_is_refused_and_described_as_unusable() {
    let world = World::new().await;
    let kms = world.kms(&world.account());
    world.fake.set_purpose(kms.uri().as_str(), "ASYMMETRIC_SIGN");
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsUriInvalid);
    let about = kms.describer().unwrap().describe().await.unwrap();
    assert_eq!((about.usable, about.state), (false, RootKeyState::Unavailable));
}

#[tokio::test]
async fn whoever_may_only_encrypt_wraps_and_is_told_which_role_unwraps() {
    let world = World::new().await;
    let options = world.account();
    world.fake.grant(ACCOUNT, &[Right::Encrypt]);
    let kms = world.kms(&options);
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.hints().any(|h| h.contains("roles/cloudkms.cryptoKeyDecrypter")), "{error}");
}

fn user(world: &World, quota_project: Option<&str>) -> Value {
    json!({
        "type": "authorized_user",
        "client_id": "a-client",
        "client_secret": "a-client-secret",
        "refresh_token": "a-refresh-token",
        "token_uri": format!("{}/token", world.fake.endpoint()),
        "quota_project_id": quota_project,
    })
}

fn external(world: &World, source: &Value, account: Option<&str>) -> Value {
    let endpoint = world.fake.endpoint();
    let url = account.map(|a| format!("{endpoint}/v1/projects/-/serviceAccounts/{a}:generateAccessToken"));
    json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{endpoint}/sts"),
        "service_account_impersonation_url": url,
        "credential_source": source,
    })
}

#[tokio::test]
async fn a_person_signs_in_and_says_which_project_pays() {
    let world = World::new().await;
    world.fake.grant(PERSON, &[Right::Encrypt, Right::Decrypt]);
    round_trip(&world.kms(&world.by(&user(&world, Some("shop"))))).await;
    let error = world.kms(&world.by(&user(&world, None))).wrap_one(&material(), &context()).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied);
}

#[tokio::test]
async fn a_foreign_token_of_a_file_or_a_url_is_exchanged() {
    let world = World::new().await;
    world.fake.grant(EXTERNAL, &[Right::Encrypt, Right::Decrypt]);
    let token = world.write("token", &world.fake.subject_token());
    // A token that Kubernetes projects into a container is readable to all in it.
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    for source in [
        json!({ "file": token }),
        json!({ "file": "token" }),
        json!({
            "url": format!("{}/subject", world.fake.endpoint()), "headers": { "Metadata": "True" },
            "format": { "type": "json", "subject_token_field_name": "value" },
        }),
    ] {
        round_trip(&world.kms(&world.by(&external(&world, &source, None)))).await;
    }
    // It is read for every exchange: whoever replaces it needs no restart.
    let kms = world.kms(&world.by(&external(&world, &json!({ "file": token }), None)));
    world.write("token", "a-token-of-nobody");
    let error = kms.wrap_one(&material(), &context()).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.to_string().contains("`invalid_grant`"), "{error}");
    for _ in 0..2 {
        world.write("token", &world.fake.subject_token());
        world.fake.end_tokens();
        round_trip(&kms).await;
    }
}

#[tokio::test]
async fn a_service_account_is_impersonated_by_the_file_or_by_the_policy() {
    let world = World::new().await;
    let (worker, target) = ("worker@fake.iam.gserviceaccount.com", ACCOUNT);
    world.fake.grant(target, &[Right::Encrypt, Right::Decrypt]);
    let source = json!({ "file": world.write("token", &world.fake.subject_token()) });
    let key = world.fake.service_account(worker);
    world.fake.grant(worker, &[]);
    let impersonated = json!({
        "type": "impersonated_service_account",
        "service_account_impersonation_url":
            format!("{}/v1/projects/-/serviceAccounts/{target}:generateAccessToken", world.fake.endpoint()),
        "source_credentials": key,
    });
    let by_policy = |credentials: &Value| GoogleOptions {
        impersonate: Some(target.to_owned()),
        iam_endpoint: Some(world.fake.endpoint().to_owned()),
        ..world.by(credentials)
    };
    let ways: [Box<dyn Fn() -> GoogleOptions>; 4] = [
        Box::new(|| world.by(&external(&world, &source, Some(target)))),
        Box::new(|| world.by(&impersonated)),
        Box::new(|| by_policy(&key)),
        // Through one account to another: the foreign identity as the worker, the worker as the target.
        Box::new(|| by_policy(&external(&world, &source, Some(worker)))),
    ];
    for (n, way) in ways.iter().enumerate() {
        let error = world.kms(&way()).wrap_one(&material(), &context()).await.unwrap_err();
        assert_eq!(error.code(), Code::KmsAccessDenied, "way {n}, nobody may yet");
        assert!(error.hints().any(|h| h.contains("roles/iam.serviceAccountTokenCreator")), "{error}");
    }
    for (who, whom) in [(EXTERNAL, target), (EXTERNAL, worker), (worker, target)] {
        world.fake.let_act_as(who, whom);
    }
    for way in &ways {
        round_trip(&world.kms(&way())).await;
    }
}

#[tokio::test]
async fn a_token_that_is_taken_back_is_replaced_and_many_calls_share_one() {
    let world = World::new().await;
    let kms = world.kms(&world.account());
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    futures_util::future::join_all((0..20).map(|_| opens(&kms, &wrapped))).await;
    assert_eq!(world.fake.issued(), 1);
    world.fake.end_tokens();
    futures_util::future::join_all((0..20).map(|_| opens(&kms, &wrapped))).await;
    assert_eq!(world.fake.issued(), 2);
}

#[tokio::test]
async fn another_file_of_credentials_is_taken_up_without_a_restart() {
    let world = World::new().await;
    let first = world.fake.service_account(ACCOUNT);
    let options = world.by(&first);
    let kms = world.kms(&options);
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    world.fake.delete_account_key(&first);
    world.fake.end_tokens();
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
    assert!(error.hints().any(|h| h.contains("was not deleted")), "{:?}", error.hints().collect::<Vec<_>>());
    assert!(!error.to_string().contains("quotes what was sent"), "{error}");
    world.by(&world.fake.service_account(ACCOUNT));
    opens(&kms, &wrapped).await;

    // A good token does not outlive the file that it was got with.
    let issued = world.fake.issued();
    world.by(&world.fake.service_account(ACCOUNT));
    opens(&kms, &wrapped).await;
    assert_eq!(world.fake.issued(), issued + 1);
}

#[tokio::test]
async fn a_key_file_that_others_may_read_is_refused() {
    let world = World::new().await;
    let options = world.account();
    let file: &Path = options.credentials_file.as_deref().unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = world.kms(&options).wrap_one(&material(), &context()).await.unwrap_err();
    assert_eq!(error.code(), Code::KeyFilePermissions);
    assert_eq!(world.fake.issued(), 0);
}

#[tokio::test]
async fn no_credential_crosses_a_network_in_the_clear() {
    let world = World::new().await;
    let mut credentials = world.fake.service_account(ACCOUNT);
    credentials["token_uri"] = "http://tokens.example.com/token".into();
    let error = world.kms(&world.by(&credentials)).wrap_one(&material(), &context()).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.to_string().contains("in the clear"), "{error}");
}
