//! `enfold keys destroy`: crypto-shredding for a tenant or a ring, with a grace period and a certificate.
//!
//! The same command announces, says how it stands, and ends it when the grace period is over. A worker with the operators' key
//! ends it as well.

use std::fmt::Write as _;
use std::time::Duration;

use enfold::certificate::SignedCertificate;
use enfold::state::{Destruction, Subject};
use enfold::{Code, Enfold, Error, Result};
use enfold_core::OwnedPart;
use enfold_jobs::ops::Session;
use enfold_jobs::ops::destroy::{self, Meant};
use serde_json::json;

use crate::args::{Destroy, VerifyCertificate};
use crate::commands::value::part;
use crate::commands::{Context, io_fact};
use crate::words::{count, rows, some, time};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn run(context: &Context<'_>, args: &Destroy) -> Result<()> {
    context
        .with_session_and_keys(async |session, enfold| {
            let tenant = args.tenant.as_deref().map(part).transpose()?;
            let subject = enfold.subject(&args.ring, tenant.as_ref().map(OwnedPart::as_part)).await?;
            let destructions = enfold.destructions().await?;
            let held = destructions.into_iter().find(|(ring, of, _)| *ring == args.ring && *of == subject);
            match held.map(|(_, _, destruction)| destruction) {
                _ if args.cancel => cancel(context, args, enfold, &subject).await,
                None => announce(context, args, session, enfold, &subject).await,
                Some(held) if held.due_ms > jiff::Timestamp::now().as_millisecond() => {
                    waits(context, args, &subject, &held)
                }
                Some(_) => finish(context, args, session, &subject).await,
            }
        })
        .await
}

async fn announce(
    context: &Context<'_>,
    args: &Destroy,
    session: &Session,
    enfold: &Enfold,
    subject: &Subject,
) -> Result<()> {
    let operator = enfold.operator()?;
    let meant = destroy::meant(session, &args.ring, subject).await?;
    let word = args.tenant.as_deref().unwrap_or(&args.ring);
    context.screen.confirm(&question(args, &meant), word, args.yes)?;
    let retention = args.backup_retention_days.map(|days| DAY * days);
    let retention = retention.or(enfold.policy().rings.get(&args.ring).and_then(|ring| ring.backup_retention));
    let call = context.call(Some(&args.reason));
    let announced = operator.destroy(&args.ring, subject, DAY * args.grace_days, retention, &call).await?;
    if announced.due_ms <= announced.asked_ms {
        return finish(context, args, session, subject).await;
    }
    waits(context, args, subject, &announced)
}

fn question(args: &Destroy, meant: &Meant) -> String {
    let whose = match &args.tenant {
        Some(tenant) => format!("tenant {tenant} of ring {}", args.ring),
        None => format!("ring {}", args.ring),
    };
    let mut text = format!(
        "From now on nothing under {} of {whose} opens, in any process. In {} they are destroyed, and nobody can read these values again:",
        some(meant.keys.len(), "data key"),
        some(args.grace_days as usize, "day"),
    );
    for column in &meant.columns {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {}: {}", column.column, rows(column.rows));
    }
    let lists = [
        ("Not counted, for they live in no column", &meant.uncounted),
        ("Blind indexes across tenants, whose keys stay", &meant.cross_tenant_indexes),
    ];
    for (says, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
        let _ = write!(text, "\n{says}: {}.", names.join(", "));
    }
    text
}

fn waits(context: &Context<'_>, args: &Destroy, subject: &Subject, held: &Destruction) -> Result<()> {
    let document = json!({
        "ring": args.ring,
        "subject": subject.as_str(),
        "status": "destroying",
        "announced_at": time(held.asked_ms),
        "grace_over_at": time(held.due_ms),
        "requested_by": held.by,
        "reason": held.reason,
    });
    context.screen.result(&document, |out| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "Destroying the data keys of {subject} of ring {}: nothing opens under them.", args.ring);
        let _ = writeln!(
            out,
            "Until {} it can be taken back: the same command with `--cancel`.",
            time(held.due_ms).unwrap_or_default()
        );
        let _ = writeln!(out, "Then a worker with the operators' key ends it, or this command, run again.");
    })
}

