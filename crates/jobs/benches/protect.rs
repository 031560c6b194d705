//! How fast a table is protected on Postgres, beside statements that the server runs alone. Prints a JSON line for each
//! figure: `{"name", "ratio", "bound", "met", "better", …}`, everything side by side in one run, on servers of its own.
//!
//! What is timed is the whole sweep as `apply` runs it: leases, batches of 2,000 rows read, sealed, opened again,
//! compared and written with their checkpoints, and the closing count by the database. The plain statement writes
//! constant values of the same length. Every figure starts from a fresh copy of the table. `ENFOLD_BENCH_ROWS` makes it
//! smaller, and a word as the argument leaves only the figures that have it in their names.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]
#![allow(clippy::cast_precision_loss, reason = "ratios")]
#[path = "../tests/postgres/codec.rs"]
mod codec;

use std::time::{Duration, Instant};

use enfold::db::postgres::Endpoint;
use enfold_core::layout::OVERHEAD;
use enfold_core::text::encoded_len;
use enfold_jobs::model::{Goal, JobId, Storage, TableName, Target, TargetColumn};
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_jobs::store::{JobSpec, Store};
use enfold_jobs::sweep::{SweepOptions, Unwatched, sweep};
use enfold_testkit::postgres_private::Server;
use tokio_postgres::Client;

use codec::OneKey;

/// Lengths of the two columns' values.
const EMAIL: usize = 22;
const PHONE: usize = 12;
const ROUNDS: usize = 2;
/// How long the application runs with the job, and without it, before they change; and how often.
const WINDOW: Duration = Duration::from_secs(4);
const PAIRS: u32 = 12;

fn main() {
    // `cargo test` builds benchmarks and runs them with other arguments: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let rows = std::env::var("ENFOLD_BENCH_ROWS").ok().map_or(1_000_000, |rows| rows.parse().expect("a number"));
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    runtime.block_on(async {
        let bench = Bench::on(Server::start(&settings("'512MB'")), rows).await;
        if wanted("protect_3_indexes") {
            let three = bench.beside_plain("protect_3_indexes", 3, Some(0.6)).await;
            bench.beside_pgcrypto(three).await;
        }
        for (name, indexes) in [("protect_0_indexes", 0), ("protect_8_indexes", 8)] {
            if wanted(name) {
                bench.beside_plain(name, indexes, None).await;
            }
        }
        if wanted("memory") {
            bench.memory().await;
        }
        if wanted("foreground") {
            bench.foreground().await;
        }
        drop(bench);
        if wanted("protect_ten_times_shared_buffers") {
            // The table and its indexes come to about 160 bytes a row.
            let small = format!("'{}kB'", (rows * 160 / 10 / 1024).max(1024));
            let bench = Bench::on(Server::start(&settings(&small)), rows).await;
            bench.beside_plain("protect_ten_times_shared_buffers", 3, None).await;
        }
    });
}

fn settings(shared_buffers: &str) -> Vec<(&'static str, &str)> {
    vec![
        ("shared_buffers", shared_buffers),
        ("max_wal_size", "'8GB'"),
        ("checkpoint_timeout", "'1h'"),
        // It would start in the middle of one figure and not of another.
        ("autovacuum", "off"),
    ]
}

struct Bench {
    server: Server,
    client: Client,
    store: Postgres,
    codec: OneKey,
    rows: u64,
}

struct Run {
    seconds: f64,
    wal: i64,
}

impl Bench {
    async fn on(server: Server, rows: u64) -> Self {
        let client = enfold_testkit::postgres::connect(&server.config()).await;
        let store = Postgres::at(Endpoint::parse_text(&server.url()).expect("a URL"), Limits::default());
        let bench = Self { server, client, store, codec: OneKey::new([3; 32]), rows };
        bench
            .run(&format!(
                "CREATE TABLE base AS SELECT n::bigint AS id, (n::bigint * 7919 % {rows})::int AS c1, (n % 1000)::int AS c2, \
                   (n::bigint * 31 % {rows})::int AS c3, (n % 7)::int AS c4, n::int AS c5, (n::bigint * 17 % {rows})::int AS c6, (n / 10)::int AS c7, \
                   0 AS seen, rpad('p' || n || '@', {EMAIL}, 'example.com.') AS email, lpad(n::text, {PHONE}, '0') AS phone \
                 FROM generate_series(1, {rows}) n"
            ))
            .await;
        bench
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.expect("the server runs it");
    }

