//! The conformance suite over AWS KMS, against real HTTP servers, and what belongs to AWS alone.
//!
//! LocalStack and moto imitate the service, and neither is right in everything: each test says which cases its server
//! cannot be brought into and where it refuses under another name. Throttling and time-outs, which neither gives, are
//! answers of a listener. `docs/concepts/key-services.md` has the table that these tests print.
#![cfg(feature = "aws")]

mod conformance_table;
mod key_service;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use enfold::kms::conformance::{self, Arranged, Case, Change, Fixture, Outcome, Trouble};
use enfold::kms::{
    AwsKms, AwsOptions, KeyManagementService, KeyManagementServiceExt, RootKey, StaticCredentials, WrappedKey,
};
use enfold::{Code, Error};
use enfold_testkit::aws::{Behaviour, Listener, Server};
use key_service::{CHILD, again, context, material, wrap_as_child};
use serde_json::{Value, json};

const UNKNOWN_KEY: &str = "00000000-0000-4000-8000-000000000000";

fn test_credentials() -> AwsOptions<'static> {
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    AwsOptions { credentials: Some(credentials), ..AwsOptions::default() }
}

async fn open(uri: &str) -> Arc<dyn KeyManagementService> {
    Arc::new(AwsKms::open(&uri.parse().unwrap(), &test_credentials()).await.unwrap())
}

/// Gives up soon, for servers that never answer.
async fn open_impatient(uri: &str) -> Arc<dyn KeyManagementService> {
    let options = AwsOptions { answer_within: Duration::from_millis(100), ..test_credentials() };
    Arc::new(AwsKms::open(&uri.parse().unwrap(), &options).await.unwrap())
}

/// A listener that refuses as AWS KMS does, with a text that must go nowhere.
async fn refusing(status: u16, name: &str) -> Listener {
    let body = json!({ "__type": name, "message": "secret-text" });
    Listener::start(Behaviour::Answer(status, body.to_string())).await
}

async fn answering(body: Value) -> Arc<dyn KeyManagementService> {
    open(&Listener::start(Behaviour::Answer(200, body.to_string())).await.uri(UNKNOWN_KEY)).await
}

async fn unwrap_fails(kms: &dyn KeyManagementService) -> Error {
    let wrapped = WrappedKey::new(vec![1; 100]).unwrap();
    kms.unwrap_one(&wrapped, &context()).await.err().expect("must be refused")
}

/// A server with the suite's troubles arranged.
struct On(Server);

const MOTO_STATES: &str = "moto lets disabled keys and keys that wait for deletion work";
const MOTO_PERIOD: &str = "moto forgets the period of a rotation";
const EVERY_VERSION: &str = "AWS KMS keeps every version of a key, and retires none";
const RIGHTS: &str = "this server checks no rights; see the test on moto with rights";

#[async_trait]
impl Fixture for On {
    fn name(&self) -> String {
        format!("AWS KMS on {:?}", self.0)
    }

    async fn key(&self) -> Arc<dyn KeyManagementService> {
        open(&self.0.uri(&self.0.create_key().await)).await
    }

