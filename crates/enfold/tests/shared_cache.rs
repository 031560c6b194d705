//! Data keys shared through a real Redis: what it spares, what it costs when it is down, and what nobody can do with it.
#![cfg(feature = "redis")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use common::{POLICY, World, code, open, seal, set_mode, who};
use enfold::kms::{
    KeyManagementService, KeyMaterial, KeyUri, MemoryKms, MemoryState, UnwrapRequest, WrapRequest, WrappedKey,
};
use enfold::policy::Mode;
use enfold::{Code, Enfold, OnDisk, Part, Place, Result, SharedCacheFigures};
use enfold_testkit::certificates::Authority;
use enfold_testkit::redis::Redis;

const TENANTS: [&str; 6] = ["acme", "bolt", "cora", "dune", "echo", "fawn"];

/// The policy of the tests, with the ring by tenant sharing its keys in a Redis.
fn policy(url: &str, more: &str, ttl: &str) -> String {
    let ring = "labels = { data_class = \"personal\" }";
    let shared = format!("{ring}\ncache = {{ shared = true, ttl = \"{ttl}\" }}");
    // A loaded machine may be slow; a server that is down says so at once.
    format!("{}\n[shared_cache]\nurl = \"{url}\"\ntimeout = \"5s\"\n{more}\n", POLICY.replace(ring, &shared))
}

struct Scene {
    world: World,
    redis: Redis,
    policy: String,
    stored: Vec<Vec<u8>>,
}

impl Scene {
    /// A first process has sealed a value for each tenant.
    async fn new(arguments: &[&str]) -> Self {
        Self::with(World::new(), Redis::start(arguments), "5m").await
    }

    async fn with(world: World, redis: Redis, ttl: &str) -> Self {
        let policy = policy(&format!("redis://127.0.0.1:{}", redis.port()), "", ttl);
        let operators = world.operators().await;
        set_mode(&operators, "users.email", Mode::Kms).await;
        let mut scene = Self { world, redis, policy, stored: Vec::new() };
        let first = scene.process().await;
        let email = first.column("users.email").unwrap();
        for tenant in TENANTS {
            scene.stored.push(seal(&email, Place::tenant(Part::Text(tenant)), tenant).await.unwrap());
        }
        scene
    }

    /// A process that has nothing in its memory.
    async fn process(&self) -> Enfold {
        self.world.builder_for(self.world.policy(&self.policy)).build().await.unwrap()
    }

    /// Opens what was sealed for every tenant; gives the calls that the key service had for it.
    async fn opens_all(&self, process: &Enfold) -> u64 {
        let before = self.world.kms.calls().unwrap;
        let email = process.column("users.email").unwrap();
        for (tenant, stored) in TENANTS.iter().zip(&self.stored) {
            assert_eq!(open(&email, Place::tenant(Part::Text(tenant)), stored).await.unwrap(), *tenant);
        }
        self.world.kms.calls().unwrap - before
    }

    /// Names of the entries for data keys: the first process put one there for each tenant.
    fn entries(&self) -> Vec<String> {
        let names = self.redis.names();
        assert_eq!(names.len(), TENANTS.len(), "{names:?}");
        names
    }

    fn entry(&self, name: &str) -> Vec<u8> {
        self.redis.ask(&["GET", name])
    }

    fn put(&self, name: &str, entry: &[u8]) {
        self.redis.ask_with(&["SET", name], entry);
    }
}

fn figures(enfold: &Enfold) -> SharedCacheFigures {
    enfold.shared_cache_figures().expect("the policy has one")
}

const ALL: u64 = TENANTS.len() as u64;

