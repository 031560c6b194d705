//! What the way through a key ring costs: how often the key service is asked, and what a value costs beside the bare call
//! of `enfold_core`. Prints a JSON line for each figure, as the other benchmarks do.
//!
//! Two things are compared by taking turns on the same core; the ratio is the median of the ratios of neighbouring turns.
//! The bare call makes a value's binding and seals it with a warm subkey; the whole way also finds the column's mode in
//! the signed state, the tenant's data key in the cache and the value in no need of a longer look, and counts the use.
#![allow(clippy::print_stdout, reason = "its lines are its result")]
#![allow(clippy::cast_precision_loss, reason = "ratios")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{World, set_mode, who};
use enfold::clock::SystemClock;
use enfold::policy::Mode;
use enfold::{CallContext, Column, Form, OpenRequest, Part, PayloadType, Place, SealRequest};
use enfold_core::{Binding, DataKey, Envelope, KeyId, OpenItem, Opener, Padding, SealItem, Sealer, stored, text};

const VALUE: [u8; 64] = [0x61; 64];
const PLACE: Place<'static> = Place::tenant(Part::Int(1));
const REQUEST: SealRequest<'static> =
    SealRequest { place: PLACE, form: Form::Text, payload: PayloadType::Text, value: &VALUE };
const BATCH: usize = 1000;
const PAIRS: usize = 101;
const TENANTS: usize = 1000;
const SEALS: usize = 1_000_000;
/// Further lives of the cache.
const LIVES: usize = 5;
/// AWS asks this for 10,000 calls, in US dollars.
const PRICE: f64 = 0.03;

fn main() {
    // `cargo test` builds benchmarks and runs them with other arguments: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let bench = runtime.block_on(Bench::new());
    // With one tenant's data key warm.
    bench.sealing();
    bench.opening();
    bench.two_cores();
    bench.hits(&runtime);
}

struct Bench {
    world: World,
    /// Its clock is the machine's, whose reading is a part of what a value costs.
    column: Column,
    /// Its clock is moved by hand.
    timeless: Column,
    context: CallContext,
    sealer: Sealer,
    opener: Opener,
}

impl Bench {
    async fn new() -> Self {
        let world = World::new();
        let enfold = world.operators().await;
        set_mode(&enfold, "users.email", Mode::Kms).await;
        let timeless = enfold.column("users.email").expect("a column");
        timeless.seal(&who(), &PLACE, Form::Text, PayloadType::Text, &VALUE).await.expect("makes the data key");
        let by_the_machine = world.builder().clock(Arc::new(SystemClock::new())).build().await.expect("an application");
        let (column, context) = (by_the_machine.column("users.email").expect("a column"), who());
        column.seal(&context, &PLACE, Form::Text, PayloadType::Text, &VALUE).await.expect("warms the cache");
        let (key, id) = (DataKey::generate().expect("a key"), KeyId::random().expect("an id"));
        let (sealer, opener) = (Sealer::new(&key, id).expect("a sealer"), Opener::new(&key, id));
        Self { world, column, timeless, context, sealer, opener }
    }

    /// How many of a million seals under a thousand tenants ask the key service, in one life of the cache; and how often it
    /// is asked for a tenant in each further life.
    fn hits(&self, runtime: &tokio::runtime::Runtime) {
        let asked = runtime.block_on(self.calls_of(SEALS));
        let hits = 1.0 - asked as f64 / SEALS as f64;
        let dollars = |calls: f64| calls / 10_000.0 * PRICE;
        println!(
            r#"{{"name":"keyring_cache_hits","ratio":{hits:.5},"bound":0.999,"met":{},"better":"more","calls":{asked},"dollars":{:.4},"dollars_at_a_call_a_value":{:.2}}}"#,
            hits > 0.999,
            dollars(asked as f64),
            dollars(SEALS as f64),
        );
        let mut further = 0;
        for _ in 0..LIVES {
            self.world.clock.advance(Duration::from_secs(301));
            further += runtime.block_on(self.calls_of(20 * TENANTS));
        }
        let each = further as f64 / (TENANTS * LIVES) as f64;
        println!(
            r#"{{"name":"keyring_calls_a_tenant_and_cache_life","ratio":{each:.3},"bound":1.0,"met":{},"better":"less"}}"#,
            each <= 1.0
        );
    }

