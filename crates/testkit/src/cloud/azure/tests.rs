//! The fake refuses what the real services are documented to refuse.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Kind, Right, State, Validity, keys};
use crate::cloud::server::{Reply, Request};

const ALL: [Right; 5] = [Right::Get, Right::Wrap, Right::Unwrap, Right::Rotate, Right::Manage];

/// A fake with one key, a token of somebody who may do everything, and the key's version.
fn fake(kind: Kind) -> (State, String, String) {
    let mut state = State::default();
    let key = keys::Key::new(kind, "k");
    let version = key.versions().remove(0);
    state.keys.insert("k".to_owned(), key);
    let token = state.entra.token_for(kind.resource(), &ALL);
    (state, token, version)
}

fn request(token: &str, path: &str, body: &Value) -> Request {
    Request {
        method: "POST".to_owned(),
        path: path.to_owned(),
        query: [("api-version".to_owned(), "7.4".to_owned())].into(),
        headers: [
            ("content-type".to_owned(), "application/json".to_owned()),
            ("authorization".to_owned(), format!("Bearer {token}")),
        ]
        .into(),
        body: body.to_string().into_bytes(),
    }
}

fn said(reply: &Reply) -> (u16, String, String) {
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (reply.status, text(&body["error"]["code"]), text(&body["error"]["innererror"]["code"]))
}

#[test]
fn a_request_that_is_not_as_documented_is_refused() {
    for (kind, alg) in [(Kind::Rsa, "RSA-OAEP-256"), (Kind::OctHsm, "A256KW")] {
        let (mut fake, token, version) = fake(kind);
        let path = format!("/keys/k/{version}/wrapkey");
        let value = URL_SAFE_NO_PAD.encode([7; 64]);
        let good = json!({ "alg": alg, "value": value });
        assert_eq!(fake.answer(&request(&token, &path, &good)).unwrap().status, 200, "{kind:?}");
        for (what, bad) in [
            ("another algorithm", json!({ "alg": "RSA1_5", "value": value })),
            ("an unknown field", json!({ "alg": alg, "value": value, "context": "x" })),
            ("base64 with padding", json!({ "alg": alg, "value": format!("{value}==") })),
            ("no value", json!({ "alg": alg })),
            ("more than fits, or no whole blocks", json!({ "alg": alg, "value": URL_SAFE_NO_PAD.encode([7; 191]) })),
        ] {
            let reply = fake.answer(&request(&token, &path, &bad)).unwrap();
            assert_eq!(said(&reply).1, "BadParameter", "{what}");
        }
        for version in [None, Some("7.3"), Some("7.4&x=1")] {
            let mut other = request(&token, &path, &good);
            other.query = version.map(|v| ("api-version".to_owned(), v.to_owned())).into_iter().collect();
            assert_eq!(said(&fake.answer(&other).unwrap()).0, 400, "{version:?}");
        }
        let path = path.replace(&version, "0123456789abcdef0123456789abcdef");
        assert_eq!(said(&fake.answer(&request(&token, &path, &good)).unwrap()).1, "KeyNotFound");
    }
}

#[test]
fn a_call_without_a_good_token_or_without_the_right_is_refused() {
    let (mut fake, _, version) = fake(Kind::Rsa);
    let path = format!("/keys/k/{version}/wrapkey");
    let good = json!({ "alg": "RSA-OAEP-256", "value": "AAAA" });
    let of_the_hsm = fake.entra.token_for("https://managedhsm.azure.net", &ALL);
    for token in ["", "eyJ.of.nobody", &of_the_hsm] {
        assert_eq!(said(&fake.answer(&request(token, &path, &good)).unwrap()).1, "Unauthorized", "{token}");
    }
    let token = fake.entra.token_for("https://vault.azure.net", &[Right::Get]);
    let reply = fake.answer(&request(&token, &path, &good)).unwrap();
    assert_eq!(said(&reply), (403, "Forbidden".to_owned(), "ForbiddenByRbac".to_owned()));
}

