//! Access rules, over HTTP.

use enfold::access::Role;
use enfold_server::api::ENDPOINTS;
use enfold_server::console::PAGES;
use enfold_testkit::issuer::Issuer;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::http::{Answer, request, send};
use super::published::Published;
use super::{DECRYPT, ENCRYPT, Service, organisations, protected_organisations, service_key};
use crate::guides::{bash, blocks};
use crate::harness::Sandbox;

const GUIDE: &str = include_str!("../../../../../docs/guides/access-rules.md");
const KEYS: &str = "/api/v1/encryption/keys";
const INDEX: &str = "/api/v1/encryption/index";
const EMERGENCY: &str = "/api/v1/encryption/emergency";
const NOTHING: &str = "@id(\"nothing\") forbid(principal, action, resource);";

fn rule(sandbox: &Sandbox, rules: &str) {
    sandbox.write("access.cedar", rules);
    if !sandbox.read("enfold.toml").contains("[access]") {
        sandbox.extend_policy("\n[access]\nrules = \"access.cedar\"\n");
    }
}

/// People whom an issuer knows that the tests make, and a proxy that says where they are.
struct World {
    sandbox: Sandbox,
    issuer: Issuer,
    _published: Published,
}

impl World {
    fn new(sandbox: Sandbox) -> Self {
        let issuer = Issuer::new();
        let published = Published::start(&json!({ "keys": [issuer.jwk("one")] }));
        let grant = |role: &str| {
            format!("[service.issuers.login.grants.{role}]\nclaim = \"roles\"\nvalue = \"{role}\"\nrole = \"{role}\"\n")
        };
        let grants: String = ["reader", "admin", "security", "emergency"].map(grant).concat();
        sandbox.extend_policy(&format!(
            "\n[service]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[service.emergency]\namr = [\"mfa\"]\napproval = false\n\
             [service.issuers.login]\nurl = \"https://login.test\"\naudience = [\"enfold\"]\njwks_url = \"{}\"\n{grants}",
            published.url
        ));
        Self { sandbox, issuer, _published: published }
    }

    /// The token of somebody with this role.
    fn who(&self, name: &str, role: &str, amr: &str) -> String {
        let claims =
            json!({ "iss": "https://login.test", "aud": "enfold", "sub": name, "roles": [role], "amr": [amr] });
        self.issuer.sign(claims)
    }
}

/// Asks from this address, by what a proxy says.
fn from(service: &Service, source: &str, path: &str, key: &str, body: Option<&Value>, more: &[(&str, &str)]) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json"), ("X-Forwarded-For", source)];
    let headers = [&headers, more].concat();
    let (method, body) = body.map_or(("GET", String::new()), |body| ("POST", body.to_string()));
    send(&service.address, &request(method, path, &headers, &body))
}

fn code(item: &Value) -> &str {
    item["error"]["code"].as_str().unwrap_or("done")
}

const DENIED: &str = "permission-denied";