    /// Calls to the key service for so many seals, the tenants' taken in turn.
    async fn calls_of(&self, seals: usize) -> u64 {
        let before = self.world.kms.calls();
        for n in 0..seals {
            let place = Place::tenant(Part::Int(i64::try_from(n % TENANTS).expect("small")));
            let sealed = self.timeless.seal(&self.context, &place, Form::Text, PayloadType::Text, &VALUE).await;
            drop(black_box(sealed.expect("seals")));
        }
        let after = self.world.kms.calls();
        (after.wrap + after.unwrap) - (before.wrap + before.unwrap)
    }

    fn sealing(&self) {
        let requests = vec![REQUEST; BATCH];
        let ours = || now(self.column.seal_many(&self.context, &requests));
        compare("keyring_seal_many_64", Some(1.3), ours, || self.bare_many());

        let one = || (0..BATCH).for_each(|_| drop(black_box(self.seal_one(&self.context))));
        let bare = || (0..BATCH).for_each(|_| drop(black_box(self.bare_one())));
        compare("keyring_seal_64", Some(1.3), one, bare);

        // Where each value is another request's, and an event of its own. They are written down meanwhile, as far as the
        // sink keeps up.
        let requests: Vec<CallContext> = (0..BATCH)
            .map(|n| CallContext { request_id: Some(format!("request {n}")), ..self.context.clone() })
            .collect();
        let one = || requests.iter().for_each(|request| drop(black_box(self.seal_one(request))));
        compare("keyring_seal_64_a_request_each", None, one, bare);
    }

    fn opening(&self) {
        let ours = now(self.column.seal_many(&self.context, &[REQUEST; BATCH]));
        let ours: Vec<Vec<u8>> = ours.into_iter().map(|sealed| sealed.expect("seals")).collect();
        let bare = self.bare_many();
        let requests: Vec<OpenRequest<'_>> =
            ours.iter().map(|stored| OpenRequest { place: PLACE, form: Form::Text, stored, beside: &[] }).collect();
        let many = || now(self.column.open_many(&self.context, &requests));
        assert!(many().iter().all(Result::is_ok), "what was sealed opens");
        compare("keyring_open_many_64", Some(1.3), many, || self.bare_open_many(&bare));

        let one = || {
            for stored in &ours {
                drop(black_box(now(self.column.open(&self.context, &PLACE, Form::Text, stored))));
            }
        };
        let bare_one = || bare.iter().map(|stored| self.bare_open_one(stored)).sum::<usize>();
        compare("keyring_open_64", None, one, bare_one);
    }

    fn seal_one(&self, context: &CallContext) -> enfold::Result<Vec<u8>> {
        now(self.column.seal(context, &PLACE, Form::Text, PayloadType::Text, &VALUE))
    }

    fn binding() -> Binding {
        Binding::new("ring-main", "users.email").tenant(Some(Part::Int(1)))
    }

    /// As the column stores it: in text.
    fn bare_many(&self) -> Vec<String> {
        let bindings: Vec<Binding> = (0..BATCH).map(|_| Self::binding()).collect();
        let item =
            |binding| SealItem { binding, payload: PayloadType::Text, padding: Padding::None, plaintext: &VALUE };
        let items: Vec<SealItem<'_>> = bindings.iter().map(item).collect();
        self.sealer.seal_many(&items).into_iter().map(|sealed| text::encode(&sealed.expect("seals"))).collect()
    }

    fn bare_one(&self) -> String {
        let sealed = self.sealer.seal(&Self::binding(), PayloadType::Text, Padding::None, &VALUE);
        text::encode(&sealed.expect("seals"))
    }

    fn bare_open_many(&self, stored: &[String]) -> usize {
        let bindings: Vec<Binding> = stored.iter().map(|_| Self::binding()).collect();
        let envelopes: Vec<Vec<u8>> =
            stored.iter().map(|s| stored::decode(Form::Text, s.as_bytes()).expect("an envelope")).collect();
        let item = |(bytes, binding)| OpenItem { envelope: Envelope::parse(bytes).expect("an envelope"), binding };
        let items: Vec<OpenItem<'_>> = envelopes.iter().map(Vec::as_slice).zip(&bindings).map(item).collect();
        black_box(self.opener.open_many(&items)).len()
    }

