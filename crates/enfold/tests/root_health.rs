//! What is told of root keys besides that they wrap and unwrap: rights, rotation, clocks, deletions; and the self-test of rings.
//!
//! AWS is LocalStack, which knows no `DryRun`, and a listener of ours that does; Google and Azure are fakes of ours. OpenBao
//! is in `key_services_vault/rights.rs`.
#![cfg(all(feature = "aws", feature = "azure", feature = "google"))]

mod common;
mod key_service;

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use common::{World, seal, set_mode};
use enfold::clock::ManualClock;
use enfold::kms::{
    AwsKms, AwsOptions, AzureKms, AzureOptions, DescribeKey, GoogleKms, GoogleOptions, Held, KeyManagementService,
    KeyManagementServiceExt, KeyMaterial, KeyUri, MemoryKms, MemoryState, Meter, NeededBy, Operation, Permission,
    Retry, RetryOptions, RootKeyState, StaticCredentials, UnwrapRequest, WrapRequest, WrappedKey,
};
use enfold::policy::{AzureSettings, AzureSignIn, Mode};
use enfold::{Code, ConcernAbout, Part, Place, Result};
use enfold_testkit::aws::{REGION, Server};
use enfold_testkit::cloud::azure::{CLIENT, FakeAzure, Kind, Right as AzureRight, TENANT};
use enfold_testkit::cloud::google::{FakeGoogle, Right, VersionState};
use enfold_testkit::cloud::{Reply, Request, Server as Http};
use key_service::context;
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn aws(uri: &str) -> Arc<dyn KeyManagementService> {
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
    Arc::new(AwsKms::open(&uri.parse().unwrap(), &options).await.unwrap())
}

async fn rights(kms: &dyn KeyManagementService) -> Vec<Permission> {
    kms.describer().unwrap().permissions(&context()).await.unwrap()
}

fn named(permissions: &[Permission], held: Held) -> Vec<&str> {
    permissions.iter().filter(|p| p.held == held).map(|p| p.name.as_str()).collect()
}

#[tokio::test]
async fn aws_tells_when_a_key_is_rotated_by_itself_and_by_an_alias_too() {
    let server = Server::LocalStack;
    let key = server.create_key().await;
    let alias = format!("alias/rotated-{key}");
    server.kms("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": key })).await;
    let kms = aws(&server.uri(&alias)).await;
    let about = kms.describer().unwrap().describe().await.unwrap();
    let plan = about.rotation.expect("it was told");
    assert_eq!((plan.period, plan.next, about.untold.len()), (None, None, 0));
    server.kms("EnableKeyRotation", json!({ "KeyId": key, "RotationPeriodInDays": 120 })).await;
    let plan = kms.describer().unwrap().describe().await.unwrap().rotation.unwrap();
    assert_eq!(plan.period, Some(120 * DAY));
    assert!(plan.next.is_some_and(|next| next > jiff::Timestamp::now()), "{plan:?}");
}

