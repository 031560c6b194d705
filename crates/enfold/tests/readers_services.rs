//! Values that key services encrypted, and values whose data keys they wrapped, read through the policy's key services: a real
//! OpenBao, and LocalStack for AWS KMS.
#![cfg(all(feature = "vault", feature = "aws"))]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{POLICY, World, code, open, set_mode, who};
use enfold::kms::{AwsKms, AwsOptions, StaticCredentials};
use enfold::policy::Mode;
use enfold::{Code, Column, Enfold, Form, OpenRequest, Place, Result, Source};
use enfold_testkit::aws::Server;
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN};
use serde_json::{Value, json};

const AWS: Server = Server::LocalStack;

struct Services {
    world: World,
    bao: OpenBao,
    mount: String,
    /// Of AWS.
    key: String,
}

impl Services {
    async fn new() -> Self {
        let (world, bao) = (World::new(), OpenBao::shared());
        let mount = bao.mount("transit", "mounts").await;
        bao.write(&format!("{mount}/keys/plain"), json!({})).await;
        bao.write(&format!("{mount}/keys/derived"), json!({ "derived": true })).await;
        let token = world.dir.path().join("token");
        std::fs::write(&token, ROOT_TOKEN).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { world, bao, mount, key: AWS.create_key().await }
    }

    fn policy(&self, reads: &str) -> String {
        let (server, mount) = (self.bao.server(), &self.mount);
        let vault = |key: &str| format!("vault+http://{server}/{mount}/{key}");
        let aws = AWS.uri(&self.key);
        format!(
            r#"{POLICY}
[tables.people.columns.email]
id = "people.email"
ring = "wide"
reads = [{reads}]
[key_services.vault."{server}"]
auth = "token"
token_file = "token"
[readers.transit]
format = "vault-transit"
root = "{plain}"
[readers.derived]
format = "vault-transit"
root = "{derived}"
encryption_context = {{ context = "users" }}
[readers.blob]
format = "aws-kms"
root = "{aws}"
encryption_context = {{ app = "shop" }}
[readers.payload]
format = "aes-256-gcm"
root = "{aws}"
fields = {{ data_key = "dataKeyCiphertext", iv = "iv", tag = "authTag", ciphertext = "ciphertext" }}
[readers.field]
format = "aes-256-gcm"
root = "{plain}"
fields = {{ data_key = "encrypted_dek", ciphertext = "ciphertext" }}
"#,
            plain = vault("plain"),
            derived = vault("derived"),
        )
    }

    async fn enfold(&self, reads: &str) -> Result<Enfold> {
        let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
        let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
        let aws = AwsKms::open(&AWS.uri(&self.key).parse().unwrap(), &options).await?;
        let builder = self.world.builder_for(self.world.policy(&self.policy(reads)));
        builder.provider(Arc::new(aws)).prepare().build().await
    }

    async fn column(&self, reads: &str) -> (Enfold, Column) {
        let enfold = self.enfold(reads).await.unwrap();
        set_mode(&enfold, "people.email", Mode::Hybrid).await;
        let column = enfold.column("people.email").unwrap();
        (enfold, column)
    }

    /// As the server itself encrypts it.
    async fn transit(&self, key: &str, value: &str, context: &str) -> String {
        let body = json!({ "plaintext": STANDARD.encode(value), "context": STANDARD.encode(context) });
        let answer = self.bao.write(&format!("{}/encrypt/{key}", self.mount), body).await;
        answer["data"]["ciphertext"].as_str().unwrap().to_owned()
    }

    async fn blob(&self, value: &str, context: Value) -> String {
        let body = json!({ "KeyId": self.key, "Plaintext": STANDARD.encode(value), "EncryptionContext": context });
        AWS.kms("Encrypt", body).await["CiphertextBlob"].as_str().unwrap().to_owned()
    }
}

/// IV, ciphertext and tag.
fn sealed(key: &[u8], value: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut iv = [0; 12];
    aws_lc_rs::rand::fill(&mut iv).unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut body = value.as_bytes().to_vec();
    let nonce = Nonce::assume_unique_for_key(iv);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut body).unwrap();
    (iv.to_vec(), body, tag.as_ref().to_vec())
}

/// What was asked of key services for values of others, by root key: calls and requests.
fn asked(enfold: &Enfold) -> BTreeMap<String, (u64, u64)> {
    let roots = enfold.metrics().root_keys.into_iter();
    roots
        .filter_map(|root| root.operations.get("decrypt").map(|f| (root.root.clone(), (f.calls, f.requests))))
        .collect()
}

