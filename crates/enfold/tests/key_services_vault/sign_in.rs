//! The ways to sign in with what somebody else vouches for: JSON Web Tokens, Kubernetes, certificates.
//!
//! The Kubernetes API that OpenBao asks is a fake of ours; everything else is real.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use enfold::Code;
use enfold::kms::{HttpOptions, KeyManagementService, KeyManagementServiceExt, VaultKms, VaultOptions};
use enfold::policy::{TlsIdentity, VaultSignIn};
use enfold_testkit::certificates::Authority;
use enfold_testkit::issuer::Issuer;
use enfold_testkit::kubernetes::{FakeTokenReview, ServiceAccountToken};
use enfold_testkit::openbao::{Private, Secured};
use serde_json::{Value, json};

use crate::engine::{Engine, open, serves, shown};
use crate::key_service::{context, material};

fn by(sign_in: VaultSignIn) -> VaultOptions {
    VaultOptions { sign_in, ..VaultOptions::default() }
}

/// Every token of a mount ends, as it would at its time.
async fn end_tokens(engine: &Engine, mount: &str) {
    engine.bao.write(&format!("sys/leases/revoke-prefix/auth/{mount}"), json!({ "sync": true })).await;
}

async fn denied(kms: &dyn KeyManagementService, hint: &str, secret: &str) {
    let error = kms.wrap_one(&material(), &context()).await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
    assert!(shown(&error).contains(hint), "{}", shown(&error));
    assert!(!shown(&error).contains(secret), "the credential is not repeated: {}", shown(&error));
}

const ISSUER: &str = "https://issuer.example";

/// What the role asks for, with one claim changed.
fn claims(changed: &Value) -> Value {
    let mut claims = json!({ "iss": ISSUER, "aud": "openbao", "sub": "orders" });
    claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    claims
}

#[tokio::test]
async fn a_jwt_signs_in_and_is_read_again_for_every_sign_in() {
    let (engine, issuer) = (Engine::new().await, Issuer::new());
    let mount = engine.bao.mount("jwt", "auth").await;
    let trusted = json!({ "jwt_validation_pubkeys": [issuer.public_key()], "bound_issuer": ISSUER });
    engine.bao.write(&format!("auth/{mount}/config"), trusted).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["openbao"], "bound_subject": "orders",
        "token_policies": [engine.policy(&engine.application()).await], "token_ttl": "1h",
    });
    engine.bao.write(&format!("auth/{mount}/role/orders"), role).await;

    let file = engine.secret("jwt", &issuer.sign(claims(&json!({}))));
    let kms = open(
        &engine.uri(),
        &by(VaultSignIn::Jwt { mount: mount.clone(), role: "orders".to_owned(), file: file.clone() }),
    );
    serves(&*kms).await.unwrap();

    for (what, token) in [
        ("another issuer's signature", Issuer::new().sign(claims(&json!({})))),
        ("another issuer", issuer.sign(claims(&json!({ "iss": "https://other.example" })))),
        ("another audience", issuer.sign(claims(&json!({ "aud": "billing" })))),
        ("another subject", issuer.sign(claims(&json!({ "sub": "billing" })))),
        ("a token that has ended", issuer.sign(claims(&json!({ "exp": 1_600_000_000 })))),
        ("no token", "not-a-token".to_owned()),
    ] {
        println!("{what}");
        engine.secret("jwt", &token);
        end_tokens(&engine, &mount).await;
        denied(&*kms, "issuer, audience and claims", &token).await;
    }
    engine.secret("jwt", &issuer.sign(claims(&json!({}))));
    serves(&*kms).await.unwrap();

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    end_tokens(&engine, &mount).await;
    let error = serves(&*kms).await.unwrap_err();
    assert_eq!(error.code(), Code::KeyFilePermissions, "{error}");
}

#[tokio::test]
async fn a_kubernetes_service_account_signs_in_when_its_cluster_knows_the_token() {
    let (engine, cluster) = (Engine::new().await, Issuer::new());
    let account = |name: &str| {
        let uid = "6a1f0c7e-2f6d-4a55-9b0c-6f6f0a1c1d2e";
        let about = json!({ "namespace": "shop", "serviceaccount": { "name": name, "uid": uid } });
        let subject = format!("system:serviceaccount:shop:{name}");
        let token =
            cluster.sign(json!({ "iss": "https://kubernetes.default.svc", "sub": subject, "kubernetes.io": about }));
        ServiceAccountToken { token, namespace: "shop".to_owned(), name: name.to_owned(), uid: uid.to_owned() }
    };
    let (ours, theirs, gone) = (account("orders"), account("billing"), account("orders-gone"));
    let fake = FakeTokenReview::start("reviewer-token", vec![ours.clone(), theirs.clone()]).await;
    let mount = engine.bao.mount("kubernetes", "auth").await;
    let api = json!({
        "kubernetes_host": fake.endpoint(), "token_reviewer_jwt": "reviewer-token", "disable_local_ca_jwt": true,
        // It is asked for, and of no use without TLS.
        "kubernetes_ca_cert": std::fs::read_to_string(Authority::new().certificate()).unwrap(),
    });
    engine.bao.write(&format!("auth/{mount}/config"), api).await;
    let role = json!({
        "bound_service_account_names": ["orders", "orders-gone"], "bound_service_account_namespaces": ["shop"],
        "token_policies": [engine.policy(&engine.application()).await], "token_ttl": "1h",
    });
    engine.bao.write(&format!("auth/{mount}/role/orders"), role).await;

    // As a pod has it: readable to everybody in the container.
    let project = |token: &str| {
        let file = engine.secret("projected", token);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        file
    };
    let file = project(&ours.token);
    let kms =
        open(&engine.uri(), &by(VaultSignIn::Kubernetes { mount: mount.clone(), role: "orders".to_owned(), file }));
    serves(&*kms).await.unwrap();
    assert_eq!(fake.reviewed(), std::slice::from_ref(&ours.token), "one sign-in");

    for refused in [&theirs.token, &gone.token] {
        project(refused);
        end_tokens(&engine, &mount).await;
        denied(&*kms, "service account and namespace", refused).await;
    }
    project(&ours.token);
    serves(&*kms).await.unwrap();
}

