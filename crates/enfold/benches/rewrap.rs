//! What it takes to bring the data keys of many tenants from one root key to another, and to a new version of that: time,
//! calls to the key service, and what is read of the application's tables, which is nothing by the database's own count.
//! Prints a JSON line for each.
//!
//! The catalog is in the Postgres of the tests, the key service is their OpenBao. The first root key is in memory, since
//! making the data keys is not what is measured. `ENFOLD_BENCH_TENANTS` says how many; 10,000 if it says nothing.
#![allow(clippy::print_stdout, reason = "its lines are its result")]
#![allow(clippy::cast_precision_loss, reason = "rates")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Instant;

use common::{set_mode, who};
use enfold::catalog::PostgresCatalog;
use enfold::db::postgres::Endpoint;
use enfold::kms::{KeyManagementService, KeyUri, MemoryKms, Meter, Operation, RotateKey, VaultKms, VaultOptions};
use enfold::policy::{Mode, Variables, VaultSignIn};
use enfold::state::OperatorKey;
use enfold::{Enfold, Form, Part, PayloadType, Place, RewrapOptions, SealRequest};
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN};
use enfold_testkit::postgres::Database;
use serde_json::json;

const POLICY: &str = r#"
environment = "staging"
[database]
url = "sqlite:unused.db"
[rings.main]
id = "ring-main"
roots = ROOTS
scope = "tenant"
[tables.people]
tenant = "org"
[tables.people.columns.email]
id = "people.email"
ring = "main"
"#;
/// Processes that make data keys at the same time.
const MAKERS: usize = 4;

#[tokio::main]
async fn main() {
    // `cargo test` builds benchmarks and runs them with other arguments: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let tenants = std::env::var("ENFOLD_BENCH_TENANTS").map_or(10_000, |text| text.parse().expect("a number"));
    let bench = Bench::start().await;
    bench.make(tenants).await;
    bench.measure("moved", &[&bench.transit, &bench.memory]).await;
    bench.plain.rotate().await.expect("rotates");
    // Without the first root key, which would be nearer: every unwrap is OpenBao's.
    bench.measure("new_version", &[&bench.transit]).await;
}

struct Bench {
    folder: tempfile::TempDir,
    database: Database,
    memory: Arc<dyn KeyManagementService>,
    plain: Arc<VaultKms>,
    meter: Arc<Meter>,
    transit: Arc<dyn KeyManagementService>,
}

impl Bench {
    async fn start() -> Self {
        let (folder, bao) = (tempfile::tempdir().expect("a folder"), OpenBao::shared());
        let mount = bao.mount("transit", "mounts").await;
        bao.write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
        let file = folder.path().join("token");
        std::fs::write(&file, ROOT_TOKEN).expect("a file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a closed file");
        let options = VaultOptions { sign_in: VaultSignIn::Token { file: Some(file) }, ..VaultOptions::default() };
        let uri: KeyUri = format!("vault+http://{}/{mount}/orders", bao.server()).parse().expect("a URI");
        let plain = Arc::new(VaultKms::open(&uri, &options).expect("a provider"));
        let meter = Arc::new(Meter::new(Arc::clone(&plain) as _));
        let database = Database::create().await;
        let memory = Arc::new(MemoryKms::new("first").expect("a root key"));
        Self { folder, database, memory, plain, transit: Arc::clone(&meter) as _, meter }
    }

    async fn process(&self, roots: &[&Arc<dyn KeyManagementService>]) -> Enfold {
        let uris: Vec<String> = roots.iter().map(|root| root.uri().to_string()).collect();
        let (text, path) = (POLICY.replace("ROOTS", &format!("{uris:?}")), self.folder.path().join("enfold.toml"));
        let policy = enfold::policy::parse(&text, &path, &Variables::default()).expect("a policy");
        let endpoint = Endpoint::parse_text(&self.database.url()).expect("an endpoint");
        let catalog = PostgresCatalog::connect(endpoint).await.expect("a catalog");
        let builder = Enfold::builder(policy).catalog(Arc::new(catalog)).prepare().without_watch();
        let builder = roots.iter().fold(builder, |builder, root| builder.provider(Arc::clone(root)));
        let key = self.folder.path().join("enfold-operator.key");
        let known = key.exists().then(|| OperatorKey::load(&key).expect("the operators' key"));
        let builder = match known {
            Some(key) => builder.operator_key(key),
            None => builder,
        };
        builder.build().await.expect("a process")
    }

