//! Data keys from one key service to another and from version to version, on real servers, with a catalog in Postgres: while
//! an application reads and writes, and no row of its tables is read.
#![cfg(all(feature = "aws", feature = "vault", feature = "postgres"))]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{open, seal, set_mode, who};
use enfold::catalog::{Catalog, CustomerLayer, DataKeyRow, PostgresCatalog, Purpose};
use enfold::db::postgres::Endpoint;
use enfold::kms::{
    AwsKms, AwsOptions, KeyManagementService, KeyManagementServiceExt, StaticCredentials, VaultKms, VaultOptions,
};
use enfold::policy::{Mode, Variables, VaultSignIn};
use enfold::state::{OperatorKey, RootState};
use enfold::{Enfold, Part, Place, RewrapOptions};
use enfold_testkit::aws::Server;
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN, unique};
use enfold_testkit::postgres::Database;
use serde_json::json;

const TENANTS: i64 = 40;
/// The first of them, where tenants hold a root key.
const CUSTOMERS: i64 = 10;

const POLICY: &str = r#"
environment = "staging"
[database]
url = "sqlite:unused.db"
[rings.main]
id = "ring-main"
roots = ROOTS
scope = "tenant"
[rings.main.rotation.roots]
cadence = "30d"
[rings.main.cache]
# So that readers come to the catalog and to the key services all the time.
max_keys = 4
[tables.people]
tenant = "org"
[tables.people.columns.email]
id = "people.email"
ring = "main"
"#;

/// Two key services, a database, and the processes of an application.
struct Scene {
    folder: tempfile::TempDir,
    database: Database,
    bao: OpenBao,
    mount: String,
    aws_key: String,
    aws: Arc<dyn KeyManagementService>,
    vault: Arc<dyn KeyManagementService>,
    /// In a mount of its own.
    second: Arc<dyn KeyManagementService>,
}

type Root = Arc<dyn KeyManagementService>;

impl Scene {
    async fn new() -> Self {
        let key = Server::LocalStack.create_key().await;
        let uri = Server::LocalStack.uri(&key);
        Self::with_aws(key, &uri).await
    }

    async fn with_aws(aws_key: String, uri: &str) -> Self {
        let (folder, bao) = (tempfile::tempdir().unwrap(), OpenBao::shared());
        let file = folder.path().join("token");
        std::fs::write(&file, ROOT_TOKEN).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let transit = async || {
            let mount = bao.mount("transit", "mounts").await;
            bao.write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
            let sign_in = VaultSignIn::Token { file: Some(file.clone()) };
            let options = VaultOptions { sign_in, ..VaultOptions::default() };
            let uri = format!("vault+http://{}/{mount}/orders", bao.server());
            (mount, Arc::new(VaultKms::open(&uri.parse().unwrap(), &options).unwrap()))
        };
        let ((mount, vault), (_, second)) = (transit().await, transit().await);
        let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
        let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
        let aws = AwsKms::open(&uri.parse().unwrap(), &options).await.unwrap();
        let database = Database::create().await;
        Self { folder, database, bao, mount, aws_key, aws: Arc::new(aws), vault, second }
    }

    async fn catalog(&self) -> PostgresCatalog {
        PostgresCatalog::connect(Endpoint::parse_text(&self.database.url()).unwrap()).await.unwrap()
    }

    /// A process of its own, with a connection of its own, as its policy is deployed with these root keys.
    async fn process(&self, roots: &[&Root]) -> Enfold {
        self.process_for(roots, &[]).await
    }