/// Somebody with a certificate.
fn identity(of: &Authority, name: &str, engine: &Engine) -> TlsIdentity {
    let issued = of.issue(name);
    let copy = |file: &Path, to: &str| engine.secret(to, &std::fs::read_to_string(file).unwrap());
    TlsIdentity {
        certificate: copy(&issued.certificate, &format!("{name}.pem")),
        key: copy(&issued.key, &format!("{name}.key")),
    }
}

#[tokio::test]
async fn a_certificate_signs_in_over_tls_and_a_renewed_one_is_taken_up() {
    let authority = Authority::new();
    let of_server = authority.issue("localhost");
    let server = Private::start(&[Secured { certificate: &of_server, newest: "tls13" }]).await;
    let engine = Engine::on(server.plain().clone()).await;
    let mount = engine.bao.mount("cert", "auth").await;
    let clients = Authority::new();
    let role = json!({
        "certificate": std::fs::read_to_string(clients.certificate()).unwrap(), "allowed_common_names": ["orders"],
        "token_policies": [engine.policy(&engine.application()).await], "token_ttl": "1h",
    });
    engine.bao.write(&format!("auth/{mount}/certs/orders"), role).await;

    let uri = format!("vault://localhost:{}/{}/orders", server.port(0), engine.mount);
    let http = HttpOptions { ca_file: Some(authority.certificate()), ..HttpOptions::default() };
    let with = |identity: &TlsIdentity, role: Option<&str>| {
        let (role, identity) = (role.map(str::to_owned), identity.clone());
        let sign_in = VaultSignIn::Certificate { mount: mount.clone(), role, identity };
        VaultOptions { http: http.clone(), ..by(sign_in) }
    };
    let ours = identity(&clients, "orders", &engine);
    let kms = open(&uri, &with(&ours, Some("orders")));
    serves(&*kms).await.unwrap();
    serves(&*open(&uri, &with(&ours, None))).await.unwrap();

    let hint = "the role trusts the certificate's authority";
    let stranger = identity(&Authority::new(), "stranger", &engine);
    denied(&*open(&uri, &with(&stranger, Some("orders"))), hint, "BEGIN").await;
    let other = identity(&clients, "billing", &engine);
    denied(&*open(&uri, &with(&other, Some("orders"))), hint, "BEGIN").await;

    // What the files hold is shown from the next connection on.
    let put = |from: &TlsIdentity| {
        for (from, to) in [(&from.certificate, &ours.certificate), (&from.key, &ours.key)] {
            std::fs::copy(from, to).unwrap();
        }
    };
    put(&other);
    end_tokens(&engine, &mount).await;
    denied(&*kms, hint, "BEGIN").await;
    // The same files with a new certificate of ours.
    assert_eq!(identity(&clients, "orders", &engine), ours);
    serves(&*kms).await.unwrap();
}

#[tokio::test]
async fn a_certificate_without_tls_or_with_another_key_or_with_a_key_open_to_others_is_refused() {
    let (engine, authority) = (Engine::new().await, Authority::new());
    let (one, two) = (identity(&authority, "one", &engine), identity(&authority, "two", &engine));
    let refused = |uri: &str, identity: TlsIdentity| {
        let sign_in = VaultSignIn::Certificate { mount: "cert".to_owned(), role: None, identity };
        VaultKms::open(&uri.parse().unwrap(), &by(sign_in)).err().expect("it is refused").code()
    };
    assert_eq!(refused(&engine.uri(), one.clone()), Code::KmsUriInvalid);
    let over_tls = engine.uri().replace("vault+http", "vault");
    let mixed = TlsIdentity { certificate: one.certificate.clone(), key: two.key };
    assert_eq!(refused(&over_tls, mixed), Code::FileFailed);
    std::fs::set_permissions(&one.key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let sign_in = VaultSignIn::Certificate { mount: "cert".to_owned(), role: None, identity: one.clone() };
    assert!(VaultKms::open(&over_tls.parse().unwrap(), &by(sign_in)).is_ok(), "the group may read it");
    std::fs::set_permissions(&one.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(refused(&over_tls, one), Code::KeyFilePermissions);
}
