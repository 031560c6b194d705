//! Keys of AWS KMS by their several names, and in whose name they are used: aliases, replicas in other regions, roles.
#![cfg(feature = "aws")]

mod common;
mod key_service;

use std::sync::Arc;

use common::{POLICY, World, open as open_value, seal, set_mode};
use enfold::kms::{
    AwsKms, AwsOptions, EncryptionContext, KeyManagementService, KeyManagementServiceExt, RootKeyState,
    StaticCredentials, WrappedKey,
};
use enfold::policy::{AwsRole, Mode};
use enfold::{Code, Enfold, Part, Place};
use enfold_testkit::aws::{Behaviour, Listener, Server};
use key_service::{CHILD, again, context, material, opens, wrap_as_child};
use serde_json::json;

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const ROLE: &str = "arn:aws:iam::111122223333:role/team/enfold";
const EXTERNAL_ID: &str = "shop:4711/a+b";

async fn open(uri: &str) -> Arc<dyn KeyManagementService> {
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
    Arc::new(AwsKms::open(&uri.parse().unwrap(), &options).await.unwrap())
}

#[tokio::test]
async fn a_wrap_under_an_alias_names_the_key_that_made_it_and_opens_when_the_alias_has_moved() {
    for server in [Server::LocalStack, Server::Moto] {
        let (one, two) = (server.create_key().await, server.create_key().await);
        let alias = format!("alias/orders-{one}");
        server.kms("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": one })).await;
        let kms = open(&server.uri(&alias)).await;
        let old = kms.wrap_one(&material(), &context()).await.unwrap();
        assert!(made_by(&old).ends_with(&format!(":key/{one}")), "{}", made_by(&old));
        opens(&kms, &old).await;
        opens(&open(&server.uri(&alias)).await, &old).await;
        let about = kms.describer().unwrap().describe().await.unwrap();
        assert_eq!(about.resolved, made_by(&old), "an alias is resolved to its key");

        server.kms("UpdateAlias", json!({ "AliasName": alias, "TargetKeyId": two })).await;
        opens(&kms, &old).await;
        let new = kms.generate_one(&context()).await.unwrap().wrapped;
        assert!(made_by(&new).ends_with(&format!(":key/{two}")), "{}", made_by(&new));
        assert!(kms.unwrap_one(&new, &context()).await.is_ok());
        // Named by its id, each key opens what it made, and nothing else.
        opens(&open(&server.uri(&one)).await, &old).await;
        let error = open(&server.uri(&two)).await.unwrap_one(&old, &context()).await.err().unwrap();
        assert_eq!(error.code(), Code::WrapInvalid, "{error}");
        if server == Server::Moto {
            // It fails where `DisableKey` names its key by an ARN.
            continue;
        }
        // What is done to the key is done to the one that the alias stands for now.
        kms.controller().unwrap().disable().await.unwrap();
        let state = async |key: &str| open(&server.uri(key)).await.describer().unwrap().describe().await.unwrap().state;
        assert_eq!((state(&one).await, state(&two).await), (RootKeyState::Enabled, RootKeyState::Disabled));
    }
}

/// The ARN in a wrap under an alias.
fn made_by(wrapped: &WrappedKey) -> &str {
    let rest = wrapped.as_bytes().strip_prefix(b"aws1").expect("a record");
    std::str::from_utf8(&rest[1..=usize::from(rest[0])]).unwrap()
}

/// The same wrap with another ARN in it.
fn forged(wrapped: &WrappedKey, arn: &str) -> WrappedKey {
    let sealed = &wrapped.as_bytes()[5 + made_by(wrapped).len()..];
    let length = u8::try_from(arn.len()).unwrap();
    WrappedKey::new([&b"aws1"[..], &[length], arn.as_bytes(), sealed].concat()).unwrap()
}

#[tokio::test]
async fn a_process_that_never_saw_the_alias_elsewhere_asks_where_it_stands_and_goes_by_the_record() {
    let server = Server::LocalStack;
    let (one, two) = (server.create_key().await, server.create_key().await);
    let alias = format!("alias/moved-{one}");
    server.kms("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": one })).await;
    let old = open(&server.uri(&alias)).await.wrap_one(&material(), &context()).await.unwrap();
    server.kms("UpdateAlias", json!({ "AliasName": alias, "TargetKeyId": two })).await;
    opens(&open(&server.uri(&alias)).await, &old).await;
}

