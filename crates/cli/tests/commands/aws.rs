//! From the policy through the registry to the command, on servers that imitate AWS KMS.

use std::future::Future;

use enfold_testkit::aws::Server;
use enfold_testkit::openbao::unique;
use serde_json::json;

use super::guides::{bash, blocks};
use super::harness::Sandbox;

/// Ports and keys of the servers.
const HIDDEN: &[(&str, &str)] =
    &[(r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"), (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[key]")];
const CREDENTIALS: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

fn shop_on(server: Server, key: &str) -> Sandbox {
    let shop = Sandbox::shop();
    let root = server.uri(key);
    let made = shop.run_with(&["init", "--database", "sqlite:app.db", "--root", &root], CREDENTIALS);
    assert_eq!(made.code, 0, "{}", made.stderr);
    shop
}

#[test]
fn a_root_key_in_aws_is_looked_at_and_told_when_it_is_rotated() {
    let server = Server::LocalStack;
    let key = wait(server.create_key());
    wait(server.kms("EnableKeyRotation", json!({ "KeyId": key, "RotationPeriodInDays": 180 })));
    let shop = shop_on(server, &key);
    shop.run_with(&["doctor"], CREDENTIALS).snapshot_hiding("doctor_aws", HIDDEN);
}

// moto lets keys work that wait for their deletion, as a service does in its last moments.
#[test]
fn a_deletion_that_waits_is_warned_of_while_the_key_still_works() {
    let server = Server::Moto;
    let key = wait(server.create_key());
    let shop = shop_on(server, &key);
    wait(server.kms("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 })));
    shop.run_with(&["doctor"], CREDENTIALS).snapshot_hiding("doctor_aws_pending_deletion", HIDDEN);
}

#[test]
fn a_key_of_another_region_is_told_with_the_region_that_was_asked() {
    let server = Server::LocalStack;
    let key = wait(server.create_key());
    let elsewhere = server.uri(&key).replace("aws-kms://eu-central-1/", "aws-kms://eu-west-3/");
    let init = ["init", "--database", "sqlite:app.db", "--root", &elsewhere];
    Sandbox::shop().run_with(&init, CREDENTIALS).snapshot_hiding("init_aws_other_region", HIDDEN);
}

const GUIDE: &str = include_str!("../../../../docs/guides/aws-kms.md");

/// With Amazon's own command, as `scripts/deps.sh` installs it.
#[test]
fn the_guide_leads_a_new_user_to_a_key_in_aws() {
    let (shop, endpoint) = (Sandbox::shop(), Server::LocalStack.endpoint());
    let steps = blocks(GUIDE, "sh");
    let (make, init) = (&steps[0], &steps[1]);
    // The server is everybody's, and the URI has to say where it is.
    let make = make.replace("alias/customers", &format!("alias/customers-{}", unique()));
    let init = init.replace("/$key", &format!("/$key?endpoint={endpoint}"));
    let tools = [concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/venv/bin").into()];
    let variables = [CREDENTIALS, &[("AWS_ENDPOINT_URL", &endpoint), ("DATABASE_URL", "sqlite:app.db")]].concat();
    let out = bash(&shop, &(make + &init), &tools, &variables);
    assert!(out.contains("rotated every 365d"), "{out}");
    let sealed = shop.run_with(&["seal", "users.email"], CREDENTIALS);
    assert!(sealed.stdout().starts_with("enf1:"), "{}", sealed.stderr);
}

#[test]
fn a_root_key_is_disabled_in_its_service_too_and_taken_back() {
    let server = Server::LocalStack;
    let (one, two) = (wait(server.create_key()), wait(server.create_key()));
    let shop = shop_on(server, &one);
    let (first, second) = (server.uri(&one), server.uri(&two));
    let policy = shop.read("enfold.toml").replacen(&format!("\"{first}\""), &format!("\"{first}\", \"{second}\""), 1);
    shop.write("enfold.toml", policy);
    let run = |args: &[&str]| shop.run_with(args, CREDENTIALS);
    let done = |args: &[&str]| {
        let ran = run(args);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran
    };
    done(&["keys", "rewrap", "main", "--yes"]);
    done(&["apply", "--yes"]);
    let state = || wait(server.kms("DescribeKey", json!({ "KeyId": one })))["KeyMetadata"]["KeyState"].clone();
    run(&["keys", "set-root", &first, "retired", "--at-kms", "--yes"])
        .snapshot_hiding("set_root_retired_at_kms", HIDDEN);
    done(&["keys", "set-root", &first, "disabled", "--at-kms", "--yes"])
        .snapshot_hiding("set_root_disabled_at_kms", HIDDEN);
    assert_eq!(state(), "Disabled");
    done(&["verify", "--all"]);
    done(&["keys", "set-root", &first, "active", "--at-kms", "--yes"]);
    assert_eq!(state(), "Enabled");
    let local = Sandbox::ready();
    local
        .run(&["keys", "set-root", "local:enfold-root.key", "disabled", "--at-kms", "--yes"])
        .snapshot("set_root_local_at_kms");
}
