//! Connections to real Postgres servers with and without TLS: the certificate is verified whatever `sslmode` calls it.
#![cfg(feature = "postgres")]

use enfold::db::postgres::Endpoint;
use enfold::{Code, Error};
use enfold_testkit::certificates::Authority;
use enfold_testkit::postgres_private::Server;

fn server_with_tls(authority: &Authority) -> Server {
    let of = authority.issue("localhost");
    let quoted = |path: &std::path::Path| format!("'{}'", path.display());
    let (certificate, key) = (quoted(&of.certificate), quoted(&of.key));
    Server::start(&[("ssl", "on"), ("ssl_cert_file", certificate.as_str()), ("ssl_key_file", key.as_str())])
}

/// Whether the session is encrypted, as the server sees it.
async fn encrypted(url: &str) -> Result<bool, Error> {
    let client = Endpoint::parse_text(url)?.connect().await?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(client.query_one(sql, &[]).await.expect("answers").get(0))
}

/// The cause of the refusal. There is a hint, and no second try that would help.
async fn distrust(url: &str) -> String {
    let error = encrypted(url).await.expect_err(url);
    assert_eq!(error.code(), Code::DatabaseUntrusted, "{error}");
    assert!(error.hints().count() > 1, "{error}");
    error.causes().next().expect("a cause").to_owned()
}

#[tokio::test]
async fn tls_is_verified_by_every_mode_that_asks_for_it() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = server_with_tls(&authority);
    let url = |host: &str, mode: &str, authority: &Authority| {
        let (port, root) = (server.port(), authority.certificate());
        format!("postgres://postgres@{host}:{port}/postgres?sslmode={mode}&sslrootcert={}", root.display())
    };
    for mode in ["require", "verify-ca", "verify-full"] {
        assert!(encrypted(&url("localhost", mode, &authority)).await.expect("trusted"), "{mode}");
        let other_name = distrust(&url("127.0.0.1", mode, &authority)).await;
        assert_eq!(other_name, "the server's certificate is not for `127.0.0.1`", "{mode}");
        let unknown = distrust(&url("localhost", mode, &stranger)).await;
        assert!(unknown.contains("an authority that is not known here"), "{mode}: {unknown}");
        // The machine's own authorities do not know ours either.
        let system = format!("postgres://postgres@localhost:{}/postgres?sslmode={mode}", server.port());
        let unknown = distrust(&system).await;
        assert!(unknown.contains("an authority that is not known here"), "{mode}: {unknown}");
    }
    // Who asks for none gets none.
    let plain = format!("postgres://postgres@localhost:{}/postgres?sslmode=disable", server.port());
    assert!(!encrypted(&plain).await.expect("without TLS"));
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_was_asked_for() {
    let (authority, server) = (Authority::new(), Server::start(&[]));
    for mode in ["require", "verify-ca", "verify-full"] {
        let root = authority.certificate();
        let url = format!(
            "postgres://postgres@localhost:{}/postgres?sslmode={mode}&sslrootcert={}",
            server.port(),
            root.display()
        );
        assert_eq!(distrust(&url).await, "the server does not offer TLS", "{mode}");
    }
}
