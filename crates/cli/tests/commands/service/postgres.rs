//! The same on Postgres.

use enfold_testkit::postgres::Database;
use serde_json::json;

use super::{DECRYPT, ENCRYPT, Service, service_key};
use crate::harness::{Sandbox, policy};

#[tokio::test]
async fn values_are_sealed_and_opened_and_a_key_revoked_on_postgres() {
    let database = Database::create().await;
    let sandbox = Sandbox::empty();
    let values = "[values.note]\nid = \"note\"\nring = \"main\"\n";
    sandbox.write("enfold.toml", policy(&database.url()) + values);
    let (id, key) = service_key(&sandbox, "app", &["--role", "app"]);
    let service = Service::start(&sandbox, &[]);
    let sealed = service.items(ENCRYPT, &key, &json!([{ "column": "note", "value": "a note" }]));
    let item = json!([{ "column": "note", "stored": sealed[0]["stored"] }]);
    assert_eq!(service.items(DECRYPT, &key, &item)[0]["value"], "a note");
    sandbox.ok(&["service-keys", "revoke", &id, "--yes"]);
    super::access::until("the revoked key lets nobody in", || service.ask("POST", DECRYPT, &key, "{}").status == 401);
}
