//! Values whose keys a table of the application's leads to: which root key wrapped a value's data key, the data keys of tenants by
//! version, and keys that stand there themselves. On a real Postgres, on SQLite, and on LocalStack for AWS KMS.
#![cfg(all(feature = "postgres", feature = "sqlite", feature = "aws"))]

mod common;

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{POLICY, World, code, set_mode, who};
use enfold::kms::{AwsKms, AwsOptions, KeyUri, StaticCredentials};
use enfold::policy::Mode;
use enfold::{Code, Column, Companion, Enfold, Form, OpenRequest, Part, Place, Result};
use enfold_testkit::aws::Server;
use enfold_testkit::postgres::Database;
use serde_json::{Value, json};
use tokio_postgres::Client;

const AWS: Server = Server::LocalStack;

/// A data key as AWS KMS gives it: in the clear, and wrapped, in base64.
struct Made {
    key: Vec<u8>,
    wrapped: String,
}

async fn data_key(root: &str) -> Made {
    let made = AWS.kms("GenerateDataKey", json!({ "KeyId": root, "KeySpec": "AES_256" })).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Made { key: STANDARD.decode(text(&made["Plaintext"])).unwrap(), wrapped: text(&made["CiphertextBlob"]) }
}

/// IV, and ciphertext with its tag.
fn sealed(key: &[u8], value: &str) -> (Vec<u8>, Vec<u8>) {
    let mut iv = [0; 12];
    aws_lc_rs::rand::fill(&mut iv).unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut body = value.as_bytes().to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(iv), Aad::empty(), &mut body).unwrap();
    (iv.to_vec(), body)
}

/// The policy of the tests, with another database, root key, column and readers.
fn policy(url: &str, root: &str, rest: &str) -> String {
    format!("{}\n{rest}", POLICY.replace("sqlite:unused.db", url).replace("memory:root", root))
}

async fn enfold(world: &World, policy: &str) -> Result<Enfold> {
    let policy = world.policy(policy);
    let mut builder = Enfold::builder(policy.clone()).catalog(Arc::clone(&world.catalog)).without_watch();
    for uri in policy.readers.values().filter_map(|reader| reader.roots.as_ref()).flat_map(|roots| &roots.uris) {
        builder = builder.provider(aws(uri).await);
    }
    builder.prepare().build().await
}

async fn aws(uri: &KeyUri) -> Arc<AwsKms> {
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
    Arc::new(AwsKms::open(uri, &options).await.unwrap())
}

/// How many requests each root key's service was sent for values of others.
fn asked(enfold: &Enfold) -> Vec<u64> {
    let roots = enfold.metrics().root_keys.into_iter();
    roots.filter_map(|root| root.operations.get("decrypt").map(|figures| figures.requests)).collect()
}

/// As `connections` has it: the value, and beside it IV, wrapped data key and the row of `encryption_keys`.
#[derive(Clone)]
struct Connection {
    payload: String,
    beside: Vec<(Companion, String)>,
}

impl Connection {
    fn new(key: &[u8], value: &str, wrapped: Option<&str>, row: &str) -> Self {
        let (iv, body) = sealed(key, value);
        let mut beside = vec![(Companion::Iv, STANDARD.encode(iv)), (Companion::Key, row.to_owned())];
        beside.extend(wrapped.map(|wrapped| (Companion::DataKey, wrapped.to_owned())));
        Self { payload: STANDARD.encode(body), beside }
    }
}

async fn open_all(column: &Column, place: Place<'_>, stored: &[Connection]) -> Vec<Result<String>> {
    let beside = stored.iter().map(|c| c.beside.iter().map(|(is, held)| (*is, held.as_bytes())).collect::<Vec<_>>());
    let beside: Vec<Vec<_>> = beside.collect();
    let requests = stored.iter().zip(&beside).map(|(connection, beside)| {
        let stored = connection.payload.as_bytes();
        OpenRequest { place, form: Form::Text, stored, beside }
    });
    let opened = column.open_many(&who(), &requests.collect::<Vec<_>>()).await;
    opened.into_iter().map(|result| result.map(|o| String::from_utf8(o.value.to_vec()).unwrap())).collect()
}