    /// A data key of each tenant, and a table of an application.
    async fn make(&self, tenants: usize) {
        let client = self.database.connect().await;
        let name = self.database.url().rsplit_once('/').expect("a name").1.to_owned();
        let quick = format!(
            "CREATE TABLE people (id bigserial PRIMARY KEY, org bigint, email text);
             INSERT INTO people (org, email) SELECT n, 'enf1:' || n FROM generate_series(1, {tenants}) n;
             ALTER DATABASE {name} SET synchronous_commit = off"
        );
        client.batch_execute(&quick).await.expect("a table");
        set_mode(&self.process(&[&self.memory]).await, "people.email", Mode::Kms).await;
        let work = (0..MAKERS).map(|maker| async move {
            let email = self.process(&[&self.memory]).await.column("people.email").expect("a column");
            let place = |tenant: usize| Place::tenant(Part::Int(i64::try_from(tenant).expect("small")));
            let request = |tenant| SealRequest {
                place: place(tenant),
                form: Form::Text,
                payload: PayloadType::Text,
                value: b"ann",
            };
            let requests: Vec<_> = (maker..tenants).step_by(MAKERS).map(request).collect();
            for sealed in email.seal_many(&who(), &requests).await {
                sealed.expect("seals");
            }
        });
        futures_util::future::join_all(work).await;
        client.batch_execute(&format!("ALTER DATABASE {name} RESET synchronous_commit")).await.expect("as it was");
        client.batch_execute("VACUUM ANALYZE").await.expect("tidy");
    }

    async fn measure(&self, what: &str, roots: &[&Arc<dyn KeyManagementService>]) {
        let enfold = self.process(roots).await;
        let figures = || [Operation::Wrap, Operation::Unwrap].map(|operation| self.meter.figures(operation));
        let (before, counted) = (figures(), self.counted().await);
        let start = Instant::now();
        let done = enfold.rewrap("main", &RewrapOptions::default(), &who(), &|_| true).await.expect("rewraps");
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!((done.failed, done.stopped.is_none()), (0, true), "{:?}", done.failures);
        let after = figures();
        let sum = |of: fn(&enfold::kms::Figures) -> u64| -> u64 {
            after.iter().zip(&before).map(|(after, before)| of(after) - of(before)).sum()
        };
        drop(enfold);
        let read = self.read_since(&counted, done.done).await;
        println!(
            r#"{{"name":"rewrap_{}_{what}_openbao","bound":null,"seconds":{seconds:.2},"keys":{},"keys_per_second":{:.0},"calls":{},"requests":{},"rows_read":{read}}}"#,
            done.done,
            done.done,
            done.done as f64 / seconds,
            sum(|figures| figures.calls),
            sum(|figures| figures.requests),
        );
    }

    /// Rows of the application's table that were read, by the database's own count, once that has heard of as many changed
    /// data keys.
    async fn read_since(&self, before: &Counted, changed: u64) -> i64 {
        loop {
            let now = self.counted().await;
            if now.changed - before.changed >= i64::try_from(changed).expect("small") {
                return now.read - before.read;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    async fn counted(&self) -> Counted {
        let client = self.database.connect().await;
        let sql = "SELECT (SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'people'),
                          (SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'data_keys')";
        let row = client.query_one(sql, &[]).await.expect("statistics");
        Counted { read: row.get(0), changed: row.get(1) }
    }
}

/// By the database's statistics.
struct Counted {
    read: i64,
    changed: i64,
}
