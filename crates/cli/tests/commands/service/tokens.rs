//! Callers with tokens: of a real OpenID provider, and made by hand where none would make them.

use std::net::TcpListener;
use std::sync::atomic::Ordering;

use enfold_testkit::issuer::{Issuer, sign_by_secret, unsigned};
use enfold_testkit::oidc::Oidc;
use serde_json::{Value, json};

use super::access::until;
use super::http::{Answer, request, send};
use super::published::Published;
use super::{DECRYPT, ENCRYPT, Service, protected_organisations};
use crate::harness::Sandbox;

/// Rules for the tokens of the provider that the tests start, and of those that are made by hand.
fn policy(url: &str, more: &str) -> String {
    format!(
        "\n[service.issuers.login]\nurl = \"{url}\"\naudience = [\"enfold\"]\n{more}\
         [service.issuers.login.grants.billing]\nclaim = \"roles\"\nvalue = \"billing\"\nrole = \"app\"\n\
         [service.issuers.login.grants.tenants]\nclaim = \"roles\"\nvalue = \"acme\"\nrole = \"app\"\n\
         tenant_claim = \"access.org\"\nclasses = [\"email\"]\n"
    )
}

/// A token of the provider, signed with this algorithm.
pub(crate) fn token(provider: &Oidc, client: &str, resource: &str) -> String {
    let form =
        format!("grant_type=client_credentials&client_id={client}&client_secret={client}-secret&resource={resource}");
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let answer = send(&provider.address(), &request("POST", "/token", &headers, &form));
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["access_token"].as_str().expect("a token").to_owned()
}

fn seal(service: &Service, key: &str, column: &str, tenant: &str) -> Answer {
    let body = json!({ "items": [{ "column": column, "tenant": tenant, "value": "ann@example.com" }] });
    service.ask("POST", ENCRYPT, key, &body.to_string())
}

#[test]
fn tokens_of_a_real_provider_let_in_whoever_their_claims_say() {
    let provider = Oidc::start();
    let sandbox = protected_organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + &policy(&provider.issuer(), ""));
    let service = Service::start(&sandbox, &[]);
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let billing = token(&provider, "billing", &format!("urn:enfold:{algorithm}"));
        let sealed = seal(&service, &billing, "users.phone", "other");
        assert_eq!(sealed.status, 200, "{algorithm}: {}", sealed.body);
        let stored = sealed.json()["data"]["items"][0]["stored"].clone();
        let opened = service.items(
            DECRYPT,
            &billing,
            &json!([{ "column": "users.phone", "tenant": "other", "stored": stored }]),
        );
        assert_eq!(opened[0]["value"], "ann@example.com");
    }
    // Held to what its claims say: the tenant, and the class of the rule.
    let acme = token(&provider, "acme", "urn:enfold:ES256");
    let code =
        |column, tenant| seal(&service, &acme, column, tenant).json()["data"]["items"][0]["error"]["code"].clone();
    assert_eq!(code("users.email", "acme"), Value::Null);
    assert_eq!(code("users.email", "billing"), "permission-denied");
    assert_eq!(code("users.phone", "acme"), "permission-denied");
    // Known, and may do nothing; and those that are nobody's for us.
    let stranger = token(&provider, "stranger", "urn:enfold:ES256");
    assert_eq!(seal(&service, &stranger, "users.email", "acme").code(), "permission-denied");
    for wrong in ["urn:elsewhere", "urn:enfold:PS256"] {
        assert_eq!(
            seal(&service, &token(&provider, "billing", wrong), "users.email", "acme").code(),
            "unauthenticated"
        );
    }

    // The provider is started anew, with other keys: they are fetched, and the former ones are no good any more.
    let former = token(&provider, "billing", "urn:enfold:ES256");
    let port = provider.port();
    drop(provider);
    assert_eq!(seal(&service, &former, "users.email", "acme").status, 200, "its keys are still known");
    let provider = Oidc::start_on(port);
    let billing = token(&provider, "billing", "urn:enfold:ES256");
    until("the new keys are fetched", || seal(&service, &billing, "users.email", "acme").status == 200);
    assert_eq!(seal(&service, &former, "users.email", "acme").status, 401);

    // Who it was stands in the log of events.
    service.signal(rustix::process::Signal::TERM);
    service.ended(&sandbox);
    let actors = "SELECT count(*) FROM enfold_events WHERE event LIKE '%\"actor\":\"login:billing\"%'";
    let found: i64 = sandbox.database().query_row(actors, [], |row| row.get(0)).expect("a count");
    assert!(found > 0);
}

/// A service that believes the tokens of one key, which is published.
struct World {
    sandbox: Sandbox,
    issuer: Issuer,
    published: Published,
    service: Service,
    now: i64,
}

const ISSUER: &str = "https://login.test/";