#[tokio::test]
async fn a_record_of_another_account_or_region_is_refused_before_that_key_is_called() {
    let server = Server::LocalStack;
    let key = server.create_key().await;
    let alias = format!("alias/forged-{key}");
    server.kms("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": key })).await;
    let kms = open(&server.uri(&alias)).await;
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    let ours = made_by(&wrapped).to_owned();
    opens(&kms, &forged(&wrapped, &ours)).await;
    for theirs in [ours.replace("000000000000", "111122223333"), ours.replace("eu-central-1", "eu-west-1")] {
        let error = kms.unwrap_one(&forged(&wrapped, &theirs), &context()).await.err().unwrap();
        assert_eq!(error.code(), Code::WrapInvalid);
        assert!(error.to_string().contains("another account or region"), "{error}");
    }
    // And one of the same account that made something else.
    let another = ours.replace(&key, &server.create_key().await);
    let error = kms.unwrap_one(&forged(&wrapped, &another), &context()).await.err().unwrap();
    assert_eq!(error.code(), Code::WrapInvalid, "{error}");
}

#[tokio::test]
async fn what_a_multi_region_key_wrapped_opens_by_its_replica() {
    let server = Server::LocalStack;
    let made = server.kms("CreateKey", json!({ "MultiRegion": true })).await;
    let key = made["KeyMetadata"]["KeyId"].as_str().unwrap();
    assert!(key.starts_with("mrk-"), "{key}");
    server.kms("ReplicateKey", json!({ "KeyId": key, "ReplicaRegion": "eu-west-1" })).await;
    let alias = format!("alias/{key}");
    server.kms("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": key })).await;
    let there = |key: &str| server.uri(key).replace("eu-central-1", "eu-west-1");
    let replica = open(&there(key)).await;
    server.kms_in("eu-west-1", "CreateAlias", json!({ "AliasName": alias, "TargetKeyId": key })).await;
    for name in [key, &alias] {
        let wrapped = open(&server.uri(name)).await.wrap_one(&material(), &context()).await.unwrap();
        opens(&replica, &wrapped).await;
        // By an alias of its own the replica goes by the record, in its own region.
        if name == alias {
            opens(&open(&there(&alias)).await, &wrapped).await;
        }
        let error = replica.unwrap_one(&wrapped, &EncryptionContext::new()).await.err().unwrap();
        assert_eq!(error.code(), Code::WrapInvalid);
    }
    let back = replica.wrap_one(&material(), &context()).await.unwrap();
    opens(&open(&server.uri(key)).await, &back).await;
    // The states of a key and its replica are their own.
    open(&server.uri(key)).await.controller().unwrap().disable().await.unwrap();
    opens(&replica, &back).await;
}

/// A process whose ring `main` has one root key.
async fn process(world: &World, root: &str) -> Enfold {
    let policy = POLICY.replacen("roots = [\"memory:root\"]", &format!("roots = [\"{root}\"]"), 1);
    let builder = world.builder_for(world.policy(&policy)).provider(open(root).await);
    let enfold = builder.prepare().build().await.unwrap();
    set_mode(&enfold, "users.email", Mode::Kms).await;
    enfold
}

#[tokio::test]
async fn a_ring_goes_on_by_a_replica_that_wrapped_none_of_its_data_keys_and_says_which_key_did() {
    let server = Server::LocalStack;
    let made = server.kms("CreateKey", json!({ "MultiRegion": true })).await;
    let key = made["KeyMetadata"]["KeyId"].as_str().unwrap();
    server.kms("ReplicateKey", json!({ "KeyId": key, "ReplicaRegion": "eu-west-1" })).await;
    let alias = format!("alias/ring-{key}");
    server.kms("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": key })).await;
    let world = World::new();
    let here = process(&world, &server.uri(&alias)).await;
    let stored = seal(&here.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    let wraps = here.wraps().await.unwrap();
    let main = wraps.iter().find(|ring| ring.ring == "main").unwrap();
    let arn = made["KeyMetadata"]["Arn"].as_str().unwrap();
    assert_eq!(main.roots[0].by_key, [(arn.to_owned(), main.keys)].into());

    let there = process(&world, &server.uri(key).replace("eu-central-1", "eu-west-1")).await;
    assert_eq!(open_value(&there.column("users.email").unwrap(), ACME, &stored).await.unwrap(), "ann");
}

/// What STS answers to `AssumeRole` (AWS STS API reference).
fn session() -> Behaviour {
    let xml = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
        <AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/enfold/enfold</Arn>\
        <AssumedRoleId>AROA:enfold</AssumedRoleId></AssumedRoleUser>\
        <Credentials><AccessKeyId>ASIAOFTHEROLE</AccessKeyId><SecretAccessKey>role-secret</SecretAccessKey>\
        <SessionToken>role-token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
        </AssumeRoleResult></AssumeRoleResponse>";
    Behaviour::Answer(200, xml.to_owned())
}

fn role() -> AwsRole {
    AwsRole { arn: ROLE.to_owned(), external_id: Some(EXTERNAL_ID.to_owned()) }
}

