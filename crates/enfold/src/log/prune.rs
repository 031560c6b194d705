//! Taking out of the log what was kept long enough.
//!
//! What goes ends at a checkpoint, so all of it was signed ([`crate::events::Cut`]). It is read once more and must hold together; it is
//! archived, where the policy says so; a checkpoint says that it goes; then it goes, in its order and a part at a time, so that who
//! writes waits for nothing. Whoever is killed in between leaves a log that holds together at every moment, and the next one goes
//! on. Lines of before there were chains stay: nothing vouches for them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};

use super::{PAGE, Signed, follow};
use crate::catalog::Catalog;
use crate::events::{
    Archive, CallContext, Checkpoint, Cut, Event, EventKind, Head, Last, SignedCheckpoint, Signer, WriterId, further,
    lines_failed,
};
use crate::hex::hex;
use crate::{Code, Enfold, Error, Result};

/// What was kept long enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDue {
    /// How many entries.
    pub entries: u64,
    /// Milliseconds since 1970: all of them are older.
    pub until_ms: i64,
    /// The first checkpoint that is there, and the last that goes.
    first: u64,
    last: Last,
    /// What of each chain goes: after which entry it begins, and the last that goes.
    chains: BTreeMap<WriterId, (Option<Head>, Head)>,
}

impl LogDue {
    /// How many checkpoints.
    pub fn checkpoints(&self) -> u64 {
        self.last.number + 1 - self.first
    }
}

impl Enfold {
    /// What of the log has been kept for longer than `keep`, and was signed. `None` where nothing was.
    ///
    /// # Errors
    /// `LogTampered` if the checkpoints are none that can be built upon.
    pub async fn log_due(&self, keep: Duration) -> Result<Option<LogDue>> {
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let before_ms = jiff::Timestamp::now().as_millisecond().saturating_sub(keep_ms);
        let (mut signed, mut goes, mut heads) = (Signed::default(), None, BTreeMap::new());
        let mut is_old = true;
        let old = |one: &SignedCheckpoint, read: &Checkpoint| {
            is_old = is_old && read.at_ms < before_ms;
            if is_old {
                further(&mut heads, &read.heads);
                read.cut.iter().for_each(|cut| further(&mut heads, &cut.chains));
                goes = Some((Last { number: one.number, hash: one.hash() }, read.at_ms));
            }
        };
        signed.walk(&*self.0.catalog, &self.policy().events.log_keys, old).await?;
        let (Some((last, until_ms)), Some((first, _))) = (goes, signed.first) else { return Ok(None) };
        let begins = |writer: &WriterId| signed.beginning.of(*writer);
        let chains: BTreeMap<_, _> =
            heads.into_iter().map(|(writer, head)| (writer, (begins(&writer), head))).collect();
        let went = |begins: &Option<Head>| begins.map_or(0, |head| head.seq);
        let entries = chains.values().map(|(begins, head)| head.seq.saturating_sub(went(begins))).sum();
        // What a former cut was killed over goes with this one, and is no reason for it.
        Ok((!signed.beginning.may_lack(last.number)).then_some(LogDue { entries, until_ms, first, last, chains }))
    }

    /// Takes out of the log what is due, for good. What the policy wants archived is archived first.
    ///
    /// # Errors
    /// `LogTampered` if what is due does not hold together; `Busy` if somebody else took it out meanwhile. Then nothing was removed.
    pub async fn prune_log(&self, signer: &dyn Signer, due: &LogDue, context: &CallContext) -> Result<Cut> {
        self.must_be_there(due).await?;
        let archive = self.archive_of(due).await?;
        let cut = Cut {
            checkpoint: due.last,
            until_ms: due.until_ms,
            chains: due.chains.iter().map(|(writer, (_, head))| (*writer, *head)).collect(),
            entries: due.entries,
            keep_s: self.policy().events.keep.as_secs(),
            by: context.actor.clone(),
            reason: context.reason.clone(),
            archive,
        };
        self.sign_cut(signer, &cut).await?;
        let says = format!("until {}, checkpoint {}", said(due.until_ms), due.last.number);
        self.0.events.emit(Event::new(EventKind::LogCut, cut.entries).detail(says).context(context));
        self.remove(&cut).await?;
        Ok(cut)
    }

    /// Goes on with what somebody was killed over. True where there was anything.
    pub async fn finish_pruning_log(&self) -> Result<bool> {
        let mut signed = Signed::default();
        signed.walk(&*self.0.catalog, &self.policy().events.log_keys, |_, _| {}).await?;
        let Some(cut) = signed.beginning.last_cut else { return Ok(false) };
        // Checkpoints go last.
        if signed.first.is_none_or(|(first, _)| first > cut.checkpoint.number) {
            return Ok(false);
        }
        self.remove(&cut).await?;
        Ok(true)
    }

    /// Takes out what is due by the policy, if somebody once took out what was due by the very same policy: a file that was
    /// changed by one line is no reason to delete.
    pub(super) async fn prune_log_by_schedule(&self, signer: &dyn Signer) -> Result<()> {
        self.finish_pruning_log().await?;
        let events = &self.policy().events;
        let confirmed = self.0.signed.lock().await.beginning.last_cut.clone();
        let same = |cut: &Cut| cut.keep_s == events.keep.as_secs() && cut.archive.is_some() == events.archive.is_some();
        if !confirmed.as_ref().is_some_and(same) {
            return Ok(());
        }
        if let Some(due) = self.log_due(events.keep).await? {
            self.prune_log(signer, &due, &CallContext::new("schedule", "due by the policy")).await?;
        }
        Ok(())
    }