const CONNECTIONS: &str = r#"
[tables.connections.columns.payload]
id = "c.payload"
ring = "wide"
reads = ["platform"]
companions = { iv = "payload_iv", data_key = "data_key_ciphertext", data_key_iv = "data_key_iv", key = "encryption_key_id" }
[readers.platform]
format = "aes-256-gcm"
apart = ["iv", "data_key", "data_key_iv", "key"]
key_encoding = "base64"
roots = ROOTS
[readers.platform.key_table]
table = "KEYS"
id = "id"
root = "kms_key_arn"
key = "derived_key"
"#;

const KEYS: &str =
    "CREATE TABLE encryption_keys (id integer PRIMARY KEY, kms_key_arn text, alias text, derived_key text)";

struct Platform {
    world: World,
    database: Database,
    app: Client,
    roots: [String; 3],
}

impl Platform {
    /// Rows 1 and 2 name root keys by their ARNs, row 3 has the key itself, row 4 names a root key that nobody lists.
    async fn new() -> Self {
        let (world, database) = (World::new(), Database::create().await);
        let app = database.connect().await;
        app.batch_execute(KEYS).await.unwrap();
        let roots = [AWS.create_key().await, AWS.create_key().await, AWS.create_key().await];
        for (id, root) in [1, 2, 4].into_iter().zip(&roots) {
            let described = AWS.kms("DescribeKey", json!({ "KeyId": root })).await;
            let arn = described["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
            app.execute("INSERT INTO encryption_keys (id, kms_key_arn) VALUES ($1, $2)", &[&id, &arn]).await.unwrap();
        }
        let key = STANDARD.encode(DERIVED);
        app.execute("INSERT INTO encryption_keys (id, derived_key) VALUES (3, $1)", &[&key]).await.unwrap();
        Self { world, database, app, roots }
    }

    async fn open(&self) -> (Enfold, Column) {
        let roots = format!("[\"{}\", \"{}\"]", AWS.uri(&self.roots[0]), AWS.uri(&self.roots[1]));
        let rest = CONNECTIONS.replace("ROOTS", &roots).replace("KEYS", "public.encryption_keys");
        let rest = rest.replace("tables.connections", "tables.\"public.connections\"");
        // A policy for Postgres names tables with their schemas.
        let policy = policy(&self.database.url(), &AWS.uri(&self.roots[0]), &rest);
        let policy = policy
            .replace("[tables.users", "[tables.\"public.users\"")
            .replace("[tables.notes", "[tables.\"public.notes\"");
        let enfold = enfold(&self.world, &policy).await.unwrap();
        set_mode(&enfold, "public.connections.payload", Mode::Hybrid).await;
        let column = enfold.column("public.connections.payload").unwrap();
        (enfold, column)
    }
}

const DERIVED: [u8; 32] = [7; 32];

#[tokio::test]
async fn a_foreign_key_leads_to_the_root_key_that_wrapped_the_data_key_or_to_the_key_itself() {
    let platform = Platform::new().await;
    let (enfold, column) = platform.open().await;
    let mut stored = Vec::new();
    for n in 0..12 {
        let made = data_key(&platform.roots[n % 2]).await;
        let row = if n % 2 == 0 { "1" } else { "2" };
        stored.push(Connection::new(&made.key, &format!("secret {n}"), Some(&made.wrapped), row));
    }
    stored.push(Connection::new(&DERIVED, "of long ago", None, "3"));
    let opened: Vec<String> = open_all(&column, Place::none(), &stored).await.into_iter().map(Result::unwrap).collect();
    let wanted: Vec<String> = (0..12).map(|n| format!("secret {n}")).chain(["of long ago".into()]).collect();
    assert_eq!(opened, wanted);
    assert_eq!(asked(&enfold), [6, 6], "each data key once");
    open_all(&column, Place::none(), &stored).await.into_iter().for_each(|opened| drop(opened.unwrap()));
    assert_eq!(asked(&enfold), [6, 6], "data keys are kept");
}

/// Each is an error of its own row: what a table names decides nothing that the policy did not decide.
#[tokio::test]
async fn only_root_keys_of_the_policy_are_called_whatever_the_table_names() {
    let platform = Platform::new().await;
    let (enfold, column) = platform.open().await;
    let (ours, others) = (data_key(&platform.roots[0]).await, data_key(&platform.roots[2]).await);
    let good = Connection::new(&ours.key, "good", Some(&ours.wrapped), "1");
    let with = |companion: Companion, held: Option<&str>| {
        let mut changed = good.clone();
        changed.beside.retain(|(is, _)| *is != companion);
        changed.beside.extend(held.map(|held| (companion, held.to_owned())));
        changed
    };
    let bad = [
        (Connection::new(&others.key, "x", Some(&others.wrapped), "4"), "not among the reader's `roots`"),
        (with(Companion::Key, Some("5")), "has no row for it"),
        (with(Companion::Key, Some("not a number")), "has no row for it"),
        (with(Companion::Key, None), "nothing beside it says which row"),
        (with(Companion::Key, Some("2")), "no root key of the reader wrapped its data key"),
        (with(Companion::Key, Some("3")), "names no root key"),
        (with(Companion::DataKey, None), "neither it nor its row of the table of keys has a key"),
        (with(Companion::DataKeyIv, Some("AAAA")), "a nonce of the data key's wrap"),
        (with(Companion::Iv, None), "begins like a value of this format and is not one"),
    ];
    let mut stored: Vec<Connection> = bad.iter().map(|(connection, _)| connection.clone()).collect();
    stored.push(good);
    let mut opened = open_all(&column, Place::none(), &stored).await;
    assert_eq!(opened.pop().unwrap().unwrap(), "good");
    for (opened, (_, reason)) in opened.into_iter().zip(&bad) {
        let error = opened.unwrap_err();
        assert_eq!(error.code(), Code::OpenFailed, "{error}");
        assert!(error.causes().any(|cause| cause.contains(reason)), "{reason}: {error:?}");
    }
    // Of three root keys two were called, and the third is not even known.
    assert_eq!(asked(&enfold).len(), 2);

    // A table that cannot be read says nothing about the values.
    platform.app.batch_execute("ALTER TABLE encryption_keys RENAME TO elsewhere").await.unwrap();
    enfold.forget_keys();
    let error = open_all(&column, Place::none(), &stored[9..]).await.remove(0).unwrap_err();
    assert_eq!(error.code(), Code::TableMissing);
}

const TENANTS: &str = r#"
[tables.calls]
tenant = "org_id"
[tables.calls.columns.note]
id = "calls.note"
ring = "wide"
reads = ["organizations"]
COMPANIONS
[readers.organizations]
format = "aes-256-gcm"
root = "ROOT"
LAYOUT
[readers.organizations.key_table]
table = "organization_keys"
tenant = "organization_id"
version = "version"
data_key = "encrypted_dek"
"#;

struct Organizations {
    world: World,
    app: rusqlite::Connection,
    root: String,
}

impl Organizations {
    async fn new() -> Self {
        let world = World::new();
        let app = rusqlite::Connection::open(world.dir.path().join("app.db")).unwrap();
        let table = "CREATE TABLE organization_keys (organization_id INTEGER, version INTEGER, encrypted_dek TEXT)";
        app.execute_batch(table).unwrap();
        Self { world, app, root: AWS.create_key().await }
    }