impl World {
    fn start(more: &str) -> Self {
        let issuer = Issuer::new();
        let secret = json!({ "kty": "oct", "kid": "secret", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0" });
        let mut other_use = issuer.jwk("encrypts");
        other_use["use"] = json!("enc");
        let mut other_algorithm = issuer.jwk("es384");
        other_algorithm["alg"] = json!("ES384");
        let broken = json!({ "kty": "EC", "crv": "P-256", "kid": "broken" });
        let keys = json!({ "keys": [broken, secret, other_use, other_algorithm, issuer.jwk("one")] });
        let published = Published::start(&keys);
        let sandbox = protected_organisations();
        let more = format!("jwks_url = \"{}\"\n{more}", published.url);
        sandbox.write("enfold.toml", sandbox.read("enfold.toml") + &policy(ISSUER, &more));
        let service = Service::start(&sandbox, &[]);
        Self { sandbox, issuer, published, service, now: jiff::Timestamp::now().as_second() }
    }

    fn claims(&self) -> Value {
        json!({ "iss": ISSUER, "aud": "enfold", "sub": "ann", "iat": self.now, "exp": self.now + 60, "roles": ["billing"] })
    }

    fn with(&self, claim: &str, value: Value) -> Value {
        let mut claims = self.claims();
        claims[claim] = value;
        claims
    }

    fn without(&self, claim: &str) -> Value {
        let mut claims = self.claims();
        claims.as_object_mut().expect("an object").remove(claim);
        claims
    }

    fn answer(&self, token: &str) -> (u16, String) {
        let authorization = format!("Bearer {token}");
        let headers =
            [("Authorization", authorization.as_str()), ("X-Request-Id", "same"), ("Content-Type", "application/json")];
        let answer = send(&self.service.address, &request("POST", ENCRYPT, &headers, "{\"items\": []}"));
        (answer.status, answer.body)
    }
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "one", "typ": "JWT" })
}

#[test]
fn a_token_that_is_not_all_it_has_to_be_lets_nobody_in() {
    let world = World::start("");
    let World { issuer, now, .. } = &world;
    let signed = |claims: &Value| issuer.sign_as_it_is(&header(), claims);
    assert_eq!(world.answer(&signed(&world.claims())).0, 200);
    assert_eq!(
        world.answer(&issuer.sign_as_it_is(&json!({ "alg": "ES256" }), &world.claims())).0,
        200,
        "without an id, all are tried"
    );
    assert_eq!(world.answer(&signed(&world.with("aud", json!(["elsewhere", "enfold"])))).0, 200);
    assert_eq!(world.answer(&signed(&world.with("exp", json!(now - 20)))).0, 200, "clocks differ");
    assert_eq!(world.answer(&signed(&world.with("roles", json!("openid billing")))).0, 200, "words of a scope");

    let refused = world.answer("nobody");
    assert_eq!(refused.0, 401);
    let claims = world.claims();
    let by_another = Issuer::new().sign_as_it_is(&header(), &claims);
    let mut changed = signed(&claims).into_bytes();
    let at = changed.len() - 10;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let with_header = |name: &str, value: Value| {
        let mut header = header();
        header[name] = value;
        issuer.sign_as_it_is(&header, &claims)
    };
    let tokens = [
        ("by another key", by_another.clone()),
        ("a changed signature", String::from_utf8(changed).unwrap()),
        ("without a signature", signed(&claims).rsplit_once('.').unwrap().0.to_owned() + "."),
        ("none", unsigned(&json!({ "alg": "none" }), &claims)),
        ("none, in another case", unsigned(&json!({ "alg": "nOnE", "kid": "one" }), &claims)),
        // The public key as it is published, taken for a secret: the oldest confusion of algorithms.
        ("a secret", sign_by_secret(issuer.public_key().as_bytes(), &json!({ "alg": "HS256", "kid": "one" }), &claims)),
        (
            "a secret that is published",
            sign_by_secret(b"secret-secret-secret-secret", &json!({ "alg": "HS256", "kid": "secret" }), &claims),
        ),
        (
            "a secret, said to be another",
            sign_by_secret(b"secret-secret-secret-secret", &json!({ "alg": "ES256", "kid": "secret" }), &claims),
        ),
        ("another algorithm", with_header("alg", json!("ES384"))),
        ("RS256 over an EC key", with_header("alg", json!("RS256"))),
        ("a key for encryption", with_header("kid", json!("encrypts"))),
        ("a key for another algorithm", with_header("kid", json!("es384"))),
        ("a key that cannot be read", with_header("kid", json!("broken"))),
        ("a key that is not there", with_header("kid", json!("../../etc/passwd"))),
        ("critical headers", with_header("crit", json!(["exp"]))),
        ("another kind", with_header("typ", json!("logout+jwt"))),
        ("another issuer", signed(&world.with("iss", json!("https://login.test")))),
        ("no issuer", signed(&world.without("iss"))),
        ("somebody else's", signed(&world.with("aud", json!("elsewhere")))),
        ("nobody's", signed(&world.without("aud"))),
        ("nobody", signed(&world.without("sub"))),
        ("an empty name", signed(&world.with("sub", json!("")))),
        ("a name with a line break", signed(&world.with("sub", json!("ann\nbob")))),
        ("a long name", signed(&world.with("sub", json!("a".repeat(256))))),
        ("expired", signed(&world.with("exp", json!(now - 60)))),
        ("without an end", signed(&world.without("exp"))),
        ("an end in words", signed(&world.with("exp", json!("tomorrow")))),
        ("not yet", signed(&world.with("nbf", json!(now + 120)))),
        ("from the future", signed(&world.with("iat", json!(now + 120)))),
        ("issued in words", signed(&world.with("iat", json!("now")))),
        ("too long", signed(&world.with("more", json!("a".repeat(20_000))))),
        ("four parts", signed(&claims) + ".x"),
        ("two", signed(&claims).rsplit_once('.').unwrap().0.to_owned()),
    ];
    for (what, token) in tokens {
        assert_eq!(world.answer(&token), refused, "{what}");
    }
    let nothing = world.answer(&signed(&world.without("roles")));
    assert_eq!(nothing.0, 403, "known, and may do nothing");
}

