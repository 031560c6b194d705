//! The log of events as a whole: what every writer of a catalog left there, what vouches for it, and taking it elsewhere.

mod export;
mod key;
mod prune;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::catalog::Catalog;
use crate::events::{
    Beginning, Checkpoint, Entry, Event, EventKind, Hash, Head, Lines, LogKey, Report, SignedCheckpoint, Signer,
    SubjectTag, Verifier, WriterId, further,
};
use crate::handle::Inner;
use crate::{Code, Enfold, Error, Result};

pub use export::LogExport;
use key::KmsLogKey;
pub use prune::LogDue;

/// Lines that are read at once.
const PAGE: u32 = 1_000;
/// How often a process that signs looks whether anything was kept long enough.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);

/// What a process that signs knows to be signed. It is built from checkpoints alone, so that it can be forgotten.
#[derive(Default)]
pub(crate) struct Signed {
    /// The first checkpoint that was there: its number, and the hash of the one before it.
    first: Option<(u64, Hash)>,
    last: Option<SignedCheckpoint>,
    heads: BTreeMap<WriterId, Head>,
    beginning: Beginning,
    /// Chains that were found broken, and said to be.
    broken: BTreeMap<WriterId, u64>,
}

/// How the log of the catalog stands to what vouches for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStanding {
    /// Entries that follow the last checkpoint.
    pub unsigned: u64,
    /// Chains that do not hold together behind what is signed, and the chain of checkpoints where it does not.
    pub broken: u64,
    /// When the last checkpoint was signed, in milliseconds since 1970.
    pub signed_ms: Option<i64>,
}

#[async_trait]
impl Lines for Enfold {
    async fn each(&self, take: &mut (dyn for<'l> FnMut(&'l str) + Send)) -> Result<()> {
        self.export_log(take).await
    }
}

impl Enfold {
    /// What stands in the log for whom a call to a ring is about: put it into [`crate::CallContext::subject`], and look for it later.
    /// `subject` is the application's word for them, such as the id of a user.
    pub async fn subject_tag(&self, ring: &str, subject: &str) -> Result<SubjectTag> {
        Ok(self.ring(ring)?.view().await?.rows.subject(subject))
    }

    /// What [`Self::subject_tag`] gives for each ring of the policy: all that whoever looks for a subject has to look for.
    pub async fn subject_tags(&self, subject: &str) -> Result<Vec<SubjectTag>> {
        let mut tags = Vec::new();
        for ring in self.policy().rings.keys() {
            tags.push(self.subject_tag(ring, subject).await?);
        }
        Ok(tags)
    }

    /// Signs how far the log of the catalog has come, for all of its writers, and hands the checkpoint to the sinks. `None`
    /// where nothing was added since the last one.
    ///
    /// Each entry that is signed was read, and follows the one before: a chain that does not hold together is signed up to where it
    /// breaks, and an event says so.
    ///
    /// # Errors
    /// `LogTampered` if the last checkpoints are none that a key of the policy's `events.log_keys`, or this one, signed.
    pub async fn sign_log(&self, signer: &dyn Signer) -> Result<Option<SignedCheckpoint>> {
        let mut signed = self.0.signed.lock().await;
        // What this process did belongs into what it signs.
        self.flush().await?;
        loop {
            signed.catch_up(&*self.0.catalog, &self.log_keys(signer)).await?;
            let heads = self.further(&mut signed).await?;
            if heads.is_empty() {
                return Ok(None);
            }
            let checkpoint = Checkpoint::after(signed.last.as_ref(), &signer.public_key(), heads).sign(signer).await?;
            if self.0.catalog.add_checkpoint(&checkpoint).await? {
                self.0.events.note(&checkpoint).await?;
                return Ok(Some(checkpoint));
            }
            // Another process signed in between.
        }
    }

    /// Every line of the log, in an order that comes back each time: those of before there were chains, each writer's
    /// entries, the checkpoints.
    pub async fn export_log(&self, take: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
        let mut export = self.log_export();
        while let Some(lines) = export.next().await? {
            lines.iter().for_each(|line| take(line));
        }
        Ok(())
    }

    /// As [`Self::export_log`], for whoever takes the lines in pieces.
    pub fn log_export(&self) -> LogExport {
        LogExport::new(Arc::clone(&self.0.catalog))
    }