    async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.expect("the server answers").get(0)
    }

    /// A fresh `people` of `rows` rows: with no index, or the primary key and `indexes - 1` others.
    async fn fresh(&self, indexes: usize, rows: u64) {
        self.run(&format!("DROP TABLE IF EXISTS people; CREATE TABLE people AS SELECT * FROM base WHERE id <= {rows}"))
            .await;
        if indexes > 0 {
            self.run("ALTER TABLE people ADD PRIMARY KEY (id)").await;
        }
        for column in 1..indexes {
            self.run(&format!("CREATE INDEX ON people (c{column})")).await;
        }
        self.run("VACUUM ANALYZE people").await;
        self.run("CHECKPOINT").await;
    }

    async fn timed(&self, work: impl Future<Output = ()>) -> Run {
        let position = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8";
        let before = self.number(position).await;
        let began = Instant::now();
        work.await;
        let seconds = began.elapsed().as_secs_f64();
        Run { seconds, wal: self.number(position).await - before }
    }

    async fn protect(&self, rate: Option<u32>) {
        let target = target();
        let spec = JobSpec { goal: Goal::Protect, target, batch_rows: 2000, rate, lease: Duration::from_secs(30) };
        let job = self.store.create_job(&spec).await.expect("a job");
        let report =
            sweep(&self.store, &self.codec, job, &SweepOptions::new("bench"), &Unwatched).await.expect("sweeps");
        assert_eq!(report.remaining, Some(0));
    }

    /// Returns our rows a second.
    async fn beside_plain(&self, name: &str, indexes: usize, bound: Option<f64>) -> f64 {
        let plain = format!(
            "UPDATE people SET email = repeat('x', {}), phone = repeat('y', {})",
            encoded_len(OVERHEAD + EMAIL),
            encoded_len(OVERHEAD + PHONE)
        );
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            self.fresh(indexes, self.rows).await;
            theirs.push(self.timed(self.run(&plain)).await);
            self.fresh(indexes, self.rows).await;
            ours.push(self.timed(self.protect(None)).await);
        }
        let (theirs, ours) = (best(&theirs), best(&ours));
        let speed = |run: &Run| self.rows as f64 / run.seconds;
        line(
            name,
            speed(ours) / speed(theirs),
            bound,
            "more",
            &format!(
                r#""rows":{},"rows_per_second":{:.0},"plain_rows_per_second":{:.0},"wal_bytes_per_row":{:.0},"plain_wal_bytes_per_row":{:.0}"#,
                self.rows,
                speed(ours),
                speed(theirs),
                ours.wal as f64 / self.rows as f64,
                theirs.wal as f64 / self.rows as f64
            ),
        );
        speed(ours)
    }

    /// `ours`: rows a second of the same table.
    async fn beside_pgcrypto(&self, ours: f64) {
        self.run("CREATE EXTENSION IF NOT EXISTS pgcrypto").await;
        for (name, options, rows, bound) in
            [("pgcrypto_default", "", 3000, Some(20.0)), ("pgcrypto_s2k_mode_1", ", 's2k-mode=1'", 50_000, None)]
        {
            self.fresh(3, rows).await;
            let sealed = |column: &str| {
                format!("{column} = encode(pgp_sym_encrypt({column}, 'pass phrase'{options}), 'base64')")
            };
            let sql = format!("UPDATE people SET {}, {}", sealed("email"), sealed("phone"));
            let theirs = rows as f64 / self.timed(self.run(&sql)).await.seconds;
            let more = format!(r#""rows_per_second":{ours:.0},"pgcrypto_rows_per_second":{theirs:.0}"#);
            line(&format!("protect_beside_{name}"), ours / theirs, bound, "more", &more);
        }
    }

    /// Peak memory for all rows beside that for a tenth of them.
    async fn memory(&self) {
        let mut peaks = Vec::new();
        for rows in [self.rows / 10, self.rows] {
            self.fresh(3, rows).await;
            // Resets the peak (proc(5)).
            std::fs::write("/proc/self/clear_refs", "5").expect("resets the peak");
            self.protect(None).await;
            peaks.push(peak_kilobytes());
        }
        let more = format!(r#""kilobytes_for_a_tenth":{},"kilobytes":{}"#, peaks[0], peaks[1]);
        line("protect_memory_ten_times_the_rows", peaks[1] as f64 / peaks[0] as f64, Some(1.2), "less", &more);
    }

    /// The 99th percentile of an application's transactions on the same table, without and with the job. The application
    /// runs through while the job goes on and pauses every few seconds, so that what else the machine does falls on both
    /// alike: the ratio is that of the median windows, and beside it stands that of all transactions of each kind. Beside
    /// a throttled job stands what an UPDATE of as many rows a second does that seals nothing.
    async fn foreground(&self) {
        for (name, rate, bound) in [
            ("foreground_p99_with_throttled_job", Some(2000), Some(1.2)),
            ("foreground_p99_with_unthrottled_job", None, None),
        ] {
            self.fresh(3, self.rows).await;
            // The first to touch a page after the checkpoint writes all of it to the log; that is not the job's doing.
            self.pgbench(Duration::from_secs(8)).await;
            let spec = JobSpec {
                goal: Goal::Protect,
                target: target(),
                batch_rows: 500,
                rate,
                lease: Duration::from_secs(30),
            };
            let job = self.store.create_job(&spec).await.expect("a job");
            let turns = async {
                let mut windows = Vec::new();
                let mut left = self.rows;
                for _ in 0..PAIRS {
                    windows.push((Beside::Nothing, window(tokio::time::sleep(WINDOW)).await));
                    windows.push((Beside::Job, window(self.job_goes_on(job)).await));
                    if let Some(rate) = rate {
                        windows.push((Beside::Update, window(self.update_goes_on(rate, &mut left)).await));
                    }
                }
                windows
            };
            // Somewhat longer than the turns: an unthrottled batch ends after its window.
            let longest = WINDOW * (3 * PAIRS + 2);
            let (transactions, windows) = futures_util::future::join(self.pgbench(longest), turns).await;
            let p99 = |beside: Beside| {
                let each = windows.iter().filter(|(what, _)| *what == beside);
                let mut each: Vec<Vec<u64>> = each.map(|(_, window)| within(&transactions, window)).collect();
                let mut all = each.concat();
                let mut each: Vec<u64> = each.iter_mut().map(|latencies| percentile_99(latencies)).collect();
                each.sort_unstable();
                (each[each.len() / 2] as f64 / 1000.0, percentile_99(&mut all) as f64 / 1000.0)
            };
            let ((alone, all_alone), (job, all_job)) = (p99(Beside::Nothing), p99(Beside::Job));
            let more = |beside: f64, all_beside: f64| {
                format!(
                    r#""alone_ms":{alone:.2},"beside_ms":{beside:.2},"all_alone_ms":{all_alone:.2},"all_beside_ms":{all_beside:.2},"all_ratio":{:.3},"rows_per_second":{}"#,
                    all_beside / all_alone,
                    rate.unwrap_or(0)
                )
            };
            line(name, job / alone, bound, "less", &more(job, all_job));
            if rate.is_some() {
                let (update, all_update) = p99(Beside::Update);
                line("foreground_p99_with_throttled_update", update / alone, None, "less", &more(update, all_update));
            }
        }
        let deadlocks = self.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await;
        println!(r#"{{"name":"deadlocks","ratio":{deadlocks},"bound":0,"met":{},"better":"less"}}"#, deadlocks == 0);
    }

    /// From where it stands, for one window.
    async fn job_goes_on(&self, job: JobId) {
        let watch = Stop::default();
        let options = SweepOptions { write_time: Duration::from_millis(20), ..SweepOptions::new("bench") };
        let sweep = sweep(&self.store, &self.codec, job, &options, &watch);
        let end = async {
            tokio::time::sleep(WINDOW).await;
            watch.0.store(true, std::sync::atomic::Ordering::Relaxed);
        };
        futures_util::future::join(sweep, end).await.0.expect("sweeps");
    }

    /// Twenty times a second, by key downwards from `left`, values as long as envelopes; commits like the job's wait for
    /// no disk.
    async fn update_goes_on(&self, rate: u32, left: &mut u64) {
        let rows = u64::from(rate / 20);
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..WINDOW.as_millis() / 50 {
            ticks.tick().await;
            self.run(&format!(
                "BEGIN; SET LOCAL synchronous_commit = off; \
                 UPDATE people SET email = repeat('x', {}), phone = repeat('y', {}) WHERE id > {} AND id <= {left}; COMMIT",
                encoded_len(OVERHEAD + EMAIL),
                encoded_len(OVERHEAD + PHONE),
                left.saturating_sub(rows),
            ))
            .await;
            *left = left.saturating_sub(rows);
        }
    }

    /// 200 transactions a second by four clients, for so long.
    async fn pgbench(&self, duration: Duration) -> Vec<Transaction> {
        let folder = self.server.scratch();
        let script = folder.join("foreground.sql");
        let text = format!(
            "\\set id random(1, {})\nBEGIN;\nSELECT email FROM people WHERE id = :id;\nUPDATE people SET seen = seen + 1 WHERE id = :id;\nEND;\n",
            self.rows
        );
        std::fs::write(&script, text).expect("the script");
        let prefix = folder.join("latencies");
        let mut command = self.server.tool("pgbench");
        command
            .args(["-n", "-l", "-c", "4", "-j", "1", "-R", "200", "-M", "prepared", "-h", "127.0.0.1"])
            .args(["-U", "postgres", "-T", &duration.as_secs().to_string(), "-p", &self.server.port().to_string()])
            .arg(format!("--log-prefix={}", prefix.display()))
            .arg("-f")
            .arg(&script)
            .arg("postgres");
        let status = tokio::task::spawn_blocking(move || command.output()).await.expect("runs").expect("pgbench");
        assert!(status.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&status.stderr));
        let mut transactions = Vec::new();
        for entry in std::fs::read_dir(&folder).expect("the folder").flatten() {
            if entry.file_name().to_string_lossy().starts_with("latencies") {
                let log = std::fs::read_to_string(entry.path()).expect("the log");
                transactions.extend(log.lines().map(|line| Transaction::of(line).expect("a line of pgbench's log")));
                std::fs::remove_file(entry.path()).expect("removes the log");
            }
        }
        transactions
    }
}

/// What runs beside the application.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Job,
    Update,
}

