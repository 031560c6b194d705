//! Logs: text or JSON on standard error, with a level for each part. Values are never in them, because no event has one.

use enfold::policy::{Level, LogPolicy, TracePolicy};
use enfold::{Code, Error, Result};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, registry};

/// Sets logging up once for the process: what the policy says, then what the command line says on top. Traces with it: who listens
/// to spans is decided once as well.
pub(crate) fn init(policy: &LogPolicy, traces: &TracePolicy, overrides: &[String]) -> Result<()> {
    let mut policy = policy.clone();
    for text in overrides {
        add(&mut policy, text)?;
    }
    let filter = EnvFilter::builder().parse_lossy(policy.filter());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if policy.json { lines.json().boxed() } else { lines.with_ansi(false).boxed() };
    let outcome = registry().with(listeners(traces)?).with(lines.with_filter(filter)).try_init();
    outcome.map_err(|_| Error::new(Code::Internal, "logging was set up twice"))
}

#[cfg(feature = "otlp")]
use crate::traces::listen as listeners;

#[cfg(not(feature = "otlp"))]
fn listeners(traces: &TracePolicy) -> Result<Option<tracing_subscriber::layer::Identity>> {
    match traces.endpoint {
        None => Ok(None),
        Some(_) => {
            Err(Error::new(Code::Usage, "this program was built without traces").hint("leave `traces.endpoint` out"))
        }
    }
}

/// `kms=debug` names a part; `debug` is for all of Enfold.
fn add(policy: &mut LogPolicy, text: &str) -> Result<()> {
    let level = text.rsplit_once('=').map_or(text, |(_, level)| level);
    let known = [Level::Off, Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
    let Some(level) = known.into_iter().find(|l| l.word() == level) else {
        return Err(Error::new(Code::Usage, format!("`{level}` is not a log level"))
            .hint("levels are off, error, warn, info, debug and trace"));
    };
    if text.contains('=') {
        policy.levels.push(text.to_owned());
    } else {
        policy.level = level;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_a_level_of_its_own() {
        let mut policy = LogPolicy::default();
        add(&mut policy, "kms=debug").unwrap();
        add(&mut policy, "info").unwrap();
        assert!(policy.filter().contains("enfold=info") && policy.filter().contains("enfold::kms=debug"));
        assert_eq!(add(&mut policy, "loud").unwrap_err().code(), Code::Usage);
    }
}
