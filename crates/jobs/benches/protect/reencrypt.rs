//! How fast a table is re-encrypted, beside protecting it in the same run; and what a second worker brings.

use std::time::{Duration, Instant};

use enfold::db::postgres::Endpoint;
use enfold_jobs::model::{Goal, JobId};
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_jobs::store::{JobSpec, Order, Store};
use enfold_jobs::sweep::{SweepEnd, SweepOptions, Unwatched, sweep};
use enfold_testkit::faultproxy::{Fault, FaultProxy};

use crate::codec::OneKey;
use crate::{Bench, ROUNDS, line, target};

/// One way to a database that is not on the same machine.
const FAR: Duration = Duration::from_millis(5);
/// Rows on which workers are measured over that distance.
const FAR_ROWS: u64 = 200_000;

impl Bench {
    /// Rows a second beside those of `protect`, and of two workers beside one: on this machine, where workers and server share
    /// the cores, and over a distance, where neither is what they wait for.
    pub(crate) async fn reencrypt(&self) {
        let (mut protect, mut one, mut two) = (f64::MAX, f64::MAX, f64::MAX);
        for _ in 0..ROUNDS {
            self.fresh(3, self.rows).await;
            protect = protect.min(self.timed(self.protect(None)).await.seconds);
            one = one.min(self.reencrypted(1, self.server.port()).await);
            self.fresh(3, self.rows).await;
            self.protect(None).await;
            two = two.min(self.reencrypted(2, self.server.port()).await);
        }
        let speed = |seconds: f64| self.rows as f64 / seconds;
        let more = format!(
            r#""rows":{},"rows_per_second":{:.0},"protect_rows_per_second":{:.0}"#,
            self.rows,
            speed(one),
            speed(protect)
        );
        line("reencrypt_beside_protect", protect / one, Some(0.8), "more", &more);
        let more = format!(r#""rows_per_second_of_two":{:.0},"rows_per_second_of_one":{:.0}"#, speed(two), speed(one));
        line("reencrypt_two_workers_on_the_server_s_cores", one / two, None, "more", &more);

        let proxy = FaultProxy::to(([127, 0, 0, 1], self.server.port()).into());
        proxy.set(Fault::Late(FAR));
        let rows = FAR_ROWS.min(self.rows);
        let mut seconds = Vec::new();
        for workers in [1, 2] {
            self.fresh(3, rows).await;
            self.protect(None).await;
            seconds.push(self.reencrypted(workers, proxy.port()).await);
        }
        let speed = |seconds: f64| rows as f64 / seconds;
        let more = format!(
            r#""rows":{rows},"rows_per_second_of_two":{:.0},"rows_per_second_of_one":{:.0}"#,
            speed(seconds[1]),
            speed(seconds[0])
        );
        line("reencrypt_two_workers_at_a_distance", seconds[0] / seconds[1], Some(1.6), "more", &more);
    }

    /// Seconds that so many workers take, each with a connection and a thread of its own.
    async fn reencrypted(&self, workers: u32, port: u16) -> f64 {
        // What lies under dead rows is not what is measured.
        self.run("VACUUM people").await;
        self.run("CHECKPOINT").await;
        let spec = JobSpec {
            goal: Goal::Reencrypt,
            target: target(),
            batch_rows: 2000,
            rate: None,
            lease: Duration::from_secs(30),
            order: Order::default(),
        };
        let job = self.store.create_job(&spec).await.expect("a job");
        let url = self.server.url().replace(&self.server.port().to_string(), &port.to_string());
        let began = Instant::now();
        let working: Vec<_> = (0..workers).map(|n| tokio::spawn(worker(url.clone(), job, n, workers))).collect();
        for worker in working {
            worker.await.expect("a worker ends well");
        }
        let seconds = began.elapsed().as_secs_f64();
        let record = self.store.job(job).await.expect("the job");
        assert_eq!(record.progress.rows_failed, 0);
        assert!(record.progress.rows_changed > 0, "something was re-encrypted");
        seconds
    }
}

async fn worker(url: String, job: JobId, number: u32, workers: u32) {
    let store = Postgres::at(Endpoint::parse_text(&url).expect("a URL"), Limits::default());
    let codec = OneKey::new([3; 32]).rotated();
    let options = SweepOptions { workers, ..SweepOptions::new(format!("bench {number}")) };
    let report = sweep(&store, &codec, job, &options, &Unwatched).await.expect("sweeps");
    assert_eq!((report.end, report.remaining), (SweepEnd::Finished, Some(0)));
}
