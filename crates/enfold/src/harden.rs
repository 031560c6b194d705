//! Making a process that holds keys harder to look into.

use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::{Code, Error, Result};

/// Has this process leave no core file and be closed to debuggers of the same user: its memory holds data keys and
/// plaintext. For our own programs; an application that imports the library decides for itself.
///
/// What stays open: root, a swap device that is not encrypted, and a hypervisor.
pub fn process() -> Result<()> {
    let failed = |what: &str, error: rustix::io::Errno| {
        Error::new(Code::Internal, format!("cannot {what}")).cause(error.kind().to_string())
    };
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(|e| failed("forbid core files", e))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| failed("close this process to debuggers", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardened_process_leaves_no_core_file_and_is_not_dumpable() {
        process().unwrap();
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
