//! `enfold service-keys`: who is let in by the service with a key of its own.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use enfold::access::{Grant, NewServiceKey, Permission, Role, ServiceKey};
use enfold::policy::{Policy, parse_duration};
use enfold::{Code, Enfold, Error, Result, private_file};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Context;
use crate::args::{CreateServiceKey, RevokeServiceKey, ServiceKeys};
use crate::table::Table;
use crate::words::time;

/// So that one is not made for ever by a slip.
const MOST_DAYS: u64 = 3_650;

pub(crate) async fn run(context: &Context<'_>, args: &ServiceKeys) -> Result<()> {
    context
        .with_keys(context.policy()?, async |enfold| match args {
            ServiceKeys::Create(args) => create(context, enfold, args).await,
            ServiceKeys::List => list(context, enfold).await,
            ServiceKeys::Revoke(args) => revoke(context, enfold, args).await,
        })
        .await
}

async fn create(context: &Context<'_>, enfold: &Enfold, args: &CreateServiceKey) -> Result<()> {
    let expires_ms = expires_ms(&args.expires_in)?;
    let grants = grants(enfold.policy(), args)?;
    let wanted = NewServiceKey { name: name(&args.name)?, grants, expires_ms, instead: false };
    let (id, secret) = enfold.operator()?.make_service_key(&wanted, &context.call(None)).await?;
    if let Some(path) = &args.out {
        private_file::put(path, "service key", secret.expose().as_bytes())?;
    }
    let printed = args.out.is_none().then(|| secret.expose());
    let document = json!({
        "id": id,
        "name": args.name,
        "expires_at": time(expires_ms),
        "file": args.out,
        "key": printed,
    });
    if !context.screen.json() {
        context.screen.say(&format!(
            "Service key {id} of {}, until {}.",
            args.name,
            time(expires_ms).unwrap_or_default()
        ));
        context.screen.say(match printed {
            Some(_) => "It is not shown again: put it where its holder alone can read it.",
            None => "Whoever can read its file is let in.",
        });
    }
    context.screen.result(&document, |out| {
        if let Some(key) = printed {
            let _ = writeln!(out, "{key}");
        }
    })
}

async fn list(context: &Context<'_>, enfold: &Enfold) -> Result<()> {
    let list = enfold.access_list(0).await?;
    let now_ms = Timestamp::now().as_millisecond();
    let keys: Vec<Value> = list.keys.iter().map(|(id, key)| document(id, key, now_ms)).collect();
    context.screen.result(&json!({ "service_keys": keys }), |out| {
        if list.keys.is_empty() {
            out.push_str("There is no service key.\n");
            return;
        }
        let mut table = Table::new(&["id", "name", "roles", "narrowed to", "state", "until"]);
        for (id, key) in &list.keys {
            let until = time(key.expires_ms).unwrap_or_default();
            table.row([
                id.clone(),
                key.name.clone(),
                roles(key).join(", "),
                narrowing(key),
                state(key, now_ms).into(),
                until,
            ]);
        }
        table.write(context.screen, out);
    })
}

async fn revoke(context: &Context<'_>, enfold: &Enfold, args: &RevokeServiceKey) -> Result<()> {
    let operator = enfold.operator()?;
    let question = format!("Service key {} lets nobody in any more; this cannot be taken back.", args.id);
    context.screen.confirm(&question, "revoke", args.yes)?;
    let former = operator.revoke_service_key(&args.id, &context.call(None)).await?;
    context.screen.result(&json!({ "id": args.id, "name": former.name, "state": "revoked" }), |out| {
        let _ = writeln!(out, "Service key {} of {} lets nobody in, within a second.", args.id, former.name);
    })
}

/// What stands in logs of every request.
fn name(given: &str) -> Result<String> {
    let sound = |c: char| c.is_alphanumeric() || "-_.@ ".contains(c);
    if given.trim() == given && (1..=100).contains(&given.chars().count()) && given.chars().all(sound) {
        return Ok(given.to_owned());
    }
    Err(Error::new(Code::Usage, "a service key cannot be named so")
        .hint("1 to 100 letters, digits, blanks inside, `-`, `_`, `.` and `@`")
        .hint("nothing was changed"))
}

