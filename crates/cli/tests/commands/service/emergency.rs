//! Access in emergencies, with the tokens of a real OpenID provider and a receiver that is told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use enfold_testkit::oidc::Oidc;
use serde_json::{Value, json};

use super::http::{Answer, request, send};
use super::tokens::token;
use super::{DECRYPT, ENCRYPT, Service, protected_organisations, service_key};
use crate::guides::{bash, blocks};
use crate::harness::Sandbox;

const GUIDE: &str = include_str!("../../../../../docs/guides/break-glass.md");
const EMERGENCY: &str = "/api/v1/encryption/emergency";
const STATUS: &str = "/api/v1/encryption/status";

/// A service by the guide's policy, and people whom the provider knows.
struct World {
    sandbox: Sandbox,
    provider: Oidc,
    service: Service,
    told: Receiver<Value>,
    stored: String,
}

impl World {
    fn start() -> Self {
        let provider = Oidc::start();
        let sandbox = protected_organisations();
        let (address, told) = webhook();
        let issuer = format!("\n[service.issuers.login]\nurl = \"{}\"\naudience = [\"enfold\"]\n", provider.issuer());
        let admin = "[service.issuers.login.grants.admin]\nclaim = \"roles\"\nvalue = \"admin\"\nrole = \"admin\"\n";
        let policy = blocks(GUIDE, "toml").concat().replace("https://chat.example.com", &format!("http://{address}"));
        sandbox.write("enfold.toml", sandbox.read("enfold.toml") + &issuer + admin + &policy);
        bash(
            &sandbox,
            "printf 'whsec_%s\\n' \"$(openssl rand -base64 32)\" >chat.secret; chmod 600 chat.secret",
            &[],
            &[],
        );
        let service = Service::start(&sandbox, &[]);
        let item = json!([{ "column": "users.email", "tenant": "acme", "value": "ann@example.com" }]);
        let stored = service.items(ENCRYPT, &service.key, &item)[0]["stored"].as_str().expect("a text").to_owned();
        Self { sandbox, provider, service, told, stored }
    }

    /// The token of somebody.
    fn who(&self, name: &str) -> String {
        token(&self.provider, name, "urn:enfold:ES256")
    }

    fn say(&self, who: &str, id: &str, word: &str) -> Answer {
        let path = format!("{EMERGENCY}/{id}/{word}");
        self.service.ask("POST", &path, who, &json!({ "reason": format!("to {word} it") }).to_string())
    }

    fn ask(&self, who: &str, more: &Value) -> Answer {
        let mut body = json!({ "reason": "ticket 4711", "minutes": 30 });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        self.service.ask("POST", EMERGENCY, who, &body.to_string())
    }

    /// Opens the value of this tenant's under an emergency.
    fn open(&self, who: &str, id: Option<&str>, tenant: &str) -> Answer {
        let body = json!({ "items": [{ "column": "users.email", "tenant": tenant, "stored": self.stored }] });
        let bearer = format!("Bearer {who}");
        let mut headers = vec![("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        headers.extend(id.map(|id| ("Enfold-Emergency", id)));
        send(&self.service.address, &request("POST", DECRYPT, &headers, &body.to_string()))
    }

    /// The kinds of events that the receiver is told of, until this one.
    fn told_until(&self, last: &str) -> Vec<String> {
        let mut kinds: Vec<String> = Vec::new();
        while kinds.last().is_none_or(|kind| kind != last) {
            let call = self.told.recv_timeout(Duration::from_secs(30)).expect("a call");
            let events = call["events"].as_array().expect("events");
            kinds.extend(events.iter().map(|event| event["kind"].as_str().expect("a kind").to_owned()));
        }
        kinds
    }
}

/// Somebody who is called: what each call has for a body.
fn webhook() -> (String, Receiver<Value>) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    let (calls, told) = channel();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let mut reader = BufReader::new(stream.expect("a connection"));
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            calls.send(serde_json::from_slice(&body).expect("JSON")).ok();
            let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            reader.into_inner().write_all(answer).ok();
        }
    });
    (address, told)
}

fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["data"]["id"].as_str().expect("an id").to_owned()
}

fn standing(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["data"]["standing"].as_str().expect("a word").to_owned()
}

