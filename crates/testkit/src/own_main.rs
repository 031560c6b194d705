//! The `main` of a test that runs its own program again, as the process it kills: such a test has no harness.

use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Answers a test runner's questions, and runs the one test there is with a seed, which is printed.
/// `ENFOLD_KILL_SEED` replays a seed's choices (not the kernel's).
pub fn run(name: &str, test: impl FnOnce(u64)) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        // Test runners ask a second time for what is ignored, which must not be this.
        if !arguments.iter().any(|a| a == "--ignored") {
            println!("{name}: test");
        }
        return;
    }
    let mut filters = arguments.iter().filter(|a| !a.starts_with('-')).peekable();
    if filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str())) {
        let seed = std::env::var("ENFOLD_KILL_SEED").map_or_else(|_| fresh_seed(), |s| s.parse().expect("a number"));
        println!("seed {seed}: run again with ENFOLD_KILL_SEED={seed}");
        test(seed);
        println!("test {name} ... ok");
    }
}

/// This program once more, with other arguments and nothing on its standard input.
pub fn this_program(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Something that differs from run to run.
fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_nanos() % u128::from(u32::MAX)).expect("fits")
}
