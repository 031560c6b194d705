//! Databases on the Postgres server that `scripts/services.sh start` began.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, Config, NoTls};

/// A database of its own for one test, dropped with it.
pub struct Database {
    name: String,
    /// The server's, with any database.
    server: String,
}

/// The server's URL, from `ENFOLD_TEST_POSTGRES` or from the file that `scripts/services.sh` wrote.
pub fn server_url() -> String {
    if let Ok(url) = std::env::var("ENFOLD_TEST_POSTGRES") {
        return url;
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/services/env");
    std::fs::read_to_string(file)
        .ok()
        .and_then(|text| text.lines().find_map(|l| l.strip_prefix("ENFOLD_TEST_POSTGRES=").map(str::to_owned)))
        .expect("no test server: run `scripts/services.sh start`, or set ENFOLD_TEST_POSTGRES")
}

/// Connects and drives the connection in the background.
pub async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("connect to the test server");
    tokio::spawn(async move {
        // The connection's end is seen by whoever uses the client.
        connection.await.ok();
    });
    client
}

impl Database {
    pub async fn create() -> Self {
        Self::create_on(&server_url()).await
    }

    /// On another server than the shared one.
    pub async fn create_on(server: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let admin: Config = server.parse().expect("a Postgres URL");
        let name = format!("enfold_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let client = connect(&admin).await;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.expect("drop a leftover");
        client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.expect("create a database");
        Self { name, server: server.to_owned() }
    }

    fn admin(&self) -> Config {
        self.server.parse().expect("a Postgres URL")
    }

    pub fn config(&self) -> Config {
        let mut config = self.admin();
        config.dbname(&self.name);
        config
    }

    /// `postgres://…/name`, as a policy would say it.
    pub fn url(&self) -> String {
        let base = self.server.rsplit_once('/').expect("a URL with a database").0;
        format!("{base}/{}", self.name)
    }

    pub async fn connect(&self) -> Client {
        connect(&self.config()).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, name) = (self.admin(), self.name.clone());
        // A test's runtime may be gone already: a thread of its own drops the database.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let client = connect(&admin).await;
                client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
            })
        });
        if let Ok(Err(error)) = dropper.join() {
            eprintln!("could not drop the test database `{}`: {error}", self.name);
        }
    }
}
