//! The process that is killed: carries out the saved plan and enforces it, as an operator does who runs the same command
//! again after every failure that may pass. It tells its parent on standard output which step it begins, and what it waits for.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use enfold::error::Retry;
use enfold::{CallContext, Enfold, Result};
use enfold_jobs::ops::{ApplyOptions, Observer, Pace, Plan, Selection, Session, StepEvent, StepState, apply, enforce};
use enfold_testkit::own_main::this_program;

use crate::table;

/// Longer than any step may take, with restarts in it: a worker that hangs fails the test.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) async fn work(folder: &Path, url: &str) {
    let plan = std::fs::read_to_string(folder.join("plan.json")).expect("the saved plan");
    let plan = Plan::from_json(&plan).expect("a plan");
    while let Err(error) = convert(folder, url, &plan).await {
        assert_eq!(error.code().retry(), Retry::Later, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn convert(folder: &Path, url: &str, plan: &Plan) -> Result<()> {
    let enfold = Enfold::open(table::policy(folder, url)).await?;
    let db = enfold_jobs::connect(&enfold.policy().database, Some(&enfold.policy().jobs)).await?;
    let session = Session::over(enfold, db, &CallContext::new("worker", "conversion"))?;
    apply(&session, plan, &ApplyOptions::default(), &Telling).await?;
    enforce(&session, &Selection::All, &Pace::default(), &Telling).await.map(|_| ())
}

struct Telling;

/// Begins a line that tells of a wait.
const WAITS: &str = "waits: ";

impl Observer for Telling {
    fn step(&self, event: &StepEvent) {
        if event.state == StepState::Started {
            tell(format_args!("{}", event.says));
        }
    }

    fn waiting(&self, reason: &str) {
        tell(format_args!("{WAITS}{reason}"));
    }
}

fn tell(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody listens");
}

/// The worker as its parent sees it.
pub(crate) struct Worker {
    child: Child,
    lines: Receiver<String>,
    /// The last step that it began, and how many it has begun.
    step: String,
    begun: usize,
    /// What it waited for last, in that step.
    waits: Option<String>,
}

/// It has begun no step for longer than any may take.
pub(crate) struct Hangs(String);

impl std::fmt::Display for Hangs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Worker {
    pub(crate) fn spawn(folder: &Path, url: &str) -> Self {
        let folder = folder.to_str().expect("text");
        let mut child = this_program(&["--as-worker", folder, url]).stdout(Stdio::piped()).spawn().expect("starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the worker, or when nobody listens any more.
            out.lines().map_while(std::result::Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, step: "the start".to_owned(), begun: 0, waits: None }
    }

    /// Until it begins its step `number`, the first being 1, or ends.
    pub(crate) fn wait_for_step(&mut self, number: usize) -> std::result::Result<(), Hangs> {
        let mut until = Instant::now() + PATIENCE;
        while self.begun < number {
            let begun = self.begun;
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.hear(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let waits = self.waits.as_deref().unwrap_or("nothing that it told of");
                    return Err(Hangs(format!("the worker hangs in `{}`, and waited for {waits}", self.step)));
                }
            }
            if self.begun > begun {
                until = Instant::now() + PATIENCE;
            }
        }
        Ok(())
    }

    /// Whether it has neither ended nor begun a later step.
    pub(crate) fn is_in(&mut self, number: usize) -> bool {
        while let Ok(line) = self.lines.try_recv() {
            self.hear(line);
        }
        self.begun <= number && self.child.try_wait().expect("asks after the worker").is_none()
    }

    /// SIGKILL, and the step that was under way, with its number; its status where it had ended already.
    pub(crate) fn kill(&mut self) -> std::result::Result<(usize, String), ExitStatus> {
        if let Some(status) = self.child.try_wait().expect("asks after the worker") {
            return Err(status);
        }
        self.child.kill().expect("kills");
        self.child.wait().expect("is gone");
        while let Ok(line) = self.lines.recv() {
            self.hear(line);
        }
        Ok((self.begun, self.step.clone()))
    }

    /// Lets it come to its end.
    pub(crate) fn wait(&mut self) -> std::result::Result<ExitStatus, Hangs> {
        self.wait_for_step(usize::MAX)?;
        Ok(self.child.wait().expect("ends"))
    }

    fn hear(&mut self, line: String) {
        if let Some(reason) = line.strip_prefix(WAITS) {
            self.waits = Some(reason.to_owned());
            return;
        }
        self.begun += 1;
        self.step = line;
        self.waits = None;
    }
}
