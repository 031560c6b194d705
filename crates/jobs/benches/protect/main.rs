//! How fast a table is protected on Postgres, re-encrypted and pruned, beside statements that the server runs alone. Prints a JSON line for each
//! figure: `{"name", "ratio", "bound", "met", "better", …}`, everything side by side in one run, on servers of its own.
//!
//! What is timed is the whole sweep as `apply` runs it: leases, batches of 2,000 rows read, sealed, opened again,
//! compared and written with their checkpoints, and the closing count by the database. The plain statement writes
//! constant values of the same length. Every figure starts from a fresh copy of the table. `ENFOLD_BENCH_ROWS` makes it
//! smaller, and a word as the argument leaves only the figures that have it in their names.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]
#![allow(clippy::cast_precision_loss, reason = "ratios")]
#[path = "../../tests/postgres/codec.rs"]
mod codec;
mod foreground;
mod prune;
mod reencrypt;

use std::time::{Duration, Instant};

use enfold::db::postgres::Endpoint;
use enfold_core::layout::OVERHEAD;
use enfold_core::text::encoded_len;
use enfold_jobs::model::{Goal, Storage, TableName, Target, TargetColumn};
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_jobs::store::{JobSpec, Order, Store};
use enfold_jobs::sweep::{SweepOptions, Unwatched, sweep};
use enfold_testkit::postgres_private::Server;
use tokio_postgres::Client;

use codec::OneKey;

/// Lengths of the two columns' values.
const EMAIL: usize = 22;
const PHONE: usize = 12;
const ROUNDS: usize = 2;

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
        if wanted("reencrypt") {
            bench.reencrypt().await;
        }
        if wanted("prune") {
            bench.prune().await;
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
        let spec = JobSpec {
            goal: Goal::Protect,
            target,
            batch_rows: 2000,
            rate,
            lease: Duration::from_secs(30),
            order: Order::default(),
        };
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
}

fn target() -> Target {
    let column = |name: &str| TargetColumn {
        name: name.to_owned(),
        id: format!("id-{name}"),
        storage: Storage::Text,
        shadow: None,
        member: None,
        companions: Default::default(),
        writes: None,
    };
    Target {
        table: TableName { schema: "public".to_owned(), table: "people".to_owned() },
        policy_table: "public.people".to_owned(),
        columns: vec![column("email"), column("phone")],
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: vec!["id".to_owned()],
        leaving: enfold::Leaving::default(),
        prune: None,
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
