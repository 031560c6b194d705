//! A key service that asks for fewer calls, or for none for a while: it is asked again when it says, and not at all where
//! that is beyond the deadline. OpenBao is real; Google's and Azure's are fakes of ours, and AWS is a listener.
#![cfg(all(feature = "aws", feature = "azure", feature = "google", feature = "vault"))]

mod key_service;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enfold::Code;
use enfold::kms::{
    AwsKms, AwsOptions, AzureKms, AzureOptions, GoogleKms, GoogleOptions, KeyManagementService,
    KeyManagementServiceExt, Meter, Operation, Retry, RetryOptions, StaticCredentials, VaultKms, VaultOptions,
};
use enfold::policy::{AzureSettings, AzureSignIn, VaultSignIn};
use enfold_testkit::aws::{Behaviour, Listener};
use enfold_testkit::cloud::azure::{self, FakeAzure};
use enfold_testkit::cloud::google::{self, FakeGoogle};
use enfold_testkit::openbao::{Private, ROOT_TOKEN};
use key_service::{context, material, opens};
use serde_json::json;
use tempfile::TempDir;

/// One pause, which is as good as none: a second try that succeeds has waited for what the service asked for.
const ONCE_MORE: RetryOptions = RetryOptions {
    attempts: 2,
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(1),
    deadline: Duration::from_secs(30),
    budget: u32::MAX,
};

/// A file that is closed to others.
fn secret(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("secret");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[tokio::test]
async fn a_real_server_that_throttles_beyond_the_deadline_is_asked_once_and_its_time_is_told() {
    let server = Private::start(&[]).await;
    let bao = server.plain();
    let mount = bao.mount("transit", "mounts").await;
    bao.write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
    let folder = tempfile::tempdir().unwrap();
    let options = VaultOptions {
        sign_in: VaultSignIn::Token { file: Some(secret(&folder, ROOT_TOKEN)) },
        ..VaultOptions::default()
    };
    let uri = format!("vault+http://{}/{mount}/orders", bao.server());
    let meter = Arc::new(Meter::new(Arc::new(VaultKms::open(&uri.parse().unwrap(), &options).unwrap())));
    let kms = Retry::new(meter.clone(), ONCE_MORE);
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    bao.write("sys/quotas/config", json!({ "enable_rate_limit_response_headers": true })).await;
    bao.write("sys/quotas/rate-limit/orders", json!({ "path": mount, "rate": 1, "interval": "1h" })).await;
    opens(&kms, &wrapped).await;
    let before = meter.figures(Operation::Unwrap).calls;
    let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsThrottled);
    assert_eq!(meter.figures(Operation::Unwrap).calls - before, 1);
    // It cuts its seconds off, so it may say one too few.
    let said = error.again_after().expect("it says when").as_secs();
    assert!((3000..=3600).contains(&said), "{said} s");
}

/// A fake, or what stands for one.
struct Throttling {
    kms: Arc<dyn KeyManagementService>,
    /// The next call is refused, and told to come again after so many seconds.
    refuse: Box<dyn Fn(u64)>,
    calls: Box<dyn Fn() -> usize>,
    code: Code,
}

#[tokio::test]
async fn a_pause_that_a_service_asks_for_is_made_and_one_beyond_the_deadline_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let azure = Arc::new(FakeAzure::start().await);
    azure.set_secret("a-secret");
    azure.grant(azure::CLIENT, &[azure::Right::Get, azure::Right::Wrap, azure::Right::Unwrap]);
    let settings = AzureSettings {
        sign_in: AzureSignIn::ClientSecret,
        tenant_id: Some(azure::TENANT.to_owned()),
        client_id: Some(azure::CLIENT.to_owned()),
        authority: Some(azure.endpoint().to_owned()),
        file: Some(secret(&folder, "a-secret")),
        ..AzureSettings::default()
    };
    let uri = azure.create_key(azure::Kind::OctHsm).parse().unwrap();
    let of_azure = AzureKms::open(&uri, &AzureOptions { settings, ..AzureOptions::default() }).unwrap();
    let of_azure: Arc<dyn KeyManagementService> = Arc::new(of_azure);
    let by_azure = |fault: fn(u64) -> azure::Fault, code| {
        let (told, asked) = (azure.clone(), azure.clone());
        Throttling {
            kms: of_azure.clone(),
            refuse: Box::new(move |seconds| told.next(fault(seconds))),
            calls: Box::new(move || asked.calls().len()),
            code,
        }
    };

    let google = Arc::new(FakeGoogle::start().await);
    let account = tempfile::tempdir().unwrap();
    let file = secret(&account, &google.service_account("orders@fake.iam.gserviceaccount.com").to_string());
    let options = GoogleOptions { credentials_file: Some(file), ..GoogleOptions::default() };
    let of_google = Arc::new(GoogleKms::open(&google.create_key().parse().unwrap(), &options).unwrap());
    let (told, asked) = (google.clone(), google.clone());
    let by_google = Throttling {
        kms: of_google,
        refuse: Box::new(move |seconds| told.next(google::Fault::Throttle(1000 * seconds))),
        calls: Box::new(move || asked.calls().len()),
        code: Code::KmsThrottled,
    };

    for throttling in [
        by_azure(azure::Fault::Throttle, Code::KmsThrottled),
        by_azure(azure::Fault::UnavailableFor, Code::KmsUnavailable),
        by_google,
    ] {
        let Throttling { kms, refuse, calls, code } = throttling;
        let retry = Retry::new(kms, ONCE_MORE);
        let wrapped = retry.wrap_one(&material(), &context()).await.unwrap();
        let (before, began) = (calls(), Instant::now());
        refuse(1);
        opens(&retry, &wrapped).await;
        assert_eq!(calls() - before, 2);
        assert!(began.elapsed() >= Duration::from_secs(1), "{code}: it was asked again too early");

        refuse(3600);
        let before = calls();
        let error = retry.unwrap_one(&wrapped, &context()).await.err().unwrap();
        assert_eq!((error.code(), error.again_after()), (code, Some(Duration::from_secs(3600))));
        assert!(error.to_string().contains("the deadline is too near for another try"), "{error}");
        assert_eq!(calls() - before, 1);
    }
}

#[tokio::test]
async fn aws_which_names_no_pause_is_asked_again_a_few_times_and_no_longer_than_the_deadline() {
    let body = json!({ "__type": "ThrottlingException", "message": "Rate exceeded" });
    let listener = Listener::start(Behaviour::Answer(400, body.to_string())).await;
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
    let uri = listener.uri("00000000-0000-4000-8000-000000000000").parse().unwrap();
    let kms: Arc<dyn KeyManagementService> = Arc::new(AwsKms::open(&uri, &options).await.unwrap());
    let error = Retry::new(kms.clone(), ONCE_MORE).wrap_one(&material(), &context()).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsThrottled);
    assert_eq!(listener.requests().len(), 2);
    let endless = RetryOptions { attempts: u32::MAX, deadline: Duration::from_millis(300), ..ONCE_MORE };
    let error = Retry::new(kms, endless).wrap_one(&material(), &context()).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("the deadline is too near") || said.contains("did not answer in time"), "{said}");
}
