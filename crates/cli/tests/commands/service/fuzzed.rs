//! Requests that nobody thought of, made from the OpenAPI document by schemathesis.

use std::process::Command;

use enfold_server::api::ENDPOINTS;

use super::http::{request, send};
use super::{Service, protected_organisations, service_key};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/venv-schemathesis/bin/schemathesis");
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/openapi.json");

/// The key comes from the environment. What a schema cannot say (which columns there are, and which key is spent) makes requests that
/// fit it and are refused all the same, so that is no failure; every other check is.
const CONFIGURATION: &str = "\
headers = { Authorization = \"Bearer ${SERVICE_KEY}\" }
seed = 20261128
[checks]
positive_data_acceptance.enabled = false
[generation]
max-examples = 8
";

#[test]
fn what_the_document_allows_and_what_it_does_not_is_answered_as_it_says_whoever_asks() {
    for roles in [&["app"][..], &["admin", "app", "jobs", "audit"]] {
        let sandbox = protected_organisations();
        let roles: Vec<&str> = roles.iter().flat_map(|role| ["--role", *role]).collect();
        let (_, key) = service_key(&sandbox, "fuzzing", &roles);
        sandbox.write("schemathesis.toml", CONFIGURATION);
        let service = Service::start(&sandbox, &[]);
        let url = format!("http://{}", service.address);
        let ran = Command::new(PROGRAM)
            .args(["--config-file", "schemathesis.toml", "run", DOCUMENT, "--url", &url, "--no-color"])
            .args(["--phases", "examples,coverage,fuzzing"])
            .current_dir(sandbox.path(""))
            .env("SERVICE_KEY", &key)
            .output()
            .expect("schemathesis: run scripts/deps.sh");
        let said = String::from_utf8(ran.stdout).expect("text");
        assert!(ran.status.success(), "{roles:?}: {said}\n{}", String::from_utf8_lossy(&ran.stderr));
        assert!(said.contains(&format!("Tested: {}\n", ENDPOINTS.len())), "all of them: {said}");
        assert_eq!(send(&service.address, &request("GET", "/readyz", &[], "")).status, 200);
        // A fault of the service is an answer of 500, which is a failure above; none ended it either.
        service.signal(rustix::process::Signal::TERM);
        let ended = service.ended(&sandbox);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert!(!said.contains(&key) && !ended.stderr.contains(&key));
    }
}