#[test]
fn the_guide_leads_from_a_request_to_its_review_and_somebody_is_told() {
    let world = World::start();
    let (oncall, security) = (world.who("oncall-mfa"), world.who("security"));
    for (person, token) in [("oncall", &oncall), ("security", &security)] {
        world.sandbox.secret(&format!("{person}.header"), &format!("Authorization: Bearer {token}\n"));
    }
    let [ask, approve, open, end, review] = blocks(GUIDE, "sh").try_into().expect("five steps");
    let run = |block: &str, id: &str| {
        let block = block.replace("127.0.0.1:8470", &world.service.address);
        let variables = [("ID", id), ("STORED", &*world.stored)];
        let said = bash(&world.sandbox, &block, &[], &variables);
        serde_json::from_str::<Value>(&said).expect("JSON")["data"].clone()
    };
    let asked = run(&ask, "");
    let id = asked["id"].as_str().expect("an id");
    assert_eq!((&asked["standing"], &asked["asked"]["by"]), (&json!("waiting"), &json!("login:oncall-mfa")));
    assert_eq!(run(&approve, id)["standing"], "in-force");
    assert_eq!(run(&open, id)["items"][0]["value"], "ann@example.com");
    assert_eq!(run(&end, id)["standing"], "open");
    assert_eq!(world.open(&oncall, Some(id), "acme").code(), "permission-denied");
    assert_eq!(run(&review, id)["standing"], "reviewed");
    let told = world.told_until("emergency-reviewed");
    let wanted = ["emergency-asked", "emergency-approved", "emergency-used", "emergency-ended", "emergency-reviewed"];
    assert_eq!(told, wanted);
    super::access::until("the status has that they arrived", || {
        let status = world.service.ask("GET", STATUS, &security, "").json();
        let sinks = status["data"]["sinks"].as_array().expect("sinks").clone();
        assert_eq!((sinks.len(), &sinks[0]["sink"], &sinks[0]["kind"]), (1, &json!("oncall"), &json!("webhook")));
        assert_eq!((&sinks[0]["delivers"], &sinks[0]["lost"]), (&json!(true), &json!(0)));
        let is_there = sinks[0]["lastDeliveredMs"].as_i64().is_some_and(|at| at > 0);
        is_there && sinks[0]["delivered"] == wanted.len()
    });
    // What was opened is in the log by itself, with the emergency's id.
    world.service.signal(rustix::process::Signal::TERM);
    world.service.ended(&world.sandbox);
    let marked =
        format!("SELECT count(*) FROM enfold_events WHERE event LIKE '%\"kind\":\"open\"%\"emergency\":\"{id}\"%'");
    let found: i64 = world.sandbox.database().query_row(&marked, [], |row| row.get(0)).expect("a count");
    assert_eq!(found, 1);
}