fn expires_ms(given: &str) -> Result<i64> {
    let refused = |why: String| {
        Error::new(Code::Usage, "cannot tell how long the key is to let in").cause(why).hint("nothing was changed")
    };
    let time = parse_duration(given).map_err(|why| refused(format!("`--expires-in {given}`: {why}")))?;
    if time.is_zero() || time.as_secs() > MOST_DAYS * 86_400 {
        return Err(refused(format!("a time up to {MOST_DAYS} days is expected")));
    }
    let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Ok(Timestamp::now().as_millisecond().saturating_add(ms))
}

/// One for each role. What narrows is of values: a role that sees none cannot be narrowed.
fn grants(policy: &Policy, args: &CreateServiceKey) -> Result<Vec<Grant>> {
    let roles: BTreeSet<Role> = args.role.iter().map(|role| Role::from(*role)).collect();
    let set = |names: &[String]| (!names.is_empty()).then(|| names.iter().cloned().collect::<BTreeSet<_>>());
    let (tenants, classes, columns) = (set(&args.tenant), set(&args.class), set(&args.column));
    known(policy, args)?;
    let mut grants = Vec::with_capacity(roles.len());
    for role in roles {
        let grant = Grant { role, tenants: tenants.clone(), classes: classes.clone(), columns: columns.clone() };
        if grant.is_narrowed() && !role.sees_values() {
            return Err(Error::new(Code::Usage, format!("the role `{}` cannot be narrowed", role.word()))
                .cause("it sees no values, and tenants, classes and columns are of values")
                .hint("make a key of its own for it")
                .hint("nothing was changed"));
        }
        grants.push(grant);
    }
    Ok(grants)
}

/// A name that means nothing now would silently let its holder do nothing.
fn known(policy: &Policy, args: &CreateServiceKey) -> Result<()> {
    let is_known = |name: &String| policy.column(name).is_some() || policy.values.contains_key(name);
    if let Some(name) = args.column.iter().find(|name| !is_known(name)) {
        return Err(Error::new(Code::UnknownColumn, format!("the policy has no `{name}`")).hint("nothing was changed"));
    }
    let columns = policy.tables.values().flat_map(|table| table.columns.values());
    let classes: BTreeSet<&String> = columns.filter_map(|column| column.class.as_ref()).collect();
    match args.class.iter().find(|class| !classes.contains(class)) {
        None => Ok(()),
        Some(class) => Err(Error::new(Code::Usage, format!("no column of the policy has the class `{class}`"))
            .hint("nothing was changed")),
    }
}

fn document(id: &str, key: &ServiceKey, now_ms: i64) -> Value {
    let narrowed = key
        .grants
        .first()
        .map(|grant| json!({ "tenants": grant.tenants, "classes": grant.classes, "columns": grant.columns }));
    json!({
        "id": id,
        "name": key.name,
        "roles": roles(key),
        "permissions": permissions(key),
        "narrowed_to": narrowed,
        "state": state(key, now_ms),
        "created_at": time(key.created_ms),
        "created_by": key.created_by,
        "expires_at": time(key.expires_ms),
        "revoked_at": key.revoked_ms.map(time),
    })
}

fn roles(key: &ServiceKey) -> Vec<&'static str> {
    key.grants.iter().map(|grant| grant.role.word()).collect()
}

fn permissions(key: &ServiceKey) -> Vec<&'static str> {
    let has = |permission: &&Permission| key.grants.iter().any(|grant| grant.has(**permission));
    Permission::ALL.iter().filter(has).map(|permission| permission.word()).collect()
}

/// All grants of a key are narrowed alike.
fn narrowing(key: &ServiceKey) -> String {
    let Some(grant) = key.grants.first().filter(|grant| grant.is_narrowed()) else { return "nothing".to_owned() };
    let parts = [("tenant", &grant.tenants), ("class", &grant.classes), ("column", &grant.columns)];
    let named =
        parts.into_iter().flat_map(|(what, set)| set.iter().flatten().map(move |name| format!("{what} {name}")));
    named.collect::<Vec<_>>().join(", ")
}

fn state(key: &ServiceKey, now_ms: i64) -> &'static str {
    match key.revoked_ms {
        Some(_) => "revoked",
        None if key.lets_in(now_ms) => "good",
        None => "expired",
    }
}
