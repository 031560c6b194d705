//! Recognising that this process is a copy of the one that a key was made ready in.

use std::sync::Once;

use enfold_core::process;

/// Stands beside keys. After a fork the copy has another process id; where the id happens to be the same (a restored
/// snapshot, another pid namespace), whoever wipes the memory makes the canary zero.
pub(crate) struct ForkMark {
    pid: u32,
    /// Where forks are watched: how many copies there had been.
    copies: Option<u64>,
    canary: u64,
}

const CANARY: u64 = 0x656e_666f_6c64_0002;

impl ForkMark {
    pub(crate) fn new() -> Self {
        watch_forks();
        Self { pid: std::process::id(), copies: process::copies(), canary: CANARY }
    }

    /// Asks everybody.
    pub(crate) fn is_ours(&self) -> bool {
        self.looks_ours() && self.pid == std::process::id()
    }

    /// For a single value: asks the kernel for the process id, which is a sixth of sealing one, only where nobody watches
    /// forks.
    pub(crate) fn is_ours_as_watched(&self) -> bool {
        if self.copies.is_some() { self.looks_ours() } else { self.is_ours() }
    }

    fn looks_ours(&self) -> bool {
        std::hint::black_box(self.canary) == CANARY && self.copies == process::copies()
    }

    /// As a process finds it that was forked from another.
    #[cfg(test)]
    pub(crate) fn of_another_process(&mut self) {
        self.pid = self.pid.wrapping_add(1);
    }

    /// As a process finds it that the handler was run in.
    #[cfg(test)]
    pub(crate) fn of_an_earlier_copy(&mut self) {
        self.copies = self.copies.map(|copies| copies.wrapping_sub(1));
    }

    /// As a process finds it whose memory was wiped.
    #[cfg(test)]
    pub(crate) fn wiped(&mut self) {
        self.canary = 0;
    }
}

/// Has every child of a fork tell the sealers that it is a copy, which spares each single value the system call that asks
/// for the process id. Where the handler cannot be registered, they go on asking.
fn watch_forks() {
    static ONCE: Once = Once::new();
    extern "C" fn in_every_child() {
        process::is_a_copy();
    }
    ONCE.call_once(|| {
        #[allow(unsafe_code, reason = "pthread_atfork has no safe wrapper; the handler only raises an atomic counter")]
        let registered = unsafe { libc::pthread_atfork(None, None, Some(in_every_child)) };
        if registered == 0 {
            process::forks_are_watched();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_id_or_a_wiped_canary_or_an_earlier_copy_is_recognised() {
        assert!(ForkMark::new().is_ours() && ForkMark::new().is_ours_as_watched());
        let (mut other, mut wiped, mut earlier) = (ForkMark::new(), ForkMark::new(), ForkMark::new());
        other.of_another_process();
        wiped.wiped();
        earlier.of_an_earlier_copy();
        assert!(!other.is_ours() && !wiped.is_ours() && !earlier.is_ours());
        assert!(!wiped.is_ours_as_watched() && !earlier.is_ours_as_watched());
    }
}
