//! [`Store`] over the simulated world: every operation takes time, may fail before or after it took effect, and may be
//! the last thing its caller did. [`Broken`] leaves out one rule at a time, to show that the checker would notice.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use enfold::{Code, Error, KeyId, Result};
use enfold_core::binding::OwnedPart;

use super::Broken;
use super::executor::Clock;
use super::value::{COLUMNS, key_id, key_of};
use super::world::{Job, Slot, Tuple, World, relation_of};
use crate::model::{Goal, JobId, JobState, Progress, RowError, Target};
use crate::store::{
    Batch, Cell, Change, Checkpoint, Control, JobRecord, JobSpec, Lease, Outcome, Pressure, Row, RowVersion, Store,
    WorkerSign,
};

#[derive(Clone)]
pub(super) struct SimStore {
    pub(super) world: Arc<Mutex<World>>,
    /// The store's own, by which leases end.
    pub(super) clock: Clock,
    /// By how much the clock of the machine that this handle is on is ahead.
    ahead: Arc<Mutex<Duration>>,
}

/// A transaction that rolls back when it is dropped: its locks go.
struct Tx<'a> {
    store: &'a SimStore,
    id: u32,
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        self.store.world().release(self.id);
    }
}

impl SimStore {
    pub(super) fn new(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), clock: Clock::default(), ahead: Arc::default() }
    }

    /// The same store as another machine has it, whose clock is its own.
    pub(super) fn on_another_machine(&self, ahead: Duration) -> Self {
        Self { ahead: Arc::new(Mutex::new(ahead)), ..self.clone() }
    }

    /// By whose clock leases begin and end: the store's, unless that rule is left out.
    fn time_of_leases(&self) -> Duration {
        let by_machine = self.world().broken == Broken::LeasesByMachine;
        if by_machine { self.now() } else { self.clock.now() }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// A step between client and server: time passes, and the connection may break.
    pub(super) async fn step(&self) -> Result<()> {
        let (delay, fails) = {
            let mut world = self.world();
            let jumps = world.faults.jumps;
            if world.rng.chance(jumps) {
                // A machine that was asleep, or whose clock was set: hours are nothing.
                world.jumps += 1;
                *self.ahead.lock().unwrap() += Duration::from_secs(world.rng.below(6 * 60 * 60));
            }
            let slow = world.faults.slow;
            let micros = if world.rng.chance(slow) { world.rng.below(900_000) } else { 20 + world.rng.below(3_000) };
            let errors = world.faults.errors;
            (Duration::from_micros(micros), world.rng.chance(errors))
        };
        self.clock.sleep(delay).await;
        if fails { Err(Error::new(Code::DatabaseUnavailable, "cannot reach the simulated store")) } else { Ok(()) }
    }

    fn begin(&self) -> Tx<'_> {
        Tx { store: self, id: self.world().begin() }
    }

    fn with_job<T>(&self, job: JobId, f: impl FnOnce(&mut Job) -> T) -> T {
        let at = usize::try_from(job.0).unwrap();
        f(&mut self.world().jobs[at])
    }

    fn check_token(job: &mut Job, lease: &Lease) -> Result<usize> {
        let at = usize::try_from(lease.chunk).unwrap();
        let lost = || Error::new(Code::LeaseLost, "another worker holds the range");
        let chunk = job.chunks.get_mut(at).ok_or_else(lost)?;
        if chunk.token != lease.token || chunk.done || chunk.range != lease.range { Err(lost()) } else { Ok(at) }
    }

    /// Locks the rows that are still what was read.
    fn lock_rows(
        world: &mut World,
        deletes: bool,
        changes: &[Change],
        tx: u32,
    ) -> Vec<(Outcome, Option<(usize, usize)>)> {
        let mut locked = Vec::new();
        for change in changes {
            let place = matching(world, change);
            let broken = world.broken;
            let now = world.tick();
            let Some(tuple) = place.and_then(|place| world.tuple(place)) else {
                locked.push((Outcome::Lost, None));
                continue;
            };
            if tuple.lock.is_some() {
                tuple.disturbed = now;
                locked.push((Outcome::Lost, None));
            } else if tuple.altering
                && (deletes || change.cells.iter().any(|c| *c != Cell::Keep))
                && broken != Broken::NoComparison
            {
                locked.push((Outcome::Rejected { reason: "a trigger is in the way of it".to_owned() }, None));
            } else {
                tuple.lock = Some(tx);
                locked.push((Outcome::Written, place));
            }
        }
        locked
    }

    /// Of rows that go the application knows nothing any more; that they were to go it said with its last write.
    fn delete_rows(world: &mut World, locked: &[(Outcome, Option<(usize, usize)>)]) -> u64 {
        let mut deleted = 0;
        for place in locked.iter().filter_map(|(_, place)| *place) {
            let Some(tuple) = world.tuple(place).cloned() else { continue };
            if !tuple.is_doomed() {
                world.violation(format!("{} went, and was not to go", tuple.label()));
            }
            world.relations[place.0][place.1] = Slot::Dead(None);
            world.expected.remove(&tuple.logical);
            deleted += 1;
        }
        deleted
    }

    fn apply_rows(world: &mut World, changes: &[Change], locked: &[(Outcome, Option<(usize, usize)>)], tx: u32) -> u64 {
        let mut written = 0;
        for (change, (_, place)) in changes.iter().zip(locked) {
            let Some(place) = *place else { continue };
            let Some(mut tuple) = world.tuple(place).cloned() else { continue };
            for (cell, new) in tuple.cells.iter_mut().zip(&change.cells) {
                if let Cell::Set(value) = new {
                    cell.clone_from(value);
                    if tuple.altering
                        && let Some(value) = cell
                    {
                        value.pop();
                    }
                }
            }
            if let Some(Cell::Set(value)) = change.indexed.first() {
                tuple.index.clone_from(value);
            }
            world.replace(place, place.0, tuple, tx);
            written += 1;
        }
        written
    }
}

