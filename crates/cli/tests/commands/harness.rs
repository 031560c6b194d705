//! A folder with a small shop in it, and the command run there in an environment that holds nothing but `USER=ada`, and what
//! keeps jobs from waiting for other tests.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rusqlite::Connection;
use tempfile::TempDir;

const SHOP: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE, phone TEXT, visits INTEGER);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users (id), total INTEGER);
    INSERT INTO users (name, email, phone, visits) VALUES
        ('Ada Lovelace', 'ada@example.com', '+44 20 7946 0018', 3),
        ('Grace Hopper', 'grace@example.org', '+1 212 555 0147', 1),
        ('Luís de Camões', 'luis@example.net', NULL, 0),
        ('Mary Somerville', 'mary@example.com', '+44 131 496 0123', 2),
        ('Émilie du Châtelet', 'emilie@example.fr', '+33 1 42 68 53 00', 0);
    INSERT INTO orders (user_id, total) VALUES (1, 1200), (1, 300), (2, 990);";

/// What differs from run to run and from machine to machine, and what stands in its place.
const FILTERS: &[(&str, &str)] = &[
    (r"ed25519:[A-Za-z0-9_-]{43}", "ed25519:[public key]"),
    (r"enf1:[A-Za-z0-9_-]{40,}", "enf1:[envelope]"),
    (r"\b[0-9a-f]{24}(?:[0-9a-f]{8})?(?:[0-9a-f]{32})?\b", "[hex]"),
    (r"\b\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]"),
    (r"\b\d+(?:\.\d)? (?:kB|MB)", "[size]"),
    (
        r#""(bytes|grows|disk|wal|rows_per_second|seconds|wrap_ms|unwrap_ms|clock_skew_seconds)": -?[0-9.]+"#,
        r#""$1": [n]"#,
    ),
    (r"\b[0-9,]+ rows/s", "[n] rows/s"),
    (r"(?:about [0-9]+ (?:s|min [0-9]+ s|h [0-9]+ min)|under 1 s)\b", "[duration]"),
    (r"took_us=\d+", "took_us=[n]"),
    (r"\b\d+\.\d ms\b", "[n] ms"),
    (r"Worker \S+:\d+ is", "Worker [host]:[pid] is"),
    (r"(?m)^  waiting  a process .*\n", ""),
    (r"127\.0\.0\.1 -p \d+", "127.0.0.1 -p [port]"),
];

/// A developer's policy for the database at `url`, with a ring `main` and no table yet.
pub(crate) fn policy(url: &str) -> String {
    format!(
        "environment = \"development\"\n[database]\nurl = \"{url}\"\n[trust]\noperator_key_file = \"op.key\"\n\
         [rings.main]\nid = \"main\"\nroots = [\"local:root.key\"]\nscope = \"column\"\n"
    )
}