async fn cancel(context: &Context<'_>, args: &Destroy, enfold: &Enfold, subject: &Subject) -> Result<()> {
    let question = format!("Values of {subject} of ring {} open again, in every process.", args.ring);
    context.screen.confirm(&question, "cancel", args.yes)?;
    enfold.operator()?.cancel_destruction(&args.ring, subject, &context.call(Some(&args.reason))).await?;
    let document = json!({ "ring": args.ring, "subject": subject.as_str(), "status": "cancelled" });
    context.screen.result(&document, |out| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "Taken back: the data keys of {subject} of ring {} open and seal as before.", args.ring);
    })
}

async fn finish(context: &Context<'_>, args: &Destroy, session: &Session, subject: &Subject) -> Result<()> {
    let signed = destroy::finish(session, &args.ring, subject, &context.call(Some(&args.reason))).await?;
    context.screen.result(&signed, |out| page(&signed, out))
}

pub(super) fn verify(context: &Context<'_>, args: &VerifyCertificate) -> Result<()> {
    let trusted = match &args.operator_key {
        Some(text) => enfold::policy::parse_operator_key(text).map_err(|why| Error::new(Code::Usage, why))?,
        None => context.policy()?.trust.operator_key.ok_or_else(|| {
            Error::new(Code::Usage, "the policy pins no operators' key to check the certificate by")
                .hint("name it: `--operator-key ed25519:…`")
        })?,
    };
    let shown = args.file.display();
    let json = std::fs::read(&args.file)
        .map_err(|error| Error::new(Code::FileFailed, format!("cannot read `{shown}`")).cause(io_fact(&error)))?;
    let signed = SignedCertificate::verify(&json, &trusted)?;
    context.screen.result(&json!({ "verified": true, "certificate": signed.certificate }), |out| {
        page(&signed, out);
        out.push_str(
            "\nThe signature is good: the operators' key that is trusted here made it, and nothing was changed.\n",
        );
    })
}

/// The certificate for people, in Markdown.
fn page(signed: &SignedCertificate, out: &mut String) {
    let c = &signed.certificate;
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "not said".to_owned());
    let mut line = |line: String| out.push_str(&format!("{line}\n"));
    line("# Certificate of destruction\n".to_owned());
    line(format!("- Destroyed: {} of {} of ring `{}`", some(c.keys.len(), "data key"), c.subject, c.ring));
    line(format!("- Announced: {}, by {}", c.announced_at, text(&c.requested_by)));
    line(format!("- Reason: {}", text(&c.reason)));
    line(format!("- Grace period over: {}", c.grace_over_at));
    line(format!("- Destroyed: {}, by {}", c.destroyed_at, text(&c.finished_by)));
    line(format!("- Last wrap gone from the catalog: {}", c.wraps_gone_at));
    line(match (&c.backups.none_from, c.backups.kept_days) {
        (Some(from), Some(days)) => {
            format!(
                "- Backups are kept for {}: from {from} on none holds a wrap",
                some(usize::try_from(days).unwrap_or(0), "day")
            )
        }
        _ => "- Backups: nobody said how long they are kept; until they are gone, they hold wraps".to_owned(),
    });
    line("\n## Unreadable for ever\n".to_owned());
    line("| column | values |\n|---|---|".to_owned());
    c.columns.iter().for_each(|column| line(format!("| {} | {} |", column.column, count(column.rows))));
    line("\n## Data keys\n\n| id | purpose | scope | version |\n|---|---|---|---|".to_owned());
    c.keys.iter().for_each(|key| line(format!("| {} | {} | {} | {} |", key.id, key.purpose, key.scope, key.version)));
    line("\n## What this does not say\n".to_owned());
    if !c.uncounted.is_empty() {
        line(format!("- Not counted, for they live in no column: {}.", c.uncounted.join(", ")));
    }
    if !c.cross_tenant_indexes.is_empty() {
        line(format!(
            "- Blind indexes across tenants keep the tenant's entries, and whoever has the index key can test guesses: {}.",
            c.cross_tenant_indexes.join(", ")
        ));
    }
    c.notes.iter().for_each(|note| line(format!("- {note}.")));
    line(format!("\nSigned by `{}`:\n`{}`", signed.operator_key, signed.signature));
}