/// The live version that `change` may replace.
fn matching(world: &World, change: &Change) -> Option<(usize, usize)> {
    let RowVersion::Tuple { block, offset, xmin, .. } = change.version else { return None };
    let newest = world.newest(&change.version)?;
    let Slot::Live(now) = &world.relations[newest.0][newest.1] else { return None };
    let read = world.reads.get(&change.version);
    let fits = match world.broken {
        Broken::NoVersionCheck => true,
        // What citext calls equal.
        Broken::VersionByMeaning => read.is_some_and(|read| {
            let fold = |t: &Tuple| t.cells.clone().map(|c| c.map(|c| c.to_ascii_lowercase()));
            fold(read) == fold(now) && read.tenant == now.tenant
        }),
        Broken::VersionWithoutTenant => read.is_some_and(|read| read.cells == now.cells),
        _ => newest == (usize::from(offset), usize::try_from(block).unwrap()) && now.xmin == xmin,
    };
    fits.then_some(newest)
}

fn checkpoint(
    world: &mut World,
    lease: &Lease,
    with: &Checkpoint,
    (changes, outcomes): (&[Change], &[Outcome]),
    written: u64,
) {
    let at = usize::try_from(lease.job.0).unwrap();
    let chunk_at = usize::try_from(lease.chunk).unwrap();
    let job = &mut world.jobs[at];
    job.progress.rows_seen += with.rows_seen;
    job.progress.rows_changed += written;
    job.progress.rows_lost_race += outcomes.iter().filter(|o| **o == Outcome::Lost).count() as u64;
    for (change, _) in changes.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Outcome::Written) {
        // A row that was written has no errors any more but those that are noted with it.
        job.errors.retain(|(row, _), _| *row != change.label);
    }
    let noted = changes.iter().zip(outcomes).flat_map(|(change, outcome)| change.noted(outcome));
    for error in with.errors.iter().cloned().chain(noted) {
        job.errors.insert((error.row.clone(), error.column.clone()), error);
    }
    job.progress.rows_failed = job.failed();
    let Some(chunk) = job.chunks.get_mut(chunk_at) else { return };
    let mut wrong = Vec::new();
    if lease.token < chunk.committed {
        wrong.push("a worker committed after another had taken its range");
    }
    if chunk.done {
        wrong.push("a checkpoint came for a range that was done");
    }
    // The holder itself may go back: it reads again when it does not know whether its last write got through.
    if lease.token > chunk.committed && with.cursor.is_some_and(|cursor| cursor < chunk.cursor) {
        wrong.push("a new holder began before the last checkpoint");
    }
    chunk.committed = chunk.committed.max(lease.token);
    match with.cursor {
        Some(cursor) => chunk.cursor = cursor,
        None if !chunk.done => {
            chunk.done = true;
            job.progress.chunks_done += 1;
        }
        None => {}
    }
    let (done, range) = (chunk.done, chunk.range.clone());
    for said in wrong {
        world.violation(said);
    }
    if done {
        behind_a_finished_range(world, at, &range);
    }
}

