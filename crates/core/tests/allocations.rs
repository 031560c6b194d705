//! A value costs its output and nothing else.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use enfold_core::{
    Binding, DataKey, Envelope, KeyId, OpenItem, Opener, Padding, Part, PayloadType, SealItem, Sealer, sealed_len,
};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one only counts and passes on")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        BYTES.set(BYTES.get() + layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations and bytes of one call.
fn counted<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = (COUNT.get(), BYTES.get());
    let done = work();
    (done, COUNT.get() - before.0, BYTES.get() - before.1)
}

#[test]
fn sealing_and_opening_allocate_the_output_and_nothing_else() {
    let (key, id) = (DataKey::generate().unwrap(), KeyId::random().unwrap());
    let (sealer, opener) = (Sealer::new(&key, id).unwrap(), Opener::new(&key, id));
    let long = "x".repeat(2000);
    let binding = Binding::new("main", "users.email").tenant(Some(Part::Text(&long))).row_key(&[Part::Int(1)]);
    for (padding, len) in
        [(Padding::None, 0), (Padding::None, 64), (Padding::Block(256), 300), (Padding::None, 1 << 20)]
    {
        let value = vec![7; len];
        let seal = || sealer.seal(&binding, PayloadType::Bytes, padding, &value).unwrap();
        // The first value of a thread makes room for its associated data.
        seal();
        let (sealed, count, bytes) = counted(seal);
        assert_eq!((count, bytes), (1, sealed_len(None, padding, len).unwrap()));

        let envelope = Envelope::parse(&sealed).unwrap();
        opener.open(&envelope, &binding).unwrap();
        let (opened, count, bytes) = counted(|| opener.open(&envelope, &binding).unwrap());
        assert_eq!(
            (count, bytes),
            (1, envelope.ciphertext_len() + 16),
            "the plaintext and the tag it was checked with"
        );
        assert_eq!(&opened.plaintext[..], &value[..]);

        let items = [SealItem { binding: &binding, payload: PayloadType::Bytes, padding, plaintext: &value }; 50];
        let (sealed, count, _) = counted(|| sealer.seal_many(&items));
        assert_eq!(count, 50 + 2, "outputs, the list of them, the nonces");
        drop(sealed);
        let (opened, count, _) = counted(|| opener.open_many(&[OpenItem { envelope, binding: &binding }; 50]));
        assert_eq!(count, 50 + 1, "outputs and the list of them");
        assert!(opened.iter().all(Result::is_ok));
    }
}