#[tokio::test]
async fn aws_tells_when_a_key_is_deleted() {
    let server = Server::LocalStack;
    let key = server.create_key().await;
    server.kms("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 })).await;
    let about = aws(&server.uri(&key)).await.describer().unwrap().describe().await.unwrap();
    assert_eq!(about.state, RootKeyState::PendingDeletion);
    assert!(about.deletion.is_some_and(|at| at > jiff::Timestamp::now()), "{about:?}");
}

#[tokio::test]
async fn a_server_that_knows_no_dry_run_is_asked_for_no_grant() {
    for server in [Server::LocalStack, Server::Moto] {
        let key = server.create_key().await;
        let told = rights(&*aws(&server.uri(&key)).await).await;
        assert!(named(&told, Held::NotTold).contains(&"kms:CreateGrant"), "{told:?}");
        let grants = server.kms("ListGrants", json!({ "KeyId": key })).await;
        assert_eq!(grants["Grants"], json!([]), "{server:?} made one");
    }
}

/// AWS KMS as far as `DryRun` goes: answers each action with a name of an error, and notes what it was sent.
async fn dry_aws(
    answers: impl Fn(&str) -> &'static str + Send + Sync + 'static,
) -> (Http, Arc<Mutex<Vec<(String, Value)>>>) {
    let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let noted = seen.clone();
    let server = Http::start(move |request: &Request| {
        let action = request.header("x-amz-target")?.strip_prefix("TrentService.")?.to_owned();
        let body: Value = serde_json::from_slice(&request.body).ok()?;
        let arn = format!("arn:aws:kms:{REGION}:111122223333:key/{UNKNOWN_KEY}");
        noted.lock().unwrap().push((action.clone(), body));
        let reply = match (action.as_str(), answers(&action)) {
            ("DescribeKey", "") => {
                let about =
                    json!({ "KeyId": UNKNOWN_KEY, "Arn": arn, "KeyState": "Enabled", "KeySpec": "SYMMETRIC_DEFAULT" });
                Reply::json(200, &json!({ "KeyMetadata": about }))
            }
            (_, error) => Reply::json(400, &json!({ "__type": error, "message": "secret-text" })),
        };
        Some(reply)
    })
    .await;
    (server, seen)
}

const UNKNOWN_KEY: &str = "00000000-0000-4000-8000-000000000000";

fn aws_at(server: &Http) -> String {
    format!("aws-kms://{REGION}/{UNKNOWN_KEY}?endpoint={}", server.endpoint())
}

#[tokio::test]
async fn aws_is_asked_what_may_be_done_without_its_being_done() {
    let (server, seen) = dry_aws(|action| match action {
        "DescribeKey" => "",
        "GenerateDataKey" => "AccessDeniedException",
        _ => "DryRunOperationException",
    })
    .await;
    let told = rights(&*aws(&aws_at(&server)).await).await;
    assert_eq!(named(&told, Held::Yes), ["kms:Encrypt", "kms:CreateGrant"]);
    assert_eq!(named(&told, Held::No), ["kms:GenerateDataKey"]);
    assert_eq!(named(&told, Held::NotTold), ["kms:ScheduleKeyDeletion", "kms:DisableKey", "kms:PutKeyPolicy"]);
    assert!(told.iter().any(|p| p.name == "kms:CreateGrant" && p.needed_by == NeededBy::Nobody));

    let seen = seen.lock().unwrap();
    let sent = |action: &str| &seen.iter().find(|(sent, _)| sent == action).unwrap().1;
    for action in ["Encrypt", "GenerateDataKey", "CreateGrant"] {
        assert_eq!(sent(action)["DryRun"], true, "{action}");
    }
    let (name, value) = context().iter().next().map(|(n, v)| (n.to_owned(), v.to_owned())).unwrap();
    assert_eq!(sent("Encrypt")["EncryptionContext"][name], value, "rights may depend on it");
    assert_eq!(sent("CreateGrant")["GranteePrincipal"], "arn:aws:iam::111122223333:root");
}

#[tokio::test]
async fn aws_that_refuses_everything_is_not_asked_for_a_grant_and_one_that_is_away_is_an_error() {
    let (server, seen) = dry_aws(|_| "AccessDeniedException").await;
    let told = rights(&*aws(&aws_at(&server)).await).await;
    assert_eq!(named(&told, Held::No), ["kms:Encrypt", "kms:GenerateDataKey"]);
    assert!(seen.lock().unwrap().iter().all(|(action, _)| action != "CreateGrant"));

    let (server, _) = dry_aws(|_| "KMSInternalException").await;
    let kms = aws(&aws_at(&server)).await;
    let error = kms.describer().unwrap().permissions(&context()).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsUnavailable, "{error}");
}

#[tokio::test]
async fn a_rotation_that_may_not_be_asked_for_leaves_the_rest_of_the_description() {
    let (server, _) = dry_aws(|action| if action == "DescribeKey" { "" } else { "AccessDeniedException" }).await;
    let about = aws(&aws_at(&server)).await.describer().unwrap().describe().await.unwrap();
    assert_eq!((about.state, about.rotation), (RootKeyState::Enabled, None));
    assert_eq!(about.untold, ["whether it is rotated may not be asked (`kms:GetKeyRotationStatus`)"]);
}

#[tokio::test]
async fn a_key_that_is_not_in_the_region_is_told_with_the_region() {
    let (server, _) = dry_aws(|_| "NotFoundException").await;
    let error = aws(&aws_at(&server)).await.describer().unwrap().describe().await.unwrap_err();
    assert_eq!(error.code(), Code::KmsKeyNotFound);
    assert!(error.causes().any(|cause| cause.contains("`eu-central-1`")), "{error}");
    assert!(error.hints().any(|hint| hint.contains("--region eu-central-1")), "{error:?}");
}

