//! The test of a backup: every value of a restored copy is opened under the keys that were restored with it, and the log of the live
//! system is told what came of it.
//!
//! What is on record is what was done. So a copy that is the live database, goes on taking over what is written elsewhere, or is of
//! another system is refused, and nothing is recorded then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use enfold::events::{Event, EventKind, RestoreTest};
use enfold::policy::{DatabaseUrl, Policy};
use enfold::{CallContext, Code, Enfold, Error, Result};
use serde::{Deserialize, Serialize};

use super::audit::audit;
use super::observer::Observer;
use super::run::Pace;
use super::session::Session;
use super::targets::Selection;
use super::verify::{VerifyReport, verify};
use crate::database::{Database, Identity};

/// A backup that was restored to databases of its own.
#[derive(Clone, Debug)]
pub struct Restored {
    pub database: DatabaseUrl,
    /// Of a catalog that has a database of its own, where that was restored to.
    pub catalog: Option<DatabaseUrl>,
    /// When the backup was made, in milliseconds since 1970. Nobody can tell from here: it is the word of whoever tests it.
    pub backup_ms: i64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreReport {
    /// As it is on record.
    pub restored: RestoreTest,
    #[serde(flatten)]
    pub verified: VerifyReport,
}

/// Opens every value of the selected columns in a restored copy, and puts it on record in the live log, also where it failed. Of the
/// copy Enfold's own tables are written to, as everywhere that there are jobs.
///
/// # Errors
/// `Usage` or `PolicyInvalid`, with nothing on record, for what is no such copy and where there would be no record. What stands in the
/// way of opening, which is on record. That a value does not open is none: the report says it.
pub async fn test_restored(
    live: (&Session, &Enfold),
    restored: &Restored,
    selection: &Selection,
    pace: &Pace,
    context: &CallContext,
    observer: &dyn Observer,
) -> Result<RestoreReport> {
    let (session, enfold) = live;
    let catalog = restored.catalog_for(&session.policy)?;
    let database = crate::connect(&restored.database, Some(&session.policy.jobs)).await?;
    let (is, of) = apart(session, database.as_ref(), catalog).await?;
    let mut test = RestoreTest {
        database: is.name,
        live: of.lasting,
        backup_ms: restored.backup_ms,
        took_ms: 0,
        rows: 0,
        failed: 0,
        columns: BTreeMap::new(),
    };
    let begun = Instant::now();
    let opened = match enfold.restored(&restored.database, catalog).await {
        Ok(copy) => {
            let opened = open_all(&copy, database, selection, pace, context, observer).await;
            copy.sign_off().await;
            copy.settle().await.and(opened)
        }
        Err(refused) if refused.code() == Code::Usage => return Err(refused),
        Err(error) => Err(error),
    };
    test.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let opened = opened.map(|(verified, columns)| {
        (test.rows, test.failed, test.columns) = (verified.rows(), verified.failed(), columns);
        verified
    });
    let event = Event::new(EventKind::RestoreTested, test.rows).restored(test.clone());
    session.keys.log(match &opened {
        Ok(verified) => verified.error().iter().fold(event, Event::because),
        Err(error) => event.because(error),
    });
    // Nobody is told of a record that is none yet.
    enfold.flush().await?;
    match opened {
        Ok(verified) => Ok(RestoreReport { restored: test, verified }),
        Err(error) => Err(error.hint("the restore test is on record, as one that failed")),
    }
}

impl Restored {
    /// Where its catalog is. A copy whose data keys come from the live catalog would show nothing of the backup of those.
    fn catalog_for(&self, policy: &Policy) -> Result<&DatabaseUrl> {
        if !policy.events.catalog {
            return Err(Error::new(Code::PolicyInvalid, "the policy does not keep the log in the catalog")
                .cause("a restore test would be on no record")
                .hint("set `events.catalog = true`"));
        }
        match (&self.catalog, policy.catalog == policy.database) {
            (None, true) => Ok(&self.database),
            (Some(catalog), false) => Ok(catalog),
            (None, false) => Err(Error::new(
                Code::Usage,
                "the catalog has a database of its own, whose backup is to be tested as well",
            )
            .hint("restore it too, and say where it is: `--restored-catalog`")),
            (Some(_), true) => {
                Err(Error::new(Code::Usage, "the catalog is in the database itself, and is restored with it")
                    .hint("leave out `--restored-catalog`"))
            }
        }
    }
}

/// What the copy is, and what it is a copy of. Both parts of it must be others than those of the live system.
async fn apart(live: &Session, copy: &dyn Database, catalog: &DatabaseUrl) -> Result<(Identity, Identity)> {
    let live_catalog = crate::connect(&live.policy.catalog, None).await?;
    let copy_catalog = crate::connect(catalog, None).await?;
    let lives = async || Ok::<_, Error>([live.db.identity().await?, live_catalog.identity().await?]);
    let before = lives().await?;
    let copies = [copy.identity().await?, copy_catalog.identity().await?];
    // Asked twice: a server that was started again between two questions is another one by its answers.
    let after = lives().await?;
    let refused = |why: String| {
        Err(Error::new(Code::Usage, why)
            .hint("restore the backup to a database of its own, and name that one")
            .hint("no restore test is on record"))
    };
    for is in &copies {
        if before.iter().chain(&after).any(|live| live.running == is.running) {
            return refused(format!("`{}` is the live database, and no backup of it that was restored", is.name));
        }
        if is.follows {
            return refused(format!(
                "`{}` takes over what is written elsewhere: it is a replica, and no backup",
                is.name
            ));
        }
    }
    let ([is, _], [of, _]) = (copies, after);
    Ok((is, of))
}

async fn open_all(
    copy: &Enfold,
    database: Arc<dyn Database>,
    selection: &Selection,
    pace: &Pace,
    context: &CallContext,
    observer: &dyn Observer,
) -> Result<(VerifyReport, BTreeMap<String, u64>)> {
    let session = Session::over(copy.clone(), database, context)?;
    let verified = verify(&session, selection, pace, observer).await?;
    let counted = audit(session.db.as_ref(), &session.policy, selection, None).await?;
    let envelopes = counted.columns.into_iter().map(|column| (column.column, column.census.envelopes));
    Ok((verified, envelopes.collect()))
}