/// The key that every child of these tests wraps under.
const KEY: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a_role_is_assumed_with_its_external_id_by_the_policy_and_by_a_profile() {
    if let Ok(uri) = std::env::var(CHILD) {
        let by_profile = std::env::var("AWS_PROFILE").is_ok();
        println!("{}", wrap_as_child(&uri, (!by_profile).then(role)).await);
        return;
    }
    let name = "a_role_is_assumed_with_its_external_id_by_the_policy_and_by_a_profile";
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    let profiles = "[profile base]\naws_access_key_id = AKIAOFTHECALLER\naws_secret_access_key = s\n[profile shop]\n\
        source_profile = base\n";
    std::fs::write(&config, format!("{profiles}role_arn = {ROLE}\nexternal_id = {EXTERNAL_ID}\n")).unwrap();
    let by_profile = [("AWS_PROFILE", "shop"), ("AWS_CONFIG_FILE", config.to_str().unwrap())];
    let by_policy = [("AWS_ACCESS_KEY_ID", "AKIAOFTHECALLER"), ("AWS_SECRET_ACCESS_KEY", "s")];
    for way in [by_policy, by_profile] {
        let sts = Listener::start(session()).await;
        let refusal = json!({ "__type": "DisabledException" }).to_string();
        let kms = Listener::start(Behaviour::Answer(400, refusal)).await;
        let said = again(name, &kms.uri(KEY), &[way[0], way[1], ("AWS_ENDPOINT_URL_STS", sts.endpoint())]).await;
        assert!(said.contains("kms-key-disabled"), "{said}");
        let asked = sts.requests();
        assert_eq!(asked.len(), 1, "{asked:?}");
        let (head, form) = asked[0].split_once("\r\n\r\n").unwrap();
        let form: Vec<(String, String)> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        for (name, value) in [("Action", "AssumeRole"), ("RoleArn", ROLE), ("ExternalId", EXTERNAL_ID)] {
            assert!(form.iter().any(|(n, v)| n == name && v == value), "{name}: {form:?}");
        }
        assert!(head.contains("Credential=AKIAOFTHECALLER/"), "{head}");
        let wrapped = kms.requests();
        assert!(wrapped[0].contains("Credential=ASIAOFTHEROLE/"), "the key is used in the role: {}", wrapped[0]);
        assert!(wrapped[0].to_lowercase().contains("x-amz-security-token: role-token"), "{}", wrapped[0]);
    }
}

/// Which role the child takes.
const CHILDS_ROLE: &str = "ENFOLD_TEST_CHILD_ROLE";

#[tokio::test]
async fn in_a_role_that_localstack_and_moto_give_a_key_of_its_account_wraps_and_no_other() {
    if let (Ok(uri), Ok(arn)) = (std::env::var(CHILD), std::env::var(CHILDS_ROLE)) {
        println!("{}", wrap_as_child(&uri, Some(AwsRole { arn, ..role() })).await);
        return;
    }
    let name = "in_a_role_that_localstack_and_moto_give_a_key_of_its_account_wraps_and_no_other";
    for (server, account) in [(Server::LocalStack, "000000000000"), (Server::Moto, "123456789012")] {
        let (uri, sts) = (server.uri(&server.create_key().await), server.endpoint());
        let of_the_account = ROLE.replace("111122223333", account);
        for (role, outcome) in [(of_the_account.as_str(), "child: wrapped"), (ROLE, "kms-key-not-found")] {
            let environment = [
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
                ("AWS_ENDPOINT_URL_STS", &sts),
                (CHILDS_ROLE, role),
            ];
            let said = again(name, &uri, &environment).await;
            assert!(said.contains(outcome), "{server:?}, {role}: {said}");
        }
    }
}

#[tokio::test]
async fn a_role_that_is_refused_is_no_right_and_an_sts_that_is_not_there_is_tried_again() {
    if let Ok(uri) = std::env::var(CHILD) {
        println!("{}", wrap_as_child(&uri, Some(role())).await);
        return;
    }
    let name = "a_role_that_is_refused_is_no_right_and_an_sts_that_is_not_there_is_tried_again";
    let kms = Listener::start(Behaviour::HangUp).await;
    let refusal = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>secret-text</Message>\
        </Error></ErrorResponse>";
    let refusing = Listener::start(Behaviour::Answer(403, refusal.to_owned())).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{gone}");
    for (sts, code) in [(refusing.endpoint(), "kms-access-denied"), (&gone, "kms-unavailable")] {
        let environment =
            [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_ENDPOINT_URL_STS", sts)];
        let said = again(name, &kms.uri(KEY), &environment).await;
        assert!(said.contains(code) && !said.contains("secret-text"), "{sts}: {said}");
        assert_eq!(said.contains("external id"), code == "kms-access-denied", "{said}");
    }
    assert!(kms.requests().is_empty(), "nothing is wrapped without the role");
}
