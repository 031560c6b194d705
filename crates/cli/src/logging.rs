//! Logs: text or JSON on standard error, with a level for each part. Values are never in them, because no event has one.

use enfold::policy::{Level, LogPolicy};
use enfold::{Code, Error, Result};
use tracing_subscriber::EnvFilter;

/// Sets logging up once for the process: what the policy says, then what the command line says on top.
pub(crate) fn init(policy: &LogPolicy, overrides: &[String]) -> Result<()> {
    let mut policy = policy.clone();
    for text in overrides {
        add(&mut policy, text)?;
    }
    let filter = EnvFilter::builder().parse_lossy(policy.filter());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let outcome = if policy.json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
    outcome.map_err(|_| Error::new(Code::Internal, "logging was set up twice"))
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
