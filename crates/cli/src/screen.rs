//! What a person sees: results on standard output, talk on standard error, errors in one form.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use enfold::{Code, Error, Result};
use serde::Serialize;

use crate::args::{Colour, Global};

/// How soon an unanswered question gives way to Ctrl-C.
const STOP_EVERY: Duration = Duration::from_millis(100);

/// The terminal of one command.
pub(crate) struct Screen {
    json: bool,
    /// A result has been printed; standard output holds one document.
    answered: AtomicBool,
    colour_out: bool,
    colour_err: bool,
    interactive: bool,
}

impl Screen {
    /// `no_color` is whether NO_COLOR is set and not empty (no-color.org).
    pub(crate) fn new(global: &Global, no_color: bool) -> Self {
        let wanted = |terminal: bool| match global.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => terminal && !no_color,
        };
        Self {
            json: global.json,
            answered: AtomicBool::new(false),
            colour_out: wanted(io::stdout().is_terminal()),
            colour_err: wanted(io::stderr().is_terminal()),
            interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
        }
    }

    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// The result of a command: the document with `--json`, what `text` writes otherwise.
    pub(crate) fn result<T: Serialize>(&self, document: &T, text: impl FnOnce(&mut String)) -> Result<()> {
        let out = if self.json {
            let mut out = serde_json::to_string_pretty(document)
                .map_err(|_| Error::new(Code::Internal, "a result could not be written as JSON"))?;
            out.push('\n');
            out
        } else {
            let mut out = String::new();
            text(&mut out);
            out
        };
        self.answered.store(true, Ordering::Relaxed);
        write_out(out.as_bytes())
    }

    /// Raw bytes to standard output (`seal`, `open`).
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        write_out(bytes)
    }

    /// One line of talk.
    pub(crate) fn say(&self, line: &str) {
        if !self.json {
            talk(&format!("{line}\n"));
        }
    }

    /// Asks for `word` to be typed. Not a terminal: refused, with the flag that answers.
    pub(crate) fn confirm(&self, question: &str, word: &str, yes: bool) -> Result<()> {
        if yes {
            return Ok(());
        }
        let unasked = Error::new(Code::NotConfirmed, "this changes the database and nobody said yes")
            .hint("run it again with `--yes`, or in a terminal")
            .hint("nothing was changed");
        if !self.interactive || self.json {
            return Err(unasked);
        }
        talk(&format!("{question}\nType `{word}` to go on: "));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(|_| unasked.clone())?;
        if answer.trim() == word { Ok(()) } else { Err(unasked) }
    }

    /// Asks which of `words` it shall be; none for no answer, for none that can be asked for, and when `stopped` says so
    /// meanwhile (Ctrl-C).
    pub(crate) async fn choose(&self, question: &str, words: &[&str], stopped: impl Fn() -> bool) -> Option<String> {
        if !self.interactive || self.json {
            return None;
        }
        talk(&format!("{question}\n"));
        loop {
            let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            talk(&format!("Type {}: ", quoted.join(" or ")));
            let (said, mut heard) = tokio::sync::oneshot::channel();
            // A thread of its own, and not one of the runtime's: nothing waits for it when nobody answers.
            std::thread::spawn(move || {
                let mut answer = String::new();
                let line = io::stdin().lock().read_line(&mut answer).is_ok_and(|bytes| bytes > 0);
                said.send(line.then_some(answer)).ok();
            });
            let answer = loop {
                match tokio::time::timeout(STOP_EVERY, &mut heard).await {
                    Ok(answer) => break answer.ok().flatten()?,
                    Err(_) if stopped() => return None,
                    Err(_) => {}
                }
            };
            let answer = answer.trim();
            if words.contains(&answer) {
                return Some(answer.to_owned());
            }
            if answer.is_empty() {
                return None;
            }
        }
    }

    /// Prints an error in the one form, and gives the exit code. With `--json` it is the document, unless there was a
    /// result already (an audit that found something): then it goes to standard error.
    pub(crate) fn error(&self, error: &Error) -> u8 {
        if self.json {
            let document = ErrorDocument::of(error);
            if let Ok(text) = serde_json::to_string_pretty(&document) {
                let text = format!("{text}\n");
                if self.answered.load(Ordering::Relaxed) {
                    talk(&text);
                } else {
                    // The document is the result; if it cannot be written there is nobody to tell.
                    write_out(text.as_bytes()).ok();
                }
            }
        } else {
            talk(&render_error(error, self.colour_err));
        }
        error.code().exit_code()
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        paint(text, Style::new().bold(), self.colour_out)
    }

    pub(crate) fn good(&self, text: &str) -> String {
        paint(text, AnsiColor::Green.on_default(), self.colour_out)
    }

    pub(crate) fn bad(&self, text: &str) -> String {
        paint(text, AnsiColor::Red.on_default(), self.colour_out)
    }

    pub(crate) fn progress(&self, what: &str) -> Progress {
        self.progress_of(what, "rows")
    }

    /// As [`Self::progress`], of something else than rows.
    pub(crate) fn progress_of(&self, what: &str, noun: &'static str) -> Progress {
        Progress::new(what, noun, !self.json, io::stderr().is_terminal())
    }
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    exit_code: u8,
    message: &'a str,
    causes: Vec<&'a str>,
    hints: Vec<&'a str>,
    page: String,
}