/// Answers like a service whose clock is so many seconds ahead.
async fn ahead(seconds: i64) -> Http {
    Http::start(move |_: &Request| {
        let then = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&then).unwrap();
        Some(Reply::json(404, &json!({})).header("date", date))
    })
    .await
}

#[tokio::test]
async fn the_clock_of_a_service_is_compared_whatever_it_answers_and_through_every_wrapper() {
    let folder = tempfile::tempdir().unwrap();
    for seconds in [0, 600, -600] {
        let server = ahead(seconds).await;
        let key = format!("gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k?endpoint={}", server.endpoint());
        let google = google(&key, folder.path(), &FakeGoogle::start().await);
        for kms in [aws(&aws_at(&server)).await, google] {
            let retry = Retry::new(Arc::new(Meter::new(kms)), RetryOptions::default());
            let describer = retry.describer().unwrap();
            assert_eq!(describer.clock_skew(), None, "nothing was asked yet");
            assert!(describer.describe().await.is_err());
            let skew = describer.clock_skew().unwrap().as_secs();
            // A machine that is busy may take a while over the answer.
            assert!((seconds - 20..=seconds + 1).contains(&skew), "{skew} of {seconds}");
        }
    }
}

fn google(uri: &str, folder: &std::path::Path, fake: &FakeGoogle) -> Arc<dyn KeyManagementService> {
    let file = folder.join(format!("{}.json", enfold_testkit::openbao::unique()));
    std::fs::write(&file, fake.service_account("orders@fake.iam.gserviceaccount.com").to_string()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let options = GoogleOptions { credentials_file: Some(file), ..GoogleOptions::default() };
    Arc::new(GoogleKms::open(&uri.parse().unwrap(), &options).unwrap())
}

#[tokio::test]
async fn google_tells_what_may_be_done_and_when_a_version_is_destroyed() {
    let (fake, folder) = (FakeGoogle::start().await, tempfile::tempdir().unwrap());
    let uri = fake.create_key();
    let kms = google(&uri, folder.path(), &fake);
    fake.grant("orders@fake.iam.gserviceaccount.com", &[Right::Encrypt, Right::Decrypt, Right::Get]);
    let told = rights(&*kms).await;
    assert!(told.iter().all(|p| (p.held == Held::Yes) == (p.needed_by == NeededBy::Applications)), "{told:?}");
    fake.grant("orders@fake.iam.gserviceaccount.com", &[Right::Get, Right::Admin]);
    let told = rights(&*kms).await;
    assert!(named(&told, Held::Yes).contains(&"cloudkms.cryptoKeys.setIamPolicy"));
    assert!(named(&told, Held::No).contains(&"cloudkms.cryptoKeyVersions.useToDecrypt"));
    fake.set_version(&uri, 1, VersionState::DestroyScheduled);
    let about = kms.describer().unwrap().describe().await.unwrap();
    // Thirty days where nobody chose another time.
    let left = about.deletion.unwrap().duration_since(jiff::Timestamp::now());
    assert!((30 * 24 - 1..=30 * 24).contains(&left.as_hours()), "{left}");
}

#[tokio::test]
async fn azure_tells_of_rotation_and_of_no_right() {
    let (fake, folder) = (FakeAzure::start().await, tempfile::tempdir().unwrap());
    fake.set_secret("a-secret");
    fake.grant(CLIENT, &[AzureRight::Get]);
    let file = folder.path().join("secret");
    std::fs::write(&file, "a-secret").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = AzureSettings {
        sign_in: AzureSignIn::ClientSecret,
        tenant_id: Some(TENANT.to_owned()),
        client_id: Some(CLIENT.to_owned()),
        authority: Some(fake.endpoint().to_owned()),
        file: Some(file),
        ..AzureSettings::default()
    };
    let uri = fake.create_key(Kind::Rsa);
    let kms = AzureKms::open(&uri.parse().unwrap(), &AzureOptions { settings, ..AzureOptions::default() }).unwrap();
    let plan = || async { kms.describe().await.unwrap().rotation.unwrap() };
    assert_eq!(plan().await.period, None, "a policy that only notifies");
    fake.rotate_after(&uri, 90);
    assert_eq!(plan().await.period, Some(90 * DAY));
    // The fake's versions were made at 1,700,000,000 seconds.
    assert_eq!(plan().await.next.unwrap().as_second(), 1_700_000_000 + 90 * 24 * 3600);
    let told = rights(&kms).await;
    assert!(!told.is_empty() && told.iter().all(|p| p.held == Held::NotTold), "{told:?}");
    assert_eq!(kms.clock_skew().unwrap().as_secs().abs() / 20, 0);
}

/// A key service whose calls take their time, by a clock that a test moves.
struct Slow {
    memory: MemoryKms,
    clock: Arc<ManualClock>,
    /// How long the next calls take; those after them take none.
    takes: Mutex<Vec<u64>>,
}

impl Slow {
    fn pass(&self) {
        let millis = self.takes.lock().unwrap().pop().unwrap_or_default();
        self.clock.advance(Duration::from_millis(millis));
    }
}

#[async_trait]
impl KeyManagementService for Slow {
    fn uri(&self) -> &KeyUri {
        self.memory.uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.pass();
        self.memory.wrap(requests).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        self.memory.unwrap(requests).await
    }
}

#[tokio::test]
async fn a_root_key_is_slow_when_it_is_so_three_times() {
    for (takes, slow) in [(vec![3], false), (vec![3, 900], false), (vec![900, 700, 800], true)] {
        let world = World::new();
        world.operators().await;
        let memory = MemoryKms::new("other").unwrap();
        let kms = Arc::new(Slow { memory, clock: world.clock.clone(), takes: Mutex::new(takes.clone()) });
        let policy = "[rings.slow]\nid = \"ring-slow\"\nroots = [\"memory:other\"]\nscope = \"ring\"\n\n[tables.users]";
        let policy = world.policy(&common::POLICY.replacen("[tables.users]", policy, 1));
        let enfold = world.builder_for(policy).provider(kms.clone()).prepare().build().await.unwrap();
        *kms.takes.lock().unwrap() = takes.clone();
        let found = enfold.root_keys(&enfold::CallContext::default()).await.unwrap();
        let root = found.iter().find(|root| root.ring == "slow").unwrap();
        let about: Vec<ConcernAbout> = root.concerns(true).into_iter().map(|concern| concern.about).collect();
        assert_eq!(about.contains(&ConcernAbout::Latency), slow, "{takes:?}");
    }
}

#[tokio::test]
async fn every_ring_seals_and_opens_with_a_key_of_its_own_or_one_that_is_forgotten() {
    let world = World::new();
    let operators = world.operators().await;
    set_mode(&operators, "users.email", Mode::Kms).await;
    let before = world.catalog.keys("ring-main", None, 100).await.unwrap().len();
    let tested = operators.self_test(&enfold::CallContext::default()).await;
    assert_eq!(tested.len(), 5);
    assert!(tested.iter().all(|(_, done)| done.as_ref().is_ok_and(|done| done.data_key.is_none())));
    assert_eq!(world.catalog.keys("ring-main", None, 100).await.unwrap().len(), before, "nothing is stored");

    let place = Place::tenant(Part::Text("acme"));
    seal(&operators.column("users.email").unwrap(), place, "ada@example.com").await.unwrap();
    let process = world.application().await.unwrap();
    let tested = process.self_test(&enfold::CallContext::default()).await;
    let of = |ring: &str| &tested.iter().find(|(name, _)| name == ring).unwrap().1;
    assert!(of("main").as_ref().unwrap().data_key.is_some(), "a tenant's key does for the ring");
    assert!(of("wide").as_ref().unwrap().data_key.is_none());

    world.kms.set_state(MemoryState::Denied);
    let fresh = world.application().await;
    let codes: Vec<Code> = match fresh {
        Ok(fresh) => fresh
            .self_test(&enfold::CallContext::default())
            .await
            .into_iter()
            .map(|(_, done)| done.unwrap_err().code())
            .collect(),
        Err(error) => vec![error.code()],
    };
    assert!(!codes.is_empty() && codes.iter().all(|code| *code == Code::KmsAccessDenied), "{codes:?}");
}

#[tokio::test]
async fn a_question_for_rights_is_counted_as_describing() {
    let meter = Meter::new(Arc::new(MemoryKms::new("a").unwrap()));
    assert_eq!(rights(&meter).await, []);
    assert_eq!(meter.figures(Operation::Describe).calls, 1);
}
