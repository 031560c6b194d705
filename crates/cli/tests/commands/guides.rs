//! Guides that are followed word by word: their blocks, and a shell that runs them where the command is on the path.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Sandbox;

/// The blocks of a guide that are marked as `kind`, in their order.
pub(crate) fn blocks(guide: &str, kind: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = None;
    for line in guide.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(mark), None) => {
                inside = Some(mark == kind);
                if mark == kind {
                    found.push(String::new());
                }
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => {
                let block = found.last_mut().expect("one was begun");
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    assert!(!found.is_empty(), "the guide has no block of {kind}");
    found
}

/// Runs `script` in the sandbox's folder with the command, `tools` and the system's programs on the path. It has to succeed;
/// returns its standard output.
pub(crate) fn bash(shop: &Sandbox, script: &str, tools: &[PathBuf], variables: &[(&str, &str)]) -> String {
    let command = Path::new(env!("CARGO_BIN_EXE_enfold")).parent().expect("a folder").to_owned();
    let system = ["/usr/bin", "/bin"].map(PathBuf::from);
    let path = [command].into_iter().chain(tools.iter().cloned()).chain(system);
    let ran = Command::new("bash")
        .args(["-euc", script])
        .current_dir(shop.path(""))
        .env_clear()
        .env("PATH", std::env::join_paths(path).expect("a path"))
        .env("USER", "ada")
        .envs(variables.iter().copied())
        .output()
        .expect("a shell");
    let (out, err) = (String::from_utf8(ran.stdout).expect("text"), String::from_utf8(ran.stderr).expect("text"));
    assert!(ran.status.success(), "{script}\n{out}\n{err}");
    out
}
