//! Clients that mean no good, beside one that wants to be served.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enfold::access::Role;
use enfold_server::api::{ENDPOINTS, Endpoint};
use enfold_testkit::issuer::Issuer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use super::access::until;
use super::http::{request, send};
use super::published::Published;
use super::{DECRYPT, ENCRYPT, Service, organisations, protected_organisations, service_key};

/// Some of them are answered and closed, and the others are still more than there is room for.
const CLIENTS: usize = 10_000;
const ROOM: usize = 5_000;

/// What a client sends before it falls silent.
fn beginnings(key: &str) -> [String; 8] {
    let authorized = format!("POST {ENCRYPT} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {key}\r\n");
    [
        String::new(),
        "P".to_owned(),
        "POST /api HTTP/1.1\r\nHost: te".to_owned(),
        "POST /api HTTP/1.1\r\nHost: test\r\nContent-Length: 5".to_owned(),
        // A whole request, for whoever it is answered to does not read.
        "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        format!("POST {ENCRYPT} HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n{{\"items\":"),
        format!("{authorized}Content-Length: 4294967296\r\n"),
        format!("{authorized}Transfer-Encoding: chunk"),
    ]
}

#[test]
fn ten_thousand_clients_that_say_nothing_keep_nobody_from_being_served() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("no more than is allowed");
    assert!(limit.maximum.is_none_or(|most| most >= CLIENTS as u64 + 1_000), "`ulimit -Hn` is too low: {limit:?}");
    let sandbox = organisations();
    let room = format!("\n[service.limits]\nmax_connections = {ROOM}\n");
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + &room);
    let service = Service::start(&sandbox, &[]);
    let (files, memory) = (files(&service), service.resident_kib());
    let beginnings = beginnings(&service.key);
    let item = json!({ "column": "note", "tenant": "acme", "value": "x" });
    let mut clients: Vec<TcpStream> = Vec::with_capacity(CLIENTS);
    for n in 0..CLIENTS {
        let mut client = TcpStream::connect(&service.address).expect("it listens");
        // One that made room for others hears no more.
        client.write_all(beginnings[n % beginnings.len()].as_bytes()).ok();
        if n % 16 == 15 {
            client.shutdown(Shutdown::Write).expect("half of it is closed");
        }
        if n % 1_000 == 0 {
            assert_eq!(service.items(ENCRYPT, &service.key, &json!([item])).len(), 1);
        }
        clients.push(client);
    }
    assert!(self::files(&service) <= files + ROOM + 2, "no more than there is room for");
    for _ in 0..50 {
        let sealed = service.items(ENCRYPT, &service.key, &json!([item]));
        assert!(sealed[0]["stored"].is_string(), "{sealed:?}");
    }
    let grown = service.resident_kib().saturating_sub(memory) / 1024;
    assert!(grown < 400, "they take {grown} MiB");
    // The first that said nothing have made room for the last.
    clients[0].set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    assert!(matches!(clients[0].read(&mut [0]), Ok(0)), "it was closed");
    drop(clients);
    until("what they had is free", || self::files(&service) <= files + 8);
    assert_eq!(send(&service.address, &request("GET", "/readyz", &[], "")).status, 200);
}