async fn open_all(column: &Column, stored: &[String]) -> Vec<Result<String>> {
    let texts = stored.iter().map(String::as_bytes);
    let requests: Vec<OpenRequest<'_>> =
        texts.map(|stored| OpenRequest { place: Place::none(), form: Form::Text, stored, beside: &[] }).collect();
    let opened = column.open_many(&who(), &requests).await;
    opened.into_iter().map(|o| o.map(|o| String::from_utf8(o.value.to_vec()).unwrap())).collect()
}

#[tokio::test]
async fn transit_values_are_opened_in_one_call_for_a_batch() {
    let services = Services::new().await;
    let (enfold, column) = services.column("\"transit\"").await;
    let mut stored = Vec::new();
    for n in 0..20 {
        stored.push(services.transit("plain", &format!("value {}", n % 10), "").await);
    }
    stored.push("plaintext".to_owned());
    stored.push(stored[3].clone());
    let opened: Vec<String> = open_all(&column, &stored).await.into_iter().map(Result::unwrap).collect();
    let wanted = (0..20).map(|n| format!("value {}", n % 10)).chain(["plaintext".into(), "value 3".into()]);
    assert_eq!(opened, wanted.collect::<Vec<_>>());
    let figures: Vec<_> = asked(&enfold).into_values().collect();
    assert_eq!(figures, [(1, 20)], "one call, each value once");
    let value = column.open(&who(), &Place::none(), Form::Text, stored[0].as_bytes()).await.unwrap();
    assert_eq!(value.source, Source::Format { reader: "transit".into() });
}

#[tokio::test]
async fn a_changed_transit_value_and_one_of_another_key_or_context_are_refused() {
    let services = Services::new().await;
    let (_, column) = services.column("\"derived\"").await;
    let good = services.transit("derived", "ann", "users").await;
    assert_eq!(open(&column, Place::none(), good.as_bytes()).await.unwrap(), "ann");
    let mut changed = good.clone().into_bytes();
    let at = changed.len() - 6;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let bad = [
        String::from_utf8(changed).unwrap(),
        good[..good.len() - 4].to_owned(),
        "vault:v1:AAAA".to_owned(),
        "vault:v1:".to_owned(),
        services.transit("derived", "ann", "orders").await,
        services.transit("plain", "ann", "").await,
    ];
    for stored in &bad {
        assert_eq!(code(open(&column, Place::none(), stored.as_bytes()).await), Code::OpenFailed, "{stored}");
    }
    // In one batch a bad value hides no good one.
    let mut all = bad.to_vec();
    all.push(good);
    let opened = open_all(&column, &all).await;
    assert_eq!(opened.iter().filter(|o| o.is_ok()).count(), 1);
}

#[tokio::test]
async fn blobs_of_aws_kms_open_under_their_key_and_context() {
    let services = Services::new().await;
    let (_, column) = services.column("\"blob\"").await;
    let good = services.blob("ann", json!({ "app": "shop" })).await;
    assert_eq!(open(&column, Place::none(), good.as_bytes()).await.unwrap(), "ann");
    let other = services.blob("ann", json!({ "app": "other" })).await;
    assert_eq!(code(open(&column, Place::none(), other.as_bytes()).await), Code::OpenFailed);
    let mut changed = STANDARD.decode(&good).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    let changed = STANDARD.encode(changed);
    assert_eq!(code(open(&column, Place::none(), changed.as_bytes()).await), Code::OpenFailed);
}

/// `{ dataKeyCiphertext, iv, authTag, ciphertext }`, as an application that asks AWS for data keys stores it: with Node's
/// Buffers, and with base64.
#[tokio::test]
async fn values_with_a_data_key_of_aws_open_and_the_data_key_is_asked_for_once() {
    let services = Services::new().await;
    let (enfold, column) = services.column("\"payload\"").await;
    let made = AWS.kms("GenerateDataKey", json!({ "KeyId": services.key, "KeySpec": "AES_256" })).await;
    let key = STANDARD.decode(made["Plaintext"].as_str().unwrap()).unwrap();
    let wrapped = STANDARD.decode(made["CiphertextBlob"].as_str().unwrap()).unwrap();
    let buffer = |bytes: &[u8]| json!({ "type": "Buffer", "data": bytes });
    let mut stored = Vec::new();
    for n in 0..6 {
        let (iv, ciphertext, tag) = sealed(&key, &format!("value {n}"));
        let write = |bytes: &[u8]| if n % 2 == 0 { buffer(bytes) } else { STANDARD.encode(bytes).into() };
        let payload = json!({
            "dataKeyCiphertext": write(&wrapped), "iv": write(&iv), "authTag": write(&tag), "ciphertext": write(&ciphertext),
        });
        stored.push(payload.to_string());
    }
    for _ in 0..3 {
        let opened: Vec<String> = open_all(&column, &stored).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(opened, (0..6).map(|n| format!("value {n}")).collect::<Vec<_>>());
    }
    assert_eq!(asked(&enfold).into_values().collect::<Vec<_>>(), [(1, 1)], "six values, three times, one call");
    enfold.forget_keys();
    open_all(&column, &stored).await;
    assert_eq!(asked(&enfold).into_values().collect::<Vec<_>>(), [(2, 2)]);
    let changed = stored[1].replacen("\"authTag\":\"", "\"authTag\":\"A", 1);
    assert_eq!(code(open(&column, Place::none(), changed.as_bytes()).await), Code::OpenFailed);
}

