//! Recognising that this is no longer the process a key was made ready in.
//!
//! After a fork parent and child hold the same subkeys: the budget would be counted twice, and the same salt would tell
//! a reader of the database that the two are related. After a VM snapshot was restored twice, even the state of a random
//! generator may be the same. So whatever seals remembers where it was made, and refuses elsewhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Raised whenever this process turns out to be a copy.
static COPIES: AtomicU64 = AtomicU64::new(0);
static WATCHED: AtomicBool = AtomicBool::new(false);

/// This process is a copy: everything made ready before refuses from now on. For a hook that runs after a VM snapshot
/// was restored, and for the handler of [`forks_are_watched`]. It does nothing that a signal handler may not do.
pub fn is_a_copy() {
    COPIES.fetch_add(1, Ordering::SeqCst);
}

/// Says that a handler registered with `pthread_atfork` calls [`is_a_copy`] in every child. From then on sealing a
/// single value does not ask the kernel for its process id, which is a fifth of its time; a batch still asks, once.
///
/// Only whoever has registered that handler may call this (this crate has no unsafe code, so it cannot).
pub fn forks_are_watched() {
    WATCHED.store(true, Ordering::SeqCst);
}

/// How often this process turned out to be a copy; `None` where nobody watches forks, so that only the process id tells.
/// For caches above this crate: what was made ready at another count is not this process's.
pub fn copies() -> Option<u64> {
    WATCHED.load(Ordering::Relaxed).then(|| COPIES.load(Ordering::Relaxed))
}

/// Stands beside a subkey that seals.
pub(crate) struct Guard {
    pid: u32,
    copies: u64,
    /// Never zero while it is alive, so memory that the system wiped (`MADV_WIPEONFORK`) is recognised even where the
    /// process id is the same.
    canary: u64,
}

const CANARY: u64 = 0x656e_666f_6c64_0001;

impl Guard {
    pub(crate) fn new() -> Self {
        Self { pid: std::process::id(), copies: COPIES.load(Ordering::SeqCst), canary: CANARY }
    }

    /// For a batch: asks everybody.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_marks()?;
        if self.pid == std::process::id() { Ok(()) } else { Err(Error::ProcessChanged) }
    }

    /// For a single value: asks the kernel only where nobody watches forks.
    pub(crate) fn check_one(&self) -> Result<()> {
        if WATCHED.load(Ordering::Relaxed) { self.check_marks() } else { self.check() }
    }

    fn check_marks(&self) -> Result<()> {
        if std::hint::black_box(self.canary) == CANARY && self.copies == COPIES.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Error::ProcessChanged)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_id_or_a_wiped_canary_or_an_earlier_copy_is_recognised() {
        let guard = Guard::new();
        assert_eq!((guard.check(), guard.check_one()), (Ok(()), Ok(())));
        let mut others = [Guard::new(), Guard::new(), Guard::new()];
        others[0].pid = others[0].pid.wrapping_add(1);
        others[1].canary = 0;
        others[2].copies = others[2].copies.wrapping_sub(1);
        for other in others {
            assert_eq!(other.check(), Err(Error::ProcessChanged));
            assert_eq!(other.check_one(), Err(Error::ProcessChanged));
        }
    }
}