#[test]
fn a_flood_of_one_caller_and_of_strangers_leaves_others_served() {
    let sandbox = organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + "\n[service.limits]\nrequests_per_second = 20\n");
    let (_, flooding) = service_key(&sandbox, "flooding", &["--role", "app"]);
    let service = Service::start(&sandbox, &[]);
    let body = json!({ "items": [{ "column": "note", "tenant": "acme", "value": "x" }] }).to_string();
    let over = AtomicBool::new(false);
    // Asks until it is over, and once at least; every status that it was answered with.
    let flood = |key: &str| {
        let mut statuses = BTreeSet::new();
        loop {
            statuses.insert(service.ask("POST", ENCRYPT, key, &body).status);
            if over.load(Ordering::Relaxed) {
                return statuses;
            }
        }
    };
    let (served, known, strangers) = std::thread::scope(|scope| {
        let known: Vec<_> = (0..8).map(|_| scope.spawn(|| flood(&flooding))).collect();
        let strangers: Vec<_> = (0..8).map(|_| scope.spawn(|| flood("nobody"))).collect();
        // As many as it may ask at once.
        let served = [(); 20].map(|()| service.ask("POST", ENCRYPT, &service.key, &body).status);
        over.store(true, Ordering::Relaxed);
        let all = |of: Vec<std::thread::ScopedJoinHandle<'_, BTreeSet<u16>>>| -> BTreeSet<u16> {
            of.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
        };
        (served, all(known), all(strangers))
    });
    assert_eq!(served, [200; 20]);
    assert!(known.is_subset(&BTreeSet::from([200, 429])), "{known:?}");
    assert_eq!(strangers, BTreeSet::from([401]));
    assert_eq!(send(&service.address, &request("GET", "/readyz", &[], "")).status, 200);
}

#[test]
fn bodies_that_are_too_large_or_too_deep_are_refused_by_every_endpoint() {
    let sandbox = organisations();
    let (_, admin) = service_key(&sandbox, "admin", &["--role", "admin", "--role", "app"]);
    let service = Service::start(&sandbox, &[]);
    let large = format!("{{\"reason\": \"{}\"}}", "x".repeat(2 << 20));
    let deep = ["[", "{\"items\":"].map(|opening| opening.repeat(100_000));
    // Whoever may not ask is refused before a body is looked at.
    let may = |endpoint: &&Endpoint| {
        endpoint
            .needs
            .is_some_and(|needed| [Role::Admin, Role::App].iter().any(|role| role.permissions().contains(&needed)))
    };
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.takes_body()).filter(may) {
        let path = endpoint.path.replace("{id}", "0");
        let refused = service.ask("POST", &path, &admin, &large);
        assert_eq!((refused.status, refused.code().as_str()), (413, "request-too-large"), "{path}");
        for deep in &deep {
            let refused = service.ask("POST", &path, &admin, deep);
            assert_eq!((refused.status, refused.code().as_str()), (400, "usage"), "{path}");
        }
    }
    assert_eq!(send(&service.address, &request("GET", "/readyz", &[], "")).status, 200);
}

