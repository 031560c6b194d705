//! A PgBouncer in transaction mode in front of a Postgres server: each transaction may meet another session.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::postgres_private::{as_postgres, free_port, give_to_postgres};

/// Started with it, stopped and removed with it.
pub struct PgBouncer {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl PgBouncer {
    /// In front of the server at a loopback port, with `sessions` of its own for each database.
    pub fn before(server: u16, sessions: usize) -> Self {
        let program = Path::new("/usr/sbin/pgbouncer");
        assert!(program.exists(), "no PgBouncer here: run `make deps`");
        let dir = TempDir::with_prefix("enfold-pgbouncer-").expect("a temporary directory");
        let (port, file) = (free_port(), dir.path().join("pgbouncer.ini"));
        let log = dir.path().join("log.txt");
        let configuration = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {sessions}\nmax_client_conn = 100\n\
             server_round_robin = 1\nlogfile = {}\n",
            log.display()
        );
        std::fs::write(&file, configuration).expect("the configuration is written");
        give_to_postgres(dir.path());
        let mut child = as_postgres(program)
            .arg("--quiet")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("PgBouncer starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().expect("asks after it");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "PgBouncer does not listen: {}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, port, _dir: dir }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Its clients are gone; it keeps nothing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