    async fn add(&self, tenant: i64, version: i64) -> Vec<u8> {
        let made = data_key(&self.root).await;
        self.put(tenant, version, &made.wrapped);
        made.key
    }

    fn put(&self, tenant: i64, version: i64, stored: &str) {
        self.app.execute("INSERT INTO organization_keys VALUES (?1, ?2, ?3)", (tenant, version, stored)).unwrap();
    }

    async fn column(&self, layout: &str, companions: &str, environment: &str) -> Column {
        let rest = TENANTS.replace("ROOT", &AWS.uri(&self.root)).replace("LAYOUT", layout);
        let rest = rest.replace("COMPANIONS", companions);
        let policy = policy("sqlite:app.db", &AWS.uri(&self.root), &rest).replace("staging", environment);
        let enfold = enfold(&self.world, &policy).await.unwrap();
        set_mode(&enfold, "calls.note", Mode::Hybrid).await;
        enfold.column("calls.note").unwrap()
    }
}

fn joined(prefix: &str, key: &[u8], value: &str) -> Connection {
    let (iv, body) = sealed(key, value);
    Connection { payload: format!("{prefix}{}", STANDARD.encode([iv, body].concat())), beside: Vec::new() }
}

async fn one(column: &Column, tenant: i64, stored: Connection) -> Result<String> {
    open_all(column, Place::tenant(Part::Int(tenant)), &[stored]).await.remove(0)
}

#[tokio::test]
async fn a_tenants_data_key_is_found_by_the_version_that_the_value_names() {
    let organizations = Organizations::new().await;
    let (first, second) = (organizations.add(1, 1).await, organizations.add(1, 2).await);
    let other = organizations.add(2, 1).await;
    let prefix = organizations.column("prefix = \"v{version}:\"", "", "staging").await;
    for (tenant, stored, wanted) in [
        (1, joined("v1:", &first, "one"), Some("one")),
        (1, joined("v2:", &second, "two"), Some("two")),
        (2, joined("v1:", &other, "of another"), Some("of another")),
        (1, joined("v1:", &second, "two"), None),
        (2, joined("v1:", &first, "one"), None),
        (1, joined("v3:", &second, "two"), None),
        (3, joined("v1:", &first, "one"), None),
    ] {
        match (one(&prefix, tenant, stored).await, wanted) {
            (Ok(opened), Some(wanted)) => assert_eq!(opened, wanted),
            (opened, None) => assert_eq!(code(opened), Code::OpenFailed),
            (Err(error), Some(wanted)) => panic!("{wanted}: {error:?}"),
        }
    }
    // A version that was made meanwhile is found at once.
    let third = organizations.add(1, 3).await;
    assert_eq!(one(&prefix, 1, joined("v3:", &third, "three")).await.unwrap(), "three");
    let plain = Connection { payload: "vague".to_owned(), beside: Vec::new() };
    assert_eq!(one(&prefix, 1, plain).await.unwrap(), "vague");
}

#[tokio::test]
async fn the_version_may_stand_beside_the_value_or_be_tried_from_the_newest() {
    let organizations = Organizations::new().await;
    let keys = [organizations.add(1, 9).await, organizations.add(1, 10).await];
    let beside =
        organizations.column("apart = [\"version\"]", "companions = { version = \"key_version\" }", "staging").await;
    for (version, key) in [("9", &keys[0]), ("10", &keys[1])] {
        let mut stored = joined("", key, "value");
        stored.beside.push((Companion::Version, version.to_owned()));
        assert_eq!(one(&beside, 1, stored).await.unwrap(), "value");
    }
    let organizations = Organizations { world: World::new(), ..organizations };
    std::fs::copy(organizations.app.path().unwrap(), organizations.world.dir.path().join("app.db")).unwrap();
    let all = organizations.column("", "", "staging").await;
    for key in &keys {
        assert_eq!(one(&all, 1, joined("", key, "value")).await.unwrap(), "value");
    }
    assert_eq!(code(one(&all, 1, joined("", &[1; 32], "value")).await), Code::OpenFailed);
}

#[tokio::test]
async fn a_data_key_that_was_never_wrapped_is_refused_in_production() {
    let organizations = Organizations::new().await;
    organizations.put(1, 1, &format!("dev:{}", STANDARD.encode([5; 32])));
    let stored = joined("", &[5; 32], "value");
    let staging = organizations.column("", "", "staging").await;
    assert_eq!(one(&staging, 1, stored.clone()).await.unwrap(), "value");
    let production = Organizations { world: World::new(), ..organizations };
    std::fs::copy(production.app.path().unwrap(), production.world.dir.path().join("app.db")).unwrap();
    let column = production.column("", "", "production").await;
    let error = one(&column, 1, stored).await.unwrap_err();
    assert!(error.code() == Code::OpenFailed && error.to_string().contains("dev:"), "{error:?}");
}
