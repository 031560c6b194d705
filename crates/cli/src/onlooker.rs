//! What a person sees while an operation runs: a line for each step, a bar for each sweep.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use enfold_jobs::model::Goal;
use enfold_jobs::ops::{Observer, StepEvent, StepState, SweepEvent};

use crate::screen::{Progress, Screen};
use crate::stop::Stop;

pub(crate) struct Onlooker<'a> {
    screen: &'a Screen,
    stop: Stop,
    /// The sweep that has a bar now.
    sweep: Mutex<Option<(String, Progress)>>,
    /// What it last said it waits for, without numbers.
    told: Mutex<Option<(Instant, String)>>,
}

/// How often a wait for the same reason is said.
const WAITING_EVERY: Duration = Duration::from_secs(30);

impl<'a> Onlooker<'a> {
    /// Listens for Ctrl-C from now on.
    pub(crate) fn new(screen: &'a Screen) -> Self {
        let quiet = screen.json();
        let stop = Stop::listen(move |line| {
            if !quiet {
                crate::screen::talk(&format!("{line}\n"));
            }
        });
        Self { screen, stop, sweep: Mutex::new(None), told: Mutex::new(None) }
    }

    fn end_sweep(&self) {
        if let Ok(mut sweep) = self.sweep.lock()
            && let Some((_, bar)) = sweep.take()
        {
            bar.finish();
        }
    }
}

impl Observer for Onlooker<'_> {
    fn step(&self, event: &StepEvent) {
        self.end_sweep();
        match event.state {
            StepState::Started => {}
            StepState::Done => self.screen.say(&format!("  done     {}: {}", event.table, event.says)),
            StepState::Skipped => self.screen.say(&format!("  skipped  {}: {}", event.table, event.says)),
        }
    }

    fn progress(&self, event: &SweepEvent) {
        let what = match event.goal {
            Goal::Protect => "sealing",
            Goal::Unprotect => "opening",
            Goal::Index => "indexing",
            Goal::Verify => "verifying",
            Goal::Reencrypt => "re-encrypting",
            Goal::Prune => "deleting",
        };
        let title = format!("{what} {}", event.table);
        let Ok(mut sweep) = self.sweep.lock() else { return };
        if sweep.as_ref().is_none_or(|(shown, _)| *shown != title)
            && let Some((_, former)) = sweep.replace((title.clone(), self.screen.progress(&title)))
        {
            former.finish();
        }
        if let Some((_, bar)) = sweep.as_ref() {
            bar.set(event.progress.rows_seen, event.progress.rows_total);
        }
    }

    fn waiting(&self, reason: &str) {
        // The same again with other numbers is news only after a while.
        let words: String = reason.chars().filter(|c| !c.is_ascii_digit()).collect();
        let Ok(mut told) = self.told.lock() else { return };
        if told.as_ref().is_some_and(|(at, said)| *said == words && at.elapsed() < WAITING_EVERY) {
            return;
        }
        *told = Some((Instant::now(), words));
        self.screen.say(&format!("  waiting  {reason}"));
    }

    fn stop_requested(&self) -> bool {
        self.stop.requested()
    }
}

impl Drop for Onlooker<'_> {
    fn drop(&mut self) {
        self.end_sweep();
    }
}
