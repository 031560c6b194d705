//! Evidence as a page to print: HTML that stands for itself, without scripts and without anything from elsewhere.

use std::fmt::Write as _;

use enfold::evidence::{Checked, Control, Outcome, SignedEvidence};

const STYLE: &str = "body{font:11pt/1.45 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}h3{font-size:1rem;margin-bottom:.2rem}\
table{border-collapse:collapse;width:100%}th,td{border:1px solid #999;padding:.3rem .5rem;text-align:left;vertical-align:top}\
.met{color:#0a5c2b}.not-met{color:#a40000;font-weight:bold}.not-checked{color:#7a4b00}\
code{overflow-wrap:anywhere}section{break-inside:avoid}ul{margin-top:.2rem}\
@media print{body{margin:0;max-width:none}}";

/// The page. The same evidence gives the same page, byte for byte.
pub fn page(signed: &SignedEvidence) -> String {
    let statement = &signed.statement;
    let title = escaped(&format!("Evidence for {}", statement.title));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    let by = statement.made_by.as_deref().unwrap_or("nobody named");
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<p>Made at {} by {}, with {}, in the environment <code>{}</code>.</p>\n<p>What is said here was looked at in the running \
         system. What is counted in a database is a count: whoever may write to it can change what is counted. What is not checked is \
         said to be, and is no statement either way.</p>",
        escaped(&statement.made_at),
        escaped(by),
        escaped(&statement.program),
        escaped(&statement.environment)
    );
    out.push_str(
        "<h2>Controls</h2>\n<table><thead><tr><th>Control</th><th>Checks</th><th>Outcome</th></tr></thead><tbody>\n",
    );
    signed.controls.iter().for_each(|control| row(control, &mut out));
    out.push_str("</tbody></table>\n<h2>Checks</h2>\n");
    signed.checks.iter().for_each(|check| section(check, &mut out));
    let _ = writeln!(
        out,
        "<h2>Signature</h2>\n<p>The file <code>evidence.json</code> beside this page is signed by <code>{}</code>:</p>\n\
         <p><code>{}</code></p>\n<p><code>enfold evidence verify</code> checks both, offline.</p>\n</body></html>",
        escaped(&signed.signed_by),
        escaped(&signed.signature)
    );
    out
}

fn row(control: &Control, out: &mut String) {
    let Control { id, title, checks, outcome, note } = control;
    let note = note.as_ref().map(|note| format!("<br><small>{}</small>", escaped(note))).unwrap_or_default();
    let _ = writeln!(
        out,
        "<tr><td><strong>{}</strong> {}{note}</td><td>{}</td><td>{}</td></tr>",
        escaped(id),
        escaped(title),
        escaped(&checks.join(", ")),
        shown(*outcome)
    );
}

fn section(check: &Checked, out: &mut String) {
    let Checked { id, question, at, outcome, reason, found, limits } = check;
    let reason = reason.as_ref().map(|reason| format!(": {}", escaped(reason))).unwrap_or_default();
    let _ = writeln!(
        out,
        "<section><h3>{}</h3>\n<p>{}{reason} <small>(check <code>{}</code>, {})</small></p>",
        escaped(question),
        shown(*outcome),
        escaped(id),
        escaped(at)
    );
    if !found.is_empty() {
        let lines: String = found.iter().map(|line| format!("<li>{}</li>", escaped(line))).collect();
        let _ = writeln!(out, "<ul>{lines}</ul>");
    }
    if !limits.is_empty() {
        let _ = writeln!(out, "<p><small>{}</small></p>", escaped(limits));
    }
    out.push_str("</section>\n");
}

fn shown(outcome: Outcome) -> String {
    let class = outcome.word().replace(' ', "-");
    format!("<span class=\"{class}\">{}</span>", outcome.word())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
