//! A service that runs, for tests and benchmarks.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::http::{Answer, request, send};
use crate::harness::{Ran, Sandbox, policy};

pub(crate) const ENCRYPT: &str = "/api/v1/encryption/encrypt";
pub(crate) const DECRYPT: &str = "/api/v1/encryption/decrypt";

/// A running service, which ends with the test.
pub(crate) struct Service {
    child: Option<Child>,
    /// Kept open: a service whose standard output is gone could not say anything any more.
    stdout: Option<BufReader<ChildStdout>>,
    pub(crate) address: String,
    /// The service key of development, where one was made.
    pub(crate) key: String,
}

impl Service {
    /// Starts `enfold serve --json` on a free port, and waits until it listens.
    pub(crate) fn start(sandbox: &Sandbox, args: &[&str]) -> Self {
        Self::start_on(sandbox, "127.0.0.1:0", args)
    }

    /// As [`Self::start`], on this address.
    pub(crate) fn start_on(sandbox: &Sandbox, address: &str, args: &[&str]) -> Self {
        let args: Vec<&str> = ["--json", "serve", "--listen", address].iter().chain(args).copied().collect();
        let mut child = sandbox.start(&args);
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut document = String::new();
        while serde_json::from_str::<Value>(&document).is_err() {
            if stdout.read_line(&mut document).expect("standard output") == 0 {
                panic!("the service did not start: {}", sandbox.ran(&args, child).stderr);
            }
        }
        let document: Value = serde_json::from_str(&document).expect("a document");
        let (_, address) = document["url"].as_str().and_then(|url| url.split_once("://")).expect("a URL");
        let key = document["service_key_file"].as_str().map(|path| std::fs::read_to_string(path).expect("a key"));
        let address = address.to_owned();
        Self { child: Some(child), stdout: Some(stdout), address, key: key.unwrap_or_default() }
    }

    pub(crate) fn ask(&self, method: &str, path: &str, key: &str, body: &str) -> Answer {
        let authorization = format!("Bearer {key}");
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        send(&self.address, &request(method, path, &headers, body))
    }

    /// Posts a batch, which has to be answered with a result for each item.
    pub(crate) fn items(&self, path: &str, key: &str, items: &Value) -> Vec<Value> {
        let answer = self.ask("POST", path, key, &json!({ "items": items, "reason": "a test" }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["data"]["items"].as_array().expect("items").clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id")).expect("not zero");
        kill_process(pid, signal).expect("it runs");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a service that runs").id()
    }

    /// What it has in memory, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        resident.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self, sandbox: &Sandbox) -> Ran {
        let child = self.child.take().expect("a service that runs");
        sandbox.ran(&["serve"], child)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stdout.take();
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Users of several organisations, in a ring in which each has data keys of its own; nothing is converted yet.
pub(crate) fn organisations() -> Sandbox {
    let sandbox = Sandbox::empty();
    sandbox.sql(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, org TEXT NOT NULL, email TEXT, phone TEXT, visits INTEGER);
         INSERT INTO users (org, email, phone) VALUES ('acme', 'ann@example.com', '+1 1'), ('other', 'bob@example.com', '+1 2');",
    );
    let tables = "\n[tables.users]\ntenant = \"org\"\n\
         [tables.users.columns.email]\nid = \"users.email\"\nring = \"main\"\nclass = \"email\"\n\
         [tables.users.columns.phone]\nid = \"users.phone\"\nring = \"main\"\nclass = \"phone\"\n\
         [values.note]\nid = \"note\"\nring = \"main\"\n";
    let policy =
        policy("sqlite:app.db").replace("scope = \"column\"", "scope = \"tenant\"") + "[events]\ncatalog = true\n";
    sandbox.write("enfold.toml", policy + tables);
    sandbox
}

/// As [`organisations`], converted.
pub(crate) fn protected_organisations() -> Sandbox {
    let sandbox = organisations();
    sandbox.ok(&["apply", "--yes"]);
    sandbox
}

/// A service key with these arguments.
pub(crate) fn service_key(sandbox: &Sandbox, name: &str, args: &[&str]) -> (String, String) {
    let ran = sandbox.ok(&[&["--json", "service-keys", "create", name], args].concat());
    let made: Value = serde_json::from_str(ran.stdout()).expect("a document");
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    (text("id"), text("key"))
}