#[test]
fn a_disabled_key_wraps_and_does_not_unwrap_and_an_expired_one_is_the_other_way_round() {
    let (mut fake, token, version) = fake(Kind::Rsa);
    let ask = |fake: &mut State, what: &str, value: &Value| {
        let body = json!({ "alg": "RSA-OAEP-256", "value": value });
        let reply = fake.answer(&request(&token, &format!("/keys/k/{version}/{what}"), &body)).unwrap();
        (said(&reply).2, serde_json::from_slice::<Value>(&reply.body).unwrap()["value"].clone())
    };
    fake.keys.get_mut("k").unwrap().newest().enabled = false;
    let (_, wrapped) = ask(&mut fake, "wrapkey", &"AAAA".into());
    assert!(wrapped.is_string());
    assert_eq!(ask(&mut fake, "unwrapkey", &wrapped).0, "KeyDisabled");
    let newest = fake.keys.get_mut("k").unwrap().newest();
    (newest.enabled, newest.validity) = (true, Validity::Expired);
    assert_eq!(ask(&mut fake, "wrapkey", &"AAAA".into()).0, "KeyExpired");
    assert_eq!(ask(&mut fake, "unwrapkey", &wrapped).1, "AAAA");
}

#[test]
fn a_version_is_disabled_alone() {
    let (mut fake, token, old) = fake(Kind::OctHsm);
    assert_eq!(said(&fake.answer(&request(&token, "/keys/k/rotate", &json!({}))).unwrap()).0, 200);
    let key = fake.keys.get_mut("k").unwrap();
    key.version_mut(&old).enabled = false;
    let new = key.versions().remove(1);
    let good = json!({ "alg": "A256KW", "value": URL_SAFE_NO_PAD.encode([7; 64]) });
    for (version, inner) in [(old, "KeyDisabled"), (new, "")] {
        let reply = fake.answer(&request(&token, &format!("/keys/k/{version}/wrapkey"), &good)).unwrap();
        assert_eq!(said(&reply).2, inner);
    }
}

#[test]
fn the_shown_modulus_is_that_of_the_key() {
    let (mut fake, token, _) = fake(Kind::Rsa);
    let mut get = request(&token, "/keys/k", &Value::Null);
    get.method = "GET".to_owned();
    let shown: Value = serde_json::from_slice(&fake.answer(&get).unwrap().body).unwrap();
    let n = URL_SAFE_NO_PAD.decode(shown["key"]["n"].as_str().unwrap()).unwrap();
    assert_eq!((n.len(), n[0] >> 7, &shown["key"]["e"]), (256, 1, &json!("AQAB")));
    // It stands as it is in the public key.
    let der = fake.keys.get_mut("k").unwrap().newest().public_key();
    assert!(der.windows(256).any(|w| digest(&SHA256, w).as_ref() == digest(&SHA256, &n).as_ref()));
}

#[test]
fn a_key_is_deleted_recovered_and_given_a_rotation_policy_as_documented_and_no_other_way() {
    let (mut fake, token, version) = fake(Kind::Rsa);
    let mut ask = |method: &str, path: &str, body: &Value| {
        let mut asked = request(&token, path, body);
        asked.method = method.to_owned();
        let reply = fake.answer(&asked).unwrap();
        (said(&reply).1, serde_json::from_slice::<Value>(&reply.body).unwrap())
    };
    let rotation = |after: &str| json!({ "lifetimeActions": [{ "trigger": { "timeAfterCreate": after }, "action": { "type": "Rotate" } }] });
    assert_eq!(ask("PUT", "/keys/k/rotationpolicy", &rotation("P90D")).0, "");
    let created = json!({ "lifetimeActions": [], "attributes": { "created": 1 } });
    for bad in [rotation("P1D"), rotation("90 days"), created, json!({ "attributes": {} })] {
        assert_eq!(ask("PUT", "/keys/k/rotationpolicy", &bad).0, "BadParameter", "{bad}");
    }
    for bad in [json!({ "enabled": false }), json!({ "attributes": { "enabled": "no" } })] {
        assert_eq!(ask("PATCH", &format!("/keys/k/{version}"), &bad).0, "BadParameter", "{bad}");
    }
    assert_eq!(ask("POST", "/deletedkeys/k/recover", &Value::Null).0, "KeyNotFound");
    let (_, deleted) = ask("DELETE", "/keys/k", &Value::Null);
    assert!(deleted["scheduledPurgeDate"].as_i64() > deleted["deletedDate"].as_i64());
    assert_eq!(ask("GET", "/keys/k", &Value::Null).0, "KeyNotFound");
    assert_eq!(ask("POST", "/deletedkeys/k/recover", &Value::Null).0, "");
    // It takes a while until it is there.
    assert_eq!(ask("GET", "/keys/k", &Value::Null).0, "KeyNotFound");
    assert_eq!(ask("GET", "/keys/k", &Value::Null).0, "KeyNotFound");
    assert_eq!(ask("GET", "/keys/k", &Value::Null).0, "");
}