    async fn trouble(&self, kms: &Arc<dyn KeyManagementService>, trouble: Trouble) -> Arranged {
        let RootKey::Aws(key) = kms.uri().root() else { panic!("not a key of AWS KMS") };
        let key = key.key();
        match (trouble, self.0) {
            (Trouble::Disabled | Trouble::PendingDeletion, Server::Moto) => return Arranged::Impossible(MOTO_STATES),
            (Trouble::Disabled, server) => {
                server.kms("DisableKey", json!({ "KeyId": key })).await;
            }
            (Trouble::PendingDeletion, server) => {
                server.kms("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 })).await;
            }
            // A deletion takes seven days at least; a key that never was answers like one that is gone.
            (Trouble::Deleted, server) => return Arranged::Done(open(&server.uri(UNKNOWN_KEY)).await),
            (Trouble::Denied, _) => return Arranged::Impossible(RIGHTS),
            (Trouble::CredentialExpired, _) => {
                return Arranged::Done(open(&refusing(400, "ExpiredTokenException").await.uri(key)).await);
            }
            (Trouble::Throttled, _) => {
                return Arranged::Done(open(&refusing(400, "ThrottlingException").await.uri(key)).await);
            }
            (Trouble::TimedOut, _) => {
                return Arranged::Done(open_impatient(&Listener::start(Behaviour::Silent).await.uri(key)).await);
            }
        }
        Arranged::Done(kms.clone())
    }

    async fn versions(&self, kms: &Arc<dyn KeyManagementService>, change: Change) -> Arranged {
        let RootKey::Aws(key) = kms.uri().root() else { panic!("not a key of AWS KMS") };
        match change {
            Change::Rotate => {
                self.0.kms("RotateKeyOnDemand", json!({ "KeyId": key.key() })).await;
                Arranged::Done(kms.clone())
            }
            Change::RetireOld => Arranged::Impossible(EVERY_VERSION),
        }
    }

    fn lacks(&self, case: Case) -> Option<&'static str> {
        match (self.0, case) {
            (Server::Moto, Case::DisabledAndEnabled | Case::DeletionCancelled) => Some(MOTO_STATES),
            (Server::Moto, Case::RotatedByItself) => Some(MOTO_PERIOD),
            _ => None,
        }
    }

    fn deviation(&self, case: Case) -> Option<Code> {
        // AWS KMS says IncorrectKeyException; moto says AccessDeniedException.
        (self.0 == Server::Moto && case == Case::WrongKey).then_some(Code::KmsAccessDenied)
    }
}

#[tokio::test]
async fn on_localstack_every_case_passes_that_it_can_be_brought_into() {
    let report = conformance::run(&On(Server::LocalStack)).await;
    println!("{report}");
    conformance_table::must_be_documented("AWS on LocalStack", &report);
    let exceptions = [(Case::RetiredVersion, Outcome::NotRun(EVERY_VERSION)), (Case::Denied, Outcome::NotRun(RIGHTS))];
    assert_eq!(report.exceptions(), exceptions);
}

#[tokio::test]
async fn on_moto_every_case_passes_that_it_can_be_brought_into() {
    let report = conformance::run(&On(Server::Moto)).await;
    println!("{report}");
    conformance_table::must_be_documented("AWS on moto", &report);
    let exceptions = [
        (Case::WrongKey, Outcome::Deviated(Code::KmsAccessDenied)),
        (Case::RetiredVersion, Outcome::NotRun(EVERY_VERSION)),
        (Case::Disabled, Outcome::NotRun(MOTO_STATES)),
        (Case::PendingDeletion, Outcome::NotRun(MOTO_STATES)),
        (Case::Denied, Outcome::NotRun(RIGHTS)),
        (Case::DisabledAndEnabled, Outcome::NotRun(MOTO_STATES)),
        (Case::DeletionCancelled, Outcome::NotRun(MOTO_STATES)),
        (Case::RotatedByItself, Outcome::NotRun(MOTO_PERIOD)),
    ];
    assert_eq!(report.exceptions(), exceptions);
}

#[tokio::test]
async fn whoever_lacks_a_right_is_refused_and_told_which() {
    let server = Server::MotoWithRights;
    server.check_rights(false).await;
    let key = server.create_key().await;
    let user = format!("orders-{key}");
    server.iam(&format!("Action=CreateUser&UserName={user}")).await;
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{ "Effect": "Allow", "Action": ["kms:Encrypt", "kms:DescribeKey"], "Resource": "*" }]
    });
    let policy: String = policy.to_string().bytes().map(|b| format!("%{b:02X}")).collect();
    server.iam(&format!("Action=PutUserPolicy&UserName={user}&PolicyName=p&PolicyDocument={policy}")).await;
    let made = server.iam(&format!("Action=CreateAccessKey&UserName={user}")).await;
    let tag = |name: &str| {
        let rest = made.split_once(&format!("<{name}>")).unwrap().1;
        rest.split_once('<').unwrap().0.to_owned()
    };
    let (id, secret) = (tag("AccessKeyId"), tag("SecretAccessKey"));
    server.check_rights(true).await;

    let credentials = StaticCredentials { access_key_id: &id, secret_access_key: &secret, session_token: None };
    let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
    let kms = AwsKms::open(&server.uri(&key).parse().unwrap(), &options).await.unwrap();
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    assert!(kms.describer().unwrap().describe().await.is_ok());
    let unwrapped = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    let generated = kms.generate_one(&context()).await.err().unwrap();
    let stranger = open(&server.uri(&key)).await.unwrap_one(&wrapped, &context()).await.err().unwrap();
    server.check_rights(false).await;

    assert_eq!(unwrapped.code(), Code::KmsAccessDenied, "{unwrapped}");
    assert!(unwrapped.hints().any(|h| h.contains("`kms:Decrypt`")), "{:?}", unwrapped.hints().collect::<Vec<_>>());
    assert_eq!(generated.code(), Code::KmsAccessDenied);
    assert!(generated.hints().any(|h| h.contains("`kms:GenerateDataKey`")));
    assert_eq!(stranger.code(), Code::KmsAccessDenied, "credentials that nobody made: {stranger}");
}

