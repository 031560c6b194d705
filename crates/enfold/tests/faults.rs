//! What lies between us and a real key service goes wrong: it answers late, a byte at a time, not at all, in part, or
//! something else. No call outlasts its deadline, no answer is taken for another, and when the fault is over the next
//! call succeeds.
#![cfg(all(feature = "aws", feature = "vault"))]

mod key_service;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use enfold::kms::{
    AwsKms, AwsOptions, HttpOptions, KeyManagementService, KeyManagementServiceExt, KeyMaterial, Retry, RetryOptions,
    StaticCredentials, VaultKms, VaultOptions,
};
use enfold::policy::VaultSignIn;
use enfold::{Code, Result};
use enfold_testkit::aws::{REGION, Server};
use enfold_testkit::faultproxy::{Fault, FaultProxy};
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN};
use key_service::{context, material};
use serde_json::json;

/// A whole call has this long, with all its tries.
const DEADLINE: Duration = Duration::from_secs(3);
/// One try has this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A call that takes so much longer than its deadline hangs.
const HANGS: Duration = Duration::from_secs(60);

fn with_deadline(kms: impl KeyManagementService + 'static) -> Retry {
    Retry::new(Arc::new(kms), RetryOptions { deadline: DEADLINE, ..RetryOptions::default() })
}

/// Wraps and unwraps under each fault. A success must be the right key; a failure must be one that may pass, or say that
/// the answer was none.
async fn survives(kms: &Retry, proxy: &FaultProxy) {
    let wrapped = kms.wrap_one(&material(), &context()).await.expect("without a fault it wraps");
    let faults = [
        (Fault::Late(Duration::from_millis(150)), true),
        (Fault::Trickle(Duration::from_millis(30)), false),
        (Fault::StallAfter(0), false),
        (Fault::CutAfter(0), false),
        (Fault::CutAfter(9), false),
        (Fault::CutAfter(120), false),
        (Fault::Garbled, false),
    ];
    for (fault, answers) in faults {
        proxy.set(fault);
        let call = async {
            let wrap = kms.wrap_one(&material(), &context()).await.map(|_| ());
            let unwrap = kms.unwrap_one(&wrapped, &context()).await.map(|key| {
                assert!(key.expose() == material().expose(), "{fault:?}: another key came back");
            });
            [wrap, unwrap]
        };
        for outcome in tokio::time::timeout(HANGS, call).await.unwrap_or_else(|_| panic!("{fault:?}: hangs")) {
            assert_eq!(outcome.is_ok(), answers, "{fault:?}: {outcome:?}");
            if let Err(error) = outcome {
                let expected = [Code::KmsUnavailable, Code::KmsProtocol];
                assert!(expected.contains(&error.code()), "{fault:?}: {error}");
            }
        }
        proxy.set(Fault::None);
        // What was half open stays so: whoever comes next must not be handed such a connection for ever.
        let again: Result<KeyMaterial> = kms.unwrap_one(&wrapped, &context()).await;
        assert!(again.is_ok_and(|key| key.expose() == material().expose()), "after {fault:?} the next call fails");
    }
    // A connection that was kept open for the next call and is gone.
    proxy.cut();
    kms.unwrap_one(&wrapped, &context()).await.expect("a new connection is made");
}

#[tokio::test]
async fn aws_kms_behind_a_bad_network() {
    let key = Server::Moto.create_key().await;
    let server = Server::Moto.endpoint();
    let proxy = FaultProxy::to(server.strip_prefix("http://").unwrap().parse().unwrap());
    let uri = format!("aws-kms://{REGION}/{key}?endpoint=http://127.0.0.1:{}", proxy.port());
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    let options = AwsOptions { credentials: Some(credentials), answer_within: ANSWER_WITHIN, ..AwsOptions::default() };
    let kms = with_deadline(AwsKms::open(&uri.parse().unwrap(), &options).await.unwrap());
    survives(&kms, &proxy).await;
}

#[tokio::test]
async fn a_transit_engine_behind_a_bad_network() {
    let bao = OpenBao::shared();
    let mount = bao.mount("transit", "mounts").await;
    bao.write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
    let proxy = FaultProxy::to(bao.server().parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, ROOT_TOKEN).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let options = VaultOptions {
        sign_in: VaultSignIn::Token { file: Some(token) },
        http: HttpOptions { answer_within: ANSWER_WITHIN, ..HttpOptions::default() },
        ..VaultOptions::default()
    };
    let uri = format!("vault+http://127.0.0.1:{}/{mount}/orders", proxy.port());
    let kms = with_deadline(VaultKms::open(&uri.parse().unwrap(), &options).unwrap());
    survives(&kms, &proxy).await;
}
