//! A sink that goes on while another cannot be reached.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::lines::{self, Lines};
use super::{Entry, SignedCheckpoint, Sink, WriterId};
use crate::error::Retry;
use crate::{Code, Error, Result};

/// How many entries of a file are handed on at once.
const BATCH: usize = 512;
/// How long a sink that failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);
const ENDING: &str = "spilled.jsonl";
const DOING: &str = "keep events in";

/// Holds another sink. What that cannot take now goes to a file, is on the disk when it counts as written, and is handed on in its
/// order when the other can be reached again: by this process, or, where this one ended, by the next that uses the folder. A sink
/// that takes an entry twice must keep it once, as the catalogs do.
pub struct SpillingSink {
    inner: Arc<dyn Sink>,
    folder: PathBuf,
    /// Bytes that a file may have.
    most: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<Spilled>,
    /// Until when the other sink is left alone.
    pause: Option<Instant>,
    /// Whether files that others left were handed on.
    adopted: bool,
}

/// A file that nobody else hands on: it is locked while its process lives.
struct Spilled {
    lines: Lines,
    bytes: u64,
}

impl SpillingSink {
    /// `folder` is made where it is not there, for its owner alone. Processes of one catalog may share it.
    pub fn new(inner: Arc<dyn Sink>, folder: &Path, most: u64) -> Result<Self> {
        let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder);
        made.map_err(|e| failed(folder, &e))?;
        Ok(Self { inner, folder: folder.to_owned(), most, state: Mutex::default() })
    }

    /// Hands on what stands in files, before anything newer is.
    async fn hand_on(&self, state: &mut State) -> Result<()> {
        if let Some(spilled) = &state.file {
            self.hand_on_file(&spilled.lines.path).await?;
            remove(&spilled.lines.path)?;
            state.file = None;
        }
        if !state.adopted {
            for path in self.left_behind()? {
                if let Some(_locked) = Spilled::adopt(&path)? {
                    self.hand_on_file(&path).await?;
                    remove(&path)?;
                }
            }
            state.adopted = true;
        }
        Ok(())
    }

    async fn hand_on_file(&self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|e| failed(path, &e))?;
        let mut batch: Vec<Entry> = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|e| failed(path, &e))?;
            // The last line of a process that died while it wrote: nobody was told that it is written.
            let Ok(entry) = Entry::parse(&line) else { break };
            if batch.len() == BATCH || batch.first().is_some_and(|first| first.writer != entry.writer) {
                self.inner.write(&batch).await?;
                batch.clear();
            }
            batch.push(entry);
        }
        if batch.is_empty() { Ok(()) } else { self.inner.write(&batch).await }
    }

    fn left_behind(&self) -> Result<Vec<PathBuf>> {
        let folder = std::fs::read_dir(&self.folder).map_err(|e| failed(&self.folder, &e))?;
        let paths = folder.map(|found| found.map(|found| found.path())).collect::<std::io::Result<Vec<_>>>();
        let mut paths = paths.map_err(|e| failed(&self.folder, &e))?;
        paths.retain(|path| path.to_str().is_some_and(|path| path.ends_with(ENDING)));
        paths.sort();
        Ok(paths)
    }

    fn spill(&self, state: &mut State, batch: &[Entry]) -> Result<()> {
        let lines = lines::of(batch);
        let spilled = match &mut state.file {
            Some(spilled) => spilled,
            none => none.insert(Spilled::new(&self.folder, batch[0].writer)?),
        };
        if spilled.bytes + lines.len() as u64 > self.most {
            return Err(Error::new(
                Code::DiskFull,
                format!("cannot keep more events in `{}`", spilled.lines.path.display()),
            )
            .cause("the catalog cannot be reached, and the file has the size that the policy allows")
            .hint("bring the catalog back, or raise `events.spill_mib`"));
        }
        spilled.append(&lines)
    }
}

#[async_trait]
impl Sink for SpillingSink {
    async fn write(&self, batch: &[Entry]) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock().await;
        if state.pause.is_some_and(|until| Instant::now() < until) {
            return self.spill(&mut state, batch);
        }
        let handed_on = match self.hand_on(&mut state).await {
            Ok(()) => self.inner.write(batch).await,
            Err(error) => Err(error),
        };
        match handed_on {
            Err(error) if error.code().retry() == Retry::Later => {
                tracing::warn!(target: "enfold::events", code = error.code().word(), "events go to a file for now: {error}");
                state.pause = Some(Instant::now() + PAUSE);
                self.spill(&mut state, batch)
            }
            other => other,
        }
    }

    async fn note(&self, checkpoint: &SignedCheckpoint) -> Result<()> {
        self.inner.note(checkpoint).await
    }
}