#[tokio::test]
async fn a_second_process_asks_the_key_service_for_no_data_key_that_the_first_one_had() {
    let scene = Scene::new(&[]).await;
    let second = scene.process().await;
    // One call, for the key that opens entries, whatever the number of tenants.
    assert_eq!(scene.opens_all(&second).await, 1);
    assert_eq!(figures(&second), SharedCacheFigures { hits: ALL, ..SharedCacheFigures::default() });
    // What it has in its memory by now, it does not ask for again.
    assert_eq!(scene.opens_all(&second).await, 0);
    assert_eq!(figures(&second).hits, ALL);
    // Without the cache each tenant costs a call.
    let alone = scene.world.application().await.unwrap();
    assert_eq!(scene.opens_all(&alone).await, ALL);
    assert_eq!(alone.shared_cache_figures(), None);
}

/// There it would be under our root keys alone.
#[tokio::test]
async fn a_data_key_that_needs_a_customers_root_key_is_never_in_redis() {
    let mut scene = Scene::new(&[]).await;
    scene.policy.push_str("\n[rings.main.tenants.zeta]\ncustomer_key = \"memory:zeta\"\n");
    let zeta = Arc::new(MemoryKms::new("zeta").unwrap());
    let process = async || {
        let builder = scene.world.builder_for(scene.world.policy(&scene.policy)).provider(Arc::clone(&zeta) as _);
        builder.build().await.unwrap()
    };
    let first = process().await;
    first.operator().unwrap().sign_customers("main").await.unwrap();
    let (before, place) = (scene.entries(), Place::tenant(Part::Text("zeta")));
    let stored = seal(&first.column("users.email").unwrap(), place, "zoe").await.unwrap();
    let second = process().await;
    assert_eq!(open(&second.column("users.email").unwrap(), place, &stored).await.unwrap(), "zoe");
    assert_eq!(scene.entries(), before);
    assert_eq!(zeta.calls().unwrap, 2, "once when it was signed, once to open");
}

#[tokio::test]
async fn a_tenants_data_key_leaves_redis_when_it_is_destroyed() {
    let scene = Scene::new(&[]).await;
    let process = scene.process().await;
    let (operator, before) = (process.operator().unwrap(), scene.entries());
    let acme = process.subject("main", Some(Part::Text("acme"))).await.unwrap();
    operator.destroy("main", &acme, Duration::ZERO, None, &who()).await.unwrap();
    assert_eq!(scene.entries(), before);
    operator.finish_destruction("main", &acme, &who()).await.unwrap();
    let left = scene.redis.names();
    assert_eq!(left.len(), before.len() - 1);
    assert!(left.iter().all(|name| before.contains(name)));
}

#[tokio::test]
async fn a_redis_that_stops_and_comes_back_costs_nobody_a_value() {
    let mut scene = Scene::new(&[]).await;
    let second = scene.process().await;
    scene.redis.down();
    assert_eq!(scene.opens_all(&second).await, ALL + 1);
    let failed = figures(&second).failed;
    assert_eq!((figures(&second).hits, failed), (0, 5), "it is left alone after five failures");
    // It is empty when it comes back, and is used again after a pause.
    scene.redis.up();
    scene.world.clock.advance(Duration::from_secs(31));
    second.forget_keys();
    assert_eq!(scene.opens_all(&second).await, ALL + 1);
    assert_eq!(figures(&second), SharedCacheFigures { misses: ALL, failed, ..SharedCacheFigures::default() });
    let third = scene.process().await;
    assert_eq!(scene.opens_all(&third).await, 1);
    assert_eq!(figures(&third).hits, ALL);
}