#[test]
fn nobody_gets_access_without_a_second_factor_and_a_second_person() {
    let world = World::start();
    let (oncall, weak, security, admin) =
        (world.who("oncall-mfa"), world.who("oncall"), world.who("security"), world.who("admin"));
    let denied = |answer: Answer| assert_eq!((answer.status, answer.code().as_str()), (403, "permission-denied"));
    denied(world.ask(&weak, &json!({})));
    denied(world.ask(&security, &json!({})));
    denied(world.ask(&world.service.key, &json!({})));
    let waiting = id(&world.ask(&oncall, &json!({ "tenants": ["acme"] })));
    denied(world.open(&oncall, None, "acme"));
    denied(world.open(&oncall, Some(&waiting), "acme"));
    // Decided by those alone who may, and by no program.
    let (_, key) = service_key(&world.sandbox, "robot", &["--role", "security"]);
    super::access::until("the key is known", || world.service.ask("GET", EMERGENCY, &key, "").status == 200);
    for who in [&oncall, &weak, &world.who("stranger"), &key] {
        denied(world.say(who, &waiting, "approve"));
    }
    assert_eq!(world.say(&security, "nothing", "approve").code(), "usage");
    assert_eq!(standing(&world.say(&security, &waiting, "approve")), "in-force");
    assert_eq!(world.say(&admin, &waiting, "deny").code(), "usage", "it is decided");
    let item = |answer: Answer| answer.json()["data"]["items"][0].clone();
    assert_eq!(item(world.open(&oncall, Some(&waiting), "acme"))["value"], "ann@example.com");
    assert_eq!(item(world.open(&oncall, Some(&waiting), "other"))["error"]["code"], "permission-denied");
    denied(world.open(&oncall, None, "acme"));
    // Of nobody else, and not with a token that proves less.
    for who in [&weak, &security, &admin, &world.service.key] {
        denied(world.open(who, Some(&waiting), "acme"));
    }
    let sealing = world.service.ask("POST", ENCRYPT, &oncall, "{\"items\": []}");
    denied(sealing);
    // Denied is denied, and another is asked for.
    let other = id(&world.ask(&oncall, &json!({})));
    assert_eq!(standing(&world.say(&admin, &other, "deny")), "denied");
    denied(world.open(&oncall, Some(&other), "acme"));
    for (minutes, reason) in [(0, "r"), (61, "r"), (30, " ")] {
        assert_eq!(world.ask(&oncall, &json!({ "minutes": minutes, "reason": reason })).code(), "usage");
    }
    let listed = world.service.ask("GET", EMERGENCY, &security, "").json()["data"].clone();
    let standings: Vec<&Value> = listed.as_array().expect("a list").iter().map(|one| &one["standing"]).collect();
    assert_eq!(standings, ["denied", "in-force"]);
}

#[test]
fn whoever_asked_sees_how_it_stands_and_ends_it() {
    let world = World::start();
    let (oncall, security) = (world.who("oncall-mfa"), world.who("security"));
    let id = id(&world.ask(&oncall, &json!({})));
    let show = |who: &str| world.service.ask("GET", &format!("{EMERGENCY}/{id}"), who, "");
    assert_eq!(standing(&show(&oncall)), "waiting");
    assert_eq!(show(&security).code(), "permission-denied", "it is in the list for them");
    assert_eq!(standing(&world.say(&security, &id, "approve")), "in-force");
    assert_eq!(world.say(&oncall, &id, "end").code(), "permission-denied", "that is to decide about anybody's");
    assert_eq!(world.say(&security, &id, "withdraw").code(), "permission-denied");
    assert_eq!(standing(&world.say(&oncall, &id, "withdraw")), "open");
    assert_eq!(world.open(&oncall, Some(&id), "acme").code(), "permission-denied");
    assert_eq!(standing(&show(&oncall)), "open");
}

#[test]
fn the_command_shows_and_ends_and_has_no_second_word() {
    let world = World::start();
    let (oncall, security) = (world.who("oncall-mfa"), world.who("security"));
    let command = |args: &[&str]| world.sandbox.ok(&[&["break-glass"], args].concat()).stdout().to_owned();
    assert_eq!(command(&["list"]), "There was no emergency.\n");
    let id = id(&world.ask(&oncall, &json!({ "columns": ["users.email"] })));
    let listed = command(&["list"]);
    assert!(listed.contains(&id) && listed.contains("login:oncall-mfa") && listed.contains("waiting"), "{listed}");
    assert_eq!(standing(&world.say(&security, &id, "approve")), "in-force");
    assert_eq!(world.open(&oncall, Some(&id), "acme").status, 200);
    let ended = command(&["end", &id, "--reason", "ticket 4711 is closed"]);
    for part in [": open, until ", "asked ", "ticket 4711\n", "approved ", "for columns users.email", "first used "] {
        assert!(ended.contains(part), "{part}: {ended}");
    }
    assert!(ended.contains(" by ada: ticket 4711 is closed\n"), "{ended}");
    assert_eq!(world.open(&oncall, Some(&id), "acme").code(), "permission-denied", "at once");
    let shown: Value = serde_json::from_str(&command(&["show", &id, "--json"])).expect("JSON");
    assert_eq!((&shown["standing"], &shown["said"]["ended"]["by"]), (&json!("open"), &json!("ada")));
    for word in ["approve", "deny", "review"] {
        assert_eq!(
            world.sandbox.run(&["break-glass", word, &id]).code,
            2,
            "{word} is for somebody whom an issuer vouches for"
        );
    }
}
