//! The conformance suite over Azure Key Vault and Managed HSM, and what belongs to them alone.
//!
//! All of it runs on a fake of ours: nothing here shows what the real services do. `make test-cloud` runs the suite there.
#![cfg(all(feature = "azure", feature = "sqlite"))]

mod common;
mod conformance_table;
mod key_service;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use common::{code, open as open_value, seal, set_mode};
use enfold::catalog::{DataKeyRow, Purpose, SqliteCatalog};
use enfold::kms::conformance::{self, Arranged, Change, Fixture, Trouble};
use enfold::kms::{
    AzureKms, AzureOptions, EncryptionContext, KeyManagementService, KeyManagementServiceExt, RootKeyState, WrappedKey,
};
use enfold::policy::{AzureSettings, AzureSignIn, Mode};
use enfold::{Code, Enfold, Part, Place};
use enfold_testkit::cloud::azure::{CLIENT, Certificate, FakeAzure, Fault, Kind, Right, TENANT, Validity};
use key_service::{context, material, opens, round_trip};
use tempfile::TempDir;

const ALL: [Right; 5] = [Right::Get, Right::Wrap, Right::Unwrap, Right::Rotate, Right::Manage];
const ACME: Place<'static> = Place::tenant(Part::Text("acme"));

/// A fake whose application has a secret, and may do everything.
struct World {
    fake: FakeAzure,
    folder: TempDir,
    kind: Kind,
}

impl World {
    async fn new(kind: Kind) -> Self {
        let world = Self { fake: FakeAzure::start().await, folder: tempfile::tempdir().unwrap(), kind };
        world.fake.set_secret("a-secret");
        world.fake.grant(CLIENT, &ALL);
        world
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn by(&self, sign_in: AzureSignIn, file: PathBuf) -> AzureOptions {
        let settings = AzureSettings {
            sign_in,
            tenant_id: Some(TENANT.to_owned()),
            client_id: Some(CLIENT.to_owned()),
            authority: Some(self.fake.endpoint().to_owned()),
            file: Some(file),
            ..AzureSettings::default()
        };
        AzureOptions { settings, ..AzureOptions::default() }
    }

    fn by_secret(&self) -> AzureOptions {
        self.by(AzureSignIn::ClientSecret, self.write("secret", "a-secret\n"))
    }

    /// A provider over a new key.
    fn kms(&self) -> Arc<dyn KeyManagementService> {
        open(&self.fake.create_key(self.kind), &self.by_secret())
    }
}

fn open(uri: &str, options: &AzureOptions) -> Arc<dyn KeyManagementService> {
    Arc::new(AzureKms::open(&uri.parse().unwrap(), options).unwrap())
}

#[async_trait]
impl Fixture for World {
    fn name(&self) -> String {
        match self.kind {
            Kind::OctHsm => "Azure Managed HSM (a fake)".to_owned(),
            _ => "Azure Key Vault (a fake)".to_owned(),
        }
    }

    async fn key(&self) -> Arc<dyn KeyManagementService> {
        self.fake.always(None);
        self.fake.set_secret("a-secret");
        self.fake.grant(CLIENT, &ALL);
        self.kms()
    }

    async fn trouble(&self, kms: &Arc<dyn KeyManagementService>, trouble: Trouble) -> Arranged {
        let uri = kms.uri().as_str();
        match trouble {
            Trouble::Disabled => self.fake.set_enabled(uri, false),
            Trouble::PendingDeletion => self.fake.delete(uri, false),
            Trouble::Deleted => self.fake.delete(uri, true),
            Trouble::Denied => self.fake.grant(CLIENT, &[]),
            Trouble::Throttled => self.fake.always(Some(Fault::Throttle(1))),
            Trouble::TimedOut => {
                self.fake.always(Some(Fault::Silence));
                let mut options = self.by_secret();
                options.http.answer_within = Duration::from_millis(100);
                return Arranged::Done(open(uri, &options));
            }
            Trouble::CredentialExpired => self.fake.expire_secrets(),
        }
        Arranged::Done(kms.clone())
    }

