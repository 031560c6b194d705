//! Apache AGE of one's own: the extension on PostgreSQL 18, compiled to WebAssembly, behind the wire protocol.
//!
//! It is one session, settings and all, so a PgBouncer stands before it: clients take turns, a transaction each.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::pgbouncer::PgBouncer;
use crate::postgres;
use crate::postgres_private::free_port;

/// Started with it, gone with it: everything is in memory.
pub struct Age {
    pooled: PgBouncer,
    process: Child,
}

impl Age {
    /// With the extension, and a graph of this name.
    pub async fn start(graph: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/age");
        let port = free_port();
        let mut process = Command::new("node")
            .current_dir(folder)
            .arg("node_modules/@electric-sql/pglite-socket/dist/scripts/server.js")
            .args(["--extensions", "@electric-sql/pglite-age:age"])
            .args(["--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("no Node here: run `make deps`");
        // A connection is taken before there is a database; what is asked then waits for it.
        let deadline = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = process.try_wait().expect("asks after it");
            assert!(ended.is_none() && Instant::now() < deadline, "Apache AGE does not listen: run `make deps`");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let age = Self { pooled: PgBouncer::before(port, 1), process };
        let client = age.connect().await;
        // For every client: it is one session.
        let made = format!(
            "CREATE EXTENSION age; LOAD 'age'; SET search_path = ag_catalog, public; SELECT create_graph('{graph}')"
        );
        client.batch_execute(&made).await.expect("Apache AGE: run `make deps`");
        age
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.pooled.port())
    }

    pub async fn connect(&self) -> Client {
        postgres::connect(&self.url().parse().expect("a URL")).await
    }
}

impl Drop for Age {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
