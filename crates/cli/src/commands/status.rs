//! `enfold status`: how far the columns are, which jobs there are, who reads.

use std::fmt::Write as _;

use enfold::policy::Mode;
use enfold::state::{Destruction, Subject};
use enfold::{Result, RingGrace, RingSchedule, RootDue};
use enfold_jobs::disabling::{Disabling, Times};
use enfold_jobs::model::{Census, Goal, JobId, JobState, Progress, RowError};
use enfold_jobs::ops::{self, Selection};
use enfold_jobs::ops::{Reader, audit::ColumnAudit};
use serde::Serialize;

use super::Context;
use crate::table::Table;
use crate::words::{count, some, time};

/// Rows of each table that are looked at for the counts.
const SAMPLE: u64 = 10_000;
/// Row errors of a job that are shown.
const ERRORS: u32 = 20;

#[derive(Serialize)]
struct Report {
    columns: Vec<ColumnStatus>,
    jobs: Vec<Job>,
    readers: Vec<Reader>,
    rotation: Vec<Rotation>,
    root_keys: Vec<RootRotation>,
    former_keys: Vec<Former>,
    destructions: Vec<Destroying>,
}

/// How a root key stands to the cadence of a ring.
#[derive(Serialize)]
struct RootRotation {
    #[serde(flatten)]
    schedule: RootDue,
    due: bool,
    overdue: bool,
    due_at: Option<String>,
}

impl RootRotation {
    fn of(schedule: RootDue, now_ms: i64) -> Self {
        Self {
            due: schedule.is_due(now_ms),
            overdue: schedule.is_overdue(now_ms),
            due_at: time(schedule.due_ms),
            schedule,
        }
    }
}

/// Data keys that are being destroyed, or were.
#[derive(Serialize)]
struct Destroying {
    ring: String,
    /// `ring`, or the tag that stands for a tenant.
    subject: String,
    grace_over_at: Option<String>,
    destroyed_at: Option<String>,
    #[serde(skip)]
    says: String,
}

impl Destroying {
    fn of(ring: String, subject: &Subject, held: &Destruction) -> Self {
        let at = time;
        let until = at(held.due_ms).unwrap_or_default();
        let says = match held.done_ms {
            Some(done) => format!("{subject} of ring {ring}: destroyed at {}", at(done).unwrap_or_default()),
            None => format!("{subject} of ring {ring}: being destroyed; it can be taken back until {until}"),
        };
        Self {
            subject: subject.as_str().to_owned(),
            grace_over_at: at(held.due_ms),
            destroyed_at: held.done_ms.and_then(at),
            ring,
            says,
        }
    }
}

/// The former data keys of a ring.
#[derive(Serialize)]
struct Former {
    ring: String,
    /// That open, and may be disabled when their grace period is over.
    in_grace: usize,
    next_at: Option<String>,
    /// Whose grace period is over.
    past: usize,
    /// Whether workers disable them.
    enabled: bool,
    /// Of those, the ones that were begun with, and when each step was first found done, in milliseconds since 1970.
    begun: Vec<Begun>,
}

#[derive(Serialize)]
struct Begun {
    key: String,
    #[serde(flatten)]
    times: Times,
}

impl Former {
    fn of(grace: &RingGrace, id: &str, noted: &[Disabling], now_ms: i64) -> Self {
        let past = grace.due(now_ms);
        let begun = noted.iter().filter(|one| one.ring == id && grace.keys.iter().any(|key| key.id == one.key));
        Self {
            ring: grace.ring.clone(),
            in_grace: grace.keys.len() - past.len(),
            next_at: grace.keys.get(past.len()).and_then(|key| time(key.due_ms)),
            past: past.len(),
            enabled: grace.enabled,
            begun: begun.map(|one| Begun { key: one.key.to_string(), times: one.times }).collect(),
        }
    }
}

/// How a ring stands to its cadence.
#[derive(Serialize)]
struct Rotation {
    ring: String,
    enabled: bool,
    data_keys: usize,
    due: usize,
    /// Of those, since more than a tenth of the cadence.
    overdue: usize,
    /// When the next one is due, or the first one was.
    next_due_at: Option<String>,
}