    /// As [`Self::process`]; the first tenants hold the first of `customers`, which takes the place of the others.
    async fn process_for(&self, roots: &[&Root], customers: &[&Root]) -> Enfold {
        let uris = |roots: &[&Root]| roots.iter().map(|root| root.uri().to_string()).collect::<Vec<_>>();
        let mut text = POLICY.replace("ROOTS", &format!("{:?}", uris(roots)));
        if let [first, former @ ..] = &uris(customers)[..] {
            for tenant in 0..CUSTOMERS {
                text += &format!(
                    "[rings.main.tenants.{tenant}]\ncustomer_key = {first:?}\nformer_customer_keys = {former:?}\n"
                );
            }
        }
        let policy =
            enfold::policy::parse(&text, &self.folder.path().join("enfold.toml"), &Variables::default()).unwrap();
        let builder = Enfold::builder(policy).catalog(Arc::new(self.catalog().await)).prepare();
        let builder = roots.iter().chain(customers).fold(builder, |builder, root| builder.provider(Arc::clone(root)));
        let key = self.folder.path().join("enfold-operator.key");
        let builder = if key.exists() { builder.operator_key(OperatorKey::load(&key).unwrap()) } else { builder };
        builder.build().await.unwrap()
    }

    async fn rows(&self) -> Vec<DataKeyRow> {
        let mut rows = Vec::new();
        let catalog = self.catalog().await;
        loop {
            let page = catalog.keys("ring-main", rows.last().map(|row: &DataKeyRow| row.id), 500).await.unwrap();
            if page.is_empty() {
                return rows;
            }
            rows.extend(page);
        }
    }

    /// The layers that customers guard.
    async fn layers(&self) -> Vec<CustomerLayer> {
        self.rows().await.into_iter().filter_map(|row| row.customer).collect()
    }

    /// A value of each tenant, in the application's table too.
    async fn values(&self, enfold: &Enfold) -> Arc<Vec<Vec<u8>>> {
        set_mode(enfold, "people.email", Mode::Kms).await;
        let client = self.database.connect().await;
        client.batch_execute("CREATE TABLE people (id bigserial PRIMARY KEY, org bigint, email text)").await.unwrap();
        let email = enfold.column("people.email").unwrap();
        let mut stored = Vec::new();
        for tenant in 0..TENANTS {
            let value = seal(&email, place(tenant), &format!("ann@{tenant}")).await.unwrap();
            let text = std::str::from_utf8(&value).unwrap();
            client.execute("INSERT INTO people (org, email) VALUES ($1, $2)", &[&tenant, &text]).await.unwrap();
            stored.push(value);
        }
        Arc::new(stored)
    }
}

fn place(tenant: i64) -> Place<'static> {
    Place::tenant(Part::Int(tenant))
}

async fn opens(enfold: &Enfold, stored: &[Vec<u8>]) {
    let email = enfold.column("people.email").unwrap();
    for (tenant, value) in (0..).zip(stored) {
        assert_eq!(open(&email, place(tenant), value).await.unwrap(), format!("ann@{tenant}"));
    }
    assert!(enfold.check_catalog().await.unwrap().is_empty(), "every row is authenticated");
}