#[tokio::test]
async fn what_somebody_else_put_into_redis_is_refused_counted_and_asked_for_again() {
    let scene = Scene::new(&[]).await;
    let names = scene.entries();
    let entries: Vec<Vec<u8>> = names.iter().map(|name| scene.entry(name)).collect();
    // Two tenants' entries swapped, one changed, one cut short, one that is too long, one that is none at all.
    let mut changed = entries[2].clone();
    *changed.last_mut().unwrap() ^= 1;
    let long = [entries[4].as_slice(), &[0; 1 << 20]].concat();
    let bad = [&entries[1], &entries[0], &changed, &entries[3][..60], &long, b"garbage"];
    for (name, bad) in names.iter().zip(bad) {
        scene.put(name, bad);
    }
    let second = scene.process().await;
    assert_eq!(scene.opens_all(&second).await, ALL + 1, "every key was asked for");
    assert_eq!(figures(&second), SharedCacheFigures { refused: ALL, ..SharedCacheFigures::default() });
    let refused = scene.world.refusals(&second).await;
    assert_eq!(refused, vec![Code::WrapInvalid.word(); TENANTS.len()]);
    // Good ones are there again.
    let third = scene.process().await;
    assert_eq!(scene.opens_all(&third).await, 1);
    assert_eq!(figures(&third).hits, ALL);
}

#[tokio::test]
async fn a_value_that_is_no_string_is_a_failure_and_nothing_worse() {
    let scene = Scene::new(&[]).await;
    for name in scene.entries() {
        scene.redis.ask(&["DEL", &name]);
        scene.redis.ask(&["LPUSH", &name, "a"]);
    }
    let second = scene.process().await;
    assert_eq!(scene.opens_all(&second).await, ALL + 1);
    assert_eq!(figures(&second).hits, 0);
}

#[tokio::test]
async fn entries_end_before_the_life_of_a_data_key_and_an_old_one_put_back_is_not_used() {
    let scene = Scene::with(World::new(), Redis::start(&[]), "2s").await;
    let names = scene.entries();
    let entries: Vec<Vec<u8>> = names.iter().map(|name| scene.entry(name)).collect();
    for name in &names {
        let left: i64 = String::from_utf8(scene.redis.ask(&["PTTL", name])).unwrap().parse().unwrap();
        assert!((1..=1600).contains(&left), "four fifths of 2 s at most: {left} ms");
    }
    let began = Instant::now();
    while !scene.redis.names().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "the entries stay");
        std::thread::yield_now();
    }
    for (name, entry) in names.iter().zip(&entries) {
        scene.put(name, entry);
    }
    let second = scene.process().await;
    assert_eq!(scene.opens_all(&second).await, ALL + 1);
    assert_eq!(figures(&second), SharedCacheFigures { misses: ALL, ..SharedCacheFigures::default() });
}

#[tokio::test]
async fn a_root_key_that_was_disabled_is_not_made_good_for_by_redis() {
    let scene = Scene::new(&[]).await;
    let second = scene.process().await;
    scene.world.kms.set_state(MemoryState::Disabled);
    // The entries are there, and the key that opens them is not given out any more.
    let email = second.column("users.email").unwrap();
    let acme = Place::tenant(Part::Text("acme"));
    assert_eq!(code(open(&email, acme, &scene.stored[0]).await), Code::KmsKeyDisabled);
    assert_eq!(figures(&second).hits, 0);
}

#[tokio::test]
async fn a_data_key_that_the_operators_disabled_is_not_served_though_its_entry_lies_there() {
    let scene = Scene::new(&[]).await;
    let entries = scene.entries();
    let operators = scene.world.operators().await;
    for name in &entries {
        let (_, id) = name.rsplit_once(':').expect("the id of a data key");
        operators.operator().unwrap().disable("main", id.parse().unwrap(), &who()).await.unwrap();
    }
    let second = scene.process().await;
    let email = second.column("users.email").unwrap();
    for (tenant, stored) in TENANTS.iter().zip(&scene.stored) {
        assert_eq!(code(open(&email, Place::tenant(Part::Text(tenant)), stored).await), Code::KeyDisabled);
    }
    assert_eq!(figures(&second), SharedCacheFigures::default());
    assert_eq!(scene.entries(), entries);
}