pub(crate) struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    pub(crate) fn empty() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder") }
    }

    /// The shop's database, `app.db`, and nothing else.
    pub(crate) fn shop() -> Self {
        let sandbox = Self::empty();
        sandbox.sql(SHOP);
        sandbox
    }

    /// The shop, with a first policy as `init` writes it.
    pub(crate) fn ready() -> Self {
        let sandbox = Self::shop();
        sandbox.ok(&["init", "--database", "sqlite:app.db", "--environment", "development"]);
        sandbox
    }

    /// The shop, protected.
    pub(crate) fn protected() -> Self {
        let sandbox = Self::ready();
        sandbox.ok(&["apply", "--yes"]);
        sandbox
    }

    /// As [`Self::protected`], under a policy by which no process goes on for long by an earlier state.
    pub(crate) fn protected_and_watchful() -> Self {
        let sandbox = Self::ready();
        sandbox.extend_policy("\n[rings.main.cache]\nmax_unseen = \"1s\"\n");
        sandbox.ok(&["apply", "--yes"]);
        sandbox
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a text file")
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).expect("a file is written");
    }

    /// A file that nobody else may read.
    pub(crate) fn secret(&self, name: &str, text: &str) {
        self.write(name, text);
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.path(name), mode).expect("a mode is set");
    }

    /// Adds to the policy that `init` wrote.
    pub(crate) fn extend_policy(&self, text: &str) {
        self.write("enfold.toml", self.read("enfold.toml") + text);
    }

    pub(crate) fn database(&self) -> Connection {
        Connection::open(self.path("app.db")).expect("the shop opens")
    }

    pub(crate) fn sql(&self, sql: &str) {
        self.database().execute_batch(sql).expect("the statements run");
    }

    /// Every user with the values as they are stored.
    pub(crate) fn users(&self) -> Vec<[Option<String>; 3]> {
        let database = self.database();
        let mut rows = database.prepare("SELECT name, email, phone FROM users ORDER BY id").expect("a query");
        let users = rows.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?])).expect("users");
        users.collect::<Result<_, _>>().expect("texts")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enfold"));
        command.current_dir(self.folder.path()).env_clear().env("USER", "ada").args(args);
        // Other tests on the server drop their databases, each with a checkpoint.
        command.env("ENFOLD_JOBS_MAX_REQUESTED_CHECKPOINTS", "10000");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().expect("the command starts")
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.pipe(args, b"")
    }

    /// Runs the command in an environment that holds these variables too.
    pub(crate) fn run_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut command = self.command(args);
        self.ended(args, command.envs(variables.iter().copied()).spawn().expect("the command starts"), b"")
    }

    /// Runs the command with `input` on its standard input.
    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Ran {
        self.ended(args, self.start(args), input)
    }

    fn ended(&self, args: &[&str], mut child: Child, input: &[u8]) -> Ran {
        // A command that ends without reading closes the pipe; that is its good right.
        child.stdin.take().expect("a pipe").write_all(input).ok();
        self.ran(args, child)
    }

    /// What a command did that was started with `args`.
    pub(crate) fn ran(&self, args: &[&str], child: Child) -> Ran {
        let output = child.wait_with_output().expect("the command ends");
        Ran {
            args: args.join(" "),
            folder: self.folder.path().to_owned(),
            code: output.status.code().expect("an exit code"),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).expect("standard error is text"),
        }
    }

    /// Runs the command in a terminal (standard output aside), and types `answer` when it has said `question`. Returns the
    /// exit code, what it said and its standard output.
    pub(crate) fn in_a_terminal(&self, args: &[&str], exchanges: &[(&str, &str)]) -> (i32, String, String) {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("its other side");
        let name = ptsname(&terminal, Vec::new()).expect("a name").into_string().expect("text");
        let other = || std::fs::OpenOptions::new().read(true).write(true).open(&name).expect("it opens");
        let mut child = self
            .command(args)
            .stdin(other())
            .stderr(other())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut terminal = std::fs::File::from(terminal);
        let mut said = String::new();
        let mut exchanges = exchanges.iter();
        let mut next = exchanges.next();
        let mut bytes = [0; 4096];
        // The other side's last holder is gone: EIO.
        while let Ok(read @ 1..) = terminal.read(&mut bytes) {
            said.push_str(&String::from_utf8_lossy(&bytes[..read]));
            if let Some((question, answer)) = next
                && let Some(at) = said.find(question)
            {
                // Not to be taken for the answer to a question that is the same.
                said.replace_range(at..at + question.len(), "[asked]");
                terminal.write_all(format!("{answer}\n").as_bytes()).expect("it is typed");
                next = exchanges.next();
            }
        }
        assert!(next.is_none(), "it did not ask `{}`:\n{said}", next.map_or("", |(question, _)| question));
        let output = child.wait().expect("the command ends");
        let mut stdout = String::new();
        child.stdout.take().expect("a pipe").read_to_string(&mut stdout).expect("text");
        (output.code().expect("an exit code"), said, stdout)
    }

    /// Runs a command that has to succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "enfold {}: {}", ran.args, ran.stderr);
        ran
    }
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) args: String,
    folder: PathBuf,
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("standard output is text")
    }

    /// Compares all of it with the snapshot `name`.
    pub(crate) fn snapshot(&self, name: &str) {
        self.snapshot_hiding(name, &[]);
    }

    /// As [`Self::snapshot`], with more that differs from run to run.
    pub(crate) fn snapshot_hiding(&self, name: &str, hidden: &[(&str, &str)]) {
        let mut text = format!("$ enfold {}\nexit code: {}\n", self.args, self.code);
        // Writing to a String cannot fail.
        let _ = write!(text, "----- stdout\n{}\n----- stderr\n{}", self.stdout(), self.stderr);
        let text = text.replace(&shown(&self.folder), "[folder]");
        snapshot(name, hidden, &text);
    }
}

/// Compares a text with the snapshot `name`, but for what differs from run to run.
pub(crate) fn snapshot(name: &str, hidden: &[(&str, &str)], text: &str) {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, instead) in hidden.iter().chain(FILTERS) {
        settings.add_filter(pattern, *instead);
    }
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