    async fn versions(&self, kms: &Arc<dyn KeyManagementService>, change: Change) -> Arranged {
        match change {
            Change::Rotate => kms.rotator().unwrap().rotate().await.unwrap(),
            Change::RetireOld => {
                let uri = kms.uri().as_str();
                let versions = self.fake.versions(uri);
                versions[..versions.len() - 1].iter().for_each(|v| self.fake.set_version_enabled(uri, v, false));
            }
        }
        Arranged::Done(kms.clone())
    }
}

#[tokio::test]
async fn on_the_fake_every_case_passes_for_rsa_in_a_vault_and_for_aes_in_a_managed_hsm() {
    for kind in [Kind::Rsa, Kind::OctHsm] {
        let world = World::new(kind).await;
        let report = conformance::run(&world).await;
        println!("{report}");
        assert!(report.exceptions().is_empty(), "every case is expected to pass");
        conformance_table::must_be_documented(&world.name(), &report);
    }
}

#[tokio::test]
async fn nothing_is_wrapped_under_a_disabled_key_though_the_service_would() {
    let world = World::new(Kind::Rsa).await;
    let kms = world.kms();
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    world.fake.set_enabled(kms.uri().as_str(), false);
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsKeyDisabled);
    let wraps = world.fake.calls().iter().filter(|(call, _)| call.ends_with("/wrapkey")).count();
    assert_eq!(wraps, 1, "the service was not asked to wrap");
    world.fake.set_enabled(kms.uri().as_str(), true);
    opens(&kms, &wrapped).await;
}

#[tokio::test]
async fn a_key_out_of_its_time_wraps_nothing_and_opens_what_it_wrapped() {
    let world = World::new(Kind::Rsa).await;
    let kms = world.kms();
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    for validity in [Validity::Expired, Validity::NotYet] {
        world.fake.set_validity(kms.uri().as_str(), validity);
        assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsKeyDisabled);
        opens(&kms, &wrapped).await;
        let about = kms.describer().unwrap().describe().await.unwrap();
        assert_eq!(about.state, RootKeyState::Unavailable, "{validity:?}");
    }
}

#[tokio::test]
async fn a_rotated_key_opens_its_old_wraps_and_a_uri_with_a_version_keeps_to_it() {
    for kind in [Kind::Rsa, Kind::OctHsm] {
        let world = World::new(kind).await;
        let kms = world.kms();
        let old = kms.wrap_one(&material(), &context()).await.unwrap();
        kms.rotator().unwrap().rotate().await.unwrap();
        let new = kms.wrap_one(&material(), &context()).await.unwrap();
        let versions = world.fake.versions(kms.uri().as_str());
        for (wrapped, version) in [(&old, &versions[0]), (&new, &versions[1])] {
            let hex: String = wrapped.as_bytes()[5..21].iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(&hex, version, "each wrap says its version");
            opens(&kms, wrapped).await;
        }
        let name = kms.uri().as_str();
        let pinned = name.replace("?", &format!("/{}?", versions[0]));
        let first = open(&pinned, &world.by_secret());
        opens(&first, &old).await;
        assert_eq!(first.unwrap_one(&new, &context()).await.err().unwrap().code(), Code::WrapInvalid);
        let again = first.wrap_one(&material(), &context()).await.unwrap();
        assert_eq!(again.as_bytes()[5..21], old.as_bytes()[5..21]);
        assert_eq!(first.rotator().unwrap().rotate().await.unwrap_err().code(), Code::KmsUriInvalid);
    }
}