/// `{ ciphertext, encrypted_dek, key_identifier, … }` with the IV in front of the ciphertext and a data key of Vault.
#[tokio::test]
async fn values_with_a_data_key_of_vault_open() {
    let services = Services::new().await;
    let (_, column) = services.column("\"field\"").await;
    let made = services.bao.write(&format!("{}/datakey/plaintext/plain", services.mount), json!({})).await;
    let key = STANDARD.decode(made["data"]["plaintext"].as_str().unwrap()).unwrap();
    let field = |value: &str| {
        let (iv, ciphertext, tag) = sealed(&key, value);
        json!({
            "ciphertext": STANDARD.encode([iv, ciphertext, tag].concat()),
            "encrypted_dek": made["data"]["ciphertext"],
            "key_identifier": "pii-v1",
            "key_version": 1,
            "algorithm": "AES-256-GCM",
        })
    };
    let stored = field("ann@example.com").to_string();
    assert_eq!(open(&column, Place::none(), stored.as_bytes()).await.unwrap(), "ann@example.com");
    let mut changed = field("ann@example.com");
    let mut bytes = STANDARD.decode(changed["ciphertext"].as_str().unwrap()).unwrap();
    bytes[14] ^= 1;
    changed["ciphertext"] = STANDARD.encode(bytes).into();
    assert_eq!(code(open(&column, Place::none(), changed.to_string().as_bytes()).await), Code::OpenFailed);
}

/// That is nothing about the value: it is tried again later, and never taken for plaintext.
#[tokio::test]
async fn a_key_service_that_does_not_answer_is_said_to_be_away() {
    let services = Services::new().await;
    let stored = services.transit("plain", "ann", "").await;
    let away = services.policy("\"transit\"").replace(services.bao.server(), "127.0.0.1:1");
    let enfold = {
        let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
        let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
        let aws = AwsKms::open(&AWS.uri(&services.key).parse().unwrap(), &options).await.unwrap();
        let builder = services.world.builder_for(services.world.policy(&away)).provider(Arc::new(aws));
        builder.prepare().build().await.unwrap()
    };
    let column = enfold.column("people.email").unwrap();
    assert_eq!(code(open(&column, Place::none(), stored.as_bytes()).await), Code::KmsUnavailable);
    assert_eq!(open(&column, Place::none(), b"bob").await.unwrap(), "bob");
}

#[tokio::test]
async fn whether_a_root_key_answers_for_a_reader_is_told_without_a_value() {
    let services = Services::new().await;
    let enfold = services.enfold("\"transit\"").await.unwrap();
    for found in enfold.reader_health().await.unwrap() {
        assert!(found.ready.is_ok() && found.roots.len() == 1, "{found:?}");
        assert_eq!((found.columns, found.needed_by), if found.reader == "transit" { (1, 1) } else { (0, 0) });
    }
    // A token that may nothing, and a key that is not there.
    std::fs::write(services.world.dir.path().join("token"), "s.nobody").unwrap();
    let enfold = services.enfold("\"transit\"").await.unwrap();
    let ready = |name: &str, found: Vec<enfold::ReaderHealth>| {
        code(found.into_iter().find(|found| found.reader == name).unwrap().ready)
    };
    assert_eq!(ready("transit", enfold.reader_health().await.unwrap()), Code::KmsAccessDenied);
    let answer = AWS.kms("ScheduleKeyDeletion", json!({ "KeyId": services.key, "PendingWindowInDays": 7 })).await;
    assert!(answer["DeletionDate"].is_number(), "{answer}");
    assert_eq!(ready("blob", enfold.reader_health().await.unwrap()), Code::KmsKeyDisabled);
}