/// An application that opens and seals as fast as it can, for old tenants and new ones, until it is told to end.
struct Application {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Application {
    fn start(enfold: &Enfold, stored: &Arc<Vec<Vec<u8>>>, tenants_from: i64) -> Self {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let reads = {
            let (email, stored) = (enfold.column("people.email").unwrap(), Arc::clone(stored));
            let (stop, opened) = (Arc::clone(&stop), Arc::clone(&opened));
            tokio::spawn(async move {
                for tenant in (0..TENANTS).cycle() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let value = &stored[usize::try_from(tenant).unwrap()];
                    assert_eq!(open(&email, place(tenant), value).await.unwrap(), format!("ann@{tenant}"));
                    opened.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let writes = {
            let (email, stop) = (enfold.column("people.email").unwrap(), Arc::clone(&stop));
            tokio::spawn(async move {
                for tenant in tenants_from.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    for tenant in [tenant, tenant % CUSTOMERS] {
                        let value = seal(&email, place(tenant), "new").await.unwrap();
                        assert_eq!(open(&email, place(tenant), &value).await.unwrap(), "new");
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        };
        Self { stop, opened, tasks: vec![reads, writes] }
    }

    /// Until every value was opened once more.
    async fn once_around(&self) {
        let before = self.opened.load(Ordering::SeqCst);
        while self.opened.load(Ordering::SeqCst) < before + u64::try_from(TENANTS).unwrap() {
            assert!(self.tasks.iter().all(|task| !task.is_finished()), "a reader or a writer failed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// Everything that was ever read of the application's table, by the database's own count: scans, rows and blocks.
async fn reads(client: &tokio_postgres::Client) -> Vec<i64> {
    let sql = "SELECT seq_scan, seq_tup_read, coalesce(idx_scan, 0), coalesce(idx_tup_fetch, 0),
                      heap_blks_read + heap_blks_hit, coalesce(idx_blks_read + idx_blks_hit, 0)
               FROM pg_stat_user_tables JOIN pg_statio_user_tables USING (relid)
               WHERE pg_stat_user_tables.schemaname = 'public'";
    let rows = client.query(sql, &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
    (0..6).map(|at| rows[0].get(at)).collect()
}

/// Rows of data keys that were changed, by the same statistics: what they count so far has arrived.
async fn changed(client: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE schemaname = 'enfold' AND relname = 'data_keys'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_move_from_aws_to_openbao_under_an_application_and_no_row_is_read() {
    let scene = Scene::new().await;
    let stored = scene.values(&scene.process(&[&scene.aws]).await).await;
    // The application is deployed with both.
    let both = [&scene.vault, &scene.aws];
    let application = Application::start(&scene.process(&both).await, &stored, 1_000);
    let operators = scene.process(&both).await;
    let client = scene.database.connect().await;
    client.execute("SELECT pg_stat_force_next_flush()", &[]).await.unwrap();
    let (read, changed_before) = (reads(&client).await, changed(&client).await);

    let (aws, vault) = (scene.aws.uri().to_string(), scene.vault.uri().to_string());
    let rewrap = async |options: RewrapOptions| operators.rewrap("main", &options, &who(), &|_| true).await.unwrap();
    let done = rewrap(RewrapOptions::default()).await;
    assert_eq!((done.failed, done.stopped.is_none()), (0, true), "{:?}", done.failures);
    assert!(done.done >= u64::try_from(TENANTS).unwrap());
    application.once_around().await;

    operators.operator().unwrap().set_root_state(&aws, RootState::Retired, &who()).await.unwrap();
    // The application has taken it in when a data key of its making has no wrap by AWS.
    while !scene.rows().await.iter().any(|row| row.wraps.len() == 1 && row.wraps[0].root == vault) {
        assert!(application.tasks.iter().all(|task| !task.is_finished()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let dropping = RewrapOptions { drop: true, ..RewrapOptions::default() };
    let dropped = rewrap(dropping.clone()).await;
    assert_eq!(dropped.failed, 0, "{:?}", dropped.failures);
    assert_eq!(operators.plan_rewrap("main", &dropping).await.unwrap().to_do, 0);
    assert!(scene.rows().await.iter().all(|row| row.wraps.len() == 1 && row.wraps[0].root == vault));

    // AWS is not needed any more, by whoever runs and by whoever starts.
    Server::LocalStack.kms("DisableKey", json!({ "KeyId": scene.aws_key })).await;
    application.once_around().await;
    let after = Application::start(&scene.process(&[&scene.vault]).await, &stored, 1_000_000);
    after.once_around().await;
    application.end().await;
    after.end().await;
    opens(&scene.process(&[&scene.vault]).await, &stored).await;

    // Two changes of each data key at least have arrived in the statistics; so would a read of the table have.
    drop(operators);
    while changed(&client).await < changed_before + 2 * TENANTS {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(reads(&client).await, read, "no row of the application's table was read");
    client.query("SELECT email FROM people", &[]).await.unwrap();
    client.execute("SELECT pg_stat_force_next_flush()", &[]).await.unwrap();
    assert_ne!(reads(&client).await, read, "they would tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_in_openbao_is_made_and_the_former_one_may_be_shut_out() {
    let scene = Scene::new().await;
    let enfold = scene.process(&[&scene.vault]).await;
    let stored = scene.values(&enfold).await;
    let uri = scene.vault.uri().to_string();
    let rotated = enfold.rotate_root(&uri, &who()).await.unwrap();
    assert_eq!(rotated.about.version, Some(2));
    let all = scene.rows().await.len() as u64;
    let plan = enfold.plan_rewrap("main", &RewrapOptions::default()).await.unwrap();
    assert_eq!((plan.to_do, plan.wraps, plan.roots[0].requests()), (all, all, 3 * all));
    assert_eq!(plan.roots[0].calls, 3 * all.div_ceil(150));
    let done = enfold.rewrap("main", &RewrapOptions::default(), &who(), &|_| true).await.unwrap();
    assert_eq!((done.done, done.failed), (all, 0), "{:?}", done.failures);
    assert!(scene.rows().await.iter().all(|row| row.wraps[0].wrapped.starts_with(b"vault:v2:")));
    assert_eq!(enfold.plan_rewrap("main", &RewrapOptions::default()).await.unwrap().to_do, 0);

    let config = format!("{}/keys/orders/config", scene.mount);
    scene.bao.write(&config, json!({ "min_decryption_version": 2, "min_encryption_version": 2 })).await;
    opens(&scene.process(&[&scene.vault]).await, &stored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_has_openbao_make_one_version_and_every_data_key_follows_under_an_application() {
    let scene = Scene::new().await;
    let (one, two) = (scene.process(&[&scene.vault]).await, scene.process(&[&scene.vault]).await);
    let stored = scene.values(&one).await;
    let application = Application::start(&one, &stored, 1_000);
    let now_ms = jiff::Timestamp::now().as_millisecond() + 31 * 24 * 60 * 60 * 1000;
    let (first, second) = (one.operator().unwrap(), two.operator().unwrap());
    let context = who();
    let (ours, theirs) = tokio::join!(
        first.rotate_due_roots(now_ms, &context, &|_| true),
        second.rotate_due_roots(now_ms, &context, &|_| true)
    );
    let seen_to: Vec<_> = ours.unwrap().into_iter().chain(theirs.unwrap()).collect();
    assert_eq!(seen_to.len(), 1, "one of them");
    assert!(seen_to[0].1.as_ref().unwrap().rewrapped >= u64::try_from(TENANTS).unwrap());
    application.once_around().await;
    application.end().await;
    let described = scene.vault.describer().unwrap().describe().await.unwrap();
    assert_eq!(described.versions.unwrap().newest, 2);
    opens(&scene.process(&[&scene.vault]).await, &stored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_follow_an_alias_of_aws_to_its_next_key() {
    let server = Server::LocalStack;
    let (one, two) = (server.create_key().await, server.create_key().await);
    let alias = format!("alias/enfold-{}", unique());
    server.kms("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": one })).await;
    let scene = Scene::with_aws(one.clone(), &server.uri(&alias)).await;
    let enfold = scene.process(&[&scene.aws]).await;
    let stored = scene.values(&enfold).await;
    assert_eq!(enfold.plan_rewrap("main", &RewrapOptions::default()).await.unwrap().to_do, 0);

    server.kms("UpdateAlias", json!({ "AliasName": alias, "TargetKeyId": two })).await;
    let all = scene.rows().await.len() as u64;
    let done = enfold.rewrap("main", &RewrapOptions::default(), &who(), &|_| true).await.unwrap();
    assert_eq!((done.done, done.failed), (all, 0), "{:?}", done.failures);
    server.kms("DisableKey", json!({ "KeyId": one })).await;
    let fresh = scene.process(&[&scene.aws]).await;
    opens(&fresh, &stored).await;
    assert!(scene.rows().await.iter().any(|row| row.purpose == Purpose::Rows), "the key that authenticates rows too");

    let registered = fresh.register_root(&scene.aws.uri().to_string(), None, None, &who()).await.unwrap();
    assert_eq!(registered.about.alias.as_deref(), alias.strip_prefix("alias/"));
    assert!(registered.about.resolved.unwrap().ends_with(&two));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_aws_is_rotated_and_its_wraps_are_made_anew_when_that_is_asked_for() {
    let server = Server::Moto;
    let key = server.create_key().await;
    let scene = Scene::with_aws(key.clone(), &server.uri(&key)).await;
    let enfold = scene.process(&[&scene.aws]).await;
    let stored = scene.values(&enfold).await;
    let before = scene.rows().await;
    enfold.rotate_root(&scene.aws.uri().to_string(), &who()).await.unwrap();
    assert_eq!(
        enfold.plan_rewrap("main", &RewrapOptions::default()).await.unwrap().to_do,
        0,
        "its wraps tell no version"
    );
    let renew = RewrapOptions { renew: true, ..RewrapOptions::default() };
    let done = enfold.rewrap("main", &renew, &who(), &|_| true).await.unwrap();
    assert_eq!((done.done, done.failed), (before.len() as u64, 0), "{:?}", done.failures);
    let after = scene.rows().await;
    assert!(before.iter().zip(&after).all(|(before, after)| before.wraps != after.wraps));
    opens(&scene.process(&[&scene.aws]).await, &stored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_key_in_openbao_gets_a_new_version_and_the_layers_follow_under_an_application() {
    let scene = Scene::new().await;
    let process = async || scene.process_for(&[&scene.aws], &[&scene.vault]).await;
    let enfold = process().await;
    enfold.operator().unwrap().sign_customers("main").await.unwrap();
    let stored = scene.values(&enfold).await;
    let application = Application::start(&process().await, &stored, 1_000);
    let key = format!("{}/keys/orders", scene.mount);
    scene.bao.write(&format!("{key}/rotate"), json!({})).await;
    let theirs = u64::try_from(CUSTOMERS).unwrap();
    let plan = enfold.plan_rewrap("main", &RewrapOptions::default()).await.unwrap();
    assert_eq!((plan.to_do, plan.layers, plan.wraps), (theirs, theirs, 0), "the key of ours has no new version");
    assert_eq!((plan.customers[0].wraps, plan.customers[0].unwraps), (theirs, 2 * theirs));
    let done = enfold.rewrap("main", &RewrapOptions::default(), &who(), &|_| true).await.unwrap();
    assert_eq!((done.layers, done.failed), (theirs, 0), "{:?}", done.failures);
    assert!(scene.layers().await.iter().all(|layer| layer.wrapped.starts_with(b"vault:v2:")));
    assert_eq!(enfold.plan_rewrap("main", &RewrapOptions::default()).await.unwrap().to_do, 0);
    // What the application had read when the layers were replaced it asked for within this time.
    application.once_around().await;
    let config = json!({ "min_decryption_version": 2, "min_encryption_version": 2 });
    scene.bao.write(&format!("{key}/config"), config).await;
    application.once_around().await;
    application.end().await;
    opens(&process().await, &stored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_moves_from_aws_to_openbao_under_an_application_and_the_key_in_aws_may_go() {
    let scene = Scene::new().await;
    let ours = [&scene.second];
    let before = scene.process_for(&ours, &[&scene.aws]).await;
    before.operator().unwrap().sign_customers("main").await.unwrap();
    let stored = scene.values(&before).await;
    // The application is deployed with both.
    let both = [&scene.vault, &scene.aws];
    let application = Application::start(&scene.process_for(&ours, &both).await, &stored, 1_000);
    let operators = scene.process_for(&ours, &both).await;
    operators.operator().unwrap().sign_customers("main").await.unwrap();
    let theirs = u64::try_from(CUSTOMERS).unwrap();
    let done = operators.rewrap("main", &RewrapOptions::default(), &who(), &|_| true).await.unwrap();
    assert_eq!((done.layers, done.wrapped, done.failed), (theirs, 0, 0), "{:?}", done.failures);
    assert!(scene.layers().await.iter().all(|layer| layer.root == scene.vault.uri().as_str()));
    application.once_around().await;

    let after = Application::start(&scene.process_for(&ours, &[&scene.vault]).await, &stored, 1_000_000);
    let operators = scene.process_for(&ours, &[&scene.vault]).await;
    operators.operator().unwrap().sign_customers("main").await.unwrap();
    Server::LocalStack.kms("DisableKey", json!({ "KeyId": scene.aws_key })).await;
    application.once_around().await;
    after.once_around().await;
    application.end().await;
    after.end().await;
    opens(&scene.process_for(&ours, &[&scene.vault]).await, &stored).await;
}
