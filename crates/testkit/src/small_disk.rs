//! A file system of a few MiB that really fills up, for what must hold when a disk is full.
//!
//! It is memory (tmpfs), and mounting needs root, as which the tests run. Where it cannot be mounted the test fails. A
//! test that is killed leaves the mount behind, `enfold-small-disk-…` in the folder for temporary files.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::postgres_private::{give_to_postgres, run};

/// Mounted with it, unmounted and removed with it. Whoever has files open there must have ended by then.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Of `kib` KiB, empty.
    pub fn mount(kib: u64) -> Self {
        let folder = TempDir::with_prefix("enfold-small-disk-").expect("a temporary directory");
        let size = format!("size={kib}k,mode=700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "enfold-test"]).arg(folder.path()));
        Self { folder }
    }

    /// As [`Self::mount`], for a server that runs under an account of its own.
    pub fn mount_for_postgres(kib: u64) -> Self {
        let disk = Self::mount(kib);
        give_to_postgres(disk.path());
        disk
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes it as large or as small as it takes for `kib` KiB to be free.
    pub fn leave(&self, kib: u64) {
        let total = self.df("used") + kib;
        let size = format!("remount,size={total}k");
        run(Command::new("mount").args(["-o", &size]).arg(self.path()));
        assert_eq!(self.free(), kib, "the disk took another size than it was given");
    }

    /// In KiB.
    pub fn free(&self) -> u64 {
        self.df("avail")
    }

    fn df(&self, column: &str) -> u64 {
        let output = Command::new("df").arg("-k").arg(format!("--output={column}")).arg(self.path()).output();
        let said = String::from_utf8(output.expect("df runs").stdout).expect("text");
        said.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a number of KiB")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("could not unmount {}", self.path().display());
        }
    }
}