#[test]
fn the_guide_leads_to_rules_that_hold() {
    let World { sandbox, issuer, _published } = World::new(protected_organisations());
    let of = |name: &str, role: &str| service_key(&sandbox, name, &["--role", role]).1;
    let (dialer, billing, support, ops) =
        (of("dialer", "app"), of("billing", "app"), of("support", "reader"), of("ops", "admin"));
    sandbox.extend_policy(&blocks(GUIDE, "toml").concat());
    sandbox.write("access.cedar", blocks(GUIDE, "cedar").concat());
    let [schema, check] = blocks(GUIDE, "sh").try_into().expect("two steps");
    assert!(bash(&sandbox, &schema, &[], &[]).contains("entity Class enum [\"email\", \"phone\"];"));
    let checked = bash(&sandbox, &check, &[], &[]);
    assert!(checked.ends_with("  office\n  other-by-programs\n  phones\n  ticket\n"), "{checked}");

    let service = Service::start(&sandbox, &[]);
    // A batch with what is forbidden and what is not.
    let items = json!([
        { "column": "users.email", "tenant": "acme", "value": "a" },
        { "column": "users.phone", "tenant": "acme", "value": "a" },
        { "column": "users.phone", "tenant": "acme", "value": "b" },
        { "column": "note", "tenant": "other", "value": "a" },
        { "column": "users.phone", "tenant": "other", "value": "a" },
    ]);
    let codes =
        |key: &str| service.items(ENCRYPT, key, &items).iter().map(|item| code(item).to_owned()).collect::<Vec<_>>();
    assert_eq!(codes(&dialer), ["done"; 5]);
    assert_eq!(codes(&billing), ["done", DENIED, DENIED, "done", DENIED]);

    let stored = |tenant: &str| {
        let item = json!([{ "column": "users.email", "tenant": tenant, "value": "ann@example.com" }]);
        service.items(ENCRYPT, &billing, &item)[0]["stored"].clone()
    };
    let opened = |key: &str, tenant: &str, reason: Value| {
        let item = json!([{ "column": "users.email", "tenant": tenant, "stored": stored(tenant) }]);
        let answer = service.ask("POST", DECRYPT, key, &json!({ "items": item, "reason": reason }).to_string());
        code(&answer.json()["data"]["items"][0]).to_owned()
    };
    assert_eq!(opened(&support, "acme", json!("INC-4711: a mail that came back")), "done");
    assert_eq!(opened(&support, "acme", json!("because")), DENIED);
    assert_eq!(opened(&support, "acme", Value::Null), DENIED);
    let ann = issuer.sign(json!({ "iss": "https://login.test", "aud": "enfold", "sub": "ann", "roles": ["reader"] }));
    assert_eq!(opened(&ann, "acme", json!("INC-4711")), "done");
    assert_eq!(opened(&ann, "other", json!("INC-4711")), DENIED);
    assert_eq!(opened(&support, "other", json!("INC-4711")), "done");

    let keys = |source: &str| from(&service, source, &format!("{KEYS}?ring=main"), &ops, None, &[]).status;
    assert_eq!((keys("10.7.7.7"), keys("203.0.113.9"), keys("2001:db8::1")), (200, 403, 403));
}

#[test]
fn a_rule_against_everything_leaves_nothing_that_needs_credentials() {
    let World { sandbox, issuer, _published } = World::new(organisations());
    rule(&sandbox, NOTHING);
    let of_keys = Role::ALL.iter().filter(|role| **role != Role::Emergency);
    let mut keys: Vec<(Role, String)> =
        of_keys.map(|role| (*role, service_key(&sandbox, role.word(), &["--role", role.word()]).1)).collect();
    let claims =
        json!({ "iss": "https://login.test", "aud": "enfold", "sub": "ann", "roles": ["emergency"], "amr": ["mfa"] });
    keys.push((Role::Emergency, issuer.sign(claims)));
    let service = Service::start(&sandbox, &[]);
    let item = json!({ "column": "users.email", "tenant": "acme" });
    let with = |field: &str, value: Value| {
        let mut item = item.clone();
        item[field] = value;
        json!({ "items": [item] }).to_string()
    };
    let index =
        json!({ "items": [{ "of": "users.email", "index": "eq", "tenant": "acme", "values": ["a"] }] }).to_string();
    for endpoint in ENDPOINTS {
        let body = match endpoint.path {
            ENCRYPT => with("value", json!("a")),
            DECRYPT => with("stored", json!("a")),
            INDEX => index.clone(),
            _ => "{}".to_owned(),
        };
        let Some(needed) = endpoint.needs else { continue };
        for (role, key) in &keys {
            let answer = service.ask(endpoint.method.as_str(), endpoint.path, key, &body);
            let is_refused = match answer.status {
                // Of what is done with values each value is refused.
                200 => needed.is_of_values() && code(&answer.json()["data"]["items"][0]) == DENIED,
                status => (status, answer.code().as_str()) == (403, DENIED),
            };
            assert!(is_refused, "{} {}: {answer:?}", role.word(), endpoint.path);
        }
    }
    // Nobody gets into the console, where every role but `reader` has a page.
    assert!(PAGES.iter().any(|page| page.needs.is_empty()));
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    for (_, key) in keys.iter().filter(|(role, _)| *role != Role::Emergency) {
        let answer = send(&service.address, &request("POST", "/console/sign-in", &form, &format!("key={key}")));
        assert_eq!(answer.status, 403);
    }
}