/// Microseconds; the beginning since 1970.
struct Transaction {
    begun: u64,
    latency: u64,
}

impl Transaction {
    /// `client number latency script seconds microseconds lag`, the time being that of the end.
    fn of(line: &str) -> Option<Self> {
        let field = |number| line.split(' ').nth(number)?.parse::<u64>().ok();
        let (latency, end) = (field(2)?, field(4)? * 1_000_000 + field(5)?);
        Some(Self { begun: end - latency, latency })
    }
}

/// When it began and ended, in microseconds since 1970.
async fn window(what: impl Future<Output = ()>) -> std::ops::Range<u64> {
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        u64::try_from(since.as_micros()).expect("before the year 500,000")
    };
    let begun = now();
    what.await;
    begun..now()
}

/// Latencies of those that began in it.
fn within(transactions: &[Transaction], window: &std::ops::Range<u64>) -> Vec<u64> {
    transactions.iter().filter(|one| window.contains(&one.begun)).map(|one| one.latency).collect()
}

fn percentile_99(latencies: &mut [u64]) -> u64 {
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

#[derive(Default)]
struct Stop(std::sync::atomic::AtomicBool);

impl enfold_jobs::sweep::Watch for Stop {
    fn stop_requested(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn target() -> Target {
    let column = |name: &str| TargetColumn {
        name: name.to_owned(),
        id: format!("id-{name}"),
        storage: Storage::Text,
        shadow: None,
        member: None,
    };
    Target {
        table: TableName { schema: "public".to_owned(), table: "people".to_owned() },
        policy_table: "public.people".to_owned(),
        columns: vec![column("email"), column("phone")],
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: vec!["id".to_owned()],
    }
}

fn best(runs: &[Run]) -> &Run {
    runs.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)).expect("at least one round")
}

fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process's status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the peak");
    line.split_ascii_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse().ok()).expect("a number")
}

fn line(name: &str, ratio: f64, bound: Option<f64>, better: &str, more: &str) {
    let bound = match bound {
        Some(bound) => {
            let met = if better == "more" { ratio >= bound } else { ratio <= bound };
            format!(r#""bound":{bound},"met":{met},"#)
        }
        None => r#""bound":null,"#.to_owned(),
    };
    println!(r#"{{"name":"{name}","ratio":{ratio:.3},{bound}"better":"{better}",{more}}}"#);
}
