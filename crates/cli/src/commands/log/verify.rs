//! `enfold log verify`: whether the log is as it was written and signed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use async_trait::async_trait;
use enfold::events::{Lines, Report, SignedCheckpoint, Verifier};
use enfold::policy::parse_operator_key;
use enfold::{Code, Error, Result};

use crate::args::VerifyLog;
use crate::commands::{Context, io_fact};
use crate::words::{count, many, time};

pub(super) async fn run(context: &Context<'_>, args: &VerifyLog) -> Result<()> {
    let anchors = args.anchor.as_deref().map(anchors).transpose()?.unwrap_or_default();
    let (report, trusted) = match &args.file {
        Some(file) => {
            let trusted = keys(context, args)?;
            let by = Verifier { trusted: trusted.clone(), partial: args.partial, anchors };
            (by.verify(&Export(file)).await?, trusted.len())
        }
        None => {
            let policy = context.policy()?;
            let trusted = policy.events.log_keys.len();
            let verify = async |enfold: &enfold::Enfold| enfold.verify_log(anchors).await;
            (context.with_keys(policy, verify).await?, trusted)
        }
    };
    context.screen.result(&report, |out| write(&report, trusted, out))?;
    match report.findings.len() {
        0 => Ok(()),
        1 => Err(tampered("1 thing is wrong")),
        n => Err(tampered(&format!("{n} things are wrong"))),
    }
}

fn tampered(what: &str) -> Error {
    Error::new(Code::LogTampered, format!("the log is not what was written and signed: {what}"))
        .hint("keep the export as it is; `enfold explain log-tampered` says how to go on")
}

fn keys(context: &Context<'_>, args: &VerifyLog) -> Result<Vec<[u8; 32]>> {
    if args.key.is_empty() {
        return Ok(context.policy()?.events.log_keys);
    }
    let key = |text: &String| parse_operator_key(text).map_err(|why| Error::new(Code::Usage, why));
    args.key.iter().map(key).collect()
}

/// A file with a log in it.
struct Export<'a>(&'a Path);

#[async_trait]
impl Lines for Export<'_> {
    async fn each(&self, take: &mut (dyn for<'l> FnMut(&'l str) + Send)) -> Result<()> {
        lines(self.0, take)
    }
}

fn lines(path: &Path, take: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    for line in BufReader::new(file).lines() {
        take(&line.map_err(|error| unreadable(path, &error))?);
    }
    Ok(())
}

fn anchors(path: &Path) -> Result<Vec<SignedCheckpoint>> {
    let mut found = Vec::new();
    lines(path, &mut |line| found.extend(SignedCheckpoint::from_line(line)))?;
    if found.is_empty() {
        return Err(Error::new(Code::Usage, format!("`{}` holds no checkpoint", path.display()))
            .hint("`enfold log sign --json` prints one, and `enfold log export` ends with them"));
    }
    Ok(found)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::FileFailed, format!("cannot read `{}`", path.display())).cause(io_fact(error))
}

fn write(report: &Report, trusted: usize, out: &mut String) {
    let mut line = |text: String| out.push_str(&format!("{text}\n"));
    line(format!("{} of {}", entries(report.entries), many(report.writers, "writer")));
    if report.unchained > 0 {
        line(format!("{} of before entries were chained: nothing vouches for it", many(report.unchained, "line")));
    }
    let unsigned = report.entries - report.signed.min(report.entries);
    match report.signed_until_ms.and_then(time) {
        Some(when) => line(format!(
            "{} vouched for by {}, the last of {when}; {} not",
            entries(report.signed),
            many(report.checkpoints, "checkpoint"),
            count(unsigned)
        )),
        None if trusted == 0 => line("No key is trusted here, so nothing vouches for the end of a chain.".to_owned()),
        None => line("No checkpoint: nothing vouches for the end of a chain.".to_owned()),
    }
    if let Some(cut) = &report.cut {
        let until = time(cut.until_ms).unwrap_or_default();
        let lies = cut.archive.iter().map(|archive| format!(", to `{}`", archive.file)).collect::<String>();
        line(format!("What was written until {until} was taken out, as was signed{lies}"));
    }
    for finding in &report.findings {
        line(format!("WRONG  {}", finding.says()));
    }
    if report.is_whole() {
        line("Every chain holds together.".to_owned());
    }
}

fn entries(n: u64) -> String {
    if n == 1 { "1 entry".to_owned() } else { format!("{} entries", count(n)) }
}