impl<'a> ErrorDocument<'a> {
    fn of(error: &'a Error) -> Self {
        Self {
            error: ErrorBody {
                code: error.code().word(),
                exit_code: error.code().exit_code(),
                message: error.message(),
                causes: error.causes().collect(),
                hints: error.hints().collect(),
                page: format!("docs/errors/{}.md", error.code().word()),
            },
        }
    }
}

fn render_error(error: &Error, colour: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} {}", paint("error:", AnsiColor::Red.on_default().bold(), colour), error.message());
    for cause in error.causes() {
        let _ = writeln!(out, "  caused by: {cause}");
    }
    out.push('\n');
    for hint in error.hints() {
        let _ = writeln!(out, "{} {hint}", paint("hint:", AnsiColor::Cyan.on_default(), colour));
    }
    let _ = writeln!(out, "code: {}", error.code());
    out
}

fn paint(text: &str, style: Style, colour: bool) -> String {
    if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

fn write_out(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // Whoever read us has seen enough (`enfold audit | head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::new(Code::FileFailed, "writing to standard output").cause(e.kind().to_string())),
        Ok(()) => Ok(()),
    }
}

pub(crate) fn talk(text: &str) {
    // If standard error is gone there is nobody to talk to.
    io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// A bar on a terminal, a line every ten seconds elsewhere, nothing with `--json`.
pub(crate) struct Progress {
    bar: Option<indicatif::ProgressBar>,
    lines: Option<std::sync::Mutex<Lines>>,
    what: String,
    noun: &'static str,
}

struct Lines {
    started: Instant,
    printed: Instant,
}

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    fn new(what: &str, noun: &'static str, shown: bool, terminal: bool) -> Self {
        let now = Instant::now();
        let bar = (shown && terminal).then(|| {
            let bar = indicatif::ProgressBar::new(0);
            let template =
                format!("{{msg:24!}} {{bar:30}} {{human_pos}}/{{human_len}} {noun}, {{per_sec}}, {{eta}} left");
            let style = indicatif::ProgressStyle::with_template(&template);
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar
        });
        let lines = (shown && !terminal).then(|| std::sync::Mutex::new(Lines { started: now, printed: now }));
        Self { bar, lines, what: what.to_owned(), noun }
    }

    pub(crate) fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
        let Some(lines) = &self.lines else { return };
        let Ok(mut lines) = lines.lock() else { return };
        let now = Instant::now();
        if now.duration_since(lines.printed) < LINE_EVERY {
            return;
        }
        lines.printed = now;
        let seconds = now.duration_since(lines.started).as_secs_f64();
        let rate = done as f64 / seconds.max(0.001);
        let left = (total.saturating_sub(done)) as f64 / rate.max(0.001);
        let (what, noun) = (&self.what, self.noun);
        talk(&format!("{what}: {done} of {total} {noun}, {rate:.0} {noun}/s, {left:.0} s left\n"));
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_its_causes_its_hints_and_its_code() {
        let error = Error::new(Code::KmsAccessDenied, "cannot unwrap the data key for `public.users.email`")
            .cause("AWS KMS refused `Decrypt` on `alias/orders`")
            .hint("grant `kms:Decrypt` to role `orders-app`");
        assert_eq!(
            render_error(&error, false),
            "error: cannot unwrap the data key for `public.users.email`\n  caused by: AWS KMS refused `Decrypt` on \
             `alias/orders`\n\nhint: grant `kms:Decrypt` to role `orders-app`\ncode: kms-access-denied\n"
        );
    }
}
