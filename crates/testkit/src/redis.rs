//! A Redis of one's own: what is tested is how it stops, what it writes to its disk and what is put into it by others.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Started with it, stopped and removed with it.
pub struct Redis {
    dir: TempDir,
    port: u16,
    arguments: Vec<String>,
    tls: bool,
    process: Option<Child>,
}

impl Redis {
    /// `arguments` are settings as on the command line of `redis-server`. Nothing is written to disk unless they say so.
    pub fn start(arguments: &[&str]) -> Self {
        let mut redis = Self {
            dir: TempDir::with_prefix("enfold-redis-").expect("a temporary directory"),
            port: TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port(),
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
            tls: arguments.contains(&"--tls-cert-file"),
            process: None,
        };
        redis.up();
        redis
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it writes its dump and its log of changes.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Starts it again, empty unless it had written something.
    pub fn up(&mut self) {
        let port = self.port.to_string();
        let ports: &[&str] = if self.tls { &["--port", "0", "--tls-port", &port] } else { &["--port", &port] };
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--dir", self.dir.path().to_str().expect("UTF-8"), "--save", ""])
            .args(ports)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("no redis-server here: run `make deps`");
        self.process = Some(process);
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "redis-server does not listen");
            std::thread::yield_now();
        }
    }

    /// Kills it.
    pub fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().and_then(|()| process.wait()).expect("it was running");
        }
    }

    /// What `redis-cli` prints for a command, which has to succeed.
    pub fn ask(&self, command: &[&str]) -> Vec<u8> {
        self.ask_with(command, b"")
    }

    /// The same, with the last argument of the command given as bytes.
    pub fn ask_with(&self, command: &[&str], last: &[u8]) -> Vec<u8> {
        let mut cli = Command::new("redis-cli");
        cli.args(["--raw", "-e", "-p", &self.port.to_string()]);
        if !last.is_empty() {
            cli.arg("-x");
        }
        let cli = cli.args(command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut cli = cli.expect("no redis-cli here: run `make deps`");
        cli.stdin.take().expect("a pipe").write_all(last).expect("it reads");
        let mut output = cli.wait_with_output().expect("it ends");
        assert!(output.status.success(), "redis-cli {command:?}: {}", String::from_utf8_lossy(&output.stdout));
        // The line break that it adds.
        output.stdout.pop();
        output.stdout
    }

    /// The names of all its values, in order.
    pub fn names(&self) -> Vec<String> {
        let names = String::from_utf8(self.ask(&["KEYS", "*"])).expect("UTF-8");
        let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.down();
    }
}
