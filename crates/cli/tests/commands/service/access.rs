//! Who is let in, and what each may do.

use std::time::{Duration, Instant};

use enfold::access::{Permission, Role};
use enfold_server::api::ENDPOINTS;
use serde_json::json;

use super::http::{request, send};
use super::{DECRYPT, ENCRYPT, Service, organisations, protected_organisations, service_key};

#[test]
fn every_endpoint_lets_every_role_do_what_it_may_and_nothing_else() {
    let sandbox = organisations();
    // The role `emergency` is no key's.
    let of_keys = Role::ALL.iter().filter(|role| **role != Role::Emergency);
    let keys: Vec<(Role, String)> =
        of_keys.map(|role| (*role, service_key(&sandbox, role.word(), &["--role", role.word()]).1)).collect();
    let service = Service::start(&sandbox, &[]);
    for endpoint in ENDPOINTS {
        let asked = |key: &str| service.ask(endpoint.method.as_str(), endpoint.path, key, "{}");
        let stranger = asked("nobody").status;
        let Some(needed) = endpoint.needs else {
            assert_ne!(stranger, 401, "{} answers everybody", endpoint.path);
            continue;
        };
        assert_eq!(stranger, 401, "{} {}", endpoint.method, endpoint.path);
        for (role, key) in &keys {
            let answer = asked(key);
            let may = role.permissions().contains(&needed);
            assert_eq!(may, !matches!(answer.status, 401 | 403), "{} {}: {answer:?}", role.word(), endpoint.path);
            if !may {
                assert_eq!((answer.status, answer.code().as_str()), (403, "permission-denied"));
            }
        }
    }
    // The table that the texts asked for, spelled out once more, so that a slip in the roles is one here too.
    let may = |role: Role| role.permissions().iter().map(|p| p.word().rsplit(':').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(may(Role::App), ["encrypt", "decrypt", "read"]);
    assert_eq!(may(Role::Reader), ["decrypt"]);
    assert_eq!(may(Role::Jobs), ["jobs", "read"]);
    assert_eq!(may(Role::Admin), ["admin", "jobs", "audit", "read", "approve"]);
    assert_eq!(may(Role::Security), ["audit", "read", "approve"]);
    assert_eq!(may(Role::Audit), ["audit"]);
    assert_eq!(may(Role::Emergency), ["decrypt", "read", "emergency"]);
}

#[test]
fn without_credentials_only_health_answers() {
    let sandbox = organisations();
    let service = Service::start(&sandbox, &[]);
    let bare = |method: &str, path: &str| send(&service.address, &request(method, path, &[], "")).status;
    assert_eq!(bare("GET", "/healthz"), 200);
    assert_eq!(bare("GET", "/readyz"), 200);
    assert_eq!(bare("POST", "/healthz"), 405);
    for path in ["/api", "/metrics", ENCRYPT, "/api/v1/encryption/keys", "/healthz/../api"] {
        assert_eq!(bare("GET", path), 401, "{path}");
    }
    // To where people sign in.
    let sent_to = |path: &str| send(&service.address, &request("GET", path, &[], "")).header("location").to_owned();
    assert_eq!(sent_to("/"), "/console");
    assert_eq!(sent_to("/console"), "/console/sign-in?next=%2Fconsole");
    assert_eq!(service.ask("GET", "/nowhere", &service.key, "").code(), "unknown-endpoint");
    let wrong = service.ask("GET", ENCRYPT, &service.key, "");
    assert_eq!(wrong.code(), "method-not-allowed");
    assert!(wrong.headers.contains("\r\nallow: post"), "{}", wrong.headers);
}

#[test]
fn credentials_that_are_no_good_are_answered_alike_whatever_is_wrong_with_them() {
    let sandbox = organisations();
    let (revoked_id, revoked) = service_key(&sandbox, "revoked", &["--role", "app"]);
    let (_, expired) = service_key(&sandbox, "expired", &["--role", "app", "--expires-in", "1s"]);
    let (_, good) = service_key(&sandbox, "good", &["--role", "app"]);
    sandbox.ok(&["service-keys", "revoke", &revoked_id, "--yes"]);
    let service = Service::start(&sandbox, &[]);
    let ask = |authorization: &[&str]| {
        let id = ("X-Request-Id", "the-same");
        let headers = authorization.iter().map(|value| ("Authorization", *value)).chain([id]).collect::<Vec<_>>();
        send(&service.address, &request("POST", ENCRYPT, &headers, "{}"))
    };
    let none = ask(&[]);
    assert_eq!((none.status, none.code().as_str()), (401, "unauthenticated"));
    assert!(none.headers.contains("\r\nwww-authenticate: bearer"), "{}", none.headers);
    let other_secret = format!("{}{}", &good[..good.len() - 4], "AAAA");
    let bearer = |key: &str| format!("Bearer {key}");
    let waited = Instant::now();
    while waited.elapsed() < Duration::from_millis(1_100) {
        std::thread::sleep(Duration::from_millis(50));
    }
    for wrong in [
        bearer(&revoked),
        bearer(&expired),
        bearer(&other_secret),
        bearer("enfsk_0123456789abcdef_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        bearer(""),
        good.clone(),
        format!("Basic {good}"),
    ] {
        let answer = ask(&[&wrong]);
        assert_eq!((answer.status, &answer.body), (401, &none.body));
    }
    let twice = ask(&[&bearer(&good), &bearer(&good)]);
    assert_eq!((twice.status, &twice.body), (401, &none.body), "two headers are nobody's");
    assert_ne!(ask(&[&bearer(&good)]).status, 401);
    assert_ne!(ask(&[&format!("bEARER {good}")]).status, 401, "the scheme has no case");
}

#[test]
fn a_key_that_is_made_or_revoked_while_it_runs_counts_within_a_second() {
    let sandbox = organisations();
    let service = Service::start(&sandbox, &[]);
    let (id, key) = service_key(&sandbox, "late", &["--role", "app"]);
    let status = || service.ask("POST", ENCRYPT, &key, "{\"items\": []}").status;
    until("the new key lets in", || status() == 200);
    sandbox.ok(&["service-keys", "revoke", &id, "--yes"]);
    until("the revoked key does not", || status() == 401);
}

#[test]
fn an_access_list_that_the_operators_did_not_sign_lets_nobody_in() {
    let sandbox = organisations();
    let (id, key) = service_key(&sandbox, "app", &["--role", "app"]);
    let service = Service::start(&sandbox, &[]);
    let ask = || service.ask("POST", ENCRYPT, &key, "{\"items\": []}");
    assert_eq!(ask().status, 200);
    let stored = |sql: &str| -> Vec<u8> { sandbox.database().query_row(sql, [], |row| row.get(0)).expect("a list") };
    let (document, signature) =
        (stored("SELECT document FROM enfold_access_list"), stored("SELECT signature FROM enfold_access_list"));

    // Whoever can write to the database gives the key another role.
    let forged = String::from_utf8(document.clone()).unwrap().replace("\"app\"", "\"admin\"");
    let put = |document: &[u8], signature: &[u8]| {
        let sql = "UPDATE enfold_access_list SET document = ?1, signature = ?2";
        sandbox.database().execute(sql, rusqlite::params![document, signature]).expect("it is written");
    };
    put(forged.as_bytes(), &signature);
    until("nobody is let in", || ask().status == 500);
    assert_eq!(ask().code(), "state-tampered");
    put(&document, &signature);
    until("the signed list is back", || ask().status == 200);

    // Whoever kept the list of before a revocation puts it back.
    sandbox.ok(&["service-keys", "revoke", &id, "--yes"]);
    until("it is revoked", || ask().status == 401);
    put(&document, &signature);
    until("the old list is seen", || ask().status == 500);
    assert_eq!(ask().code(), "state-rolled-back");
    assert_eq!(send(&service.address, &request("GET", "/readyz", &[], "")).status, 503);
}

#[test]
fn classes_and_columns_narrow_a_key() {
    let sandbox = protected_organisations();
    let (_, mail) = service_key(&sandbox, "mail", &["--role", "app", "--class", "email"]);
    let (_, phone) = service_key(&sandbox, "phone", &["--role", "reader", "--column", "users.phone"]);
    let service = Service::start(&sandbox, &[]);
    let item = |column: &str| json!({ "column": column, "tenant": "acme", "value": "x" });
    let wanted = json!([item("users.email"), item("users.phone"), item("note"), item("users.nothing")]);
    let sealed = service.items(ENCRYPT, &mail, &wanted);
    assert!(sealed[0]["stored"].as_str().unwrap().starts_with("enf1:"), "{sealed:?}");
    for denied in &sealed[1..] {
        assert_eq!(denied["error"]["code"], "permission-denied", "{denied}");
        assert_eq!(denied, &sealed[1], "what the policy does not name is refused alike");
    }
    assert_eq!(service.ask("POST", ENCRYPT, &phone, "{\"items\": []}").status, 403, "a reader seals nothing");
    let stored = &sealed[0]["stored"];
    let opened =
        service.items(DECRYPT, &phone, &json!([{ "column": "users.email", "tenant": "acme", "stored": stored }]));
    assert_eq!(opened[0]["error"]["code"], "permission-denied");
}

#[test]
fn keys_are_listed_without_their_secrets_and_refused_where_they_make_no_sense() {
    let sandbox = organisations();
    let (_, secret) = service_key(&sandbox, "billing", &["--role", "app", "--tenant", "acme", "--class", "email"]);
    service_key(&sandbox, "auditor", &["--role", "audit", "--role", "security", "--expires-in", "1d"]);
    let listed = sandbox.ok(&["service-keys", "list"]);
    assert!(!listed.stdout().contains(&secret[23..]));
    let hidden = [(r"\b[0-9a-f]{16}\b", "[id]             ")];
    let lines = listed.stdout().lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 3);
    let order = lines.iter().position(|line| line.contains("auditor")).unwrap();
    assert!(lines[order].contains("security, audit") && lines[order].contains("nothing"), "{}", lines[order]);
    let billing = lines.iter().find(|line| line.contains("billing")).unwrap();
    assert!(billing.contains("tenant acme, class email") && billing.contains("good"), "{billing}");

    sandbox.ok(&["service-keys", "create", "to a file", "--role", "app", "--out", "app.key"]);
    assert!(sandbox.read("app.key").starts_with("enfsk_"));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(sandbox.path("app.key")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let refused = |name: &str, args: &[&str]| {
        sandbox.run(&[&["service-keys"], args].concat()).snapshot_hiding(name, &hidden);
    };
    refused("service_key_narrowed_admin", &["create", "ops", "--role", "admin", "--tenant", "acme"]);
    refused("service_key_unknown_column", &["create", "ops", "--role", "app", "--column", "users.nothing"]);
    refused("service_key_unknown_class", &["create", "ops", "--role", "app", "--class", "nothing"]);
    refused("service_key_too_long", &["create", "ops", "--role", "app", "--expires-in", "100000d"]);
    refused("service_key_name", &["create", "o\nps", "--role", "app"]);
    refused("service_key_unknown", &["revoke", "0123456789abcdef", "--yes"]);
    refused("service_key_unconfirmed", &["revoke", "0123456789abcdef"]);
    std::fs::remove_file(sandbox.path("op.key")).expect("it was there");
    sandbox.write("enfold.toml", sandbox.read("enfold.toml").replace("development", "staging"));
    let ran = sandbox.run(&["service-keys", "create", "ops", "--role", "app"]);
    assert!(ran.stderr.contains("code: operator-key-missing"), "{}", ran.stderr);
}

#[test]
fn permissions_are_those_of_the_texts() {
    let words: Vec<&str> = Permission::ALL.iter().map(|permission| permission.word()).collect();
    for word in ["encrypt", "decrypt", "admin", "audit", "read"] {
        assert!(words.contains(&format!("encryption:{word}").as_str()));
    }
}

/// Waits for what has to become so; ten seconds are long enough for a machine that is busy.
pub(super) fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