impl Rotation {
    fn of(schedule: &RingSchedule, now_ms: i64) -> Self {
        Self {
            ring: schedule.ring.clone(),
            enabled: schedule.enabled,
            data_keys: schedule.keys.len(),
            due: schedule.due(now_ms).len(),
            overdue: schedule.overdue(now_ms).len(),
            next_due_at: schedule.keys.first().and_then(|key| time(key.due_ms)),
        }
    }
}

#[derive(Serialize)]
struct ColumnStatus {
    column: String,
    mode: Mode,
    wanted: Mode,
    /// Of a sample.
    census: Census,
    /// Why nothing was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Job {
    id: JobId,
    table: String,
    goal: Goal,
    state: JobState,
    progress: Progress,
    last_error: Option<String>,
    row_errors: Vec<RowError>,
}

pub(crate) async fn run(context: &Context<'_>) -> Result<()> {
    context
        .with_session_and_keys(async |session, enfold| {
            let audit = ops::audit(session.db.as_ref(), &session.policy, &Selection::All, Some(SAMPLE)).await?;
            let names: Vec<String> = audit.columns.iter().map(|c| c.column.clone()).collect();
            let modes = session.keys.modes(&names).await?;
            let columns = audit.columns.into_iter().zip(modes).map(|(audited, mode)| {
                let wanted = session.policy.column(&audited.column).map_or(mode, |(_, c)| c.mode);
                let ColumnAudit { column, census, reason, .. } = audited;
                ColumnStatus { column, mode, wanted, census, reason }
            });
            let columns = columns.collect();
            let mut jobs = Vec::new();
            for record in session.db.store().jobs().await? {
                let row_errors = session.db.store().row_errors(record.id, ERRORS).await?;
                jobs.push(Job {
                    id: record.id,
                    table: record.target.policy_table,
                    goal: record.goal,
                    state: record.state,
                    progress: record.progress,
                    last_error: record.last_error,
                    row_errors,
                });
            }
            let now_ms = jiff::Timestamp::now().as_millisecond();
            let schedule = enfold.schedule().await?;
            let rotation = schedule.iter().map(|schedule| Rotation::of(schedule, now_ms)).collect();
            let root_keys = enfold.root_schedule().await?;
            let root_keys = root_keys.into_iter().map(|schedule| RootRotation::of(schedule, now_ms)).collect();
            let noted = session.db.disablings().all().await?;
            let id = |ring: &str| session.policy.rings.get(ring).map_or("", |ring| ring.id.as_str());
            let graces = enfold.graces().await?;
            let graces = graces.iter().filter(|grace| !grace.keys.is_empty());
            let former_keys = graces.map(|grace| Former::of(grace, id(&grace.ring), &noted, now_ms)).collect();
            let readers = session.keys.readers().await?;
            let destructions = enfold.destructions().await?;
            let destructions =
                destructions.into_iter().map(|(ring, subject, held)| Destroying::of(ring, &subject, &held));
            let destructions = destructions.collect();
            let report = Report { columns, jobs, readers, rotation, root_keys, former_keys, destructions };
            context.screen.result(&report, |out| write(context, &report, out))
        })
        .await
}

