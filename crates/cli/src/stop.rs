//! Ctrl-C. The first asks the command to stop at the next safe place; the second ends it at once, which is safe too:
//! what was not committed is rolled back by the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enfold::Code;

/// Done when somebody first asks to stop; a second time ends the program at once.
#[cfg(feature = "serve")]
pub(crate) fn asked(say: impl Fn(&str)) -> enfold::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|error| {
            enfold::Error::new(Code::Internal, "cannot listen for signals").cause(error.kind().to_string())
        })
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        say("stopping when the requests at hand are answered (Ctrl-C again to stop at once)");
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(i32::from(Code::Interrupted.exit_code()));
        });
    })
}

/// Whether somebody asked to stop.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from now on. `say` prints a line of talk.
    pub(crate) fn listen(say: impl Fn(&str) + Send + 'static) -> Self {
        let stop = Self::default();
        let asked = stop.clone();
        tokio::spawn(async move {
            let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let Ok(mut terminate) = signal else { return };
            for turn in 0.. {
                tokio::select! {
                    interrupted = tokio::signal::ctrl_c() => if interrupted.is_err() { return },
                    _ = terminate.recv() => {}
                }
                if turn > 0 {
                    say(
                        "stopped at once; what was not committed is rolled back, and the same command goes on from there",
                    );
                    std::process::exit(i32::from(Code::Interrupted.exit_code()));
                }
                asked.0.store(true, Ordering::SeqCst);
                say("stopping after the batch that is being written (Ctrl-C again to stop at once)");
            }
        });
        stop
    }

    pub(crate) fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