    fn bare_open_one(&self, stored: &str) -> usize {
        let bytes = stored::decode(Form::Text, stored.as_bytes()).expect("an envelope");
        let envelope = Envelope::parse(&bytes).expect("an envelope");
        black_box(self.opener.open(&envelope, &Self::binding()).expect("opens")).plaintext.len()
    }

    /// One column handle shared by two threads, against one thread's work.
    fn two_cores(&self) {
        let requests = vec![REQUEST; BATCH];
        let many = || drop(black_box(now(self.column.seal_many(&self.context, &requests))));
        two_cores("keyring_two_cores", Some(1.8), many);
        let ones = || (0..BATCH).for_each(|_| drop(black_box(self.seal_one(&self.context))));
        two_cores("keyring_two_cores_one_at_a_time", Some(1.8), ones);
        // The same of the bare call, whose sealer counts what its subkey has sealed.
        let bare = || (0..BATCH).for_each(|_| drop(black_box(self.bare_one())));
        two_cores("keyring_two_cores_one_at_a_time_bare", None, bare);
    }
}

/// By the clock, from the best of many short turns; and by the processor time that the two threads cost each other,
/// whatever else the machine is doing.
fn two_cores(name: &str, bound: Option<f64>, batch: impl Fn() + Sync) {
    let work = || busy(|| (0..60).for_each(|_| batch()));
    let (mut one, mut two) = ((f64::MAX, f64::MAX), (f64::MAX, f64::MAX));
    let least = |best: (f64, f64), turn: (f64, f64)| (best.0.min(turn.0), best.1.min(turn.1));
    for _ in 0..40 {
        one = least(one, timed(work));
        two = least(
            two,
            timed(|| {
                std::thread::scope(|scope| {
                    let other = scope.spawn(work);
                    let ours = work();
                    f64::midpoint(ours, other.join().expect("no panic"))
                })
            }),
        );
    }
    let (ratio, by_processor) = (2.0 * one.0 / two.0, 2.0 * one.1 / two.1);
    let bound_and_met = said(bound, |bound| ratio >= bound);
    println!(
        r#"{{"name":"{name}","ratio":{ratio:.3},{bound_and_met},"better":"more","by_processor_time":{by_processor:.3}}}"#
    );
}

/// Seconds by the clock, and what the work says.
fn timed(work: impl FnOnce() -> f64) -> (f64, f64) {
    let start = Instant::now();
    let said = work();
    (start.elapsed().as_secs_f64(), said)
}

/// Seconds that this thread was on a processor.
fn busy(work: impl FnOnce()) -> f64 {
    let now = || {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        #[allow(unsafe_code, reason = "clock_gettime only fills the structure it is given")]
        let read = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
        assert_eq!(read, 0);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    let start = now();
    work();
    now() - start
}

fn said(bound: Option<f64>, met: impl Fn(f64) -> bool) -> String {
    bound.map_or(r#""bound":null"#.to_owned(), |bound| format!(r#""bound":{bound},"met":{}"#, met(bound)))
}

/// Polls to the end on this thread: what is warm never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
}

fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64()
}

fn compare<T, U>(name: &str, bound: Option<f64>, ours: impl Fn() -> T, bare: impl Fn() -> U) {
    // Warms both.
    seconds(&ours);
    seconds(&bare);
    let (mut ours_best, mut bare_best) = (f64::MAX, f64::MAX);
    let mut ratios: Vec<f64> = (0..PAIRS)
        .map(|_| {
            let (ours, bare) = (seconds(&ours), seconds(&bare));
            (ours_best, bare_best) = (ours_best.min(ours), bare_best.min(bare));
            ours / bare
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[PAIRS / 2];
    let each = |seconds: f64| seconds / BATCH as f64 * 1e9;
    let bound_and_met = said(bound, |bound| ratio <= bound);
    println!(
        r#"{{"name":"{name}","ratio":{ratio:.3},{bound_and_met},"better":"less","ours_ns":{:.0},"bare_ns":{:.0}}}"#,
        each(ours_best),
        each(bare_best)
    );
}