fn write(context: &Context<'_>, report: &Report, out: &mut String) {
    let mut table = Table::new(&["column", "mode", "wanted", "envelopes", "plaintext", "of rows looked at"]);
    for c in &report.columns {
        table.row([
            c.column.clone(),
            c.mode.word().to_owned(),
            c.wanted.word().to_owned(),
            count(c.census.envelopes),
            count(c.census.plaintext),
            count(c.census.rows),
        ]);
    }
    table.write(context.screen, out);
    for (c, reason) in report.columns.iter().filter_map(|c| Some((c, c.reason.as_ref()?))) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "`{}` was not looked at: {reason}", c.column);
    }
    let mut table = Table::new(&["job", "table", "goal", "state", "rows", "changed", "failed"]);
    for j in &report.jobs {
        let p = &j.progress;
        table.row([
            j.id.0.to_string(),
            j.table.clone(),
            word(&j.goal),
            word(&j.state),
            format!("{} of {}", count(p.rows_seen), count(p.rows_total)),
            count(p.rows_changed),
            count(p.rows_failed),
        ]);
    }
    if !table.is_empty() {
        out.push('\n');
        table.write(context.screen, out);
    }
    // Writing to a String cannot fail.
    for j in report.jobs.iter().filter(|j| !j.row_errors.is_empty()) {
        for e in &j.row_errors {
            let _ = writeln!(out, "job {}: row {} {}: {} ({})", j.id.0, e.row, e.column, e.reason, e.code);
        }
    }
    report.rotation.iter().for_each(|rotation| write_rotation(rotation, out));
    report.root_keys.iter().for_each(|root| write_root(root, out));
    report.former_keys.iter().for_each(|former| write_former(former, out));
    report.destructions.iter().for_each(|one| out.push_str(&format!("{}\n", one.says)));
    for r in &report.readers {
        let _ = writeln!(
            out,
            "reader {} {}: ready for {}, reads {}",
            r.name,
            r.version,
            r.ready.word(),
            r.columns.join(", ")
        );
    }
}

/// One line for a ring that has a cadence.
fn write_root(root: &RootRotation, out: &mut String) {
    let RootDue { ring, root: uri, enabled, by_hand, by_service, under_way, .. } = &root.schedule;
    let at = root.due_at.as_deref().unwrap_or("a date that cannot be told");
    let when = match (root.due, root.overdue) {
        (false, _) => format!("not due before {at}"),
        (true, false) => format!("due since {at}"),
        (true, true) => format!("overdue, since {at}"),
    };
    let who = match () {
        () if *under_way => "; a process sees to it now",
        () if *by_hand => "; its service has no versions: another key takes its place by hand",
        () if *by_service => "; its service makes versions by itself, and the data keys follow",
        () if !*enabled => "; nobody acts on it",
        () => "",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "root key {uri} of ring {ring}: {when}{who}");
}

fn write_rotation(rotation: &Rotation, out: &mut String) {
    let Rotation { ring, enabled, data_keys, due, overdue, next_due_at } = rotation;
    let says = match (next_due_at, due) {
        (None, _) => "no data key yet".to_owned(),
        (Some(at), 0) => format!("none of {} is due before {at}", some(*data_keys, "data key")),
        (Some(at), due) => {
            let overdue = if *overdue > 0 { format!(", {overdue} of them overdue") } else { String::new() };
            let who = if *enabled { "" } else { "; the schedule is off, so somebody must rotate them" };
            format!("{due} of {} due since {at}{overdue}{who}", some(*data_keys, "data key"))
        }
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "rotation of ring {ring}: {says}");
}

/// One line for a ring that has former data keys, and one for each that was begun with.
fn write_former(former: &Former, out: &mut String) {
    let Former { ring, in_grace, next_at, past, enabled, begun } = former;
    let in_grace = match next_at {
        Some(at) => format!("{in_grace} in their grace period, the first until {at}"),
        None => "none in its grace period".to_owned(),
    };
    let past = match (past, enabled) {
        (0, _) => String::new(),
        (past, true) => format!(", {past} past it"),
        (past, false) => format!(", {past} past it, which `enfold keys disable` takes out of use"),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "former data keys of ring {ring}: {in_grace}{past}");
    for Begun { key, times } in begun {
        let missing = match times {
            Times { acknowledged_ms: None, .. } => "every process to see that it seals no more",
            Times { refused_ms: None, .. } => "the database to refuse values under it",
            Times { ended_ms: None, .. } => "transactions of before to end",
            _ => "the last value under it to go",
        };
        let _ = writeln!(out, "  {key} waits for {missing}");
    }
}

/// The word under which a state or a goal stands in JSON.
pub(super) fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