    /// What somebody else took out meanwhile would look like a chain that is broken.
    async fn must_be_there(&self, due: &LogDue) -> Result<()> {
        let mut signed = Signed::default();
        signed.walk(&*self.0.catalog, &self.policy().events.log_keys, |_, _| {}).await?;
        if signed.beginning.may_lack(due.last.number) { Err(gone()) } else { Ok(()) }
    }

    async fn sign_cut(&self, signer: &dyn Signer, cut: &Cut) -> Result<()> {
        let mut signed = self.0.signed.lock().await;
        loop {
            signed.catch_up(&*self.0.catalog, &self.log_keys(signer)).await?;
            if signed.beginning.may_lack(cut.checkpoint.number) {
                return Err(gone());
            }
            let mut next = Checkpoint::after(signed.last.as_ref(), &signer.public_key(), BTreeMap::new());
            next.cut = Some(cut.clone());
            let checkpoint = next.sign(signer).await?;
            if self.0.catalog.add_checkpoint(&checkpoint).await? {
                return self.0.events.note(&checkpoint).await;
            }
        }
    }

    async fn remove(&self, cut: &Cut) -> Result<()> {
        let catalog = &self.0.catalog;
        for (writer, head) in &cut.chains {
            while catalog.remove_log(*writer, head.seq, PAGE).await? == u64::from(PAGE) {}
        }
        while catalog.remove_checkpoints(cut.checkpoint.number, PAGE).await? == u64::from(PAGE) {}
        Ok(())
    }

    /// Reads what is due, which must hold together, and leaves it in the policy's archive.
    async fn archive_of(&self, due: &LogDue) -> Result<Option<Archive>> {
        let Some(folder) = &self.policy().events.archive else {
            self.read_due(due, &mut |_| Ok(())).await?;
            return Ok(None);
        };
        let hash = due.last.hash.to_string();
        let name = format!("log-{}-{}-{}.jsonl", due.first, due.last.number, &hash[..16]);
        let mut file = ArchiveFile::begin(folder, &name)?;
        self.read_due(due, &mut |line| file.line(line)).await?;
        file.end().map(Some)
    }

    async fn read_due(&self, due: &LogDue, take: &mut (dyn FnMut(&str) -> Result<()> + Send)) -> Result<()> {
        let catalog = &*self.0.catalog;
        for (writer, (begins, last)) in &due.chains {
            let from = begins.unwrap_or(Head::START);
            if from.seq < last.seq && follow(catalog, *writer, from, last.seq, take).await? != Some(*last) {
                return Err(broken(*writer));
            }
        }
        self.checkpoints_due(catalog, due, take).await
    }

    async fn checkpoints_due(
        &self,
        catalog: &dyn Catalog,
        due: &LogDue,
        take: &mut (dyn FnMut(&str) -> Result<()> + Send),
    ) -> Result<()> {
        let mut after = due.first - 1;
        while after < due.last.number {
            let page = catalog.checkpoints(after, PAGE).await?;
            let Some(last) = page.last() else { return Err(gone()) };
            after = last.number;
            for checkpoint in page.iter().filter(|one| one.number <= due.last.number) {
                take(&checkpoint.to_line())?;
            }
        }
        Ok(())
    }
}

/// A file that has its name when all of it is on the disk.
struct ArchiveFile {
    folder: std::path::PathBuf,
    name: String,
    out: BufWriter<File>,
    digest: Context,
}

impl ArchiveFile {
    fn begin(folder: &Path, name: &str) -> Result<Self> {
        let open = || {
            std::fs::create_dir_all(folder)?;
            let path = folder.join(format!("{name}.partial"));
            File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
        };
        let file = open().map_err(|e| unwritable(folder, name, &e))?;
        let (folder, name, digest) = (folder.to_owned(), name.to_owned(), Context::new(&SHA256));
        Ok(Self { folder, name, out: BufWriter::new(file), digest })
    }

    fn line(&mut self, line: &str) -> Result<()> {
        self.digest.update(line.as_bytes());
        self.digest.update(b"\n");
        writeln!(self.out, "{line}").map_err(|e| unwritable(&self.folder, &self.name, &e))
    }

    fn end(mut self) -> Result<Archive> {
        let path = self.folder.join(&self.name);
        let mut end = || {
            self.out.flush()?;
            self.out.get_ref().sync_all()?;
            std::fs::rename(self.folder.join(format!("{}.partial", self.name)), &path)?;
            File::open(&self.folder)?.sync_all()
        };
        end().map_err(|e| unwritable(&self.folder, &self.name, &e))?;
        Ok(Archive { file: path.display().to_string(), sha256: hex(self.digest.finish().as_ref()) })
    }
}

fn unwritable(folder: &Path, name: &str, error: &std::io::Error) -> Error {
    lines_failed("archive the log in", &folder.join(name), error).hint("nothing was removed")
}

fn broken(writer: WriterId) -> Error {
    Error::new(Code::LogTampered, "what is due does not hold together, and stays")
        .cause(format!("the chain of writer {writer} is not the one that was signed"))
        .hint("`enfold log verify` says what is wrong; nothing was removed")
}

fn gone() -> Error {
    Error::new(Code::Busy, "somebody else takes out of the log what is due")
        .hint("nothing was removed here; run it again to see what is left")
}

/// RFC 3339.
fn said(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|at| at.to_string()).unwrap_or_default()
}
