//! Recognising that this is no longer the process a key was made ready in.

use crate::error::{Error, Result};

/// Stands beside a subkey that seals. After a fork parent and child hold the same subkey and, with it, the same budget
/// counted twice and the same salt, which would tell a reader of the database that the two are related; the child
/// must make its own.
pub(crate) struct Guard {
    pid: u32,
    /// Never zero while it is alive, so memory that the system wiped (`MADV_WIPEONFORK`, a restored snapshot's hook) is
    /// recognised even where the process id is the same.
    canary: u64,
}

const CANARY: u64 = 0x656e_666f_6c64_0001;

impl Guard {
    pub(crate) fn new() -> Self {
        Self { pid: std::process::id(), canary: CANARY }
    }

    /// One system call that the kernel answers from memory; a batch asks once.
    pub(crate) fn check(&self) -> Result<()> {
        if std::hint::black_box(self.canary) == CANARY && self.pid == std::process::id() {
            Ok(())
        } else {
            Err(Error::ProcessChanged)
        }
    }

    /// What a hook that runs after a VM snapshot was restored calls.
    pub(crate) fn void(&mut self) {
        self.canary = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_id_or_a_wiped_canary_is_recognised() {
        assert_eq!(Guard::new().check(), Ok(()));
        let other = Guard { pid: std::process::id().wrapping_add(1), canary: CANARY };
        assert_eq!(other.check(), Err(Error::ProcessChanged));
        let mut wiped = Guard::new();
        wiped.void();
        assert_eq!(wiped.check(), Err(Error::ProcessChanged));
    }
}
