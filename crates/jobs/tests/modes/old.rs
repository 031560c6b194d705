//! An application of before, in a process and a language of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// 32 bytes in URL-safe base64, of these tests alone.
pub(crate) const KEY: &str = "dGhpcnR5LXR3byBieXRlcyBvZiBhbiBvbGQga2V5ISE=";

pub(crate) struct OldApplication {
    process: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl OldApplication {
    /// Fernet, by Python.
    pub(crate) fn python() -> Self {
        Self::start(Command::new("python").args(["-c", include_str!("old.py"), KEY]))
    }

    /// AES-256-GCM, by Node.
    pub(crate) fn node() -> Self {
        Self::start(Command::new("node").args(["-e", include_str!("old.cjs"), KEY]))
    }

    fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = piped.spawn().expect("scripts/deps.sh installs it");
        let (asks, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, asks, answers }
    }

    /// What it stores of a value.
    pub(crate) fn write(&mut self, value: &str) -> String {
        self.ask("write", &[value]).remove(0)
    }

    /// What it makes of stored values. It ends where it cannot read one.
    pub(crate) fn read(&mut self, stored: &[&str]) -> Vec<String> {
        self.ask("read", stored)
    }

    fn ask(&mut self, verb: &str, texts: &[&str]) -> Vec<String> {
        writeln!(self.asks, "{}", serde_json::json!([verb, texts])).expect("it listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).expect("it could")
    }
}

impl Drop for OldApplication {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
