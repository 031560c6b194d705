//! `enfold index`: the blind indexes, and rotating them.

use std::fmt::Write as _;

use enfold::{Enfold, IndexStanding, Result};
use enfold_jobs::ops::{IndexRotated, IndexRotation, Pace, RotationStage, RotationStep, Session};
use serde_json::{Value, json};

use super::Context;
use crate::args::{EndIndex, Index, RotateIndex, SignIndex};
use crate::onlooker::Onlooker;
use crate::table::Table;
use crate::words::{rows, some};

pub(crate) async fn run(context: &Context<'_>, args: &Index) -> Result<()> {
    match args {
        Index::List => context.with_keys(context.policy()?, async |enfold| list(context, enfold).await).await,
        Index::Sign(args) => {
            context.with_keys(context.policy()?, async |enfold| sign(context, args, enfold).await).await
        }
        Index::Rotate(args) => {
            context.with_session_and_keys(async |session, enfold| rotate(context, args, session, enfold).await).await
        }
        Index::GiveUp(args) => {
            context.with_session_and_keys(async |session, enfold| give_up(context, args, session, enfold).await).await
        }
        Index::DropFormer(args) => {
            context
                .with_session_and_keys(async |session, enfold| drop_former(context, args, session, enfold).await)
                .await
        }
    }
}

async fn list(context: &Context<'_>, enfold: &Enfold) -> Result<()> {
    let all = enfold.indexes().await?;
    let document: Vec<Value> = all.iter().map(document).collect();
    context.screen.result(&json!({ "indexes": document }), |out| {
        if all.is_empty() {
            out.push_str("The policy has no blind index.\n");
            return;
        }
        let mut table = Table::new(&["index", "ring", "generation", "next", "rules signed", "as in the policy"]);
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        for index in &all {
            table.row([
                index.full_name(),
                index.ring.clone(),
                index.now.generation.to_string(),
                index.next.as_ref().map_or("none".to_owned(), |next| next.generation.to_string()),
                yes(index.signed),
                yes(index.as_in_policy),
            ]);
        }
        table.write(context.screen, out);
        for index in all.iter().filter(|index| !index.as_in_policy) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "\nNext: enfold index rotate {}", index.full_name());
        }
    })
}

fn document(index: &IndexStanding) -> Value {
    json!({
        "index": index.full_name(),
        "ring": index.ring,
        "now": index.now,
        "next": index.next,
        "signed": index.signed,
        "as_in_policy": index.as_in_policy,
    })
}

async fn sign(context: &Context<'_>, args: &SignIndex, enfold: &Enfold) -> Result<()> {
    let operator = enfold.operator()?;
    let mut named: Vec<(String, String)> = Vec::new();
    for name in &args.index {
        named.push(enfold.index_named(name)?);
    }
    if named.is_empty() {
        named.extend(enfold.indexes().await?.into_iter().map(|index| (index.owner, index.name)));
    }
    let mut signed = Vec::new();
    for (owner, name) in named {
        signed.push(operator.sign_index(&owner, &name, &context.call(Some(&args.reason))).await?);
    }
    let document: Vec<Value> = signed.iter().map(document).collect();
    context.screen.result(&json!({ "indexes": document }), |out| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "The rules of {} are signed.", some(signed.len(), "blind index"));
        for index in signed.iter().filter(|index| !index.as_in_policy) {
            let _ = writeln!(
                out,
                "{}: other rules than the policy's were signed before, and hold. Next: enfold index rotate {0}",
                index.full_name()
            );
        }
    })
}

