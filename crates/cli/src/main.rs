//! The command `enfold`. It owns the terminal, the environment and the exit code; everything it does is a call into
//! the library or the job engine.

mod args;
mod commands;
#[cfg(feature = "sqlite")]
mod demo;
mod logging;
mod onlooker;
#[cfg(test)]
mod reference;
mod screen;
mod stop;
mod table;
#[cfg(feature = "otlp")]
mod traces;
mod words;

use std::process::ExitCode;

use clap::Parser;
use enfold::Result;

use crate::args::Cli;
use crate::commands::Context;
use crate::screen::Screen;

fn main() -> ExitCode {
    // Help, version and usage errors: clap prints them and ends with 0 or 2.
    let cli = Cli::parse();
    let screen = Screen::new(&cli.global, env("NO_COLOR").is_some_and(|v| !v.is_empty()));
    match run(cli, &screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(screen.error(&error)),
    }
}

/// The one place that reads the environment.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The environment as the policy's `${VAR}` and ENFOLD_… see it; what is not UTF-8 cannot be named in either.
fn variables() -> enfold::policy::Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn run(cli: Cli, screen: &Screen) -> Result<()> {
    let Cli { global, command } = cli;
    enfold::harden::process()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| {
        enfold::Error::new(enfold::Code::Internal, "the runtime could not start").cause(e.kind().to_string())
    })?;
    let context = Context { screen, global: &global, variables: variables() };
    runtime.block_on(async {
        let ended = commands::run(&context, command).await;
        #[cfg(feature = "otlp")]
        traces::flush().await;
        ended
    })
}