#[tokio::test]
async fn a_version_that_is_disabled_is_told_apart_from_a_key_that_is_by_whoever_may_ask() {
    let world = World::new(Kind::Rsa).await;
    let kms = world.kms();
    let uri = kms.uri().as_str();
    let old = kms.wrap_one(&material(), &context()).await.unwrap();
    kms.rotator().unwrap().rotate().await.unwrap();
    let first = world.fake.versions(uri).remove(0);
    let pinned = open(&uri.replace("?", &format!("/{first}?")), &world.by_secret());
    world.fake.set_version_enabled(uri, &first, false);
    let refused = async |kms: &dyn KeyManagementService| kms.unwrap_one(&old, &context()).await.err().unwrap().code();
    assert_eq!(refused(&kms).await, Code::KmsVersionRetired);
    assert_eq!(refused(&pinned).await, Code::KmsKeyDisabled, "to this URI that version is the key");
    world.fake.set_enabled(uri, false);
    assert_eq!(refused(&kms).await, Code::KmsKeyDisabled);
    world.fake.set_enabled(uri, true);
    world.fake.grant(CLIENT, &[Right::Unwrap]);
    assert_eq!(refused(&kms).await, Code::KmsKeyDisabled, "nobody may say which");
    world.fake.set_version_enabled(uri, &first, true);
    opens(&kms, &old).await;
}

#[tokio::test]
async fn an_answer_of_another_key_is_refused() {
    let world = World::new(Kind::Rsa).await;
    let kms = world.kms();
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    world.fake.next(Fault::AnswerOfAnotherKey);
    assert_eq!(kms.unwrap_one(&wrapped, &context()).await.err().unwrap().code(), Code::KmsProtocol);
}

#[tokio::test]
async fn a_key_for_signing_is_refused_and_described_as_unusable() {
    let world = World::new(Kind::Ec).await;
    let kms = world.kms();
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsUriInvalid);
    assert!(!kms.describer().unwrap().describe().await.unwrap().usable);
}

#[tokio::test]
async fn a_refusal_for_its_quota_says_when_to_come_again_and_one_for_a_right_which_role_is_missing() {
    let world = World::new(Kind::Rsa).await;
    let kms = world.kms();
    world.fake.next(Fault::Unavailable);
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsUnavailable);
    world.fake.next(Fault::Throttle(7));
    let error = kms.wrap_one(&material(), &context()).await.unwrap_err();
    assert_eq!((error.code(), error.again_after()), (Code::KmsThrottled, Some(Duration::from_secs(7))));
    world.fake.grant(CLIENT, &[Right::Get]);
    let error = kms.wrap_one(&material(), &context()).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.to_string().contains("`Forbidden`, `ForbiddenByRbac`"), "{error}");
    assert!(!error.to_string().contains("names the caller"), "its sentences are not repeated: {error}");
    assert!(error.hints().any(|h| h.contains("Key Vault Crypto Service Encryption User")), "{error}");
}

#[tokio::test]
async fn an_application_signs_in_with_a_secret_that_may_be_replaced_without_a_restart() {
    let world = World::new(Kind::Rsa).await;
    let kms = world.kms();
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    futures_util::future::join_all((0..20).map(|_| opens(&kms, &wrapped))).await;
    assert_eq!(world.fake.issued(), 1);
    world.fake.set_secret("another-secret");
    world.fake.end_tokens();
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.to_string().contains("`invalid_client`"), "{error}");
    assert!(!error.to_string().contains("quotes what was sent"), "{error}");
    world.write("secret", "another-secret");
    opens(&kms, &wrapped).await;
    // One that came to its end is refused in the same word, and with another number.
    world.fake.expire_secrets();
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.to_string().contains("`invalid_client`, `AADSTS7000222`"), "{error}");
    world.fake.set_secret("a-third-secret");
    world.write("secret", "a-third-secret");
    opens(&kms, &wrapped).await;
}