impl Spilled {
    fn new(folder: &Path, writer: WriterId) -> Result<Self> {
        let path = folder.join(format!("{writer}.{ENDING}"));
        let lines = Lines { durable: true, ..Lines::open(&path, DOING)? };
        let lock = || -> std::io::Result<()> {
            flock(&lines.file, FlockOperation::NonBlockingLockExclusive)?;
            // Before it was locked somebody may have found it empty, and removed it.
            if lines.file.metadata()?.nlink() == 0 {
                return Err(ErrorKind::NotFound.into());
            }
            // The name must be on the disk before a line counts as written.
            File::open(folder)?.sync_all()
        };
        lock().map_err(|e| failed(&path, &e))?;
        Ok(Self { lines, bytes: 0 })
    }

    /// A file of another process, if that one has ended. It stays locked as long as what comes back.
    fn adopt(path: &Path) -> Result<Option<File>> {
        let open = || -> std::io::Result<Option<File>> {
            let file = match File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
                locked => Ok(locked.map(|()| Some(file))?),
            }
        };
        open().map_err(|e| failed(path, &e))
    }

    fn append(&mut self, lines: &str) -> Result<()> {
        self.lines.append(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(|e| failed(path, &e))
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    lines::failed(DOING, path, error)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::chain::chained;
    use super::super::{Event, EventKind};
    use super::*;

    #[derive(Default)]
    struct Far {
        away: AtomicBool,
        has: StdMutex<Vec<Entry>>,
    }

    #[async_trait]
    impl Sink for Far {
        async fn write(&self, batch: &[Entry]) -> Result<()> {
            if self.away.load(Ordering::Relaxed) {
                return Err(Error::new(Code::DatabaseUnavailable, "the catalog is away"));
            }
            self.has.lock().unwrap().extend_from_slice(batch);
            Ok(())
        }
    }

    struct Place {
        far: Arc<Far>,
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { far: Arc::default(), folder: tempfile::tempdir().unwrap() }
        }

        fn sink(&self, most: u64) -> SpillingSink {
            SpillingSink::new(Arc::clone(&self.far) as Arc<dyn Sink>, self.folder.path(), most).unwrap()
        }

        fn away(&self, away: bool) {
            self.far.away.store(away, Ordering::Relaxed);
        }

        fn files(&self) -> usize {
            std::fs::read_dir(self.folder.path()).unwrap().count()
        }
    }

    fn entries(n: u64) -> Vec<Entry> {
        chained((1..=n).map(|count| Event::new(EventKind::Open, count)))
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_while_the_catalog_was_away_is_handed_on_in_order() {
        let (place, entries) = (Place::new(), entries(1200));
        let sink = place.sink(u64::MAX);
        sink.write(&entries[..100]).await.unwrap();
        place.away(true);
        for batch in entries[100..1100].chunks(100) {
            sink.write(batch).await.unwrap();
        }
        assert_eq!((place.far.has.lock().unwrap().len(), place.files()), (100, 1));
        place.away(false);
        tokio::time::advance(PAUSE).await;
        sink.write(&entries[1100..]).await.unwrap();
        assert_eq!(*place.far.has.lock().unwrap(), entries);
        assert_eq!(place.files(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_process_left_when_it_died_is_handed_on_by_the_next() {
        let (place, entries, later) = (Place::new(), entries(5), entries(1));
        place.away(true);
        let died = place.sink(u64::MAX);
        died.write(&entries).await.unwrap();
        place.away(false);
        // It lives, so its file is its own.
        place.sink(u64::MAX).write(&later).await.unwrap();
        assert_eq!(*place.far.has.lock().unwrap(), later);
        // Killed while it wrote one more line.
        let path = died.state.lock().await.file.as_ref().unwrap().lines.path.clone();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"writer\":\"").unwrap();
        drop(died);
        place.sink(u64::MAX).write(&later).await.unwrap();
        assert_eq!(*place.far.has.lock().unwrap(), [&later[..], &entries, &later].concat());
        assert_eq!(place.files(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_full_takes_no_more_and_loses_nothing() {
        let (place, entries) = (Place::new(), entries(3));
        place.away(true);
        let sink = place.sink(entries[0].line().len() as u64 + 1);
        sink.write(&entries[..1]).await.unwrap();
        assert_eq!(sink.write(&entries[1..]).await.unwrap_err().code(), Code::DiskFull);
        place.away(false);
        tokio::time::advance(PAUSE).await;
        sink.write(&entries[1..]).await.unwrap();
        assert_eq!(*place.far.has.lock().unwrap(), entries);
    }
}