#[test]
fn the_console_goes_by_rules_at_each_request() {
    let World { sandbox, .. } = World::new(organisations());
    rule(
        &sandbox,
        "@id(\"office\") forbid(principal, action == Action::\"encryption:admin\", resource)\n\
         unless { context.source.isInRange(ip(\"10.0.0.0/8\")) };",
    );
    let service = Service::start(&sandbox, &[]);
    let asked = |source: &str, method: &str, path: &str, more: &[(&str, &str)], body: &str| {
        let headers = [&[("X-Forwarded-For", source)], more].concat();
        send(&service.address, &request(method, path, &headers, body))
    };
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let signed_in = asked("10.1.1.1", "POST", "/console/sign-in", &form, &format!("key={}", service.key));
    assert_eq!(signed_in.status, 303, "{}", signed_in.body);
    let cookie = signed_in.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    let page = |source: &str, path: &str| asked(source, "GET", path, &[("Cookie", &cookie)], "");
    assert_eq!(page("10.1.1.1", "/console/keys").status, 200);
    let refused = page("203.0.113.9", "/console/keys");
    assert_eq!(refused.status, 403);
    assert!(!refused.body.contains("office"), "which rule it was is not told");
    let home = page("203.0.113.9", "/console").body;
    assert!(!home.contains("href=\"/console/keys\"") && home.contains("href=\"/console/jobs\""));
}

#[test]
fn rules_hold_in_an_emergency_and_tell_second_factors_apart() {
    let world = World::new(protected_organisations());
    rule(
        &world.sandbox,
        "@id(\"calm\") forbid(principal in Role::\"emergency\", action, resource in Class::\"phone\") when { context.emergency };\n\
         @id(\"factor\") forbid(principal is Person, action == Action::\"encryption:admin\", resource) unless { principal.secondFactor };",
    );
    let service = Service::start(&world.sandbox, &[]);
    let sealed = ["users.email", "users.phone"].map(|column| {
        let item = json!([{ "column": column, "tenant": "acme", "value": "a value" }]);
        json!({ "column": column, "tenant": "acme", "stored": service.items(ENCRYPT, &service.key, &item)[0]["stored"] })
    });
    let oncall = world.who("ann", "emergency", "mfa");
    let here = "127.0.0.1";
    let asked = from(&service, here, EMERGENCY, &oncall, Some(&json!({ "reason": "a fire", "minutes": 5 })), &[]);
    assert_eq!(asked.status, 200, "{}", asked.body);
    let id = asked.json()["data"]["id"].as_str().expect("an id").to_owned();
    let body = json!({ "items": sealed });
    let opened = from(&service, here, DECRYPT, &oncall, Some(&body), &[("Enfold-Emergency", &id)]).json();
    let codes: Vec<&str> = opened["data"]["items"].as_array().expect("items").iter().map(code).collect();
    assert_eq!(codes, ["done", DENIED]);

    let keys = format!("{KEYS}?ring=main");
    let as_admin = |amr: &str| from(&service, here, &keys, &world.who("bob", "admin", amr), None, &[]).status;
    assert_eq!((as_admin("mfa"), as_admin("pwd")), (200, 403));
}