#[tokio::test]
async fn a_process_that_lost_its_right_to_unwrap_does_not_live_on_what_others_unwrapped() {
    let scene = Scene::new(&[]).await;
    let second = scene.process().await;
    assert_eq!(scene.opens_all(&second).await, 1);
    scene.world.kms.set_state(MemoryState::Denied);
    scene.world.clock.advance(Duration::from_secs(301));
    // By the calendar the entries are as young as before; the key that opens them has reached the end of its life here.
    assert_eq!(scene.entries().len(), TENANTS.len());
    let email = second.column("users.email").unwrap();
    let acme = Place::tenant(Part::Text("acme"));
    assert_eq!(code(open(&email, acme, &scene.stored[0]).await), Code::KmsAccessDenied);
    assert_eq!(figures(&second).hits, ALL);
}

/// Remembers every key that was wrapped, to look for it where it must not be.
struct Spy {
    inner: Arc<dyn KeyManagementService>,
    keys: Arc<Mutex<Vec<[u8; 32]>>>,
}

#[async_trait]
impl KeyManagementService for Spy {
    fn uri(&self) -> &KeyUri {
        self.inner.uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.keys.lock().unwrap().extend(requests.iter().map(|r| *r.key.expose()));
        self.inner.wrap(requests).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        self.inner.unwrap(requests).await
    }
}

#[tokio::test]
async fn no_key_in_the_clear_is_in_the_memory_the_dump_or_the_log_of_redis() {
    let world = World::new();
    let keys: Arc<Mutex<Vec<[u8; 32]>>> = Arc::default();
    let redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let text = policy(&format!("redis://127.0.0.1:{}", redis.port()), "", "5m");
    let process = async || {
        let spy = Spy { inner: Arc::clone(&world.kms) as _, keys: Arc::clone(&keys) };
        // The first provider of a URI is the one that is used.
        let policy = world.policy(&text);
        let builder = Enfold::builder(policy).catalog(Arc::clone(&world.catalog)).provider(Arc::new(spy));
        builder.clock(Arc::clone(&world.clock) as _).without_watch()
    };
    let first = process().await.prepare().build().await.unwrap();
    set_mode(&first, "users.email", Mode::Kms).await;
    let email = first.column("users.email").unwrap();
    for tenant in TENANTS {
        seal(&email, Place::tenant(Part::Text(tenant)), tenant).await.unwrap();
    }
    assert_eq!(redis.names().len(), TENANTS.len());
    redis.ask(&["SAVE"]);
    let keys = keys.lock().unwrap().clone();
    assert!(keys.len() > TENANTS.len(), "data keys, and the keys of the rings");
    let entry = redis.ask(&["GET", &redis.names()[0]]);
    let mut looked = 0;
    let mut look = |place: &str, bytes: &[u8]| {
        for key in &keys {
            assert!(!has(bytes, key), "a key lies in {place}");
        }
        looked += usize::from(has(bytes, &entry[8..]));
    };
    look("the dump", &std::fs::read(redis.folder().join("dump.rdb")).unwrap());
    for file in std::fs::read_dir(redis.folder().join("appendonlydir")).unwrap() {
        look("the log", &std::fs::read(file.unwrap().path()).unwrap());
    }
    for (name, bytes) in memory(redis.pid()) {
        look(&name, &bytes);
    }
    assert!(looked >= 3, "an entry, as it is, was found in all three: {looked}");
}

fn has(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// What a process has in its memory, region by region.
fn memory(pid: u32) -> Vec<(String, Vec<u8>)> {
    use std::os::unix::fs::FileExt as _;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut regions = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').expect("a range");
        let (from, to) = range.split_once('-').expect("two ends");
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // Some regions of the kernel cannot be read.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            // Most of it is empty pages, and looking through them takes most of the time.
            let bytes =
                bytes.chunks(4096).filter(|page| **page != [0; 4096][..page.len()]).collect::<Vec<_>>().concat();
            regions.push((format!("the memory at {range}"), bytes));
        }
    }
    regions
}