async fn rotate(context: &Context<'_>, args: &RotateIndex, session: &Session, enfold: &Enfold) -> Result<()> {
    let pace = super::pace(session, args.rate, args.workers)?;
    let (owner, name) = enfold.index_named(&args.index)?;
    let rotation = IndexRotation::look(session, enfold, &owner, &name).await?;
    if args.dry_run {
        let steps = rotation.steps();
        let document = json!({ "index": document(&rotation.standing), "stage": rotation.stage(), "steps": steps });
        return context.screen.result(&document, |out| write_steps(&steps, out));
    }
    if rotation.stage() == RotationStage::Settled {
        let question = format!(
            "A new generation of {} takes over while lookups and writes go on.\n\
             Applications must store and look up by this version of Enfold's library.",
            rotation.standing.full_name()
        );
        context.screen.confirm(&question, "rotate", args.yes)?;
    }
    let reason = args.reason.as_deref().unwrap_or_default();
    let rotated = with_onlooker(context, &rotation, &pace, reason).await?;
    context.screen.result(&rotated, |out| write(&rotated, out))
}

/// Every blind index of a ring, one after the other. One whose former generation is still in the table is left as it is, and
/// says so.
pub(super) async fn rotate_ring(
    context: &Context<'_>,
    session: &Session,
    enfold: &Enfold,
    ring: &str,
    reason: &str,
) -> Result<Vec<IndexRotated>> {
    let mut done = Vec::new();
    for index in enfold.indexes().await?.into_iter().filter(|index| index.ring == ring) {
        let rotation = IndexRotation::look(session, enfold, &index.owner, &index.name).await?;
        done.push(with_onlooker(context, &rotation, &Pace::default(), reason).await?);
    }
    Ok(done)
}

async fn with_onlooker(
    context: &Context<'_>,
    rotation: &IndexRotation<'_>,
    pace: &Pace,
    reason: &str,
) -> Result<IndexRotated> {
    let onlooker = Onlooker::new(context.screen);
    rotation.rotate(pace, &context.call(Some(reason)), &onlooker).await
}

async fn give_up(context: &Context<'_>, args: &EndIndex, session: &Session, enfold: &Enfold) -> Result<()> {
    let (owner, name) = enfold.index_named(&args.index)?;
    let rotation = IndexRotation::look(session, enfold, &owner, &name).await?;
    let question = "The generation that was to take over is dropped; lookups and writes go on with the present one.";
    context.screen.confirm(question, "give up", args.yes)?;
    rotation.give_up(&context.call(Some(&args.reason))).await?;
    let index = rotation.standing.full_name();
    context.screen.result(&json!({ "index": index, "generation": rotation.standing.now.generation }), |out| {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{index}: the rotation is given up; generation {} goes on.",
            rotation.standing.now.generation
        );
    })
}

async fn drop_former(context: &Context<'_>, args: &EndIndex, session: &Session, enfold: &Enfold) -> Result<()> {
    let (owner, name) = enfold.index_named(&args.index)?;
    let rotation = IndexRotation::look(session, enfold, &owner, &name).await?;
    let index = rotation.standing.full_name();
    context.screen.confirm("The former generation goes for good, and its keys are disabled.", &index, args.yes)?;
    rotation.drop_former(&context.call(Some(&args.reason))).await?;
    context.screen.result(&json!({ "index": index, "generation": rotation.standing.now.generation }), |out| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{index}: the former generation is dropped, and its keys are disabled.");
    })
}

fn write_steps(steps: &[RotationStep], out: &mut String) {
    // Writing to a String cannot fail.
    for (n, step) in steps.iter().enumerate() {
        let _ = writeln!(out, "{}. {}\n   locks: {}", n + 1, step.says, step.locks);
        for sql in &step.sql {
            let _ = writeln!(out, "   {sql};");
        }
    }
    if steps.is_empty() {
        out.push_str("Nothing is to be done before the former generation is dropped.\n");
    }
}

pub(super) fn write(rotated: &IndexRotated, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{}: generation {} has taken over from {}; {} filled, writers filled the rest.\n\nNext: enfold index drop-former {0}",
        rotated.index,
        rotated.generation,
        rotated.former_generation,
        rows(rotated.rows_filled)
    );
}