#[tokio::test]
async fn a_disabled_key_serves_again_when_it_is_enabled() {
    let server = Server::LocalStack;
    let key = server.create_key().await;
    let kms = open(&server.uri(&key)).await;
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    server.kms("DisableKey", json!({ "KeyId": key })).await;
    assert_eq!(kms.unwrap_one(&wrapped, &context()).await.err().unwrap().code(), Code::KmsKeyDisabled);
    server.kms("EnableKey", json!({ "KeyId": key })).await;
    assert_eq!(kms.unwrap_one(&wrapped, &context()).await.ok().unwrap().expose(), material().expose());
}

#[tokio::test]
async fn a_rotation_that_is_under_way_and_the_next_one_are_described() {
    let about = |on: bool| {
        json!({
            "KeyMetadata": { "KeyId": UNKNOWN_KEY, "KeyState": "Enabled", "KeySpec": "SYMMETRIC_DEFAULT" },
            "KeyRotationEnabled": on, "RotationPeriodInDays": 100, "NextRotationDate": 1_900_000_000.0,
            "OnDemandRotationStartDate": 1_800_000_000.5,
        })
    };
    let plan = async |on| answering(about(on)).await.describer().unwrap().describe().await.unwrap().rotation.unwrap();
    let (on, off) = (plan(true).await, plan(false).await);
    assert_eq!(on.period, Some(Duration::from_secs(100 * 24 * 3600)));
    assert_eq!(on.next.unwrap().as_second(), 1_900_000_000);
    assert_eq!(on.under_way_since.unwrap().as_millisecond(), 1_800_000_000_500);
    assert_eq!((off.period, off.next), (None, None), "only when somebody asks for it");
}

#[tokio::test]
async fn what_aws_does_not_offer_is_refused_without_a_call() {
    let listener = Listener::start(Behaviour::HangUp).await;
    let kms = open(&listener.uri(UNKNOWN_KEY)).await;
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let rotator = kms.rotator().unwrap();
    for period in [days(89), days(2561), days(90) + Duration::from_secs(1)] {
        assert_eq!(rotator.rotate_every(Some(period)).await.unwrap_err().code(), Code::Usage, "{period:?}");
    }
    let error = kms.controller().unwrap().schedule_deletion(days(31)).await.unwrap_err();
    assert_eq!(error.code(), Code::Usage, "{error}");
    assert!(listener.requests().is_empty());
}

#[tokio::test]
async fn a_key_that_is_not_for_encryption_is_described_as_unusable_and_refused() {
    let server = Server::LocalStack;
    let made = server.kms("CreateKey", json!({ "KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC" })).await;
    let kms = open(&server.uri(made["KeyMetadata"]["KeyId"].as_str().unwrap())).await;
    assert!(!kms.describer().unwrap().describe().await.unwrap().usable);
    let error = kms.wrap_one(&material(), &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsUriInvalid, "{error}");
}

#[tokio::test]
async fn every_call_names_its_key_and_carries_its_context() {
    let listener = refusing(400, "ThrottlingException").await;
    let kms = open(&listener.uri(UNKNOWN_KEY)).await;
    unwrap_fails(&*kms).await;
    kms.wrap_one(&material(), &context()).await.unwrap_err();
    kms.generate_one(&context()).await.err().unwrap();
    let requests = listener.requests();
    assert_eq!(requests.len(), 3, "the SDK tries once: trying again is the wrapper's");
    for (request, action) in requests.iter().zip(["Decrypt", "Encrypt", "GenerateDataKey"]) {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(
            head.to_lowercase().contains(&format!("x-amz-target: trentservice.{}", action.to_lowercase())),
            "{head}"
        );
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["KeyId"], UNKNOWN_KEY);
        assert_eq!(body["EncryptionContext"], json!({ "enfold:ring": "orders" }));
    }
}

