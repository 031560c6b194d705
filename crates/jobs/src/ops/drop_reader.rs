//! Taking a reader of another product's format out of the policy. Without it its values would be taken for plaintext, so the
//! operators sign that nothing needs it, at a count of zero; a policy without the reader is refused until then.
//!
//! What is counted is what the reader recognises by form, whichever other reader of the column would be tried first: of two
//! with the same format nobody can tell without their keys which one a value needs.
//!
//! It is a count, and tells what the database holds now. In a column in mode `kms` the database refuses such values besides;
//! in mode `hybrid` it does not, so whoever still writes them must have ended.

use std::time::Instant;

use enfold::policy::Mode;
use enfold::{Code, Enfold, Error, Result};
use serde::{Deserialize, Serialize};

use super::disable::LOOK_EVERY;
use super::observer::Observer;
use super::run::interrupted;
use super::session::Session;
use super::targets::{Selection, sealed_targets};
use crate::disabling::Earlier;
use crate::recognise::Recogniser;

/// A column that names a reader, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderUse {
    /// `table.column`, as the policy names both.
    pub column: String,
    pub mode: Mode,
    /// Values that the reader recognises.
    pub values: u64,
    /// New values are written in its format: the column says so, and is in mode `legacy`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub written: bool,
}

/// Counts what the values of a reader are, in every column of the policy that names it. A column whose type can hold none is
/// left out.
pub async fn reader_uses(session: &Session, reader: &str) -> Result<Vec<ReaderUse>> {
    let mut uses = Vec::new();
    let names_it = |reads: &[String]| reads.iter().any(|name| name == reader);
    for (_, target) in sealed_targets(session, &Selection::All, |column| names_it(&column.reads)).await? {
        let table = &session.policy.tables[&target.policy_table];
        let names: Vec<String> =
            target.columns.iter().map(|column| format!("{}.{}", target.policy_table, column.name)).collect();
        let modes = session.keys.modes(&names).await?;
        for (at, (column, mode)) in names.into_iter().zip(modes).enumerate() {
            let held = &target.columns[at];
            let Some(by) = Recogniser::of(&session.policy, table, &held.name, held.storage) else { continue };
            let found = session.db.recognise(&target, at, &by.only(reader), None).await?;
            let writes = table.columns.get(&held.name).and_then(|policy| policy.writes.as_deref());
            let written = mode == Mode::Legacy && writes == Some(reader);
            uses.push(ReaderUse { column, mode, values: found.by_reader.values().sum(), written });
        }
    }
    Ok(uses)
}

/// Whether [`drop_reader`] has something to sign; what it would count.
///
/// # Errors
/// `ReaderNeeded` where a value needs the reader, or may where this policy does not look; `Usage` for one that the policy has not.
pub async fn plan_drop_reader(session: &Session, reader: &str) -> Result<Vec<ReaderUse>> {
    must_be_there(session, reader)?;
    must_be_countable(keys_of(session)?, reader).await?;
    unneeded(reader, reader_uses(session, reader).await?)
}

/// Signs that no value needs a reader any more, when the transactions that were open have ended and none is counted. Nothing
/// changes for a process whose policy has the reader still.
///
/// # Errors
/// As [`plan_drop_reader`]; `Busy` where transactions stay open for longer than the policy's `patience`.
pub async fn drop_reader(session: &Session, reader: &str, observer: &dyn Observer) -> Result<Vec<ReaderUse>> {
    must_be_there(session, reader)?;
    let enfold = keys_of(session)?;
    let operator = enfold.operator()?;
    earlier_ones_ended(session, observer).await?;
    must_be_countable(enfold, reader).await?;
    let uses = unneeded(reader, reader_uses(session, reader).await?)?;
    operator.drop_reader(reader).await?;
    Ok(uses)
}

fn unneeded(reader: &str, uses: Vec<ReaderUse>) -> Result<Vec<ReaderUse>> {
    let needs_it = |found: &&ReaderUse| found.values > 0 || found.written;
    if !uses.iter().any(|found| needs_it(&found)) {
        return Ok(uses);
    }
    let error = Error::new(Code::ReaderNeeded, format!("values still need the reader `{reader}`"));
    let named = uses.iter().filter(needs_it).map(|found| {
        let noun = if found.values == 1 { "value" } else { "values" };
        let more = if found.written { ", and new ones are written so" } else { "" };
        format!("`{}`, in mode {}: {} {noun}{more}", found.column, found.mode.word(), found.values)
    });
    Err(named
        .fold(error, Error::cause)
        .hint("`enfold apply` makes envelopes of them; `enfold verify` names those that do not open")
        .hint("nothing was changed"))
}

/// A misspelt name must not count as one that nothing needs.
fn must_be_there(session: &Session, reader: &str) -> Result<()> {
    let readers = &session.policy.readers;
    if readers.contains_key(reader) {
        return Ok(());
    }
    let error = Error::new(Code::Usage, format!("the policy has no reader `{reader}`"))
        .cause("its format says which values are counted, so it is dropped while it is in the policy");
    let names: Vec<&str> = readers.keys().map(String::as_str).collect();
    Err(if names.is_empty() { error } else { error.hint(format!("its readers are {}", names.join(", "))) })
}

async fn must_be_countable(enfold: &Enfold, reader: &str) -> Result<()> {
    let elsewhere = enfold.read_elsewhere(reader).await?;
    if elsewhere.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::ReaderNeeded, format!("cannot count what needs the reader `{reader}`"))
        .cause(format!("the operators signed columns that this policy does not name: {}", elsewhere.join(", ")))
        .hint("run it with the policy that names every column that is read with it")
        .hint("nothing was changed"))
}

/// What an open transaction has written cannot be counted yet.
async fn earlier_ones_ended(session: &Session, observer: &dyn Observer) -> Result<()> {
    let disablings = session.db.disablings();
    let earlier = Earlier::now(disablings).await?;
    let until = Instant::now() + session.policy.jobs.patience;
    while let Some(says) = earlier.still_open(disablings).await? {
        if observer.stop_requested() {
            return Err(interrupted());
        }
        if Instant::now() >= until {
            return Err(Error::new(Code::Busy, "cannot count what open transactions have written")
                .cause(says)
                .hint("have it ended, then run the same command again")
                .hint("nothing was changed"));
        }
        observer.waiting(&says);
        session.db.store().pause(LOOK_EVERY).await;
    }
    Ok(())
}

fn keys_of(session: &Session) -> Result<&Enfold> {
    session
        .keys
        .enfold()
        .ok_or_else(|| Error::new(Code::Internal, "readers of a policy of another making are not signed"))
}
