//! What sealing and opening cost beside the cipher itself. Prints a JSON line for each figure:
//! `{"name", "ratio", "bound", "met", "ours_ns", "raw_ns"}`.
//!
//! Two things are compared by taking turns in slices of about a millisecond on the same core, so that whatever else the
//! machine does falls on both; the ratio is the median of the ratios of neighbouring slices. The times are those of the
//! fastest slice.
//!
//! "Raw" is AES-256-GCM of the same library with a warm key, over the same bytes (value and associated data), into an
//! output of its own for every value, as many of them alive at once. Lines that end in `_to_cipher_alone` have no bound:
//! they compare with the cipher over the value alone, in place, in one buffer that never leaves the cache. Dropping the
//! outputs is not timed on either side (wiping plaintext is what a drop does here).

#![allow(clippy::print_stdout, reason = "its lines are its result")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, RandomizedNonceKey, UnboundKey};
use aws_lc_rs::rand;
use enfold_core::{
    Binding, DataKey, Envelope, KeyId, OpenItem, Opener, Padding, Part, PayloadType, SealItem, Sealer, process,
};

/// Counts what a thread allocates, for the promise that a value costs its output and nothing else. Each thread has its
/// own count: one that two threads share would be what they wait for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one only counts and passes on")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const BATCH: usize = 1000;
const PAIRS: usize = 301;

fn main() {
    keep_memory();
    let bench = Bench::new();
    // `cargo bench --bench envelope -- single` measures the one that is being worked on.
    match std::env::args().nth(1).as_deref() {
        Some("single") => return bench.single_seal(),
        Some("cores") => return bench.two_cores(),
        _ => {}
    }
    for (size, bound) in [(64, Some(1.5)), (1024, None), (16 * 1024, Some(1.05))] {
        // The FIPS module draws each nonce, which a batch pays for; docs/concepts/fips.md has the figures.
        bench.batch_seal(size, bound.filter(|_| !cfg!(feature = "fips")));
        bench.warm_open(size, bound);
    }
    bench.single_seal();
    bench.two_cores();
}

/// As the library above this crate does it, so as applications have it.
fn watch_forks() {
    extern "C" fn in_every_child() {
        process::is_a_copy();
    }
    #[allow(unsafe_code, reason = "pthread_atfork has no safe wrapper; the handler only counts")]
    let registered = unsafe { libc::pthread_atfork(None, None, Some(in_every_child)) };
    assert_eq!(registered, 0);
    process::forks_are_watched();
}

/// Without this the allocator gives every batch of outputs back to the system and takes it again, page fault by page
/// fault, which would hide what is measured: on both sides nearly all the time would be the kernel's.
fn keep_memory() {
    for option in [libc::M_TRIM_THRESHOLD, libc::M_TOP_PAD, libc::M_MMAP_THRESHOLD] {
        #[allow(unsafe_code, reason = "mallopt has no safe wrapper; it only sets a number")]
        let done = unsafe { libc::mallopt(option, 1 << 28) };
        assert_eq!(done, 1);
    }
}

struct Bench {
    sealer: Sealer,
    opener: Opener,
    binding: Binding,
    raw: LessSafeKey,
}