    /// Verifies the log as it lies in the catalog. `anchors`: checkpoints that were kept elsewhere.
    pub async fn verify_log(&self, anchors: Vec<SignedCheckpoint>) -> Result<Report> {
        let trusted = self.policy().events.log_keys.clone();
        let by = Verifier { trusted, partial: false, anchors };
        let mut report = by.verify(self).await?;
        // What is missing may have been taken out while it was read.
        while !report.is_whole() {
            let again = by.verify(self).await?;
            if again.is_whole() || again.cut == report.cut {
                return Ok(again);
            }
            report = again;
        }
        Ok(report)
    }

    /// The key with which the policy has this process sign the log; `None` where it names none.
    ///
    /// # Errors
    /// `LogKeyMissing` if it is not there, or the policy believes none of its versions.
    pub async fn log_signer(&self) -> Result<Option<Box<dyn Signer>>> {
        let events = &self.policy().events;
        if let Some(uri) = &events.signing_key {
            let kms = Arc::clone(self.0.registry.get(uri)?);
            return Ok(Some(Box::new(KmsLogKey::open(kms, &events.log_keys).await?)));
        }
        match &events.signing_key_file {
            Some(path) => Ok(Some(Box::new(LogKey::load(path)?))),
            None => Ok(None),
        }
    }

    /// The public key of the newest version of the key that the policy names as [`crate::policy::EventPolicy::signing_key`]; `None`
    /// where it names none.
    pub async fn log_key_in_service(&self) -> Result<Option<[u8; 32]>> {
        let Some(uri) = &self.policy().events.signing_key else { return Ok(None) };
        let kms = Arc::clone(self.0.registry.get(uri)?);
        Ok(Some(KmsLogKey::open(kms, &[]).await?.public_key()))
    }

    /// Looks at what was added to the log of the catalog since the last checkpoint; for all that is before it see
    /// [`Self::verify_log`]. `None` where the policy names no key that vouches for it.
    pub async fn log_standing(&self) -> Result<Option<LogStanding>> {
        let events = &self.policy().events;
        let mut trusted = events.log_keys.clone();
        if let Some(path) = &events.signing_key_file {
            trusted.push(LogKey::load(path)?.public_key());
        }
        if trusted.is_empty() {
            return Ok(None);
        }
        let mut signed = self.0.signed.lock().await;
        match signed.catch_up(&*self.0.catalog, &trusted).await {
            Err(error) if error.code() == Code::LogTampered => {
                return Ok(Some(LogStanding { broken: 1, ..LogStanding::default() }));
            }
            other => other?,
        }
        let further = self.further(&mut signed).await?;
        let signed_to = |writer: &WriterId| signed.heads.get(writer).map_or(0, |head| head.seq);
        Ok(Some(LogStanding {
            unsigned: further.iter().map(|(writer, head)| head.seq - signed_to(writer)).sum(),
            broken: signed.broken.len() as u64,
            signed_ms: signed.last.as_ref().and_then(SignedCheckpoint::read).map(|read| read.at_ms),
        }))
    }

    fn log_keys(&self, signer: &dyn Signer) -> Vec<[u8; 32]> {
        let mut keys = self.policy().events.log_keys.clone();
        keys.push(signer.public_key());
        keys
    }

    /// What a process with the key does each time.
    async fn see_to_log(&self, key: &mut Option<Box<dyn Signer>>, prune: bool) -> Result<()> {
        if key.is_none() {
            *key = self.log_signer().await?;
        }
        let Some(key) = key else { return Ok(()) };
        self.sign_log(&**key).await?;
        if prune { self.prune_log_by_schedule(&**key).await } else { Ok(()) }
    }

    /// How much further than signed each chain has come.
    async fn further(&self, signed: &mut Signed) -> Result<BTreeMap<WriterId, Head>> {
        let mut further = BTreeMap::new();
        for (writer, last) in self.0.catalog.log_heads().await? {
            let from = signed.heads.get(&writer).copied().unwrap_or(Head::START);
            if from.seq >= last || signed.broken.contains_key(&writer) {
                continue;
            }
            let (head, whole) = along(&*self.0.catalog, writer, from).await?;
            if !whole {
                signed.broken.insert(writer, head.seq);
                let says = format!("{writer}: what follows entry {} is not what its writer wrote", head.seq);
                tracing::error!(target: "enfold::events", "the log of events was changed: {says}");
                self.0.events.emit(Event::new(EventKind::LogBroken, 1).detail(says));
            }
            if head.seq > from.seq {
                further.insert(writer, head);
            }
        }
        Ok(further)
    }
}

/// Goes along a chain as far as it holds together, and says whether that is to its end.
async fn along(catalog: &dyn Catalog, writer: WriterId, from: Head) -> Result<(Head, bool)> {
    let mut head = from;
    loop {
        let lines = catalog.log_of(writer, head.seq, PAGE).await?;
        if lines.is_empty() {
            return Ok((head, true));
        }
        for (_, line) in lines {
            match next(writer, head, &line) {
                Some(next) => head = next,
                None => return Ok((head, false)),
            }
        }
    }
}