#[test]
fn the_refusal_of_a_rule_looks_like_any_other_and_the_log_says_which_it_was() {
    let sandbox = protected_organisations();
    rule(
        &sandbox,
        "@id(\"not-the-phones\") forbid(principal == ServiceKey::\"app\", action, resource in Class::\"phone\");",
    );
    let (_, app) = service_key(&sandbox, "app", &["--role", "app"]);
    let (_, narrow) = service_key(&sandbox, "narrow", &["--role", "app", "--class", "email"]);
    let service = Service::start(&sandbox, &[]);
    let of = |key: &str, tenant: &str| {
        let stored = json!([{ "column": "users.phone", "tenant": tenant, "value": "+1 1" }]);
        let stored = service.items(ENCRYPT, &service.key, &stored)[0]["stored"].clone();
        let items = json!([
            { "column": "users.phone", "tenant": tenant, "stored": stored },
            { "column": "users.phone", "tenant": tenant, "stored": "nothing that could be one" },
        ]);
        service.items(DECRYPT, key, &items)
    };
    let refused = of(&app, "acme");
    assert_eq!((code(&refused[0]), &refused[0]), (DENIED, &refused[1]));
    assert_eq!(refused, of(&narrow, "acme"), "by a rule as by a role");
    assert_eq!(refused, of(&app, "other"));
    assert!(!json!(refused).to_string().contains("not-the-phones"));

    service.signal(Signal::TERM);
    let ran = service.ended(&sandbox);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let events =
        "SELECT event FROM enfold_events WHERE event LIKE '%\"kind\":\"denied\"%' AND event LIKE '%service-key:app%'";
    let event: String = sandbox.database().query_row(events, [], |row| row.get(0)).expect("one event");
    let event: Value = serde_json::from_str(&event).expect("JSON");
    assert_eq!((&event["column"], &event["count"]), (&json!("users.phone"), &json!(4)));
    let detail = event["detail"].as_str().expect("a text");
    assert!(detail.ends_with("access rule `not-the-phones` forbids it"), "{detail}");
}

#[test]
fn whom_rules_hold_to_some_tenants_is_a_tenants_caller() {
    let sandbox = protected_organisations();
    rule(
        &sandbox,
        "@id(\"theirs\") forbid(principal == ServiceKey::\"acme\", action, resource) unless { resource in Tenant::\"acme\" };",
    );
    let (_, acme) = service_key(&sandbox, "acme", &["--role", "app"]);
    let (_, app) = service_key(&sandbox, "app", &["--role", "app"]);
    let service = Service::start(&sandbox, &[]);
    let item = json!([{ "column": "users.email", "tenant": "other", "value": "bob@example.com" }]);
    let theirs = service.items(ENCRYPT, &app, &item)[0]["stored"].clone();
    let open = |key: &str, tenant: Value, stored: &Value| {
        let items = json!([{ "column": "users.email", "tenant": tenant, "stored": stored }]);
        code(&service.items(DECRYPT, key, &items)[0]).to_owned()
    };
    assert_eq!(open(&acme, json!("other"), &theirs), DENIED);
    assert_eq!(open(&acme, Value::Null, &theirs), DENIED);
    // Whether there is a data key for what is passed off as one's own is told to whoever is held to no tenant, and to nobody else.
    let mut text = theirs.as_str().expect("a text").to_owned().into_bytes();
    text[20] = if text[20] == b'A' { b'B' } else { b'A' };
    let of_no_key = json!(String::from_utf8(text).expect("text"));
    assert_eq!(open(&app, json!("acme"), &of_no_key), "key-not-found");
    assert_eq!(open(&acme, json!("acme"), &of_no_key), "open-failed");
    assert_eq!(open(&acme, json!("acme"), &theirs), "open-failed");
}

#[test]
fn rules_that_are_not_sound_are_not_served() {
    let sandbox = organisations();
    rule(&sandbox, "@id(\"gives\")\npermit(principal, action, resource);\nforbid(principal, action, resource);\n");
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    sandbox.run(&serve).snapshot("serve_rules_that_give");
    rule(
        &sandbox,
        "@id(\"a-class\")\nforbid(principal, action, resource in Class::\"mail\");\n\
         @id(\"a-word\")\nforbid(principal, action == Action::\"encryption:open\", resource);\n",
    );
    sandbox.run(&["access-rules", "check"]).snapshot("access_rules_unknown");
    assert_eq!(sandbox.run(&serve).code, 2);
    std::fs::remove_file(sandbox.path("access.cedar")).expect("it was there");
    let missing = sandbox.run(&serve);
    assert!(missing.code == 2 && missing.stderr.contains("code: file-failed"), "{}", missing.stderr);
    rule(&sandbox, NOTHING);
    sandbox.run(&["access-rules", "check"]).snapshot("access_rules_sound");
    sandbox.run(&["access-rules", "schema"]).snapshot("access_rules_schema");
}