impl Bench {
    fn new() -> Self {
        let (key, id) = (DataKey::generate().unwrap(), KeyId::random().unwrap());
        Self {
            sealer: Sealer::new(&key, id).unwrap(),
            opener: Opener::new(&key, id),
            binding: Binding::new("customers", "users.email").tenant(Some(Part::Int(4711))),
            raw: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap()),
        }
    }

    fn items<'a>(&'a self, values: &'a [Vec<u8>]) -> Vec<SealItem<'a>> {
        let item = |plaintext| SealItem {
            binding: &self.binding,
            payload: PayloadType::Text,
            padding: Padding::None,
            plaintext,
        };
        values.iter().map(|value| item(value)).collect()
    }

    fn aad(&self) -> Vec<u8> {
        vec![0; 71 + self.binding.encoded().len()]
    }

    /// The cipher over the value alone, in place.
    fn seal_alone(&self, nonce: [u8; 12], buffer: &mut [u8]) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.raw.seal_in_place_separate_tag(nonce, Aad::empty(), buffer).unwrap();
        black_box(tag.as_ref());
    }

    /// The cipher over value and associated data, into an output of its own.
    fn seal_like(&self, nonce: [u8; 12], aad: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(value.len() + 28);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(value);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.raw.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out[12..]).unwrap();
        out.extend_from_slice(tag.as_ref());
        out
    }

    fn batch_seal(&self, size: usize, bound: Option<f64>) {
        let values = batch_of(size);
        let items = self.items(&values);
        // The first batch of a thread allocates twice more, for what the thread then keeps.
        drop(self.sealer.seal_many(&items));
        let sealed = counted(&format!("seal_many_{size}"), items.len(), || self.sealer.seal_many(&items));
        assert!(sealed.iter().all(Result::is_ok));

        let ours = || self.sealer.seal_many(&items);
        let mut buffer = vec![0x61; size];
        let alone = || values.iter().for_each(|_| self.seal_alone([1; 12], &mut buffer));
        compare(&format!("seal_many_{size}_to_cipher_alone"), None, values.len(), ours, alone);
        let aad = self.aad();
        let like = || values.iter().map(|value| self.seal_like([1; 12], &aad, value)).collect::<Vec<_>>();
        compare(&format!("seal_many_{size}"), bound, values.len(), ours, like);
    }

    fn warm_open(&self, size: usize, bound: Option<f64>) {
        let values = batch_of(size);
        let sealed: Vec<Vec<u8>> =
            self.sealer.seal_many(&self.items(&values)).into_iter().map(Result::unwrap).collect();
        let ours = || {
            let parse = |bytes| OpenItem { envelope: Envelope::parse(bytes).unwrap(), binding: &self.binding };
            let items: Vec<OpenItem<'_>> = sealed.iter().map(|bytes| parse(bytes)).collect();
            self.opener.open_many(&items)
        };
        assert!(ours().iter().all(Result::is_ok));
        counted(&format!("open_many_{size}"), sealed.len(), ours);

        let nonce = || Nonce::assume_unique_for_key([1; 12]);
        let alone: Vec<u8> = {
            let mut value = values[0].clone();
            let tag = self.raw.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut value).unwrap();
            [&value, tag.as_ref()].concat()
        };
        let mut buffer = vec![0; size];
        let open_alone = || {
            for _ in &values {
                let (body, tag) = alone.split_at(size);
                self.raw.open_separate_gather(nonce(), Aad::empty(), body, tag, &mut buffer).unwrap();
                black_box(&buffer);
            }
        };
        compare(&format!("open_many_{size}_to_cipher_alone"), None, values.len(), ours, open_alone);

        let aad = self.aad();
        let raw: Vec<Vec<u8>> = values.iter().map(|value| self.seal_like([1; 12], &aad, value)).collect();
        let open_like = || {
            let open = |bytes: &Vec<u8>| {
                let mut out = bytes[12..].to_vec();
                let len = self.raw.open_in_place(nonce(), Aad::from(&aad), &mut out).unwrap().len();
                out.truncate(len);
                out
            };
            raw.iter().map(open).collect::<Vec<_>>()
        };
        compare(&format!("open_many_{size}"), bound, values.len(), ours, open_like);
    }

    /// One value, its nonce drawn alone.
    fn single_seal(&self) {
        let value = [0x61; 64];
        let drawn = || {
            let mut nonce = [0; 12];
            rand::fill(&mut nonce).unwrap();
            nonce
        };
        let seal = |_| self.sealer.seal(&self.binding, PayloadType::Text, Padding::None, &value).unwrap();
        // One at a time: each output is dropped before the next is made, on both sides.
        let ours = || (0..BATCH).map(seal).for_each(|sealed| drop(black_box(sealed)));
        counted("seal_64", BATCH, ours);
        let mut buffer = value;
        let alone = || (0..BATCH).for_each(|_| self.seal_alone(drawn(), &mut buffer));
        compare("seal_64_to_cipher_alone", None, BATCH, ours, alone);
        let aad = self.aad();
        let seal_like = |_| self.seal_like(drawn(), &aad, &value);
        let like = || (0..BATCH).map(seal_like).for_each(|sealed| drop(black_box(sealed)));
        compare("seal_64_where_nobody_watches_forks", None, BATCH, ours, like);
        watch_forks();
        compare("seal_64", Some(1.3), BATCH, ours, like);
        let randomized = RandomizedNonceKey::new(&AES_256_GCM, &[7; 32]).unwrap();
        let module = |_| {
            let mut out = Vec::with_capacity(64 + 28);
            out.resize(12, 0);
            out.extend_from_slice(&value);
            let (nonce, tag) = randomized.seal_in_place_separate_tag(Aad::from(&aad), &mut out[12..]).unwrap();
            out[..12].copy_from_slice(nonce.as_ref());
            out.extend_from_slice(tag.as_ref());
            out
        };
        let drawn_by_module = || (0..BATCH).map(module).for_each(|sealed| drop(black_box(sealed)));
        compare("seal_64_to_module_drawing_the_nonce", None, BATCH, ours, drawn_by_module);
    }

    /// One sealer and one opener, shared by two threads: values in a given time against one thread's. Beside it the bare
    /// cipher with a key and a buffer for each thread, which share nothing: what the machine gives two threads at all.
    fn two_cores(&self) {
        let values = vec![vec![0x61; 64]; BATCH];
        let items = self.items(&values);
        let ours = scaling(|| {
            for _ in 0..60 {
                let sealed = self.sealer.seal_many(&items);
                let parse = |bytes| OpenItem { envelope: Envelope::parse(bytes).unwrap(), binding: &self.binding };
                let opening: Vec<OpenItem<'_>> = sealed.iter().flatten().map(|bytes| parse(bytes)).collect();
                drop(black_box(self.opener.open_many(&opening)));
            }
        });
        let cipher = scaling(|| {
            let own = Bench::new();
            let mut buffer = vec![0x61; 64];
            (0..120 * BATCH).for_each(|_| own.seal_alone([1; 12], &mut buffer));
        });
        let (share, cipher_share) = (ours.by_processor, cipher.by_processor);
        println!(
            r#"{{"name":"two_cores_by_processor_time","ratio":{share:.3},"bound":null,"better":"more","cipher":{cipher_share:.3}}}"#
        );
        let (ratio, cipher) = (ours.by_clock, cipher.by_clock);
        println!(
            r#"{{"name":"two_cores","ratio":{ratio:.3},"bound":1.9,"met":{},"better":"more","cipher":{cipher:.3}}}"#,
            ratio >= 1.9
        );
    }
}