#[tokio::test]
async fn the_names_of_aws_errors_become_codes_and_their_texts_go_nowhere() {
    for (status, name, code) in [
        (400, "DisabledException", Code::KmsKeyDisabled),
        (400, "KMSInvalidStateException", Code::KmsKeyDisabled),
        (400, "NotFoundException", Code::KmsKeyNotFound),
        (400, "AccessDeniedException", Code::KmsAccessDenied),
        (400, "UnrecognizedClientException", Code::KmsAccessDenied),
        (400, "ExpiredTokenException", Code::KmsAccessDenied),
        (400, "ThrottlingException", Code::KmsThrottled),
        (400, "InvalidCiphertextException", Code::WrapInvalid),
        (400, "IncorrectKeyException", Code::WrapInvalid),
        (400, "InvalidKeyUsageException", Code::KmsUriInvalid),
        (500, "KeyUnavailableException", Code::KmsUnavailable),
        (503, "DependencyTimeoutException", Code::KmsUnavailable),
        (500, "KMSInternalException", Code::KmsUnavailable),
        (400, "ValidationException", Code::KmsProtocol),
        (400, "SomethingNewException", Code::KmsProtocol),
        (403, "SomethingNewException", Code::KmsAccessDenied),
        (429, "SomethingNewException", Code::KmsThrottled),
        (502, "SomethingNewException", Code::KmsUnavailable),
        (400, "<b>not a name</b>", Code::KmsProtocol),
    ] {
        let error = unwrap_fails(&*open(&refusing(status, name).await.uri(UNKNOWN_KEY)).await).await;
        assert_eq!(error.code(), code, "{name}: {error}");
        let shown = format!("{error:?} {:?}", error.hints().collect::<Vec<_>>());
        assert!(!shown.contains("secret-text") && !shown.contains("<b>"), "{shown}");
        assert!(shown.contains("request 5f1c0000-0000-4000-8000-000000000000"), "{shown}");
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_or_hangs_up_is_unavailable() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let kms = open(&format!("aws-kms://eu-central-1/{UNKNOWN_KEY}?endpoint=http://{gone}")).await;
    assert_eq!(unwrap_fails(&*kms).await.code(), Code::KmsUnavailable);
    let kms = open(&Listener::start(Behaviour::HangUp).await.uri(UNKNOWN_KEY)).await;
    assert_eq!(unwrap_fails(&*kms).await.code(), Code::KmsUnavailable);
}

#[tokio::test]
async fn answers_that_the_protocol_does_not_allow_are_refused() {
    let key_32 = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let good = answering(json!({ "KeyId": UNKNOWN_KEY, "Plaintext": key_32 })).await;
    let wrapped = WrappedKey::new(vec![1; 100]).unwrap();
    assert_eq!(good.unwrap_one(&wrapped, &context()).await.ok().unwrap().expose(), material().expose());
    for (what, body) in [
        ("another key", json!({ "KeyId": "11111111-0000-4000-8000-000000000000", "Plaintext": key_32 })),
        ("no key named", json!({ "Plaintext": key_32 })),
        ("16 bytes", json!({ "KeyId": UNKNOWN_KEY, "Plaintext": "BwcHBwcHBwcHBwcHBwcHBw==" })),
        ("nothing", json!({ "KeyId": UNKNOWN_KEY })),
    ] {
        assert_eq!(unwrap_fails(&*answering(body).await).await.code(), Code::KmsProtocol, "{what}");
    }
    let empty = answering(json!({ "KeyId": UNKNOWN_KEY })).await;
    assert_eq!(empty.wrap_one(&material(), &context()).await.unwrap_err().code(), Code::KmsProtocol);
    assert_eq!(empty.generate_one(&context()).await.err().unwrap().code(), Code::KmsProtocol);
    assert_eq!(empty.describer().unwrap().describe().await.unwrap_err().code(), Code::KmsProtocol);
}

#[tokio::test]
async fn a_wrap_longer_than_aws_ever_makes_is_refused_without_a_call() {
    let listener = Listener::start(Behaviour::HangUp).await;
    let kms = open(&listener.uri(UNKNOWN_KEY)).await;
    let wrapped = WrappedKey::new(vec![1; 6145]).unwrap();
    assert_eq!(kms.unwrap_one(&wrapped, &context()).await.err().unwrap().code(), Code::WrapInvalid);
    assert!(listener.requests().is_empty());
}

#[tokio::test]
async fn credentials_come_from_the_default_chain_and_the_endpoint_from_the_uri_alone() {
    if let Ok(uri) = std::env::var(CHILD) {
        println!("{}", wrap_as_child(&uri, None).await);
        return;
    }
    let elsewhere = Listener::start(Behaviour::HangUp).await;
    let name = "credentials_come_from_the_default_chain_and_the_endpoint_from_the_uri_alone";
    let uri = Server::Moto.uri(&Server::Moto.create_key().await);
    let environment = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", elsewhere.endpoint()),
        ("AWS_ENDPOINT_URL_KMS", elsewhere.endpoint()),
    ];
    let said = again(name, &uri, &environment).await;
    assert!(said.contains("child: wrapped"), "{said}");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn without_an_endpoint_in_the_uri_the_environment_still_does_not_choose_one() {
    if let Ok(uri) = std::env::var(CHILD) {
        println!("{}", wrap_as_child(&uri, None).await);
        return;
    }
    let elsewhere = Listener::start(Behaviour::HangUp).await;
    let environment = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_ENDPOINT_URL", elsewhere.endpoint()),
        ("AWS_ENDPOINT_URL_KMS", elsewhere.endpoint()),
    ];
    let name = "without_an_endpoint_in_the_uri_the_environment_still_does_not_choose_one";
    // There is no such region, so the name of its host leads nowhere and no call leaves this machine.
    let said = again(name, &format!("aws-kms://xx-nowhere-1/{UNKNOWN_KEY}"), &environment).await;
    assert!(said.contains("kms-unavailable"), "{said}");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn another_file_of_credentials_is_taken_up_without_a_restart() {
    const FILE: &str = "AWS_SHARED_CREDENTIALS_FILE";
    let profile = |id: &str| format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = secret\n");
    if let Ok(uri) = std::env::var(CHILD) {
        let file = std::env::var(FILE).unwrap();
        let kms = AwsKms::open(&uri.parse().unwrap(), &AwsOptions::default()).await.unwrap();
        let call = async || kms.wrap_one(&material(), &context()).await.unwrap_err();
        call().await;
        std::fs::write(&file, profile("SECOND")).unwrap();
        call().await;
        // It is gone for a moment, as when somebody replaces it.
        std::fs::remove_file(&file).unwrap();
        call().await;
        std::fs::write(&file, profile("THIRD")).unwrap();
        call().await;
        return;
    }
    let listener = refusing(400, "ExpiredTokenException").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    std::fs::write(&file, profile("FIRST")).unwrap();
    let name = "another_file_of_credentials_is_taken_up_without_a_restart";
    again(name, &listener.uri(UNKNOWN_KEY), &[(FILE, file.to_str().unwrap())]).await;
    let signed = |request: &String| request.split_once("Credential=").unwrap().1.split('/').next().unwrap().to_owned();
    let signers: Vec<String> = listener.requests().iter().map(signed).collect();
    assert_eq!(signers, ["FIRST", "SECOND", "SECOND", "THIRD"]);
}

#[tokio::test]
async fn without_credentials_the_error_says_so() {
    if let Ok(uri) = std::env::var(CHILD) {
        println!("{}", wrap_as_child(&uri, None).await);
        return;
    }
    let listener = Listener::start(Behaviour::HangUp).await;
    let said = again("without_credentials_the_error_says_so", &listener.uri(UNKNOWN_KEY), &[]).await;
    assert!(said.contains("no AWS credentials were found (kms-access-denied)"), "{said}");
    assert!(listener.requests().is_empty());
}