#[test]
fn no_key_is_taken_from_where_a_token_says() {
    let world = World::start("");
    let attacker = Issuer::new();
    let evil = Published::start(&json!({ "keys": [attacker.jwk("one"), attacker.jwk("evil")] }));
    for kid in ["one", "evil"] {
        let places = [("jku", json!(evil.url)), ("x5u", json!(evil.url)), ("jwk", attacker.jwk(kid))];
        for (name, value) in places {
            let mut header = json!({ "alg": "ES256", "kid": kid });
            header[name] = value;
            assert_eq!(world.answer(&attacker.sign_as_it_is(&header, &world.claims())).0, 401, "{name}");
        }
    }
    assert_eq!(evil.asked.load(Ordering::SeqCst), 0);
}

#[test]
fn ids_that_are_made_up_cost_the_issuer_no_more_than_a_look_now_and_then() {
    let world = World::start("");
    let good = world.issuer.sign_as_it_is(&header(), &world.claims());
    assert_eq!(world.answer(&good).0, 200);
    let asked = world.published.asked.load(Ordering::SeqCst);
    let began = std::time::Instant::now();
    for n in 0..200 {
        let made_up = json!({ "alg": "ES256", "kid": format!("made up {n}") });
        assert_eq!(world.answer(&world.issuer.sign_as_it_is(&made_up, &world.claims())).0, 401);
    }
    let more = world.published.asked.load(Ordering::SeqCst) - asked;
    let most = 1 + usize::try_from(began.elapsed().as_secs() / 5).unwrap();
    assert!(more <= most, "asked {more} times");

    // And a key that it begins to use is taken in without a restart, and one that it takes back is not for ever.
    let next = Issuer::new();
    *world.published.answers.lock().unwrap() = json!({ "keys": [next.jwk("two")] }).to_string();
    let token = next.sign_as_it_is(&json!({ "alg": "ES256", "kid": "two" }), &world.claims());
    until("the new key is taken in", || world.answer(&token).0 == 200);
    assert_eq!(world.answer(&good).0, 401);
}

#[test]
fn without_its_keys_nobody_is_let_in_by_tokens_and_others_are() {
    let sandbox = protected_organisations();
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let more = format!("jwks_url = \"http://{nobody}/keys\"\n");
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + &policy(ISSUER, &more));
    let service = Service::start(&sandbox, &[]);
    let token = Issuer::new().sign(json!({ "iss": ISSUER, "aud": "enfold", "sub": "ann" }));
    let answer = seal(&service, &token, "users.email", "acme");
    assert_eq!((answer.status, answer.code().as_str()), (503, "issuer-unavailable"));
    assert_eq!(seal(&service, &service.key, "users.email", "acme").status, 200);
}

#[test]
fn only_the_algorithms_of_the_policy_are_believed() {
    let world = World::start("algorithms = [\"RS256\", \"EdDSA\"]\n");
    let token = world.issuer.sign_as_it_is(&header(), &world.claims());
    assert_eq!(world.answer(&token).0, 401);
    assert_eq!(seal(&world.service, &world.service.key, "users.email", "acme").status, 200);
    drop(world.sandbox);
}

#[test]
fn a_policy_whose_issuers_make_no_sense_says_all_that_is_wrong() {
    let sandbox = protected_organisations();
    let wrong = "\n[service]\nlisten = \"here\"\n[service.issuers.\"service-key\"]\nurl = \"http://login.example.com\"\naudience = []\n\
         algorithms = [\"HS256\"]\n[service.issuers.\"service-key\".grants.a]\nclaim = \"roles\"\nvalue = \"x\"\nrole = \"admin\"\n\
         tenants = [\"acme\"]\n[service.issuers.\"service-key\".grants.b]\nclaim = \"roles\"\nvalue = \"x\"\nrole = \"app\"\n\
         columns = [\"users.emial\"]\nclasses = [\"emial\"]\ntenants = []\ntenant_claim = \"org\"\n";
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + wrong);
    sandbox.run(&["serve"]).snapshot("serve_policy_errors");
}
