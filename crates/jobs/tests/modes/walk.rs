//! legacy, hybrid, kms, hybrid, legacy.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::task::JoinHandle;

use super::*;

/// What a session of Enfold's has stored, by form.
#[derive(Default)]
struct Wrote {
    sealed: AtomicU64,
    as_before: AtomicU64,
    read: AtomicU64,
}

struct Sessions {
    stop: Arc<AtomicBool>,
    all: Vec<(Arc<Wrote>, JoinHandle<()>)>,
}

impl Sessions {
    /// Each reads everything and changes rows of its own, until it is told to stop. It is told nothing else.
    async fn begin(world: &World, number: i64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut all = Vec::new();
        for n in 0..number {
            let (column, table) = (world.enfold().await.column(&world.column()).unwrap(), world.connect().await);
            let (stop, wrote) = (Arc::clone(&stop), Arc::new(Wrote::default()));
            let counts = Arc::clone(&wrote);
            let work = async move {
                let (who, place) = (who(), Place::none());
                let own = |turn: i64| (turn * number + n) % (ROWS - 30);
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let value = format!("of {}, turn {turn}", own(turn));
                    let stored = column.seal(&who, &place, Form::Text, PayloadType::Text, value.as_bytes()).await;
                    let stored = String::from_utf8(stored.unwrap()).unwrap();
                    assert!(table.write(own(turn), &stored, &value).await);
                    let form = if stored.starts_with("enf1:") { &counts.sealed } else { &counts.as_before };
                    form.fetch_add(1, Ordering::Relaxed);
                    if turn % 5 == 0 {
                        for row in table.rows().await {
                            let opened = column.open(&who, &place, Form::Text, row.secret.as_bytes()).await;
                            let value = opened.unwrap_or_else(|error| panic!("row {}: {error}", row.id)).value;
                            assert_eq!(std::str::from_utf8(&value).unwrap(), row.is, "row {}", row.id);
                        }
                        counts.read.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::task::yield_now().await;
                }
            };
            all.push((wrote, tokio::spawn(work)));
        }
        Self { stop, all }
    }

    /// Waits until each has read everything twice, and stored this many values of a form, counted from now.
    async fn go_on(&self, form: impl Fn(&Wrote) -> &AtomicU64) {
        for (wrote, _) in &self.all {
            let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let (stored, read) = (load(form(wrote)), load(&wrote.read));
            while load(form(wrote)) < stored + 5 || load(&wrote.read) < read + 2 {
                assert!(!self.all.iter().any(|(_, task)| task.is_finished()), "a session ended");
                tokio::task::yield_now().await;
            }
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, task) in self.all {
            task.await.expect("no read and no write failed");
        }
    }
}

fn sealed(wrote: &Wrote) -> &AtomicU64 {
    &wrote.sealed
}

fn as_before(wrote: &Wrote) -> &AtomicU64 {
    &wrote.as_before
}

/// The old application writes rows of its own; whether the database took them.
async fn old_writes(world: &World, when: &str) -> bool {
    let (table, mut old) = (world.connect().await, (world.format.start)());
    let mut taken = true;
    for n in ROWS - 10..ROWS {
        let value = format!("of {n}, {when}");
        taken &= table.write(n, &old.write(&value), &value).await;
    }
    taken
}

pub(crate) async fn walk(world: World) {
    let session = world.operator().await;
    let mode = async || {
        let enfold = world.enfold().await;
        enfold.column(&world.column()).unwrap().mode().await.unwrap()
    };
    world.old_reads_everything().await;

    // Nothing is signed: sessions of Enfold's write what the old application reads.
    let sessions = Sessions::begin(&world, 2).await;
    sessions.go_on(as_before).await;
    assert!(old_writes(&world, "in legacy").await);
    world.old_reads_everything().await;

    protect(&session).await.unwrap();
    assert_eq!(mode().await, Mode::Hybrid);
    sessions.go_on(sealed).await;
    assert!(old_writes(&world, "in hybrid").await);
    sessions.go_on(sealed).await;

    protect(&session).await.unwrap();
    enforce(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(mode().await, Mode::Kms);
    sessions.go_on(sealed).await;
    assert!(!old_writes(&world, "in kms").await, "the database refuses what is no envelope");

    // Back by one mode: the old application may write again, and is read.
    step_back(&session, &Selection::All, Mode::Hybrid, &Silent).await.unwrap();
    assert_eq!(mode().await, Mode::Hybrid);
    assert!(old_writes(&world, "in hybrid again").await);
    sessions.go_on(sealed).await;

    // New values as before, those that are sealed as they are.
    step_back(&session, &Selection::All, Mode::Legacy, &Silent).await.unwrap();
    assert_eq!(mode().await, Mode::Legacy);
    sessions.go_on(as_before).await;
    let envelopes =
        async || world.connect().await.rows().await.iter().filter(|row| row.secret.starts_with("enf1:")).count();
    assert!(envelopes().await > 0);

    // And all of them.
    let report = rollback(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(report.tables[0].readers["secret"].plaintext, 0);
    assert_eq!(envelopes().await, 0);
    sessions.go_on(as_before).await;
    assert!(old_writes(&world, "in legacy again").await);
    sessions.go_on(as_before).await;
    sessions.end().await;
    world.old_reads_everything().await;
    let rows = world.connect().await.rows().await;
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids, (0..ROWS).collect::<Vec<_>>());
    // Rows that nobody has written since are what they were; those of the old application are its last.
    for row in &rows[usize::try_from(ROWS - 30).unwrap()..] {
        let last = if row.id < ROWS - 10 { "before Enfold" } else { "in legacy again" };
        assert_eq!(row.is, format!("of {}, {last}", row.id));
    }
}