#[tokio::test]
async fn an_application_signs_in_with_a_certificate() {
    let world = World::new(Kind::Rsa).await;
    let (ours, theirs) = (Certificate::new(), Certificate::new());
    let file = world.write("certificate.pem", &ours.pem);
    let kms = open(&world.fake.create_key(Kind::Rsa), &world.by(AzureSignIn::ClientCertificate, file));
    world.fake.add_certificate(&theirs);
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsAccessDenied);
    world.fake.add_certificate(&ours);
    round_trip(&kms).await;
    // Each assertion is good once, so another token takes another one.
    world.fake.end_tokens();
    round_trip(&kms).await;
    // The certificate of one with the key of another is neither's.
    let certificate = ours.pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let key = theirs.pem.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap();
    world.write("certificate.pem", &format!("{certificate}{key}"));
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsAccessDenied);
    for half in [certificate, key] {
        world.write("certificate.pem", half);
        let error = kms.wrap_one(&material(), &context()).await.unwrap_err();
        assert!(error.to_string().contains("it holds no "), "{error}");
    }
}

#[tokio::test]
async fn a_cluster_hands_out_tokens_that_are_read_anew() {
    let world = World::new(Kind::Rsa).await;
    let file = world.write("token", "a.cluster.token");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let kms = open(&world.fake.create_key(Kind::Rsa), &world.by(AzureSignIn::WorkloadIdentity, file));
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsAccessDenied);
    world.fake.trust("a.newer.token");
    world.write("token", "a.newer.token");
    round_trip(&kms).await;
}

#[tokio::test]
async fn a_secret_that_others_may_read_is_refused() {
    let world = World::new(Kind::Rsa).await;
    let kms = world.kms();
    let file = world.folder.path().join("secret");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(kms.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KeyFilePermissions);
}

/// A ring over a key of RSA, and somebody with every right on its catalog and the public half of the key.
struct Scene {
    world: World,
    common: common::World,
    root: String,
    hand: rusqlite::Connection,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new(Kind::Rsa).await;
        let root = world.fake.create_key(Kind::Rsa);
        let path = world.folder.path().join("catalog.db");
        let catalog = SqliteCatalog::create(&path).unwrap();
        let hand = rusqlite::Connection::open(&path).unwrap();
        Self { world, common: common::World::over(Arc::new(catalog)), root, hand }
    }

    fn policy(&self) -> String {
        // No ring may leave the wraps of records to such a root key.
        let text = common::POLICY.replace("record_wrap = \"kms\"\n", "");
        text.replace("memory:root", &self.root)
    }

    fn builder(&self) -> enfold::Builder {
        let kms = open(&self.root, &self.world.by_secret());
        self.common.builder_for(self.common.policy(&self.policy())).provider(kms)
    }

    /// A value, sealed by the operators.
    async fn sealed(&self) -> Vec<u8> {
        let operators = self.builder().prepare().build().await.unwrap();
        set_mode(&operators, "users.email", Mode::Kms).await;
        let stored = seal(&operators.column("users.email").unwrap(), ACME, "ann").await.unwrap();
        assert!(stored.starts_with(b"enf1:"));
        stored
    }

    async fn row(&self, purpose: Purpose) -> DataKeyRow {
        let keys = self.common.catalog.keys("ring-main", None, 100).await.unwrap();
        keys.into_iter().find(|k| k.purpose == purpose).unwrap()
    }

    /// What the service makes of a data key and its context, made without it.
    fn by_hand(&self, key: &[u8; 32], context: &EncryptionContext) -> WrappedKey {
        let public = PublicEncryptingKey::from_der(&self.world.fake.public_key(&self.root)).unwrap();
        let public = OaepPublicEncryptingKey::new(public).unwrap();
        let bound = digest(&SHA256, &[&b"enfold/v1 context\0"[..], &context.canonical()].concat());
        let payload = [&key[..], bound.as_ref()].concat();
        let mut wrapped = vec![0; public.ciphertext_size()];
        public.encrypt(&OAEP_SHA256_MGF1SHA256, &payload, &mut wrapped, None).unwrap();
        let version = u128::from_str_radix(&self.world.fake.versions(&self.root)[0], 16).unwrap();
        WrappedKey::new([&b"akv1\x01"[..], &version.to_be_bytes(), &wrapped].concat()).unwrap()
    }

    fn put(&self, row: &DataKeyRow, wrapped: &WrappedKey) {
        let sql = "UPDATE enfold_data_key_wraps SET wrapped = ?1 WHERE key_id = ?2";
        let changed = self.hand.execute(sql, (wrapped.as_bytes(), row.id.as_bytes().as_slice())).unwrap();
        assert_eq!(changed, 1);
    }

    async fn application_opens(&self, stored: &[u8]) -> Result<String, Code> {
        let enfold: Enfold = self.builder().build().await.map_err(|e| e.code())?;
        open_value(&enfold.column("users.email").unwrap(), ACME, stored).await.map_err(|e| e.code())
    }
}

