//! Recognising that this process is a copy of the one that a key was made ready in.

use std::sync::Once;

/// Stands beside keys. After a fork the copy has another process id; where the id happens to be the same (a restored
/// snapshot, another pid namespace), whoever wipes the memory makes the canary zero.
pub(crate) struct ForkMark {
    pid: u32,
    canary: u64,
}

const CANARY: u64 = 0x656e_666f_6c64_0002;

impl ForkMark {
    pub(crate) fn new() -> Self {
        watch_forks();
        Self { pid: std::process::id(), canary: CANARY }
    }

    pub(crate) fn is_ours(&self) -> bool {
        std::hint::black_box(self.canary) == CANARY && self.pid == std::process::id()
    }

    /// As a process finds it that was forked from another.
    #[cfg(test)]
    pub(crate) fn of_another_process(&mut self) {
        self.pid = self.pid.wrapping_add(1);
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
        enfold_core::process::is_a_copy();
    }
    ONCE.call_once(|| {
        #[allow(unsafe_code, reason = "pthread_atfork has no safe wrapper; the handler only raises an atomic counter")]
        let registered = unsafe { libc::pthread_atfork(None, None, Some(in_every_child)) };
        if registered == 0 {
            enfold_core::process::forks_are_watched();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_id_or_a_wiped_canary_is_recognised() {
        assert!(ForkMark::new().is_ours());
        let (mut other, mut wiped) = (ForkMark::new(), ForkMark::new());
        other.of_another_process();
        wiped.wiped();
        assert!(!other.is_ours() && !wiped.is_ours());
    }
}
