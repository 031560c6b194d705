//! `enfold doctor`: configuration, database, catalog and keys, each checked as a user's first call would find it.

use std::fmt::Write as _;

use enfold::policy::{Environment, Policy};
use enfold::{CallContext, Enfold, Error, Place, Result};
use enfold_core::{Form, Part, PayloadType};
use serde::Serialize;

use super::Context;
use crate::words::some;

#[derive(Serialize)]
struct Check {
    name: String,
    ok: bool,
    says: String,
    hints: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

pub(crate) async fn run(context: &Context<'_>) -> Result<()> {
    let mut failed = None;
    let mut checks = Vec::new();
    let mut note = |name: &str, outcome: Result<String>| {
        let check = match outcome {
            Ok(says) => Check { name: name.to_owned(), ok: true, says, hints: Vec::new() },
            Err(error) => {
                let hints = error.hints().map(str::to_owned).collect();
                let check = Check { name: name.to_owned(), ok: false, says: error.to_string(), hints };
                failed.get_or_insert(error);
                check
            }
        };
        checks.push(check);
    };
    // Without a policy there is nothing else to check.
    let policy = context.policy()?;
    note("policy", Ok(describe(&policy)));
    note("database", database(&policy).await);
    match Enfold::open(policy.clone()).await {
        Err(error) => note("catalog and keys", Err(error)),
        Ok(enfold) => {
            note("catalog", Ok(format!("reached at {}", policy.catalog.display())));
            match enfold.check_catalog().await {
                Ok(wrong) if wrong.is_empty() => note("data keys", Ok("every row is as it was made".to_owned())),
                Ok(wrong) => wrong.into_iter().for_each(|error| note("data keys", Err(error))),
                Err(error) => note("data keys", Err(error)),
            }
            for (name, outcome) in keys(&enfold).await {
                note(&name, outcome);
            }
            let operator = enfold.operator().map(|_| "here: this machine may change modes and keys".to_owned());
            note("events", enfold.flush().await.map(|()| "written".to_owned()));
            // Applications must not have it, so its absence is no fault.
            note(
                "operators' key",
                Ok(operator.unwrap_or_else(|_| "not here, as it should be for an application".to_owned())),
            );
        }
    }
    let report = Report { ok: failed.is_none(), checks };
    context.screen.result(&report, |out| {
        for check in &report.checks {
            let mark = if check.ok { context.screen.good("ok  ") } else { context.screen.bad("FAIL") };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{mark} {}: {}", check.name, check.says);
            for hint in &check.hints {
                let _ = writeln!(out, "     hint: {hint}");
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn describe(policy: &Policy) -> String {
    let environment = match policy.environment {
        Environment::Development => "development: local keys are allowed",
        Environment::Staging => "staging",
        Environment::Production => "production",
    };
    let columns: usize = policy.tables.values().map(|t| t.columns.len()).sum();
    format!(
        "{}, {}, {}, {environment}",
        some(policy.rings.len(), "ring"),
        some(policy.tables.len(), "table"),
        some(columns, "column")
    )
}

/// Every table of the policy is there and may be read.
async fn database(policy: &Policy) -> Result<String> {
    let database = enfold_jobs::connect(&policy.database, Some(&policy.jobs)).await?;
    for table in policy.tables.values() {
        database.inspect(table).await?;
    }
    Ok(format!("reached at {}, and every table of the policy is there", policy.database.display()))
}

/// A value of each column, sealed and opened in memory: the key service, the catalog and the signed state all agree.
async fn keys(enfold: &Enfold) -> Vec<(String, Result<String>)> {
    let mut out = Vec::new();
    for (table, columns) in enfold.policy().tables.iter().map(|(name, t)| (name, &t.columns)) {
        for column in columns.keys() {
            let name = format!("{table}.{column}");
            out.push((format!("keys of {name}"), round_trip(enfold, &name).await));
        }
    }
    out
}

async fn round_trip(enfold: &Enfold, name: &str) -> Result<String> {
    let column = enfold.column(name)?;
    let (table, policy) = enfold
        .policy()
        .column(name)
        .ok_or_else(|| Error::new(enfold::Code::UnknownColumn, format!("the policy has no `{name}`")))?;
    let row: Vec<Part<'_>> =
        if policy.bind_row { table.row_key.iter().map(|_| Part::Int(0)).collect() } else { Vec::new() };
    if table.tenant.is_some() {
        // A value needs a tenant, and a made-up one would be given a key.
        return Ok(format!(
            "signed state in order, mode {}; sealing was not tried, for it needs a tenant",
            super::plan::mode(column.mode().await?)
        ));
    }
    let place = Place { tenant: None, row: &row };
    let call =
        CallContext { actor: Some("enfold doctor".into()), reason: Some("self-test".into()), ..CallContext::default() };
    let sealed = column.for_conversion().seal(&call, &place, Form::Text, PayloadType::Text, b"self-test").await?;
    let opened = column.open(&call, &place, Form::Text, &sealed).await?;
    if opened.value.as_slice() != b"self-test" {
        return Err(Error::new(enfold::Code::Internal, format!("`{name}` opened to something else than was sealed")));
    }
    let mode = column.mode().await?;
    Ok(format!("sealed and opened, mode {}", super::plan::mode(mode)))
}