#[tokio::test]
async fn a_wrap_made_by_hand_with_the_public_key_is_refused_by_the_ring() {
    let scene = Scene::new().await;
    let stored = scene.sealed().await;
    assert_eq!(scene.application_opens(&stored).await.as_deref(), Ok("ann"));

    let row = scene.row(Purpose::Seal).await;
    let (_, tag) = row.scope.split_once('@').unwrap();
    let context = EncryptionContext::new()
        .with(EncryptionContext::RING, "ring-main")
        .and_then(|c| c.with(EncryptionContext::SCOPE, "tenant"))
        .and_then(|c| c.with(EncryptionContext::DATA_KEY, &row.id.to_string()))
        .and_then(|c| c.with(EncryptionContext::TENANT, tag))
        .and_then(|c| c.with("data_class", "personal"))
        .unwrap();
    let theirs = scene.by_hand(&[9; 32], &context);
    // The key service itself cannot tell: it opens what was made by hand, in the right context alone.
    let kms = open(&scene.root, &scene.world.by_secret());
    assert_eq!(kms.unwrap_one(&theirs, &context).await.ok().unwrap().expose(), &[9; 32]);
    assert_eq!(code(kms.unwrap_one(&theirs, &EncryptionContext::new()).await), Code::WrapInvalid);

    scene.put(&row, &theirs);
    assert_eq!(scene.application_opens(&stored).await, Err(Code::StateTampered));
}

#[tokio::test]
async fn a_key_for_rows_that_was_wrapped_by_hand_is_not_the_one_of_the_signed_state() {
    let scene = Scene::new().await;
    let stored = scene.sealed().await;
    let rows = scene.row(Purpose::Rows).await;
    let context = EncryptionContext::new()
        .with(EncryptionContext::RING, "ring-main")
        .and_then(|c| c.with(EncryptionContext::SCOPE, "rows"))
        .and_then(|c| c.with(EncryptionContext::DATA_KEY, &rows.id.to_string()))
        .and_then(|c| c.with(EncryptionContext::PURPOSE, "rows"))
        .and_then(|c| c.with("data_class", "personal"))
        .unwrap();
    let kms = open(&scene.root, &scene.world.by_secret());
    let genuine = WrappedKey::new(rows.wraps[0].wrapped.clone()).unwrap();
    assert!(kms.unwrap_one(&genuine, &context).await.is_ok(), "the context is the right one");
    scene.put(&rows, &scene.by_hand(&[9; 32], &context));
    assert_eq!(scene.application_opens(&stored).await, Err(Code::StateTampered));
}

#[tokio::test]
async fn a_ring_whose_records_carry_their_wraps_is_refused_over_such_a_root_key() {
    let scene = Scene::new().await;
    let text = common::POLICY.replace("memory:root", &scene.root);
    let path = scene.common.dir.path().join("enfold.toml");
    let error = enfold::policy::parse(&text, &path, &enfold::policy::Variables::default()).unwrap_err();
    assert_eq!(error.code(), Code::PolicyInvalid);
    assert!(error.to_string().contains("rings.direct.record_wrap"), "{error:?}");
}
