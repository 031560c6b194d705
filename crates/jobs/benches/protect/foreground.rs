//! What an application meets while a job runs: the 99th percentile of its transactions.

use std::time::Duration;

use enfold_core::layout::OVERHEAD;
use enfold_core::text::encoded_len;
use enfold_jobs::model::{Goal, JobId};
use enfold_jobs::store::{JobSpec, Order, Store};
use enfold_jobs::sweep::{SweepOptions, Watch, sweep};

use crate::{Bench, EMAIL, PHONE, line, target};

/// How long the application runs with the job, and without it, before they change; and how often.
const WINDOW: Duration = Duration::from_secs(4);
const PAIRS: u32 = 12;

impl Bench {
    /// The 99th percentile of an application's transactions on the same table, without and with the job. The application
    /// runs through while the job goes on and pauses every few seconds, so that what else the machine does falls on both
    /// alike: the ratio is that of the median windows, and beside it stands that of all transactions of each kind. Beside
    /// a throttled job stands what an UPDATE of as many rows a second does that seals nothing.
    pub(crate) async fn foreground(&self) {
        for (name, rate, bound) in [
            ("foreground_p99_with_job_at_250_rows", Some(250), Some(1.2)),
            ("foreground_p99_with_job_at_500_rows", Some(500), Some(1.2)),
            // From about here on the plain UPDATE is beyond it as well, where application, job and server share two cores.
            ("foreground_p99_with_job_at_2000_rows", Some(2000), None),
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
                order: Order::default(),
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
                line(&name.replace("job", "update"), update / alone, None, "less", &more(update, all_update));
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

impl Watch for Stop {
    fn stop_requested(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}
