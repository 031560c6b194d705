//! A fork with a warm cache: the child starts empty, asks the key service itself, and shares no salt with its parent.

mod common;

use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::sync::Arc;

use common::{World, open, seal, set_mode};
use enfold::kms::MemoryKms;
use enfold::policy::Mode;
use enfold::{Column, Part, Place};
use enfold_core::{Envelope, text};

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));

/// A runtime for each call, on this thread alone and gone with it: none survives a fork.
fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn salt(email: &Column) -> [u8; 16] {
    let stored = now(seal(email, ACME, "after")).unwrap();
    let envelope = text::decode(std::str::from_utf8(&stored).unwrap()).unwrap();
    *Envelope::parse(&envelope).unwrap().salt()
}

/// What the child has to tell: its salt, whether it opened the parent's value, and how often it asked the key service.
fn child(email: &Column, kms: &Arc<MemoryKms>, stored: &[u8]) -> [u8; 18] {
    let before = kms.calls().unwrap;
    let mut report = [0; 18];
    report[..16].copy_from_slice(&salt(email));
    report[16] = u8::from(now(open(email, ACME, stored)).is_ok_and(|v| v == "before"));
    report[17] = u8::try_from(kms.calls().unwrap - before).unwrap_or(u8::MAX);
    report
}

#[test]
#[allow(
    unsafe_code,
    reason = "a fork is what is tested; the child of this single-threaded part touches its own memory only"
)]
fn a_forked_process_starts_with_an_empty_cache() {
    let world = World::new();
    let enfold = now(world.operators());
    now(set_mode(&enfold, "users.email", Mode::Hybrid));
    let email = enfold.column("users.email").unwrap();
    let stored = now(seal(&email, ACME, "before")).unwrap();
    let parent_before = salt(&email);

    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: no lock that the child needs is held by another thread here; it ends with `_exit`, so it runs no destructor
    // and none of the test harness.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let report = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| child(&email, &world.kms, &stored)))
            .unwrap_or([0; 18]);
        // SAFETY: the write end is the child's own copy.
        let mut pipe = unsafe { std::fs::File::from_raw_fd(ends[1]) };
        let written = pipe.write_all(&report).is_ok();
        // SAFETY: it only ends the process.
        unsafe { libc::_exit(i32::from(!written)) };
    }
    // SAFETY: closed once; the child has its own copy.
    unsafe { libc::close(ends[1]) };
    let mut report = Vec::new();
    // SAFETY: the read end is owned by nobody else.
    unsafe { std::fs::File::from_raw_fd(ends[0]) }.read_to_end(&mut report).unwrap();
    let mut status = 0;
    // SAFETY: `pid` is our child, and `status` has room.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert_eq!(report.len(), 18);

    assert_eq!(salt(&email), parent_before, "the parent goes on with its own");
    assert_ne!(report[..16], parent_before, "the child has a salt of its own");
    assert_ne!(report[..16], [0; 16]);
    assert_eq!(report[16], 1, "the child opens what its parent sealed");
    assert_eq!(report[17], 1, "the child asked the key service itself");
}
