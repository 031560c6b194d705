//! What authentication and events add to the time of a request.

use std::time::Duration;

use enfold_testkit::issuer::Issuer;
use serde_json::json;

use super::Ours;
use super::client::Request;
use super::service::published::Published;

/// Turns of each, taken one after the other.
const TURNS: usize = 9;
const ISSUER: &str = "https://login.test/";
const TURN: Duration = Duration::from_secs(1);

pub(crate) fn measure() {
    authentication();
    events();
}

/// The same small refusal of an unknown path, to whoever has a service key and whoever has a token, beside one that asks nobody who
/// they are: no other request has both.
fn authentication() {
    let issuer = Issuer::new();
    let published = Published::start(&json!({ "keys": [issuer.jwk("one")] }));
    let rules = format!(
        "[service.issuers.login]\nurl = \"{ISSUER}\"\naudience = [\"enfold\"]\njwks_url = \"{}\"\n\
         [service.issuers.login.grants.all]\nclaim = \"role\"\nvalue = \"app\"\nrole = \"app\"\n",
        published.url
    );
    let ours = Ours::start("", &rules);
    let header = json!({ "alg": "ES256", "typ": "JWT", "kid": "one" });
    let now = jiff::Timestamp::now().as_second();
    let claims =
        json!({ "iss": ISSUER, "aud": "enfold", "sub": "bench", "role": "app", "iat": now, "exp": now + 3600 });
    let token = issuer.sign_as_it_is(&header, &claims);
    let key = &ours.service.key;
    let open = (ours.request("POST", "/healthz", "", ""), 405);
    let by_key = (ours.request("POST", "/nowhere", key, ""), 404);
    let by_token = (ours.request("POST", "/nowhere", &token, ""), 404);
    compare("authentication_by_service_key", &open, &by_key, 1);
    compare("authentication_by_token", &open, &by_token, 1);
}

/// A value sealed with its event, beside one whose event the policy leaves out.
fn events() {
    let (off, each) = (Ours::start("seals = \"off\"\n", ""), Ours::start("", ""));
    let before = Ours::start("before_answer = true\n", "");
    for connections in [1, 16] {
        let request = |ours: &Ours| (ours.seals(1), 200);
        compare("events", &request(&off), &request(&each), connections);
        compare("events_before_answer", &request(&off), &request(&before), connections);
    }
    assert_eq!((each.lost(), before.lost()), (0, 0), "an event was lost: this measured less than it says");
}

/// Prints what the second takes, and what of that it takes more than the first.
fn compare(name: &str, without: &(Request, u16), with: &(Request, u16), connections: usize) {
    let (mut less, mut more) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        for ((request, status), took) in [(without, &mut less), (with, &mut more)] {
            took.extend(request.turn(connections, *status, TURN).took());
        }
    }
    less.sort_unstable();
    more.sort_unstable();
    let (p50, p99) = (quantile(&more, 50), quantile(&more, 99));
    println!(
        r#"{{"name":"service_{name}_{connections}","bound":null,"p50_us":{p50:.1},"p99_us":{p99:.1},"added_p50_us":{:.1},"added_p99_us":{:.1},"connections":{connections}}}"#,
        p50 - quantile(&less, 50),
        p99 - quantile(&less, 99),
    );
}

/// In microseconds, of what is sorted.
fn quantile(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e6
}