#[test]
fn requests_that_are_read_in_two_ways_or_have_no_end_are_refused() {
    let sandbox = organisations();
    sandbox.write(
        "enfold.toml",
        sandbox.read("enfold.toml") + "\n[service.limits]\nmax_body_kib = 64\ntimeout = \"5s\"\n",
    );
    let service = Service::start(&sandbox, &[]);
    let line = format!(
        "POST {ENCRYPT} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {}\r\n",
        service.key
    );
    let status = |more: &str| send(&service.address, &format!("{line}{more}")).status;
    // One that a proxy in front may end elsewhere.
    assert_eq!(status("Content-Length: 2\r\nContent-Length: 13\r\n\r\n{}"), 400);
    assert_eq!(status("Content-Length: +2\r\n\r\n{}"), 400);
    assert_eq!(status("Content-Length: 99999999999999999999\r\n\r\n{}"), 400);
    assert_eq!(status("Transfer-Encoding: gzip\r\n\r\n{}"), 400);
    assert_eq!(status("Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n{}"), 400);
    assert_eq!(status(&format!("X-Long: {}\r\n\r\n", "x".repeat(1 << 20))), 431);
    assert_eq!(status(&"X-Many: x\r\n".repeat(10_000)), 431);
    // Without an end: what is over the limit is not waited for.
    let mut endless = TcpStream::connect(&service.address).expect("it listens");
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    endless
        .write_all(format!("{line}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes())
        .expect("it reads");
    let sent = (0..10_000).take_while(|_| endless.write_all(chunk.as_bytes()).is_ok()).count();
    assert!(sent < 10_000, "160 MB were taken");
    assert_eq!(send(&service.address, &request("GET", "/readyz", &[], "")).status, 200);
}

/// Rules by which a token lets in a tenant's caller.
fn tokens(url: &str) -> String {
    format!(
        "\n[service.issuers.login]\nurl = \"https://login.test/\"\naudience = [\"enfold\"]\njwks_url = \"{url}\"\n\
         [service.issuers.login.grants.tenants]\nclaim = \"role\"\nvalue = \"app\"\nrole = \"app\"\ntenant_claim = \"org\"\n"
    )
}

/// Many callers at once, with keys and with tokens: each has its own tenant's values and nothing of another's, and the log says
/// whose each request was.
#[test]
fn callers_that_ask_at_once_are_never_taken_for_each_other() {
    let (issuer, sandbox) = (Issuer::new(), protected_organisations());
    let published = Published::start(&json!({ "keys": [issuer.jwk("one")] }));
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + &tokens(&published.url));
    let tenants = ["acme", "other"];
    let key = |tenant| service_key(&sandbox, tenant, &["--role", "app", "--tenant", tenant]).1;
    let token = |tenant| {
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({
            "iss": "https://login.test/", "aud": "enfold", "sub": tenant, "role": "app", "org": tenant,
            "iat": now, "exp": now + 3600,
        });
        issuer.sign_as_it_is(&json!({ "alg": "ES256", "typ": "JWT", "kid": "one" }), &claims)
    };
    // Whose it is, what the log calls them, and what they show.
    let callers = [
        (0, "service-key:acme", key("acme")),
        (1, "service-key:other", key("other")),
        (0, "login:acme", token("acme")),
        (1, "login:other", token("other")),
    ];
    let service = Service::start(&sandbox, &[]);
    let place = |tenant: &str| json!({ "column": "users.email", "tenant": tenant });
    let sealed = tenants.map(|tenant| {
        let mut item = place(tenant);
        item["value"] = json!(tenant);
        service.items(ENCRYPT, &service.key, &json!([item]))[0]["stored"].clone()
    });
    let items: Vec<_> = (0..2)
        .map(|of| {
            let mut item = place(tenants[of]);
            item["stored"] = sealed[of].clone();
            item
        })
        .collect();
    let body = json!({ "items": items }).to_string();
    let ask = |(own, actor, shown): &(usize, &str, String), turn: usize| {
        let (id, authorization) = (format!("{actor}:{turn}"), format!("Bearer {shown}"));
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Content-Type", "application/json"),
            ("X-Request-Id", id.as_str()),
        ];
        let answer = send(&service.address, &request("POST", DECRYPT, &headers, &body));
        assert_eq!(answer.header("x-request-id"), id);
        let items = &answer.json()["data"]["items"];
        assert_eq!(items[own]["value"], tenants[*own]);
        assert_eq!(items[1 - own]["error"]["code"], "permission-denied");
        assert!(items[1 - own]["value"].is_null());
    };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (ask, caller) = (&ask, &callers[thread % callers.len()]);
            scope.spawn(move || (0..50).for_each(|turn| ask(caller, thread * 1_000 + turn)));
        }
    });
    service.signal(rustix::process::Signal::TERM);
    service.ended(&sandbox);
    let count = |sql: &str| -> i64 { sandbox.database().query_row(sql, [], |row| row.get(0)).expect("a count") };
    for (_, actor, _) in &callers {
        let of_theirs = format!("FROM enfold_events WHERE event LIKE '%\"request_id\":\"{actor}:%'");
        let wrong = count(&format!("SELECT count(*) {of_theirs} AND event NOT LIKE '%\"actor\":\"{actor}\"%'"));
        let opened = count(&format!("SELECT count(*) {of_theirs} AND event LIKE '%\"kind\":\"open\"%'"));
        assert_eq!((wrong, opened), (0, 100), "{actor}");
    }
}

/// Files that it has open: its connections, and some.
fn files(service: &Service) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", service.pid())).expect("it runs").count()
}
