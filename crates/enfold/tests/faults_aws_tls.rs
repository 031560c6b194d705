//! TLS to AWS KMS that breaks, or meets another server: the SDK's client brings its own TLS, and what it says about it is
//! told in the same words as that of the other key services. moto stands for AWS, with TLS put before it.
#![cfg(feature = "aws")]

mod key_service;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use enfold::Code;
use enfold::kms::{AwsKms, AwsOptions, KeyManagementServiceExt, Retry, RetryOptions, StaticCredentials};
use enfold_testkit::aws::{REGION, Server};
use enfold_testkit::certificates::{Authority, ServerCertificate};
use enfold_testkit::faultproxy::{Fault, FaultProxy};
use enfold_testkit::tls_front::TlsFront;
use key_service::{context, material, opens};

/// Set where this test binary runs itself, under an environment that trusts our authority: its folder.
const CHILD: &str = "ENFOLD_TEST_CHILD_AUTHORITY";
/// That of the other one, which has the same name.
const ANOTHER: &str = "ENFOLD_TEST_CHILD_ANOTHER";
const NAME: &str = "aws_kms_over_tls_that_breaks_or_proves_to_be_another_has_its_own_error_and_serves_again";
/// A call that takes so much longer than its deadline of three seconds hangs.
const HANGS: Duration = Duration::from_secs(60);

#[tokio::test]
async fn aws_kms_over_tls_that_breaks_or_proves_to_be_another_has_its_own_error_and_serves_again() {
    if let (Ok(ours), Ok(another)) = (std::env::var(CHILD), std::env::var(ANOTHER)) {
        return breaks(Path::new(&ours), Path::new(&another)).await;
    }
    let (ours, another) = (Authority::new(), Authority::new());
    ours.issue("localhost");
    ours.issue("elsewhere.example");
    ours.issue_expired("localhost");
    another.issue("localhost");
    let (trusted, stranger) = (ours.certificate(), another.certificate());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", NAME, "--nocapture"])
        .env("SSL_CERT_FILE", &trusted)
        .env_remove("SSL_CERT_DIR")
        .env(CHILD, trusted.parent().unwrap())
        .env(ANOTHER, stranger.parent().unwrap());
    let done = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = [String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)].concat();
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

async fn breaks(ours: &Path, another: &Path) {
    let moto = Server::Moto.endpoint();
    let moto: SocketAddr = moto.strip_prefix("http://").unwrap().parse().unwrap();
    let front = async |folder: &Path, name: &str| {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        TlsFront::before(moto, &ServerCertificate { certificate: file("pem"), key: file("key") }).await.address()
    };
    let sound = front(ours, "localhost").await;
    let proxy = FaultProxy::to(sound);
    let key = Server::Moto.create_key().await;
    let uri = format!("aws-kms://{REGION}/{key}?endpoint=https://localhost:{}", proxy.port());
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    let options =
        AwsOptions { credentials: Some(credentials), answer_within: Duration::from_secs(1), ..AwsOptions::default() };
    let kms = Arc::new(AwsKms::open(&uri.parse().unwrap(), &options).await.unwrap());
    let kms = Retry::new(kms, RetryOptions { deadline: Duration::from_secs(3), ..RetryOptions::default() });
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    for (fault, server, cause) in [
        (Fault::CutAfter(0), sound, "hung up before TLS was agreed on"),
        (Fault::CutAfter(60), sound, "hung up before TLS was agreed on"),
        (Fault::StallAfter(60), sound, "did not answer in time"),
        (Fault::Garbled, sound, "does not speak TLS there"),
        (Fault::Flipped, sound, "was changed on its way"),
        (Fault::None, front(ours, "elsewhere.example").await, "is for another host"),
        (Fault::None, front(ours, "expired-localhost").await, "is out of its dates"),
        (Fault::None, front(another, "localhost").await, "an authority that is not trusted"),
    ] {
        proxy.set(fault);
        proxy.lead_to(server);
        proxy.cut();
        let call = async { kms.unwrap_one(&wrapped, &context()).await.map(drop) };
        let outcome = tokio::time::timeout(HANGS, call).await.unwrap_or_else(|_| panic!("{fault:?}: hangs"));
        let error = outcome.err().unwrap_or_else(|| panic!("{fault:?}, {cause}: not refused"));
        assert_eq!(error.code(), Code::KmsUnavailable, "{fault:?}: {error}");
        assert!(error.to_string().contains(cause), "{fault:?}: {error}");
        proxy.set(Fault::None);
        proxy.lead_to(sound);
        opens(&kms, &wrapped).await;
    }
}