/// Nobody got in the way of a row that was there when the pass began: then it must be done, or have its error.
fn behind_a_finished_range(world: &mut World, job: usize, range: &crate::store::Range) {
    let slots = usize::try_from(range.from).unwrap()..usize::try_from(range.to).unwrap();
    let job = &world.jobs[job];
    let (goal, began, key) = (job.spec.goal, job.began, job.began_under);
    let left = world.relations[relation_of(range)][slots].iter().any(|slot| match slot {
        Slot::Live(tuple) => {
            let settled =
                (0..COLUMNS).all(|column| tuple.satisfies_in(column, goal, key) || job.excuses(tuple, column));
            !settled && tuple.disturbed <= began
        }
        _ => false,
    });
    if left && goal != Goal::Verify {
        world.violation("a row was left behind in a range that was called done");
    }
}

fn row(tuple: &Tuple, relation: usize, slot: usize) -> Row {
    Row {
        version: RowVersion::Tuple {
            file: 0,
            block: u32::try_from(slot).unwrap(),
            offset: u16::try_from(relation).unwrap(),
            xmin: tuple.xmin,
            held: false,
        },
        label: tuple.label(),
        origins: Vec::new(),
        cells: tuple.cells.to_vec(),
        indexed: vec![tuple.index.clone()],
        beside: Vec::new(),
        tenant: Some(OwnedPart::Int(i64::from(tuple.tenant))),
        row_key: Vec::new(),
    }
}

#[async_trait]
impl Store for SimStore {
    async fn create_job(&self, spec: &JobSpec) -> Result<JobId> {
        self.step().await?;
        let mut world = self.world();
        let chunks = world.cut();
        let progress = Progress { chunks_total: chunks.len() as u64, ..Progress::default() };
        let (began, began_under) = (world.tick(), world.key);
        world.jobs.push(Job {
            spec: spec.clone(),
            state: JobState::Pending,
            pass: 1,
            began,
            began_under,
            progress,
            chunks,
            errors: std::collections::BTreeMap::new(),
            batch_rows: spec.batch_rows,
            rate: spec.rate,
            conversions: 0,
        });
        Ok(JobId(i64::try_from(world.jobs.len() - 1).unwrap()))
    }

    async fn begin_pass(&self, job: JobId, pass: u32) -> Result<bool> {
        self.step().await?;
        let begun = {
            let mut world = self.world();
            let at = usize::try_from(job.0).unwrap();
            let job = &world.jobs[at];
            let running = job.state == JobState::Running;
            let ready = running && job.pass + 1 == pass && job.chunks.iter().all(|chunk| chunk.done);
            if ready {
                let chunks = world.cut();
                let (began, began_under) = (world.tick(), world.key);
                let job = &mut world.jobs[at];
                job.pass = pass;
                (job.began, job.began_under) = (began, began_under);
                job.errors.clear();
                job.progress.rows_failed = 0;
                job.progress.chunks_total = chunks.len() as u64;
                job.progress.chunks_done = 0;
                job.chunks = chunks;
            }
            ready
        };
        self.step().await?;
        Ok(begun)
    }

    async fn finish(&self, job: JobId, pass: u32, state: JobState) -> Result<bool> {
        self.step().await?;
        let finished = self.with_job(job, |job| {
            let over = job.pass == pass && job.state == JobState::Running && job.chunks.iter().all(|chunk| chunk.done);
            if over {
                job.state = state;
            }
            over
        });
        self.step().await?;
        Ok(finished)
    }

    async fn job(&self, job: JobId) -> Result<JobRecord> {
        self.step().await?;
        Ok(self.with_job(job, |j| JobRecord {
            id: job,
            goal: j.spec.goal,
            target: j.spec.target.clone(),
            state: j.state,
            pass: j.pass,
            progress: j.progress.clone(),
            last_error: None,
            order: j.spec.order.clone(),
            workers: 0,
            created_ms: 0,
            changed_ms: 0,
        }))
    }

