//! From the policy through the registry to the command, on an OpenBao; credentials come by the environment.

use std::future::Future;
use std::io::Write as _;

use enfold_testkit::openbao::{self, OpenBao, Private, ROOT_TOKEN, unique};
use serde_json::{Value, json};

use super::guides::{bash, blocks};
use super::harness::{Ran, Sandbox};

/// What differs from run to run.
pub(crate) const HIDDEN: &[(&str, &str)] =
    &[(r"127\.0\.0\.1:\d+/transit-[0-9-]+", "[server]/transit"), (r"transit-[0-9-]+", "transit")];

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

/// A key that applications may use, and what stands for them: a policy of the server.
pub(crate) struct Key {
    bao: OpenBao,
    pub(crate) uri: String,
    policy: String,
    rules: String,
}

impl Key {
    pub(crate) async fn new() -> Self {
        let bao = OpenBao::shared();
        let (mount, policy) = (bao.mount("transit", "mounts").await, format!("enfold-{}", unique()));
        bao.write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
        let rules = include_str!("../../../../docs/guides/vault-policy.hcl").replace("transit/", &format!("{mount}/"));
        let key = Self { uri: format!("vault+http://{}/{mount}/orders", bao.server()), bao, policy, rules };
        key.allow(true).await;
        key
    }

    /// Gives the rights of an application, or takes all of them away.
    pub(crate) async fn allow(&self, allow: bool) {
        let rules = if allow { self.rules.as_str() } else { "path \"nothing\" { capabilities = [\"read\"] }" };
        self.bao.write(&format!("sys/policies/acl/{}", self.policy), json!({ "policy": rules })).await;
    }

    /// Makes a new version of it, as its owner does.
    pub(crate) async fn rotate(&self) {
        self.bao.write(&format!("{}/keys/orders/rotate", self.mount()), json!({})).await;
    }

    fn mount(&self) -> &str {
        self.uri.rsplit('/').nth(1).expect("a mount")
    }

    /// Deletes the key with everything beside it.
    pub(crate) async fn remove(&self) {
        let mount = self.mount();
        let (status, _) = self.bao.call("DELETE", &format!("sys/mounts/{mount}"), &Value::Null).await;
        assert_eq!(status, 204);
    }

    pub(crate) async fn token(&self) -> String {
        let made = self.bao.write("auth/token/create", json!({ "policies": [self.policy] })).await;
        text(&made["auth"]["client_token"])
    }

    /// The RoleID and a SecretID of a new role at `auth/MOUNT`.
    async fn role(&self) -> (String, String, String) {
        let mount = self.bao.mount("approle", "auth").await;
        let role = format!("auth/{mount}/role/orders");
        self.bao.write(&role, json!({ "token_policies": [self.policy] })).await;
        let about = self.bao.read(&format!("{role}/role-id")).await;
        let secret = self.bao.write(&format!("{role}/secret-id"), json!({})).await;
        (mount, text(&about["data"]["role_id"]), text(&secret["data"]["secret_id"]))
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn run(shop: &Sandbox, variable: (&str, &str), args: &[&str], input: &[u8]) -> Ran {
    let mut child = shop.command(args).env(variable.0, variable.1).spawn().expect("the command starts");
    // A command that ends without reading closes the pipe; that is its good right.
    child.stdin.take().expect("a pipe").write_all(input).ok();
    shop.ran(args, child)
}

#[test]
fn a_root_key_in_openbao_seals_opens_and_is_looked_at() {
    let key = wait(Key::new());
    let (token, shop) = (wait(key.token()), Sandbox::shop());
    let by_token = ("VAULT_TOKEN", token.as_str());
    let init = ["init", "--database", "sqlite:app.db", "--environment", "production", "--root", &key.uri];
    let made = run(&shop, by_token, &init, b"");
    assert_eq!(made.code, 0, "{}", made.stderr);
    let sealed = run(&shop, by_token, &["seal", "users.email"], b"ada@example.com");
    assert!(sealed.stdout().starts_with("enf1:"), "{}", sealed.stderr);
    run(&shop, by_token, &["doctor"], b"").snapshot_hiding("doctor_vault", HIDDEN);

    // Who may do everything is told so.
    run(&shop, ("VAULT_TOKEN", ROOT_TOKEN), &["doctor"], b"").snapshot_hiding("doctor_vault_root", HIDDEN);

    // Another program, with another way to sign in.
    let (mount, role_id, secret_id) = wait(key.role());
    let server = key.bao.server();
    shop.extend_policy(&format!(
        "\n[key_services.vault.\"{server}\"]\nauth = \"approle\"\nauth_mount = \"{mount}\"\nrole_id = \"{role_id}\"\n"
    ));
    let opened = run(&shop, ("VAULT_SECRET_ID", &secret_id), &["open", "users.email"], &sealed.stdout);
    assert_eq!(opened.stdout(), "ada@example.com", "{}", opened.stderr);

    // The token is no SecretID.
    run(&shop, by_token, &["open", "users.email"], &sealed.stdout).snapshot_hiding("open_vault_unset", HIDDEN);
    let refused = run(&shop, ("VAULT_SECRET_ID", &token), &["open", "users.email"], &sealed.stdout);
    assert!(!refused.stderr.contains(&token), "the credential is repeated: {}", refused.stderr);
    refused.snapshot_hiding("open_vault_refused", &[HIDDEN, &[(r"approle-[0-9-]+", "approle")]].concat());
}

const GUIDE: &str = include_str!("../../../../docs/guides/vault.md");

/// As a new user does, with a server of its own: the guide's mount is `transit`.
#[test]
fn the_guide_leads_a_new_user_to_a_key_in_openbao() {
    let (server, shop) = (wait(Private::start(&[])), Sandbox::shop());
    let (host, guide) = (server.plain().server().to_owned(), GUIDE);
    let guide = guide.replace("vault://vault.example.com:8200", &format!("vault+http://{host}"));
    let guide = guide.replace("vault.example.com:8200", &host);
    let [make, allow, init, sign_in, look] = blocks(&guide, "sh").try_into().expect("five steps");
    let program = openbao::program();
    let tools = [program.parent().expect("a folder").to_owned()];
    let address = format!("http://{host}");
    let operator = [("BAO_ADDR", address.as_str()), ("BAO_TOKEN", ROOT_TOKEN)];
    let application = [("DATABASE_URL", "sqlite:app.db")];

    shop.write("vault-policy.hcl", include_str!("../../../../docs/guides/vault-policy.hcl"));
    bash(&shop, &(make + &allow), &tools, &operator);
    // It stops, as the guide says, and leaves the policy.
    let stopped = bash(&shop, &format!("{{ {init} }} 2>&1 || true"), &[], &application);
    assert!(stopped.contains("code: kms-access-denied"), "{stopped}");
    let printed = bash(&shop, &sign_in, &tools, &operator);
    let role_id = printed.lines().last().expect("the RoleID");
    let by_role = blocks(&guide, "toml").into_iter().find(|block| block.contains("approle")).expect("an AppRole");
    shop.extend_policy(&format!("\n{}", by_role.replace("ROLE_ID", role_id)));
    bash(&shop, &look, &[], &application);

    let sealed = shop.pipe(&["seal", "users.email"], b"ada@example.com").stdout;
    assert_eq!(shop.pipe(&["open", "users.email"], &sealed).stdout(), "ada@example.com");
}