#[tokio::test]
async fn a_server_with_tls_and_a_password_is_used_and_one_that_proves_nothing_is_not() {
    let authority = Authority::new();
    let certificate = authority.issue("localhost");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (cert, key, ca) = (text(&certificate.certificate), text(&certificate.key), text(&authority.certificate()));
    let redis = Redis::start(&[
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "a-password-of-sixteen",
    ]);
    let world = World::new();
    let operators = world.operators().await;
    set_mode(&operators, "users.email", Mode::Kms).await;
    let password = world.dir.path().join("password");
    let write = |text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(&password, text).unwrap();
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let acme = Place::tenant(Part::Text("acme"));
    let url = format!("rediss://localhost:{}/0", redis.port());
    let process = async |more: &str| {
        let policy = world.policy(&policy(&url, more, "5m"));
        let process = world.builder_for(policy).build().await.unwrap();
        seal(&process.column("users.email").unwrap(), acme, "ann").await.unwrap();
        figures(&process)
    };
    let whole = format!("ca_file = \"{ca}\"\npassword_file = \"password\"");
    write("a-password-that-is-wrong");
    assert!(process(&whole).await.failed > 0, "a wrong password");
    write("a-password-of-sixteen\n");
    assert_eq!(process(&whole).await, SharedCacheFigures { misses: 1, ..SharedCacheFigures::default() });
    assert_eq!(process(&whole).await, SharedCacheFigures { hits: 1, ..SharedCacheFigures::default() });
    assert!(process("password_file = \"password\"").await.failed > 0, "an authority that nobody trusts");
}

#[tokio::test]
async fn the_user_of_the_guide_may_do_all_that_is_needed_and_no_more() {
    let guide = include_str!("../../../docs/guides/redis.md");
    let line = guide.lines().find(|line| line.starts_with("ACL SETUSER enfold ")).expect("the line of the guide");
    let mut scene = Scene::new(&[]).await;
    scene.redis.ask(&line.replace("THE-PASSWORD", "a-password-of-sixteen").split(' ').collect::<Vec<_>>());
    let password = scene.world.dir.path().join("password");
    std::fs::write(&password, "a-password-of-sixteen").unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let url = format!("redis://127.0.0.1:{}/0", scene.redis.port());
    scene.policy = policy(&url, "username = \"enfold\"\npassword_file = \"password\"", "5m");
    let second = scene.process().await;
    assert_eq!(scene.opens_all(&second).await, 1);
    assert_eq!(figures(&second), SharedCacheFigures { hits: ALL, ..SharedCacheFigures::default() });
    scene.redis.ask(&["FLUSHDB"]);
    let third = scene.process().await;
    assert_eq!(scene.opens_all(&third).await, ALL + 1);
    assert_eq!(scene.entries().len(), TENANTS.len(), "it may write as well");
    assert_eq!(third.shared_cache_health().await.unwrap().on_disk.unwrap(), OnDisk::No);
    scene.redis.ask(&["ACL", "SETUSER", "enfold", "-config|get"]);
    assert_eq!(third.shared_cache_health().await.unwrap().on_disk.unwrap(), OnDisk::NotTold);
}

#[tokio::test]
async fn a_redis_that_writes_to_a_disk_says_so_and_one_that_may_not_be_asked_as_well() {
    let told = async |arguments: &[&str]| {
        let world = World::new();
        drop(world.operators().await);
        let redis = Redis::start(arguments);
        let policy = world.policy(&policy(&format!("redis://127.0.0.1:{}", redis.port()), "", "5m"));
        let process = world.builder_for(policy).build().await.unwrap();
        process.shared_cache_health().await.unwrap().on_disk
    };
    assert_eq!(told(&[]).await.unwrap(), OnDisk::No);
    let both = told(&["--appendonly", "yes", "--save", "60 1"]).await.unwrap();
    assert_eq!(both, OnDisk::Yes(vec!["save 60 1".into(), "appendonly yes".into()]));
    assert_eq!(told(&["--rename-command", "CONFIG", ""]).await.unwrap(), OnDisk::NotTold);
}
