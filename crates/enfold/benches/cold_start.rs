//! What it takes a process that starts cold to open a value of each of many tenants, beside the floor: the very same
//! unwraps sent to the provider and nothing else, in the same batches. Prints a JSON line for each server.
//!
//! The key services are the servers of the tests: OpenBao, which unwraps batches, and moto, which like AWS KMS takes one
//! key a request. The catalog is in memory, so that what is measured is the way to the key service.
#![allow(clippy::print_stdout, reason = "its lines are its result")]
#![allow(clippy::cast_precision_loss, reason = "ratios")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use common::{POLICY, World, set_mode, who};
use enfold::kms::{
    AwsKms, AwsOptions, EncryptionContext, KeyManagementService, KeyMaterial, KeyUri, Meter, Operation,
    StaticCredentials, UnwrapRequest, VaultKms, VaultOptions, WrapRequest, WrappedKey,
};
use enfold::policy::{Mode, VaultSignIn};
use enfold::{Builder, Column, Form, OpenRequest, Part, PayloadType, Place, Result, SealRequest};
use enfold_testkit::aws::Server;
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN};
use futures_util::StreamExt;
use serde_json::json;

/// Turns of each side; the median of the ratios of neighbouring turns counts.
const TURNS: usize = 5;

#[tokio::main]
async fn main() {
    // `cargo test` builds benchmarks and runs them with other arguments: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let secrets = tempfile::tempdir().expect("a folder");
    Cold::start("openbao", 10_000, transit(&secrets).await).await.measure().await;
    Cold::start("moto", 2_000, aws().await).await.measure().await;
}

async fn transit(secrets: &tempfile::TempDir) -> Arc<dyn KeyManagementService> {
    let bao = OpenBao::shared();
    let mount = bao.mount("transit", "mounts").await;
    bao.write(&format!("{mount}/keys/orders"), json!({ "derived": true })).await;
    let file = secrets.path().join("token");
    std::fs::write(&file, ROOT_TOKEN).expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a closed file");
    let options = VaultOptions { sign_in: VaultSignIn::Token { file: Some(file) }, ..VaultOptions::default() };
    let uri: KeyUri = format!("vault+http://{}/{mount}/orders", bao.server()).parse().expect("a URI");
    Arc::new(VaultKms::open(&uri, &options).expect("a provider"))
}

async fn aws() -> Arc<dyn KeyManagementService> {
    let credentials = StaticCredentials { access_key_id: "test", secret_access_key: "test", session_token: None };
    let options = AwsOptions { credentials: Some(credentials), ..AwsOptions::default() };
    let uri: KeyUri = Server::Moto.uri(&Server::Moto.create_key().await).parse().expect("a URI");
    Arc::new(AwsKms::open(&uri, &options).await.expect("a provider"))
}

/// A catalog with a data key and a value of each tenant, and no process that knows any of them.
struct Cold {
    name: &'static str,
    world: World,
    policy: String,
    kms: Arc<dyn KeyManagementService>,
    meter: Arc<Meter>,
    stored: Vec<Vec<u8>>,
}

