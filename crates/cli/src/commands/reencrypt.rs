//! `enfold reencrypt`: says what is under former data keys, and has workers see to it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use enfold::{Code, Enfold, Error, Leaving, Result};
use enfold_jobs::ops::{self, Reencryption, Requested, Selection, Session, TableReencryption};
use enfold_jobs::shown;
use enfold_jobs::store::{Order, WorkerSign};
use serde::Serialize;

use super::Context;
use super::value::part;
use crate::args::Reencrypt;
use crate::table::Table;
use crate::words::{about, count, rows, some};

pub(crate) async fn run(context: &Context<'_>, args: &Reencrypt) -> Result<()> {
    context
        .with_session_and_keys(async |session, enfold| {
            let wanted = wanted(context, args, session, enfold).await?;
            let plan = ops::plan_reencryption(session, &wanted).await?;
            if args.dry_run {
                return context.screen.result(&plan, |out| write_plan(context, &plan, out));
            }
            if plan.iter().any(|table| table.rows_under_former_keys > 0) {
                let mut text = String::new();
                write_plan(context, &plan, &mut text);
                context.screen.say(text.trim_end());
                context.screen.confirm("Workers re-encrypt these rows, in place and online.", "reencrypt", args.yes)?;
            }
            let asked = ask(session, &wanted, plan).await?;
            context.screen.result(&asked, |out| asked.write(out))
        })
        .await
}

/// As a rotation of `ring` asks for it.
pub(super) async fn after_rotation(
    context: &Context<'_>,
    session: &Session,
    ring: &str,
    leaving: Leaving,
    reason: &str,
    priority: i32,
) -> Result<Asked> {
    let order = Order { priority, by: context.call(None).actor, reason: Some(reason.to_owned()) };
    let wanted = Reencryption { ring: Some(ring.to_owned()), leaving, order, ..Reencryption::default() };
    let plan = ops::plan_reencryption(session, &wanted).await?;
    ask(session, &wanted, plan).await
}

/// The tags of tenants that were named.
pub(super) async fn tags(enfold: &Enfold, ring: &str, tenants: &[String]) -> Result<BTreeSet<String>> {
    let mut tags = BTreeSet::new();
    for tenant in tenants {
        let tenant = part(tenant)?;
        let scope = enfold.tenant_scope(ring, tenant.as_part()).await?;
        tags.extend(scope.tenant_tag().map(str::to_owned));
    }
    Ok(tags)
}

async fn wanted(context: &Context<'_>, args: &Reencrypt, session: &Session, enfold: &Enfold) -> Result<Reencryption> {
    if let Some(ring) = &args.ring
        && !session.policy.rings.contains_key(ring)
    {
        let rings: Vec<&str> = session.policy.rings.keys().map(String::as_str).collect();
        return Err(Error::new(Code::Usage, format!("the policy has no ring `{ring}`"))
            .hint(format!("its rings are {}", rings.join(", "))));
    }
    let selection = match (&args.column[..], &args.table[..]) {
        ([], tables) => Selection::tables(&session.policy, tables)?,
        (columns, _) => Selection::columns(&session.policy, columns)?,
    };
    let tenants = match &args.ring {
        Some(ring) => tags(enfold, ring, &args.tenant).await?,
        None => BTreeSet::new(),
    };
    let made_before_ms = args.sealed_before.as_deref().map(moment).transpose()?;
    Ok(Reencryption {
        selection,
        ring: args.ring.clone(),
        class: args.class.clone(),
        leaving: Leaving { version: args.from_version, made_before_ms, tenants },
        order: Order { priority: args.priority, by: context.call(None).actor, reason: args.reason.clone() },
        rate: args.rate,
        batch_rows: args.batch,
    })
}

pub(in crate::commands) fn moment(text: &str) -> Result<i64> {
    shown::moment(text).ok_or_else(|| {
        Error::new(Code::Usage, format!("`{text}` is no moment"))
            .hint("spell it `2026-03-01` (its beginning, in UTC) or `2026-03-01T12:00:00Z`")
    })
}

async fn ask(session: &Session, wanted: &Reencryption, plan: Vec<TableReencryption>) -> Result<Asked> {
    let requested = ops::request_reencryption(session, wanted, &plan).await?;
    let workers = session.db.store().workers(ops::ALIVE).await?;
    Ok(Asked { tables: plan, requested, workers })
}

/// What came of asking for a re-encryption.
#[derive(Serialize)]
pub(super) struct Asked {
    tables: Vec<TableReencryption>,
    requested: Vec<Requested>,
    /// Who is there to do it.
    workers: Vec<WorkerSign>,
}

impl Asked {
    pub(super) fn status(&self) -> &'static str {
        if self.requested.is_empty() { "nothing-to-do" } else { "pending" }
    }

    pub(super) fn jobs(&self) -> Vec<i64> {
        self.requested.iter().map(|requested| requested.job.0).collect()
    }

    pub(super) fn write(&self, out: &mut String) {
        // Writing to a String cannot fail.
        if self.requested.is_empty() {
            out.push_str("No value is under a former data key: there is nothing to re-encrypt.\n");
            return;
        }
        for Requested { table, job, made } in &self.requested {
            let how = if *made { "waits for a worker" } else { "was asked for before, and is under way or waits" };
            let _ = writeln!(out, "Job {}: {table} {how}.", job.0);
        }
        match self.workers.len() {
            0 => out.push_str(
                "\nNo worker is running, so the jobs wait: start `enfold worker`, on any machine with this policy.\n",
            ),
            n => {
                let _ = writeln!(out, "\n{} running. `enfold jobs list` says how far they are.", some(n, "worker"));
            }
        }
    }
}

fn write_plan(context: &Context<'_>, plan: &[TableReencryption], out: &mut String) {
    let mut table = Table::new(&["table", "columns", "under former keys", "former keys", "KMS calls", "takes"]);
    for t in plan {
        table.row([
            t.table.clone(),
            t.columns.join(", "),
            rows(t.rows_under_former_keys),
            count(t.former_keys),
            format!("at most {}", count(t.kms_calls)),
            about(t.seconds),
        ]);
    }
    table.write(context.screen, out);
}
