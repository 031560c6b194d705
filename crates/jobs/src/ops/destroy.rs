//! Crypto-shredding, to its end: the data keys are destroyed, what became unreadable is counted, and the operators certify it.

use enfold::certificate::{Backups, Certificate, DestroyedKey, SignedCertificate, UnreadableColumn};
use enfold::policy::{Policy, RecordWrap, Scope};
use enfold::state::{Destruction, Subject};
use enfold::{CallContext, Code, Enfold, Error, KeyId, Result};

use super::needs::targets;
use super::session::Session;
use crate::model::Target;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// What a destruction means, for whoever is about to announce it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meant {
    pub keys: Vec<DestroyedKey>,
    /// Columns with a value under one of them, counted now.
    pub columns: Vec<UnreadableColumn>,
    /// Values of the policy that live in no column, so that nobody can count them.
    pub uncounted: Vec<String>,
    /// Blind indexes over several tenants, whose keys stay.
    pub cross_tenant_indexes: Vec<String>,
    /// What stays readable, or cannot be said.
    pub notes: Vec<String>,
}

/// Counts what would become unreadable. Nothing is changed.
pub async fn meant(session: &Session, ring: &str, subject: &Subject) -> Result<Meant> {
    let enfold = enfold_of(session)?;
    let keys = enfold.data_keys_of(ring, subject).await?;
    let policy = &session.policy;
    let values = policy.values.iter().filter(|(_, value)| value.ring == ring);
    let mut notes = notes(policy, ring);
    let elsewhere = enfold.columns_elsewhere(ring).await?;
    if !elsewhere.is_empty() {
        notes.push(format!("Not counted, for the policy at hand does not name them: {}", elsewhere.join(", ")));
    }
    Ok(Meant {
        columns: count(session, ring, &keys).await?,
        uncounted: values.map(|(name, _)| name.clone()).collect(),
        cross_tenant_indexes: if subject.tag().is_some() { across_tenants(policy, ring) } else { Vec::new() },
        keys,
        notes,
    })
}

/// Destroys what was announced and is due, and gives the certificate; the one that there is, where it was done before. Run again
/// after it was stopped, it goes on.
///
/// # Errors
/// As [`enfold::Operator::finish_destruction`].
pub async fn finish(
    session: &Session,
    ring: &str,
    subject: &Subject,
    context: &CallContext,
) -> Result<SignedCertificate> {
    let enfold = enfold_of(session)?;
    let operator = enfold.operator()?;
    operator.finish_destruction(ring, subject, context).await?;
    if let Some(kept) = operator.certificate(ring, subject).await? {
        return Ok(kept);
    }
    let found = meant(session, ring, subject).await?;
    let destructions = enfold.destructions().await?;
    let destruction = destructions.into_iter().find(|(name, of, _)| name == ring && of == subject);
    let Some((_, _, destruction)) = destruction else {
        return Err(Error::new(Code::Internal, "a destruction that was signed is gone"));
    };
    let id = session.policy.rings.get(ring).map_or(ring, |ring| ring.id.as_str());
    let certificate = certificate(id, subject, &destruction, found, context)?;
    operator.keep_certificate(ring, subject, certificate).await
}

/// Finishes what is due. Every destruction has its turn, whatever becomes of the others.
///
/// # Errors
/// The first that one of them had.
pub(super) async fn finish_due(session: &Session, now_ms: i64) -> Result<()> {
    let Some(enfold) = session.keys.enfold().filter(|enfold| enfold.has_operator_key()) else { return Ok(()) };
    let (operator, context) = (enfold.operator()?, CallContext::new("schedule", "the grace period is over"));
    let mut failed = None;
    for (ring, subject, destruction) in enfold.destructions().await? {
        if destruction.due_ms > now_ms || operator.certificate(&ring, &subject).await?.is_some() {
            continue;
        }
        if let Err(error) = finish(session, &ring, &subject, &context).await {
            failed = failed.or(Some(error));
        }
    }
    failed.map_or(Ok(()), Err)
}

fn enfold_of(session: &Session) -> Result<&Enfold> {
    session.keys.enfold().ok_or_else(|| Error::new(Code::Internal, "data keys of another making cannot be destroyed"))
}

async fn count(session: &Session, ring: &str, keys: &[DestroyedKey]) -> Result<Vec<UnreadableColumn>> {
    let ids: Vec<KeyId> = keys.iter().filter(|key| key.seals()).filter_map(|key| key.id.parse().ok()).collect();
    let mut columns = Vec::new();
    for target in targets(session, ring).await? {
        for column in target.columns.clone() {
            let name = format!("{}.{}", target.policy_table, column.name);
            let alone = Target { columns: vec![column], indexes: Vec::new(), ..target.clone() };
            let rows = session.db.store().count_under(&alone, &ids).await?;
            if rows > 0 {
                columns.push(UnreadableColumn { column: name, rows });
            }
        }
    }
    Ok(columns)
}

fn across_tenants(policy: &Policy, ring: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (table_name, table) in &policy.tables {
        let ours = |column: &String| table.columns.get(column).is_some_and(|column| column.ring == ring);
        for (column_name, column) in table.columns.iter().filter(|(_, column)| column.ring == ring) {
            let across = column.indexes.iter().filter(|(_, index)| index.cross_tenant);
            names.extend(across.map(|(name, _)| format!("{table_name}.{column_name}.{name}")));
        }
        let across = table.indexes.iter().filter(|(_, index)| index.cross_tenant && index.over.iter().any(ours));
        names.extend(across.map(|(name, _)| format!("{table_name}.{name}")));
    }
    names
}

fn notes(policy: &Policy, ring: &str) -> Vec<String> {
    let mut notes = vec![
        "Copies of the data keys outside of the catalog (a memory image, a backup) are not destroyed".to_owned(),
        "Deleted wraps stay in the database's files and its log until it overwrites them: vacuum the catalog"
            .to_owned(),
    ];
    let scope = policy.rings.get(ring).map(|ring| (ring.scope, ring.record_wrap));
    if scope == Some((Scope::Record, RecordWrap::Ring)) {
        notes.push(
            "Data keys of single records lie beside their values, under a data key that was destroyed: none can be unwrapped; a single \
             record cannot be shredded for itself"
                .to_owned(),
        );
    }
    notes
}

fn certificate(
    ring: &str,
    subject: &Subject,
    destruction: &Destruction,
    found: Meant,
    context: &CallContext,
) -> Result<Certificate> {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let done_ms =
        destruction.done_ms.ok_or_else(|| Error::new(Code::Internal, "a destruction was not signed as done"))?;
    let none_from = destruction.backups_ms.map(|kept| moment(now_ms.saturating_add(kept)));
    Ok(Certificate {
        format: Certificate::FORMAT,
        ring: ring.to_owned(),
        subject: subject.clone(),
        announced_at: moment(destruction.asked_ms),
        grace_over_at: moment(destruction.due_ms),
        destroyed_at: moment(done_ms),
        wraps_gone_at: moment(now_ms),
        requested_by: destruction.by.clone(),
        reason: destruction.reason.clone(),
        finished_by: context.actor.clone(),
        keys: found.keys,
        columns: found.columns,
        uncounted: found.uncounted,
        cross_tenant_indexes: found.cross_tenant_indexes,
        backups: Backups {
            kept_days: destruction.backups_ms.map(|kept| kept.div_euclid(DAY_MS).unsigned_abs()),
            none_from,
        },
        notes: found.notes,
    })
}

fn moment(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| "unknown".to_owned(), |at| at.to_string())
}