impl Cold {
    async fn start(name: &'static str, tenants: usize, provider: Arc<dyn KeyManagementService>) -> Self {
        let policy = POLICY.replace(r#"["memory:root"]"#, &format!("[{:?}]", provider.uri().as_str()));
        let meter = Arc::new(Meter::new(Arc::clone(&provider)));
        let mut cold = Self { name, world: World::new(), policy, kms: provider, meter, stored: Vec::new() };
        let operators = cold.process(Arc::clone(&cold.kms)).prepare().build().await.expect("operators");
        set_mode(&operators, "users.email", Mode::Kms).await;
        let email = operators.column("users.email").expect("a column");
        let request =
            |tenant| SealRequest { place: place(tenant), form: Form::Text, payload: PayloadType::Text, value: b"ann" };
        let requests: Vec<_> = (0..tenants).map(request).collect();
        let sealed = email.seal_many(&who(), &requests).await;
        cold.stored = sealed.into_iter().map(|sealed| sealed.expect("seals")).collect();
        cold
    }

    fn process(&self, kms: Arc<dyn KeyManagementService>) -> Builder {
        self.world.builder_for(self.world.policy(&self.policy)).provider(kms)
    }

    async fn column(&self, kms: Arc<dyn KeyManagementService>) -> Column {
        self.process(kms).build().await.expect("an application").column("users.email").expect("a column")
    }

    async fn measure(self) {
        let witness = Arc::new(Witness { inner: Arc::clone(&self.kms), batches: Mutex::default() });
        let email = self.column(Arc::clone(&witness) as _).await;
        witness.batches.lock().expect("no panic").clear();
        self.open_all(&email).await;
        let batches = std::mem::take(&mut *witness.batches.lock().expect("no panic"));

        let before = self.meter.figures(Operation::Unwrap);
        let (mut ours, mut floor, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let email = self.column(Arc::clone(&self.meter) as _).await;
            let start = Instant::now();
            self.open_all(&email).await;
            let one = start.elapsed().as_secs_f64();
            let other = self.unwrap_all(&batches).await;
            ours.push(one);
            floor.push(other);
            ratios.push(one / other);
        }
        let after = self.meter.figures(Operation::Unwrap);
        // Each process unwraps the key that authenticates its ring's rows as well.
        let (calls, keys) = (after.calls - before.calls, after.requests - before.requests);
        let turns = TURNS as u64;
        println!(
            r#"{{"name":"cold_start_{}_{}","ratio":{:.3},"bound":null,"better":"less","ours_s":{:.3},"floor_s":{:.3},"batches":{},"keys":{}}}"#,
            self.stored.len(),
            self.name,
            median(ratios),
            median(ours),
            median(floor),
            calls / turns,
            keys / turns,
        );
    }

    async fn open_all(&self, email: &Column) {
        let request = |(tenant, stored)| OpenRequest { place: place(tenant), form: Form::Text, stored, beside: &[] };
        let requests: Vec<_> = self.stored.iter().map(Vec::as_slice).enumerate().map(request).collect();
        for opened in email.open_many(&who(), &requests).await {
            opened.expect("opens");
        }
    }

    /// Seconds for the same unwraps by the provider alone, at the best of one and of four batches at once.
    async fn unwrap_all(&self, batches: &[Batch]) -> f64 {
        let mut best = f64::MAX;
        for at_once in [1, 4] {
            let start = Instant::now();
            let calls: Vec<_> = batches.iter().map(|batch| self.unwrap(batch)).collect();
            futures_util::stream::iter(calls).buffer_unordered(at_once).collect::<Vec<()>>().await;
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    }

    async fn unwrap(&self, batch: &Batch) {
        let requests: Vec<_> = batch.iter().map(|(wrapped, context)| UnwrapRequest { wrapped, context }).collect();
        for unwrapped in self.kms.unwrap(&requests).await {
            drop(unwrapped.expect("unwraps"));
        }
    }
}

type Batch = Vec<(WrappedKey, EncryptionContext)>;

/// Remembers what was to be unwrapped, in which batches.
struct Witness {
    inner: Arc<dyn KeyManagementService>,
    batches: Mutex<Vec<Batch>>,
}

#[async_trait]
impl KeyManagementService for Witness {
    fn uri(&self) -> &KeyUri {
        self.inner.uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.inner.wrap(requests).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        let batch = requests.iter().map(|r| (r.wrapped.clone(), r.context.clone())).collect();
        self.batches.lock().expect("no panic").push(batch);
        self.inner.unwrap(requests).await
    }
}

fn place(tenant: usize) -> Place<'static> {
    Place::tenant(Part::Int(i64::try_from(tenant).expect("small")))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