/// Hands on the lines of a chain behind `from` and up to number `upto`. The last of them; `None` where they do not hold together.
async fn follow(
    catalog: &dyn Catalog,
    writer: WriterId,
    from: Head,
    upto: u64,
    take: &mut (dyn FnMut(&str) -> Result<()> + Send),
) -> Result<Option<Head>> {
    let mut head = from;
    while head.seq < upto {
        let lines = catalog.log_of(writer, head.seq, PAGE).await?;
        if lines.is_empty() {
            return Ok(None);
        }
        for (_, line) in lines.into_iter().filter(|(number, _)| *number <= upto) {
            let Some(next) = next(writer, head, &line) else { return Ok(None) };
            take(&line)?;
            head = next;
        }
    }
    Ok(Some(head))
}

/// The head of a chain with this line behind it, if that is where it belongs.
fn next(writer: WriterId, head: Head, line: &str) -> Option<Head> {
    let entry = Entry::parse(line).ok()?;
    let fits = (entry.writer, entry.seq, entry.previous) == (writer, head.seq + 1, head.hash);
    fits.then(|| Head { seq: entry.seq, hash: entry.hash() })
}

impl Signed {
    /// Reads the checkpoints that others signed since.
    async fn catch_up(&mut self, catalog: &dyn Catalog, trusted: &[[u8; 32]]) -> Result<()> {
        let caught_up = self.walk(catalog, trusted, |_, _| {}).await;
        if caught_up.is_err() {
            // What was taken out of the log meanwhile is not missed when it is read from its beginning.
            *self = Self { broken: std::mem::take(&mut self.broken), ..Self::default() };
        }
        caught_up
    }

    async fn walk(
        &mut self,
        catalog: &dyn Catalog,
        trusted: &[[u8; 32]],
        mut each: impl FnMut(&SignedCheckpoint, &Checkpoint),
    ) -> Result<()> {
        loop {
            let after = self.last.as_ref().map_or(0, |last| last.number);
            let checkpoints = catalog.checkpoints(after, PAGE).await?;
            if checkpoints.is_empty() {
                break;
            }
            for signed in checkpoints {
                let read = signed.verify(trusted).ok_or_else(|| unbelieved(signed.number))?;
                let follows = self.last.as_ref().map(|last| (last.number + 1, last.hash()));
                let (number, previous) = *self.first.get_or_insert((read.number, read.previous));
                if (read.number, read.previous) != follows.unwrap_or((number, previous)) {
                    return Err(unbelieved(follows.map_or(1, |(number, _)| number)));
                }
                each(&signed, &read);
                self.beginning.take(&read);
                read.cut.iter().for_each(|cut| further(&mut self.heads, &cut.chains));
                further(&mut self.heads, &read.heads);
                self.last = Some(signed);
            }
        }
        match self.first {
            Some((number, previous)) if !self.beginning.may_begin(number, previous) => Err(unbelieved(1)),
            _ => Ok(()),
        }
    }
}

fn unbelieved(number: u64) -> Error {
    Error::new(Code::LogTampered, format!("checkpoint {number} of the log is none that can be built upon"))
        .cause("it is missing, or no key that is trusted here signed it after the one before")
        .hint("where another key signs, name its public key in the policy: `events.log_keys`")
        .hint("`enfold log verify` says what else is wrong with the log")
}

/// Begins to sign where the policy names a key for it. Ends with the last handle. A key in a file must be there; a key service may
/// be away, and is asked again.
pub(crate) async fn start(enfold: &Enfold) -> Result<()> {
    let events = &enfold.policy().events;
    let key = if events.signing_key.is_some() { None } else { enfold.log_signer().await? };
    if key.is_none() && events.signing_key.is_none() {
        return Ok(());
    }
    let every = events.checkpoint_every;
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(sign_until_gone(Arc::downgrade(&enfold.0), key, every));
    }
    Ok(())
}

async fn sign_until_gone(inner: Weak<Inner>, mut key: Option<Box<dyn Signer>>, every: Duration) {
    let mut pruned: Option<Instant> = None;
    loop {
        tokio::time::sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        let is_due = pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY);
        if let Err(error) = Enfold(inner).see_to_log(&mut key, is_due).await {
            tracing::warn!(target: "enfold::events", code = error.code().word(), "cannot sign the log: {error}");
        } else if is_due {
            pruned = Some(Instant::now());
        }
    }
}