/// How much more two threads do than one.
struct Scaling {
    by_clock: f64,
    /// What the two threads cost each other, whatever else the machine is doing.
    by_processor: f64,
}

/// From the best of many short turns: one in which nobody else wanted either core.
fn scaling(work: impl Fn() + Sync) -> Scaling {
    let both = || {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| processor_time(&work));
            let ours = processor_time(&work);
            (ours + other.join().unwrap()) / 2.0
        })
    };
    let (mut one, mut two) = (f64::MAX, f64::MAX);
    let (mut one_busy, mut two_busy) = (f64::MAX, f64::MAX);
    for _ in 0..60 {
        let (busy, wall) = time(|| processor_time(&work));
        (one, one_busy) = (one.min(wall), one_busy.min(busy));
        let (busy, wall) = time(both);
        (two, two_busy) = (two.min(wall), two_busy.min(busy));
    }
    Scaling { by_clock: 2.0 * one / two, by_processor: 2.0 * one_busy / two_busy }
}

/// Seconds that this thread was on a processor.
fn processor_time(work: impl FnOnce()) -> f64 {
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

/// A thousand values, or as many as a megabyte holds.
fn batch_of(size: usize) -> Vec<Vec<u8>> {
    vec![vec![0x61; size]; BATCH.min((1 << 20) / size)]
}

/// What is allocated beyond one output a value: the bound is for the whole batch, the two lists of items and results
/// and the nonces among it.
fn counted<T>(name: &str, values: usize, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.get();
    let done = work();
    let extra = ALLOCATIONS.get() - before - values as u64;
    let met = extra <= 2;
    println!(r#"{{"name":"{name}_allocations_a_batch_beyond_its_outputs","ratio":{extra},"bound":2,"met":{met}}}"#);
    done
}

fn compare<T, U>(
    name: &str,
    bound: Option<f64>,
    values: usize,
    mut ours: impl FnMut() -> T,
    mut raw: impl FnMut() -> U,
) {
    ours();
    raw();
    let mut ratios = Vec::with_capacity(PAIRS);
    let (mut ours_best, mut raw_best) = (f64::MAX, f64::MAX);
    for _ in 0..PAIRS {
        let (one, other) = (time(&mut ours).1, time(&mut raw).1);
        ratios.push(one / other);
        ours_best = ours_best.min(one);
        raw_best = raw_best.min(other);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[PAIRS / 2];
    let each = |seconds: f64| seconds / values as f64 * 1e9;
    let bound = match bound {
        Some(bound) => format!(r#""bound":{bound},"met":{},"#, ratio <= bound),
        None => r#""bound":null,"#.to_owned(),
    };
    let (ours_ns, raw_ns) = (each(ours_best), each(raw_best));
    println!(r#"{{"name":"{name}","ratio":{ratio:.3},{bound}"ours_ns":{ours_ns:.0},"raw_ns":{raw_ns:.0}}}"#);
}

/// What was made, still alive, and the seconds it took.
fn time<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let made = black_box(work());
    (made, start.elapsed().as_secs_f64())
}
