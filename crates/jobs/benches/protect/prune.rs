//! How fast rows go by a rule, beside the DELETE that names the same rows.

use std::time::Duration;

use async_trait::async_trait;
use enfold::policy::TimeUnit;
use enfold::{KeyId, Result};
use enfold_jobs::codec::{Codec, Verdict};
use enfold_jobs::model::{Goal, Prune, Target};
use enfold_jobs::store::{Change, JobSpec, Order, Row, Store};
use enfold_jobs::sweep::{SweepOptions, Unwatched, sweep};

use crate::{Bench, ROUNDS, best, line, target};

impl Bench {
    /// Half of the rows go, wherever they lie, by a column that no index is over.
    pub(crate) async fn prune(&self) {
        let half = i64::try_from(self.rows / 2).expect("a number of rows");
        let left = i64::try_from(self.rows).expect("a number of rows") - self.number_below(half).await;
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            self.fresh(3, self.rows).await;
            theirs.push(self.timed(self.run(&format!("DELETE FROM people WHERE c3 < {half}"))).await);
            assert_eq!(self.number("SELECT count(*) FROM people").await, left);
            self.fresh(3, self.rows).await;
            ours.push(self.timed(self.pruned(half)).await);
            assert_eq!(self.number("SELECT count(*) FROM people").await, left);
        }
        let gone = self.rows as f64 - left as f64;
        let (theirs, ours) = (best(&theirs), best(&ours));
        let more = format!(
            r#""rows":{gone:.0},"rows_per_second":{:.0},"plain_rows_per_second":{:.0},"wal_bytes_per_row":{:.0},"plain_wal_bytes_per_row":{:.0}"#,
            gone / ours.seconds,
            gone / theirs.seconds,
            ours.wal as f64 / gone,
            theirs.wal as f64 / gone
        );
        line("prune_beside_delete_3_indexes", theirs.seconds / ours.seconds, None, "more", &more);
    }

    async fn number_below(&self, half: i64) -> i64 {
        self.number(&format!("SELECT count(*) FROM base WHERE c3 < {half}")).await
    }

    async fn pruned(&self, before: i64) {
        let rule = Prune {
            rule: "old".to_owned(),
            column: "c3".to_owned(),
            unit: Some(TimeUnit::Seconds),
            older_than_ms: 0,
            before_ms: before * 1_000,
            only: Default::default(),
            takes_along: Default::default(),
        };
        let spec = JobSpec {
            goal: Goal::Prune,
            target: Target { columns: Vec::new(), prune: Some(rule), ..target() },
            batch_rows: 2000,
            rate: None,
            lease: Duration::from_secs(30),
            order: Order::default(),
        };
        let job = self.store.create_job(&spec).await.expect("a job");
        sweep(&self.store, &Gone, job, &SweepOptions::new("bench"), &Unwatched).await.expect("sweeps");
    }
}

/// What a pruning does with the rows that it reads.
struct Gone;

#[async_trait]
impl Codec for Gone {
    async fn judge(&self, _: Goal, _: &Target, rows: &[Row]) -> Result<Vec<Verdict>> {
        Ok(rows.iter().map(|row| Verdict::Convert(Change::gone(row))).collect())
    }

    async fn former_keys(&self, _: &Target) -> Result<Vec<KeyId>> {
        Ok(Vec::new())
    }
}
