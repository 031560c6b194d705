//! An OpenID provider of one's own: the npm package `oidc-provider`, which is certified. See `scripts/oidc/provider.mjs`.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::postgres_private::free_port;

/// Started with it, gone with it; its keys too.
pub struct Oidc {
    process: Child,
    port: u16,
}

impl Oidc {
    pub fn start() -> Self {
        Self::start_on(free_port())
    }

    /// On a port that another one had before: the same issuer, with other keys.
    pub fn start_on(port: u16) -> Self {
        Self::started(port, None)
    }

    /// One at which people sign in to the console of the service at this URL.
    pub fn start_for(service: &str) -> Self {
        Self::started(free_port(), Some(service))
    }

    fn started(port: u16, service: Option<&str>) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/oidc");
        let mut process = Command::new("node")
            .current_dir(folder)
            .args(["provider.mjs", &port.to_string()])
            .args(service)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("no Node here: run `make deps`");
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = process.try_wait().expect("asks after it");
            assert!(ended.is_none() && Instant::now() < deadline, "the provider does not listen: run `make deps`");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { process, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What its tokens say in `iss`.
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `HOST:PORT`, for a client.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Oidc {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
