//! TLS, on a server of its own: what is trusted, what is refused, and what is said then.

use std::path::Path;

use enfold::kms::{HttpOptions, KeyManagementServiceExt, Registry, VaultOptions};
use enfold::policy::{Environment, KeyServices, MinTls, VaultServer};
use enfold::{Code, Error};
use enfold_testkit::certificates::Authority;
use enfold_testkit::openbao::{Private, Secured};

use crate::engine::{Engine, open, serves, shown};
use crate::key_service::{context, material};

/// The listeners of the server, in their order.
pub(crate) const SOUND: usize = 0;
pub(crate) const ELSEWHERE: usize = 1;
pub(crate) const EXPIRED: usize = 2;
pub(crate) const ONLY_1_2: usize = 3;
pub(crate) const ONLY_1_1: usize = 4;
/// Its certificate is of an authority that has the name of the trusted one, and is another.
pub(crate) const STRANGER: usize = 5;

pub(crate) struct OverTls {
    pub(crate) server: Private,
    pub(crate) engine: Engine,
    pub(crate) authority: Authority,
}

impl OverTls {
    pub(crate) async fn start() -> Self {
        // Of the same name.
        let (authority, another) = (Authority::new(), Authority::new());
        let [sound, elsewhere] = ["localhost", "elsewhere.example"].map(|name| authority.issue(name));
        let expired = authority.issue_expired("localhost");
        let stranger = another.issue("localhost");
        let server = Private::start(&[
            Secured { certificate: &sound, newest: "tls13" },
            Secured { certificate: &elsewhere, newest: "tls13" },
            Secured { certificate: &expired, newest: "tls13" },
            Secured { certificate: &sound, newest: "tls12" },
            Secured { certificate: &sound, newest: "tls11" },
            Secured { certificate: &stranger, newest: "tls13" },
        ])
        .await;
        let engine = Engine::on(server.plain().clone()).await;
        Self { server, engine, authority }
    }

    fn uri(&self, listener: usize) -> String {
        self.uri_at(self.server.port(listener))
    }

    pub(crate) fn uri_at(&self, port: u16) -> String {
        format!("vault://localhost:{port}/{}/orders", self.engine.mount)
    }

    fn options(&self, ca_file: &Path, min_tls: MinTls) -> VaultOptions {
        let http = HttpOptions { ca_file: Some(ca_file.to_owned()), min_tls, ..HttpOptions::default() };
        VaultOptions { http, ..self.engine.root() }
    }

    /// What comes of a call, with our own authority trusted.
    async fn refused(&self, uri: &str, min_tls: MinTls) -> Error {
        let kms = open(uri, &self.options(&self.authority.certificate(), min_tls));
        kms.wrap_one(&material(), &context()).await.expect_err("it is refused")
    }
}

pub(crate) fn must_say(error: &Error, cause: &str, hint: &str) {
    assert_eq!(error.code(), Code::KmsUnavailable, "{error}");
    let shown = shown(error);
    assert!(shown.contains(cause) && shown.contains(hint), "{shown}");
}

#[tokio::test]
async fn in_production_a_server_of_our_own_authority_serves_over_tls_1_3() {
    let over = OverTls::start().await;
    let server = VaultServer {
        ca_file: Some(over.authority.certificate()),
        sign_in_namespace: None,
        sign_in: over.engine.root().sign_in,
    };
    let services = KeyServices {
        min_tls: MinTls::V1_3,
        vault: [(format!("localhost:{}", over.server.port(SOUND)), server)].into(),
        ..KeyServices::default()
    };
    let uri = over.uri(SOUND).parse().unwrap();
    let registry = Registry::builder(Environment::Production, Path::new(""))
        .services(services)
        .root(uri, false)
        .build()
        .await
        .unwrap();
    let uri = registry.uris().next().unwrap();
    serves(&**registry.get(uri).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_is_refused_and_the_reason_told() {
    let over = OverTls::start().await;
    // An authority of the same name, and a certificate of another.
    let namesake = Authority::new();
    for stranger in [namesake.certificate(), over.authority.issue("stranger.example").certificate] {
        let kms = open(&over.uri(SOUND), &over.options(&stranger, MinTls::V1_2));
        let unknown = kms.wrap_one(&material(), &context()).await.unwrap_err();
        must_say(&unknown, "an authority that is not trusted", "`ca_file`");
    }
    let elsewhere = over.refused(&over.uri(ELSEWHERE), MinTls::V1_2).await;
    must_say(&elsewhere, "is for another host", "name the host in the URI that the certificate is for");
    let expired = over.refused(&over.uri(EXPIRED), MinTls::V1_2).await;
    must_say(&expired, "is out of its dates", "have the certificate renewed");
}

#[tokio::test]
async fn a_server_without_the_least_version_of_tls_is_refused() {
    let over = OverTls::start().await;
    let least = |min_tls| open(&over.uri(ONLY_1_2), &over.options(&over.authority.certificate(), min_tls));
    serves(&*least(MinTls::V1_2)).await.unwrap();
    let error = least(MinTls::V1_3).wrap_one(&material(), &context()).await.unwrap_err();
    must_say(&error, "agree on no TLS", "`key_services.min_tls`");
}

#[tokio::test]
async fn tls_and_plain_http_do_not_meet() {
    let over = OverTls::start().await;
    let plain = over.engine.uri().replace("vault+http://", "vault://");
    must_say(&over.refused(&plain, MinTls::V1_2).await, "does not speak TLS", "at which port it speaks TLS");
    let secured = over.uri(SOUND).replace("vault://", "vault+http://");
    let error = over.refused(&secured, MinTls::V1_2).await;
    assert_eq!(error.code(), Code::KmsProtocol, "{error}");
    assert!(shown(&error).contains("`vault://`"), "{}", shown(&error));
}

#[tokio::test]
async fn in_production_data_keys_do_not_cross_a_network_in_the_clear() {
    let build = |environment, uri: &str| {
        Registry::builder(environment, Path::new("")).root(uri.parse().unwrap(), false).build()
    };
    let across = "vault+http://vault.example.com/transit/orders";
    let error = build(Environment::Production, across).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsUriInvalid, "{error}");
    assert!(error.hints().any(|h| h.contains("`vault://`")), "{}", shown(&error));
    assert!(build(Environment::Development, across).await.is_ok());
    assert!(build(Environment::Production, "vault+http://127.0.0.1/transit/orders").await.is_ok());
}
