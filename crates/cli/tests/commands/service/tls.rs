//! TLS of the service's own, as curl finds it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use enfold_testkit::certificates::Authority;

use super::access::until;
use super::{Service, organisations};
use crate::harness::Sandbox;

const TLS: &str = "\n[service.tls]\ncertificate = \"service.pem\"\nkey = \"service.key\"\n";

/// A certificate of `authority` for `localhost`, where the policy names it.
fn install(sandbox: &Sandbox, authority: &Authority) {
    let issued = authority.issue("localhost");
    // The key first, as whoever renews them does it; in between the two do not belong together.
    for (from, to) in [(&issued.key, "service.key"), (&issued.certificate, "service.pem")] {
        std::fs::write(sandbox.path(to), std::fs::read(from).expect("a file")).expect("it is written");
        std::fs::set_permissions(sandbox.path(to), std::fs::Permissions::from_mode(0o600)).expect("its mode is set");
    }
}

/// The status that curl gets, if it trusts `authority`; none where no answer comes about.
fn status(service: &Service, authority: &Authority, path: &str, more: &[&str]) -> Option<u16> {
    let (_, port) = service.address.rsplit_once(':').expect("a port");
    let url = format!("https://localhost:{port}{path}");
    let resolved = format!("localhost:{port}:127.0.0.1");
    let ran = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "--max-time", "20", "--cacert"])
        .arg(authority.certificate())
        .args(["--resolve", &resolved])
        .args(more)
        .arg(url)
        .output()
        .expect("curl: run `make deps`");
    let status = String::from_utf8(ran.stdout).expect("text");
    ran.status.success().then(|| status.parse().expect("a status"))
}

#[test]
fn a_certificate_is_shown_and_renewed_without_a_restart() {
    let sandbox = organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + TLS);
    let (first, second) = (Authority::new(), Authority::new());
    install(&sandbox, &first);
    let service = Service::start(&sandbox, &[]);
    assert_eq!(status(&service, &first, "/healthz", &[]), Some(200));
    assert_eq!(status(&service, &first, "/api/v1/encryption/status", &[]), Some(401));
    assert_eq!(status(&service, &second, "/healthz", &[]), None, "nobody that this one vouches for");
    assert_eq!(status(&service, &first, "/healthz", &["--tls-max", "1.1"]), None);

    // What cannot be used leaves what was good.
    sandbox.write("service.pem", "no certificate");
    assert_eq!(status(&service, &first, "/healthz", &[]), Some(200));
    install(&sandbox, &second);
    until("the new certificate is shown", || status(&service, &second, "/healthz", &[]) == Some(200));
    assert_eq!(status(&service, &first, "/healthz", &[]), None);
}

#[test]
fn callers_show_a_certificate_where_the_policy_wants_one_and_who_they_are_besides() {
    let sandbox = organisations();
    let (ours, callers, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let more = format!("client_ca_file = \"{}\"\n", callers.certificate().display());
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + TLS + &more);
    install(&sandbox, &ours);
    let service = Service::start(&sandbox, &[]);
    let shown = |authority: &Authority, path: &str| {
        let issued = authority.issue("caller");
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        status(&service, &ours, path, &["--cert", &text(&issued.certificate), "--key", &text(&issued.key)])
    };
    assert_eq!(status(&service, &ours, "/healthz", &[]), None);
    assert_eq!(shown(&strangers, "/healthz"), None);
    assert_eq!(shown(&callers, "/healthz"), Some(200));
    assert_eq!(shown(&callers, "/api/v1/encryption/status"), Some(401), "a certificate alone lets nobody in");
}

#[test]
fn files_that_cannot_be_used_keep_the_service_from_starting() {
    let sandbox = organisations();
    let authority = Authority::new();
    install(&sandbox, &authority);
    let policy = sandbox.read("enfold.toml");
    let refused = || sandbox.run(&["serve", "--listen", "127.0.0.1:0"]).stderr;
    sandbox.write("enfold.toml", policy.clone() + TLS);
    std::fs::set_permissions(sandbox.path("service.key"), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    assert!(refused().contains("code: key-file-permissions"), "{}", refused());
    std::fs::set_permissions(sandbox.path("service.key"), std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let other = Authority::new();
    sandbox.write("service.pem", std::fs::read(other.issue("localhost").certificate).expect("a certificate"));
    assert!(refused().contains("does not belong together with its key"), "{}", refused());
    sandbox.write("enfold.toml", policy.clone() + "\n[service.tls]\ncertificate = \"service.pem\"\n");
    assert!(refused().contains("service.tls.key: missing"), "{}", refused());
    sandbox.write("enfold.toml", policy + "\n[service.tls]\nclient_ca_file = \"ca.pem\"\n");
    assert!(refused().contains("service.tls.certificate: missing"), "{}", refused());
}

#[test]
fn with_tls_it_listens_beyond_this_machine_and_with_keys_of_development_never() {
    let sandbox = organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + TLS);
    install(&sandbox, &Authority::new());
    let ran = sandbox.run(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(ran.stderr.contains("whose keys are for this machine alone"), "{}", ran.stderr);
    sandbox.ok(&["apply", "--yes"]);
    let staging = |text: String| text.replace("environment = \"development\"", "environment = \"staging\"");
    sandbox.write("enfold.toml", staging(sandbox.read("enfold.toml")));
    let service = Service::start_on(&sandbox, "0.0.0.0:0", &[]);
    assert!(service.address.starts_with("0.0.0.0:"));
    drop(service);
    sandbox.write("enfold.toml", sandbox.read("enfold.toml").replace(TLS, ""));
    let ran = sandbox.run(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(ran.stderr.contains("would cross the network in the clear"), "{}", ran.stderr);
}
