//! `enfold evidence`: what a standard's controls ask for, looked at and signed, and checked offline.

use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use enfold::events::{LogKey, Signer};
use enfold::evidence::{Outcome, SignedEvidence};
use enfold::policy::parse_operator_key;
use enfold::{Code, Enfold, Error, Result};
use enfold_jobs::evidence::{collect, is_of_this_program, page, signer};
use serde_json::json;

use super::{Context, io_fact};
use crate::args::{Evidence, EvidenceCommand, VerifyEvidence};
use crate::table::Table;

const JSON: &str = "evidence.json";
const PAGE: &str = "evidence.html";

pub(crate) async fn run(context: &Context<'_>, args: &Evidence) -> Result<()> {
    let (standard, folder) = match (&args.verify, args.standard, &args.out) {
        (Some(EvidenceCommand::Verify(args)), ..) => return verify(context, args),
        (None, Some(standard), Some(folder)) => (standard, folder),
        // The parser wants both.
        _ => return Err(Error::new(Code::Usage, "evidence is of a standard, and goes into a folder")),
    };
    let [file, html] = [JSON, PAGE].map(|name| folder.join(name));
    // Before every row is read.
    if let Some(there) = [&file, &html].into_iter().find(|file| file.exists()) {
        return Err(Error::new(Code::Usage, format!("`{}` is there already", there.display()))
            .hint("name another folder: evidence that was made stays as it was signed")
            .hint("nothing was changed"));
    }
    context
        .with_session_and_keys(async |session, enfold| {
            let signer = key(args.key_file.as_deref(), enfold).await?;
            let signed = collect(session, enfold, standard, &context.call(None), &*signer).await?;
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| unwritable(folder, &error))?;
            write(&file, &signed.to_json()?)?;
            write(&html, &page(&signed))?;
            let document = json!({ "evidence": signed, "file": file, "page": html });
            context.screen.result(&document, |out| {
                show(context, &signed, out);
                // Writing to a String cannot fail.
                let _ =
                    writeln!(out, "\nSigned by {}, in `{}` and `{}`", signed.signed_by, file.display(), html.display());
            })
        })
        .await
}

async fn key(file: Option<&Path>, enfold: &Enfold) -> Result<Box<dyn Signer>> {
    match file {
        Some(file) => Ok(Box::new(LogKey::load(file)?)),
        None => signer(enfold).await,
    }
}

fn verify(context: &Context<'_>, args: &VerifyEvidence) -> Result<()> {
    let trusted = trusted(context, args)?;
    let text = std::fs::read(&args.file).map_err(|error| unreadable(&args.file, &error))?;
    let signed = SignedEvidence::verify(&text, &trusted)?;
    let page = page_beside(&args.file, &signed)?;
    context.screen.result(&json!({ "verified": true, "page_verified": page, "evidence": signed }), |out| {
        show(context, &signed, out);
        let page = if page { ", and the page beside it is of this evidence" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "\nThe signature is good: {} made it, and nothing was changed{page}.", signed.signed_by);
    })
}

/// Whether the page beside the file shows this evidence; `false` where there is none, or one that another version made.
fn page_beside(file: &Path, signed: &SignedEvidence) -> Result<bool> {
    let beside = file.with_file_name(PAGE);
    match std::fs::read_to_string(&beside) {
        Ok(_) if !is_of_this_program(signed) => Ok(false),
        Ok(there) if there == page(signed) => Ok(true),
        Ok(_) => {
            Err(Error::new(Code::EvidenceTampered, format!("`{}` is not the page of this evidence", beside.display()))
                .cause(format!("`{}` is as it was signed", file.display())))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unreadable(&beside, &error)),
    }
}

fn trusted(context: &Context<'_>, args: &VerifyEvidence) -> Result<Vec<[u8; 32]>> {
    if args.key.is_empty() {
        let policy = context.policy()?;
        return Ok(policy.events.log_keys.into_iter().chain(policy.trust.operator_key).collect());
    }
    let key = |text: &String| parse_operator_key(text).map_err(|why| Error::new(Code::Usage, why));
    args.key.iter().map(key).collect()
}

fn show(context: &Context<'_>, signed: &SignedEvidence, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}, {}\n", signed.statement.title, signed.statement.made_at);
    let mut controls = Table::new(&["control", "", "outcome"]);
    for control in &signed.controls {
        controls.row([control.id.clone(), control.title.clone(), control.outcome.word().to_owned()]);
    }
    controls.write(context.screen, out);
    out.push('\n');
    let mut checks = Table::new(&["check", "outcome", "why"]);
    for check in &signed.checks {
        let why = check.reason.clone().unwrap_or_default();
        checks.row([check.id.clone(), check.outcome.word().to_owned(), why]);
    }
    checks.write(context.screen, out);
    if signed.checks.iter().any(|check| check.outcome == Outcome::NotChecked) {
        out.push_str("\nWhat is not checked is no statement either way.\n");
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::FileFailed, format!("cannot write evidence to `{}`", path.display())).cause(io_fact(error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::FileFailed, format!("cannot read `{}`", path.display())).cause(io_fact(error))
}
