//! From the policy through the registry to the command, over the fakes of cloud key services.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use enfold_testkit::cloud::azure::{FakeAzure, IDENTITY_HEADER, Kind, MACHINE, Right as AzureRight};
use enfold_testkit::cloud::google::{FakeGoogle, METADATA_ACCOUNT, Right};

use super::harness::{Ran, Sandbox};

/// Ports and versions of the fakes.
const HIDDEN: &[(&str, &str)] = &[(r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"), (r"\b[0-9a-f]{32}\b", "[version]")];

/// The shop with a policy whose root key is `root`; `variables` are set for every command.
struct Shop {
    sandbox: Sandbox,
    variables: Vec<(&'static str, String)>,
}

impl Shop {
    fn new(root: &str, credentials: &str, variables: &[(&'static str, &str)]) -> Self {
        let sandbox = Sandbox::shop();
        sandbox.write("credentials.json", credentials);
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(sandbox.path("credentials.json"), mode).expect("a mode is set");
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let shop = Self { sandbox, variables };
        let init = ["init", "--database", "sqlite:app.db", "--environment", "production", "--root", root];
        let made = shop.run(&init, b"");
        assert_eq!(made.code, 0, "{}", made.stderr);
        shop
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut command = self.sandbox.command(args);
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        let mut child = command.spawn().expect("the command starts");
        // A command that ends without reading closes the pipe; that is its good right.
        child.stdin.take().expect("a pipe").write_all(input).ok();
        self.sandbox.ran(args, child)
    }

    /// A value is sealed by one process and opened by another.
    fn seals_and_opens(&self) {
        let sealed = self.run(&["seal", "users.email"], b"ada@example.com");
        assert!(sealed.stdout().starts_with("enf1:"), "{}", sealed.stderr);
        let opened = self.run(&["open", "users.email"], &sealed.stdout);
        assert_eq!(opened.stdout(), "ada@example.com", "{}", opened.stderr);
    }
}

// The commands run in processes of their own while the fake answers here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_key_in_google_cloud_kms_seals_opens_and_is_looked_at() {
    let fake = FakeGoogle::start().await;
    let root = fake.create_key();
    fake.set_rotation(&root, "7776000s", "2030-01-02T03:04:05Z");
    let account = fake.service_account("orders@fake.iam.gserviceaccount.com").to_string();
    let shop = Shop::new(&root, &account, &[("GOOGLE_APPLICATION_CREDENTIALS", "credentials.json")]);
    shop.seals_and_opens();
    shop.run(&["doctor"], b"").snapshot_hiding("doctor_google", HIDDEN);
    shop.run(&["doctor", "--json"], b"").snapshot_hiding("doctor_google_json", HIDDEN);
    // An application has no operators' key, and should not have their rights.
    std::fs::remove_file(shop.sandbox.path("enfold-operator.key")).expect("the operators' key");
    shop.run(&["doctor"], b"").snapshot_hiding("doctor_google_application", HIDDEN);

    let denied =
        Shop { sandbox: shop.sandbox, variables: vec![("GCE_METADATA_HOST", fake.endpoint()[7..].to_owned())] };
    denied.run(&["seal", "users.email"], b"x").snapshot_hiding("seal_google_denied", HIDDEN);
    fake.grant(METADATA_ACCOUNT, &[Right::Encrypt, Right::Decrypt]);
    denied.seals_and_opens();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_key_in_azure_seals_opens_and_is_looked_at_with_the_identity_of_the_machine() {
    let fake = FakeAzure::start().await;
    let all = [AzureRight::Get, AzureRight::Wrap, AzureRight::Unwrap];
    fake.grant(MACHINE, &all);
    let root = fake.create_key(Kind::Rsa);
    let machine = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.endpoint())];
    let shop = Shop::new(&root, "", &machine);
    shop.seals_and_opens();
    shop.run(&["doctor"], b"").snapshot_hiding("doctor_azure", HIDDEN);

    // The same in an App Service, whose endpoint wants a header and has another answer.
    let endpoint = format!("{}/msi/token", fake.endpoint());
    let variables = vec![("IDENTITY_ENDPOINT", endpoint), ("IDENTITY_HEADER", IDENTITY_HEADER.to_owned())];
    let app = Shop { sandbox: shop.sandbox, variables };
    app.seals_and_opens();
    fake.grant(MACHINE, &all[..2]);
    app.run(&["seal", "users.email"], b"x").snapshot_hiding("seal_azure_denied", HIDDEN);
}