    async fn jobs(&self) -> Result<Vec<JobRecord>> {
        let count = self.world().jobs.len();
        let mut all = Vec::new();
        for job in 0..count {
            all.push(self.job(JobId(i64::try_from(job).unwrap())).await?);
        }
        Ok(all)
    }

    async fn open_jobs(&self) -> Result<Vec<JobRecord>> {
        Ok(self.jobs().await?.into_iter().filter(|job| !job.state.is_end()).collect())
    }

    async fn set_priority(&self, job: JobId, priority: i32) -> Result<()> {
        self.with_job(job, |job| job.spec.order.priority = priority);
        Ok(())
    }

    // The sweep itself never asks who else there is.
    async fn sign_of_life(&self, _: &WorkerSign) -> Result<()> {
        Ok(())
    }

    async fn sign_off(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn workers(&self, _: Duration) -> Result<Vec<WorkerSign>> {
        Ok(Vec::new())
    }

    async fn transition(&self, job: JobId, from: &[JobState], to: JobState, _: Option<&str>) -> Result<bool> {
        self.step().await?;
        let moved = self.with_job(job, |job| {
            let moves = from.contains(&job.state);
            if moves {
                job.state = to;
            }
            moves
        });
        self.step().await?;
        Ok(moved)
    }

    async fn control(&self, job: JobId) -> Result<Control> {
        self.step().await?;
        Ok(self.with_job(job, |j| Control { state: j.state, batch_rows: j.batch_rows, rate: j.rate }))
    }

    async fn set_control(&self, job: JobId, batch_rows: Option<u32>, rate: Option<Option<u32>>) -> Result<()> {
        self.with_job(job, |job| {
            job.batch_rows = batch_rows.unwrap_or(job.batch_rows);
            job.rate = rate.unwrap_or(job.rate);
        });
        Ok(())
    }

    async fn lease(&self, job: JobId, worker: &str, ttl: Duration) -> Result<Option<Lease>> {
        self.step().await?;
        let now = self.time_of_leases();
        let lease = self.with_job(job, |record| {
            let free = |c: &super::world::Chunk| !c.done && c.lock.is_none() && c.until <= now;
            let at = record.chunks.iter().position(free)?;
            // Tokens grow over all passes, so that a lease of a former pass is never taken for one of this.
            let token = i64::from(record.pass) * 1_000_000 + record.chunks[at].token % 1_000_000 + 1;
            let chunk = &mut record.chunks[at];
            chunk.token = token;
            chunk.until = now + ttl;
            let (range, cursor) = (chunk.range.clone(), chunk.cursor);
            Some(Lease { job, chunk: i64::try_from(at).unwrap(), token, worker: worker.to_owned(), range, cursor })
        });
        self.step().await?;
        Ok(lease)
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<()> {
        self.step().await?;
        loop {
            let now = self.time_of_leases();
            let renewed = self.with_job(lease.job, |job| {
                let at = Self::check_token(job, lease)?;
                let free = job.chunks[at].lock.is_none();
                if free {
                    job.chunks[at].until = now + ttl;
                }
                Ok::<_, Error>(free)
            })?;
            if renewed {
                return Ok(());
            }
            // Our own write holds the chunk's row.
            self.clock.sleep(Duration::from_millis(1)).await;
        }
    }

    async fn read(&self, lease: &Lease, target: &Target, cursor: u64, limit: u32) -> Result<Batch> {
        self.step().await?;
        let batch = {
            let mut world = self.world();
            let relation = relation_of(&lease.range);
            let (from, to) = (usize::try_from(cursor).unwrap(), usize::try_from(lease.range.to).unwrap());
            let (mut rows, mut next, mut reads) = (Vec::new(), None, Vec::new());
            for slot in from..to.min(world.relations[relation].len()) {
                if rows.len() == usize::try_from(limit).unwrap() {
                    next = Some(slot as u64);
                    break;
                }
                if let Slot::Live(tuple) = &world.relations[relation][slot]
                    && (target.prune.is_none() || tuple.is_doomed())
                {
                    let row = row(tuple, relation, slot);
                    reads.push((row.version.clone(), tuple.clone()));
                    rows.push(row);
                }
            }
            world.reads.extend(reads);
            Batch { rows, next }
        };
        self.step().await?;
        Ok(batch)
    }

    async fn reread(&self, _: &Lease, target: &Target, lost: &[RowVersion]) -> Result<Vec<Row>> {
        self.step().await?;
        let mut world = self.world();
        let mut rows = Vec::new();
        for version in lost {
            let Some(place) = world.newest(version) else { continue };
            let Some(tuple) = world.tuple(place).cloned() else { continue };
            if target.prune.is_some() && !tuple.is_doomed() && world.broken != Broken::NoSecondLook {
                continue;
            }
            let row = row(&tuple, place.0, place.1);
            world.reads.insert(row.version.clone(), tuple);
            rows.push(row);
        }
        Ok(rows)
    }

    async fn write(
        &self,
        lease: &Lease,
        target: &Target,
        changes: &[Change],
        with: &Checkpoint,
    ) -> Result<Vec<Outcome>> {
        self.step().await?;
        let broken = self.world().broken;
        if self.is_busy(changes) {
            return Err(Error::new(Code::Busy, "could not serialize access"));
        }
        let tx = self.begin();
        if broken != Broken::NoFencing {
            self.with_job(lease.job, |job| {
                let at = Self::check_token(job, lease)?;
                if job.chunks[at].lock.is_some() {
                    return Err(Error::new(Code::Busy, "the range is locked"));
                }
                job.chunks[at].lock = Some(tx.id);
                Ok(())
            })?;
        }
        let deletes = target.prune.is_some();
        let locked = Self::lock_rows(&mut self.world(), deletes, changes, tx.id);
        let outcomes: Vec<Outcome> = locked.iter().map(|(outcome, _)| outcome.clone()).collect();
        if broken == Broken::CheckpointFirst {
            let would = outcomes.iter().filter(|o| **o == Outcome::Written).count() as u64;
            checkpoint(&mut self.world(), lease, with, (changes, &outcomes), would);
        }
        self.step().await?;
        let written = {
            let mut world = self.world();
            let written = match deletes {
                true => Self::delete_rows(&mut world, &locked),
                false => Self::apply_rows(&mut world, changes, &locked, tx.id),
            };
            world.jobs[usize::try_from(lease.job.0).unwrap()].conversions += written;
            if !matches!(broken, Broken::CheckpointFirst | Broken::CheckpointLast) {
                checkpoint(&mut world, lease, with, (changes, &outcomes), written);
            }
            written
        };
        drop(tx);
        self.step().await?;
        if broken == Broken::CheckpointLast {
            checkpoint(&mut self.world(), lease, with, (changes, &outcomes), written);
        }
        Ok(outcomes)
    }

    async fn remaining(&self, goal: Goal, _: &Target) -> Result<u64> {
        self.step().await?;
        Ok(self.world().remaining(goal))
    }

    async fn count_under(&self, _: &Target, keys: &[KeyId]) -> Result<u64> {
        self.step().await?;
        let world = self.world();
        let under = |cell: &Vec<u8>| key_of(cell).is_some_and(|key| keys.contains(&key_id(key)));
        let rows = world.live().filter(|(_, _, tuple)| tuple.cells.iter().flatten().any(under));
        Ok(rows.count() as u64)
    }

    async fn row_errors(&self, job: JobId, limit: u32) -> Result<Vec<RowError>> {
        let limit = usize::try_from(limit).unwrap();
        Ok(self.with_job(job, |job| job.errors.values().take(limit).cloned().collect()))
    }

    async fn pressure(&self, _: JobId) -> Result<Pressure> {
        self.step().await?;
        let mut world = self.world();
        let pressed = world.faults.pressure;
        if !world.rng.chance(pressed) {
            return Ok(Pressure::None);
        }
        let at_least = Duration::from_millis(world.rng.below(2_000));
        Ok(Pressure::Wait { reason: "a replica is behind".to_owned(), at_least })
    }

    async fn pause(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    fn now(&self) -> Duration {
        self.clock.now() + *self.ahead.lock().unwrap()
    }
}

impl SimStore {
    /// Now and then the database takes fewer rows at once, or none for a while.
    fn is_busy(&self, changes: &[Change]) -> bool {
        let mut world = self.world();
        let busy = world.faults.busy;
        let refused = !changes.is_empty() && world.rng.chance(busy);
        if refused && let [only] = changes {
            let now = world.tick();
            if let Some(tuple) = world.newest(&only.version).and_then(|place| world.tuple(place)) {
                tuple.disturbed = now;
            }
        }
        refused
    }
}

/// How many columns a simulated target has.
pub(super) const TARGET_COLUMNS: usize = COLUMNS;
