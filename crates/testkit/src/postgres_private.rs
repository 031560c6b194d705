//! A Postgres server of one's own, for what must not happen to the shared one: kills, restarts, settings, measurements.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

/// Started with it, stopped (at once) and removed with it.
pub struct Server {
    dir: TempDir,
    bin: PathBuf,
    port: u16,
}

impl Server {
    /// Makes a cluster and starts it. `settings` go to postgresql.conf as they are.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with(settings, &[])
    }

    /// As [`Self::start`], with its write-ahead log in `folder`, which is empty, in segments of 1 MiB.
    pub fn start_with_wal_in(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let folder = folder.to_str().expect("a path of UTF-8");
        Self::start_with(settings, &["--wal-segsize=1", "--waldir", folder])
    }

    fn start_with(settings: &[(&str, &str)], initdb: &[&str]) -> Self {
        let bin = newest_bin();
        let dir = folder();
        let server = Self { dir, bin, port: free_port() };
        run(server
            .tool("initdb")
            .args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
            .args(initdb)
            .arg("-D")
            .arg(server.data()));
        let mut conf = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nmax_connections = 100\n",
            server.port
        );
        for (name, value) in settings {
            conf.push_str(&format!("{name} = {value}\n"));
        }
        server.configure(&conf);
        server.up();
        server
    }

    /// A standby that streams from this server.
    pub fn standby(&self) -> Self {
        let dir = folder();
        let server = Self { dir, bin: self.bin.clone(), port: free_port() };
        run(self
            .tool("pg_basebackup")
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "--no-sync",
                "-c",
                "fast",
                "-R",
                "-p",
                &self.port.to_string(),
                "-D",
            ])
            .arg(server.data()));
        server.configure(&format!("port = {}\n", server.port));
        server.up();
        server
    }

    /// Stops as a crash would, and starts again: what was not committed is gone.
    pub fn restart_immediately(&self) {
        run(self.tool("pg_ctl").args(["-m", "immediate", "-w", "stop", "-D"]).arg(self.data()));
        self.up();
    }

    /// A connection after a crash: to a server that recovers by itself, or that has given up and is started.
    pub async fn comes_back(&self) -> Client {
        loop {
            let status = self.tool("pg_ctl").args(["status", "-D"]).arg(self.data()).output().expect("pg_ctl runs");
            if !status.status.success() {
                self.up();
            }
            if let Ok((client, connection)) = self.config().connect(NoTls).await {
                // The connection's end is seen by whoever uses the client.
                tokio::spawn(async move { drop(connection.await) });
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub fn config(&self) -> Config {
        self.url().parse().expect("a URL")
    }

    /// What the server has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("data/log.txt")).expect("the server's log")
    }

    /// A folder that the server's account may write to.
    pub fn scratch(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// A program of the server's version, such as `pgbench`, under the account that may use it.
    pub fn tool(&self, name: &str) -> Command {
        as_postgres(&self.bin.join(name))
    }

    fn up(&self) {
        let log = self.data().join("log.txt");
        run(self.tool("pg_ctl").args(["-w", "-t", "120", "-D"]).arg(self.data()).arg("-l").arg(log).arg("start"));
    }

    /// Adds to postgresql.conf; what stands there later counts.
    fn configure(&self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("the configuration");
        file.write_all(settings.as_bytes()).expect("the configuration is written");
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = self.tool("pg_ctl").args(["-m", "immediate", "-w", "stop", "-D"]).arg(self.data()).output();
        if !stopped.is_ok_and(|output| output.status.success()) {
            eprintln!("could not stop the private Postgres server at {}", self.data().display());
        }
    }
}

/// A program under the account of the servers, which refuse to run as root.
pub(crate) fn as_postgres(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program).current_dir("/");
        command
    } else {
        Command::new(program)
    }
}

/// Gives a folder to the account of the servers.
pub(crate) fn give_to_postgres(folder: &Path) {
    if is_root() {
        run(Command::new("chown").arg("-R").arg("postgres").arg(folder));
    }
}

pub(crate) fn run(command: &mut Command) {
    // A daemon that inherits a pipe would keep it open, so its output goes to files or nowhere.
    let status = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "failed: {command:?}");
}

/// For a cluster, and of the account that may use it.
fn folder() -> TempDir {
    let dir = TempDir::with_prefix("enfold-postgres-").expect("a temporary directory");
    give_to_postgres(dir.path());
    dir
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout.trim_ascii() == b"0"
}

fn newest_bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let version = newest.expect("no PostgreSQL server here: run `make deps`");
    Path::new("/usr/lib/postgresql").join(version.to_string()).join("bin")
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
