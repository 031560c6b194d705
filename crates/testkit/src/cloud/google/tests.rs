//! The fake refuses what the real service is documented to refuse. Without that, the provider's tests would prove little.

use serde_json::{Value, json};

use super::{Right, State, keys};
use crate::cloud::server::{Reply, Request};

const KEY: &str = "projects/fake/locations/l/keyRings/r/cryptoKeys/k";

/// A fake with one key, and a token of somebody who may do everything.
fn fake() -> (State, String) {
    let mut state = State::default();
    state.keys.insert(KEY.to_owned(), keys::Key::new(KEY));
    let all = [Right::Encrypt, Right::Decrypt, Right::Get, Right::Admin];
    let token = state.identities.token_for("somebody", &all);
    (state, token)
}

fn request(token: &str, what: &str, body: &Value) -> Request {
    Request {
        method: "POST".to_owned(),
        path: format!("/v1/{KEY}{what}"),
        query: [].into(),
        headers: [
            ("content-type".to_owned(), "application/json".to_owned()),
            ("authorization".to_owned(), format!("Bearer {token}")),
        ]
        .into(),
        body: body.to_string().into_bytes(),
    }
}

fn said(reply: &Reply) -> (u16, String) {
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    (reply.status, body["error"]["status"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_request_that_is_not_as_documented_is_refused() {
    let (mut fake, token) = fake();
    let good = json!({ "plaintext": "AAAA", "plaintextCrc32c": "1617208186" });
    assert_eq!(fake.answer(&request(&token, ":encrypt", &good)).unwrap().status, 200);
    for (what, bad) in [
        ("an unknown field", json!({ "plaintext": "AAAA", "aad": "AAAA" })),
        ("no base64", json!({ "plaintext": "AAA" })),
        ("base64 for URLs", json!({ "plaintext": "-_-_" })),
        ("not a string", json!({ "plaintext": 7 })),
        ("another checksum", json!({ "plaintext": "AAAA", "plaintextCrc32c": "1617208187" })),
        ("a checksum that is a number", json!({ "plaintext": "AAAA", "plaintextCrc32c": 1_617_208_186 })),
        ("nothing to encrypt", json!({})),
        ("no object", json!(["plaintext"])),
    ] {
        let reply = fake.answer(&request(&token, ":encrypt", &bad)).unwrap();
        assert_eq!(said(&reply), (400, "INVALID_ARGUMENT".to_owned()), "{what}");
    }
    let mut unnamed = request(&token, ":encrypt", &good);
    unnamed.headers.insert("content-type".to_owned(), "text/plain".to_owned());
    assert_eq!(fake.answer(&unnamed).unwrap().status, 400);
    assert_eq!(said(&fake.answer(&request(&token, ":wrap", &good)).unwrap()), (404, "NOT_FOUND".to_owned()));
}

#[test]
fn a_call_without_a_good_token_or_without_the_right_is_refused() {
    let (mut fake, _) = fake();
    let good = json!({ "plaintext": "AAAA" });
    for token in ["", "ya29.of-nobody"] {
        let reply = fake.answer(&request(token, ":encrypt", &good)).unwrap();
        assert_eq!(said(&reply), (401, "UNAUTHENTICATED".to_owned()));
    }
    let token = fake.identities.token_for("a reader", &[Right::Get]);
    let reply = fake.answer(&request(&token, ":encrypt", &good)).unwrap();
    assert_eq!(said(&reply), (403, "PERMISSION_DENIED".to_owned()));
}

#[test]
fn an_answer_says_whether_checksums_came_and_opens_only_with_what_was_bound() {
    let (mut fake, token) = fake();
    let mut ask = |what: &str, body: Value| -> Value {
        serde_json::from_slice(&fake.answer(&request(&token, what, &body)).unwrap().body).unwrap()
    };
    let bound = ask(":encrypt", json!({ "plaintext": "AAAA", "additionalAuthenticatedData": "Yg==" }));
    assert_eq!(bound["verifiedPlaintextCrc32c"], false);
    assert_eq!(bound["name"], format!("{KEY}/cryptoKeyVersions/1"));
    let opened = ask(":decrypt", json!({ "ciphertext": bound["ciphertext"], "additionalAuthenticatedData": "Yg==" }));
    assert_eq!(opened["plaintext"], "AAAA");
    let refused = ask(":decrypt", json!({ "ciphertext": bound["ciphertext"] }));
    assert_eq!(refused["error"]["message"], "Decryption failed: the ciphertext is invalid.");
}

#[test]
fn versions_change_their_states_as_documented_and_no_other_way() {
    let (mut fake, token) = fake();
    let mut ask = |method: &str, what: &str, query: &[(&str, &str)], body: Value| {
        let mut asked = request(&token, what, &body);
        asked.method = method.to_owned();
        asked.query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let reply = fake.answer(&asked).unwrap();
        let state = serde_json::from_slice::<Value>(&reply.body).unwrap()["state"].as_str().map(str::to_owned);
        state.unwrap_or_else(|| said(&reply).1)
    };
    let (first, mask) = ("/cryptoKeyVersions/1", [("updateMask", "state")]);
    let mut patch = |query: &[(&str, &str)], state: &str| ask("PATCH", first, query, json!({ "state": state }));
    assert_eq!(patch(&[], "DISABLED"), "INVALID_ARGUMENT");
    assert_eq!(patch(&mask, "DESTROYED"), "INVALID_ARGUMENT");
    assert_eq!(patch(&mask, "DISABLED"), "DISABLED");
    let mut post = |what: &str| ask("POST", &format!("{first}{what}"), &[], json!({}));
    assert_eq!(post(":restore"), "FAILED_PRECONDITION");
    assert_eq!(post(":destroy"), "DESTROY_SCHEDULED");
    assert_eq!(post(":destroy"), "FAILED_PRECONDITION");
    assert_eq!(ask("PATCH", first, &mask, json!({ "state": "ENABLED" })), "FAILED_PRECONDITION");
    assert_eq!(ask("POST", &format!("{first}:restore"), &[], json!({})), "DISABLED");

    let plan = [("updateMask", "rotationPeriod,nextRotationTime")];
    for bad in [
        json!({ "rotationPeriod": "7776000s" }),
        json!({ "rotationPeriod": "3600s", "nextRotationTime": "2099-01-01T00:00:00Z" }),
        json!({ "rotationPeriod": "7776000s", "nextRotationTime": "2020-01-01T00:00:00Z" }),
    ] {
        assert_eq!(ask("PATCH", "", &plan, bad.clone()), "INVALID_ARGUMENT", "{bad}");
    }
    assert_eq!(ask("GET", "/cryptoKeyVersions", &[("page", "2")], json!({})), "INVALID_ARGUMENT");
}

#[test]
fn permissions_are_told_to_anybody_as_far_as_they_are_held_and_of_keys_that_are_there() {
    let (mut fake, _) = fake();
    let reader = fake.identities.token_for("a reader", &[Right::Get]);
    let mut ask = |what: &str, body: &Value| {
        let reply = fake.answer(&request(&reader, what, body)).unwrap();
        (reply.status, serde_json::from_slice::<Value>(&reply.body).unwrap())
    };
    let wanted = json!({ "permissions": ["cloudkms.cryptoKeys.get", "cloudkms.cryptoKeys.setIamPolicy"] });
    let told = ask(":testIamPermissions", &wanted);
    assert_eq!(told, (200, json!({ "permissions": ["cloudkms.cryptoKeys.get"] })));
    assert_eq!(ask("-2:testIamPermissions", &wanted), (200, json!({})), "it is not said that it is not there");
    for bad in [json!({ "permissions": ["cloudkms.*"] }), json!({ "permission": [] }), json!({})] {
        assert_eq!(ask(":testIamPermissions", &bad).0, 400, "{bad}");
    }
    let reply = fake.answer(&request("ya29.of-nobody", ":testIamPermissions", &wanted)).unwrap();
    assert_eq!(said(&reply).0, 401);
}
