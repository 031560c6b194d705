//! What was protected is re-encrypted, by workers that are killed with SIGKILL at random moments, through a proxy that cuts
//! their connections and over a restart of the server, while the application goes on.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enfold::{CallContext, Enfold, Whose};
use enfold_jobs::model::JobState;
use enfold_jobs::ops::{Reencryption, Session, Silent, WorkOptions, plan_reencryption, request_reencryption, work};
use enfold_testkit::own_main::this_program;

use super::Scene;
use crate::table;
use crate::writer::Writer;

/// Of each round.
const KILLS: usize = 10;
/// Processes that work at once.
const WORKERS: usize = 2;
/// Rows a second: slow enough that a job outlives its workers.
const RATE: u32 = 60;

/// The process that is killed: a worker that ends when nothing is left to do.
pub(crate) async fn as_worker(folder: &Path, url: &str) {
    let enfold = Enfold::open(table::policy(folder, url)).await.expect("opens the keys");
    let db = enfold_jobs::connect(&enfold.policy().database, Some(&enfold.policy().jobs)).await.expect("connects");
    let session = Session::over(enfold, db, &CallContext::new("worker", "re-encryption")).expect("a session");
    let name = std::process::id().to_string();
    let options = WorkOptions { name, version: "test".to_owned(), until_idle: true, only: None };
    let report = work(&session, &options, &Silent).await.expect("works to the end");
    assert!(report.failed.is_empty(), "{:?}", report.failed);
}

impl Scene {
    /// Rotates every data key and has the values follow. Returns the writers and how many workers were killed.
    pub(crate) async fn reencrypt(&mut self, writers: Vec<Writer>) -> (Vec<Writer>, usize) {
        let operator = self.enfold.operator().expect("the operators' key");
        let context = CallContext::new("test", "a rotation");
        operator.rotate_many("main", Whose::Everybody, &context).await.expect("rotates");
        let wanted = Reencryption { rate: Some(RATE), ..Reencryption::default() };
        let plan = plan_reencryption(&self.session, &wanted).await.expect("plans");
        assert!(plan[0].rows_under_former_keys > 0);
        let job = request_reencryption(&self.session, &wanted, &plan).await.expect("asks")[0].job;

        let stop = Arc::new(AtomicBool::new(false));
        let writing: Vec<_> = writers.into_iter().map(|writer| tokio::spawn(writer.run(Arc::clone(&stop)))).collect();
        let mut workers: Vec<Child> = (0..WORKERS).map(|_| self.spawn()).collect();
        let mut killed = 0;
        for turn in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(150 + self.random.below(500))).await;
            if turn % 4 == 1 {
                self.proxy.cut();
            }
            if turn == KILLS / 2 {
                self.server.restart_immediately();
            }
            let victim = self.random.index(WORKERS);
            killed += usize::from(workers[victim].try_wait().expect("asks after the worker").is_none());
            workers[victim].kill().expect("kills");
            workers[victim].wait().expect("is gone");
            workers[victim] = self.spawn();
        }
        // One that lost its connection for good is started again, as whoever supervises it does.
        while self.store().await.store().job(job).await.expect("the job").state != JobState::Completed {
            for worker in &mut workers {
                if worker.try_wait().expect("asks after the worker").is_some() {
                    *worker = self.spawn();
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop.store(true, Ordering::Relaxed);
        let mut writers = Vec::new();
        for writer in writing {
            writers.push(writer.await.expect("the writer ends well"));
        }
        for worker in &mut workers {
            worker.wait().expect("ends");
        }
        let left = plan_reencryption(&self.session, &wanted).await.expect("counts");
        assert!(left.iter().all(|table| table.rows_under_former_keys == 0), "seed {}: {left:?}", self.seed);
        (writers, killed)
    }

    fn spawn(&self) -> Child {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.proxy.port());
        let folder = self.folder.path().to_str().expect("text");
        // What a worker says when its server goes away is not this test's to show.
        this_program(&["--as-reencrypter", folder, &url]).stderr(Stdio::null()).spawn().expect("starts")
    }
}
