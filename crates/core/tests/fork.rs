//! A fork with everything warm: parent and child must share no key, no salt and no nonce from then on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

use enfold_core::wrap::{KeyWrap, WrapContext};
use enfold_core::{
    Binding, DataKey, Envelope, Error, KeyId, Opener, Padding, PayloadType, RecordSealer, SealItem, Sealer, danger,
    process,
};

const VALUES: usize = 200;
/// New data key, new key id, then for each value its salt, commitment and nonce.
const REPORT: usize = 32 + 16 + VALUES * (16 + 32 + 12);

struct Warm {
    key: DataKey,
    id: KeyId,
    sealer: Sealer,
    record: RecordSealer,
    wrap: KeyWrap,
    opener: Opener,
    binding: Binding,
    sealed: Vec<u8>,
}

impl Warm {
    fn new() -> Self {
        let (key, id) = (DataKey::generate().unwrap(), KeyId::random().unwrap());
        let binding = Binding::new("main", "users.email");
        let sealer = Sealer::new(&key, id).unwrap();
        let opener = Opener::new(&key, id);
        let sealed = sealer.seal(&binding, PayloadType::Text, Padding::None, b"before").unwrap();
        opener.open(&Envelope::parse(&sealed).unwrap(), &binding).unwrap();
        let record = RecordSealer::new(&key, id);
        record.seal(&binding, PayloadType::Text, Padding::None, b"before").unwrap();
        let wrap = KeyWrap::new(&key, id);
        wrap.wrap(&key, &WrapContext::of(&[])).unwrap();
        Self { key, id, sealer, record, wrap, opener, binding, sealed }
    }

    fn items(&self) -> Vec<SealItem<'_>> {
        let item = SealItem {
            binding: &self.binding,
            payload: PayloadType::Text,
            padding: Padding::None,
            plaintext: b"after",
        };
        vec![item; VALUES]
    }

    /// What the child does with what it inherited: true when everything that seals refused and opening still works.
    fn refuses(&self) -> bool {
        let changed = Error::ProcessChanged;
        self.sealer.seal(&self.binding, PayloadType::Text, Padding::None, b"v") == Err(changed)
            && self.sealer.seal_many(&self.items()).iter().all(|result| *result == Err(changed))
            && self.record.seal(&self.binding, PayloadType::Text, Padding::None, b"v") == Err(changed)
            && self.wrap.wrap(&self.key, &WrapContext::of(&[])).err() == Some(changed)
            && self.opener.open(&Envelope::parse(&self.sealed).unwrap(), &self.binding).is_ok()
    }

    /// Seals with a sealer and says what must be nobody else's.
    fn report(&self, sealer: &Sealer) -> Vec<u8> {
        let mut report = danger::expose(&DataKey::generate().unwrap()).to_vec();
        report.extend_from_slice(KeyId::random().unwrap().as_bytes());
        for sealed in sealer.seal_many(&self.items()) {
            let sealed = sealed.unwrap();
            let envelope = Envelope::parse(&sealed).unwrap();
            report.extend_from_slice(envelope.salt());
            report.extend_from_slice(envelope.commitment());
            report.extend_from_slice(envelope.nonce());
        }
        report
    }
}

#[test]
fn parent_and_child_share_no_key_no_salt_and_no_nonce() {
    // By the process id alone; then with a handler that watches forks, as the library above this crate registers one.
    fork_and_compare();
    #[allow(unsafe_code, reason = "pthread_atfork has no safe wrapper; the handler only counts")]
    let registered = unsafe { libc::pthread_atfork(None, None, Some(in_every_child)) };
    assert_eq!(registered, 0);
    process::forks_are_watched();
    fork_and_compare();
}

extern "C" fn in_every_child() {
    process::is_a_copy();
}

fn fork_and_compare() {
    let warm = Warm::new();
    let (mut reader, writer) = pipe();

    #[allow(unsafe_code, reason = "a fork is what is tested; the child only seals, writes to a pipe and leaves")]
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        let status = in_child(&warm, writer);
        #[allow(unsafe_code, reason = "leaves without the parent's exit handlers")]
        unsafe {
            libc::_exit(status)
        }
    }
    drop(writer);

    // The parent goes on with what it had, at the same time.
    let ours = warm.report(&warm.sealer);
    let mut theirs = Vec::new();
    reader.read_to_end(&mut theirs).unwrap();
    let mut status = 0;
    #[allow(unsafe_code, reason = "waits for the child forked above")]
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "1: something inherited did not refuse; 2: the child could not report");

    assert_eq!((ours.len(), theirs.len()), (REPORT, REPORT));
    assert_ne!(ours[..32], theirs[..32], "data key");
    assert_ne!(ours[32..48], theirs[32..48], "key id");
    let (ours, theirs) = (Parts::of(&ours[48..]), Parts::of(&theirs[48..]));
    assert!(ours.salts.is_disjoint(&theirs.salts), "salt");
    assert!(ours.commitments.is_disjoint(&theirs.commitments), "subkey");
    assert_eq!((ours.nonces.len(), theirs.nonces.len()), (VALUES, VALUES));
    assert!(ours.nonces.is_disjoint(&theirs.nonces), "nonce");
}

fn in_child(warm: &Warm, mut writer: File) -> i32 {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        if !warm.refuses() {
            return 1;
        }
        let report = warm.report(&Sealer::new(&warm.key, warm.id).unwrap());
        if writer.write_all(&report).is_ok() { 0 } else { 2 }
    }));
    outcome.unwrap_or(2)
}

struct Parts {
    salts: BTreeSet<Vec<u8>>,
    commitments: BTreeSet<Vec<u8>>,
    nonces: BTreeSet<Vec<u8>>,
}

impl Parts {
    fn of(report: &[u8]) -> Self {
        let part = |from: usize, to: usize| report.chunks_exact(60).map(|value| value[from..to].to_vec()).collect();
        Self { salts: part(0, 16), commitments: part(16, 48), nonces: part(48, 60) }
    }
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    #[allow(unsafe_code, reason = "two descriptors that nobody else owns become two files")]
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}
