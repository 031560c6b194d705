//! What may be typed after `keys rotate`, `keys disable`, `keys enable`, `keys set-minimum`, `reencrypt`, `jobs` and `worker`.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub(crate) struct Rotate {
    /// The ring, as the policy calls it.
    #[arg(value_name = "RING")]
    pub(crate) ring: String,
    /// A tenant whose data key is rotated, in a ring of scope `tenant`: text, or `int:7`, or `uuid:…`. May be given more
    /// than once.
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Vec<String>,
    /// The data keys of all tenants.
    #[arg(long, conflicts_with = "tenant")]
    pub(crate) all_tenants: bool,
    /// Why: it goes into the log of events, and to the jobs.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Then have workers re-encrypt what is under the former data keys.
    #[arg(long)]
    pub(crate) reencrypt: bool,
    /// Then rotate the ring's blind indexes as well, one after the other, here.
    #[arg(long, conflicts_with = "emergency")]
    pub(crate) indexes: bool,
    /// For data keys that somebody may have: re-encrypt before anything else, here and at once, then disable the former data
    /// keys when no value needs them any more, and say what they were used for.
    #[arg(long, conflicts_with = "reencrypt")]
    pub(crate) emergency: bool,
    /// With `--emergency`: say what they were used for from this moment on (`2026-03-01` or RFC 3339). 30 days unless given.
    #[arg(long, value_name = "TIME", requires = "emergency")]
    pub(crate) since: Option<String>,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Disable {
    /// The ring, as the policy calls it.
    #[arg(value_name = "RING")]
    pub(crate) ring: String,
    /// Ids of data keys. None of them is disabled before all can be.
    #[arg(value_name = "KEY", required_unless_present_any = ["past_grace", "print_sql"])]
    pub(crate) keys: Vec<String>,
    /// Every former data key of the ring whose grace period is over.
    #[arg(long, conflicts_with_all = ["keys", "kill_switch"])]
    pub(crate) past_grace: bool,
    /// At once, whatever needs it: values under it cannot be read until it is enabled again.
    #[arg(long)]
    pub(crate) kill_switch: bool,
    /// Wait so many seconds for what passes by itself: processes that have not seen yet that the data key is a former one,
    /// transactions of before the database refuses new values under it, and replicas that show values under it yet.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, conflicts_with = "kill_switch")]
    pub(crate) wait: u64,
    /// Print the SQL by which the tables refuse new values under data keys that are disabled, for whoever owns them to run once,
    /// and do nothing.
    #[arg(long, conflicts_with = "kill_switch")]
    pub(crate) print_sql: bool,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SetMinimum {
    /// The ring, as the policy calls it.
    #[arg(value_name = "RING")]
    pub(crate) ring: String,
    /// The least version that opens. A lower one than before takes that back; 0 for none.
    #[arg(value_name = "VERSION")]
    pub(crate) least: u32,
    /// A tenant whose data keys are meant, in a ring of scope `tenant`: text, or `int:7`, or `uuid:…`. May be given more than once.
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Vec<String>,
    /// The data keys of all tenants that have one now.
    #[arg(long, conflicts_with = "tenant")]
    pub(crate) all_tenants: bool,
    /// At once, whatever needs the versions below: values under them cannot be read until it is taken back.
    #[arg(long)]
    pub(crate) kill_switch: bool,
    /// Wait so many seconds for what passes by itself, as `keys disable` does.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, conflicts_with = "kill_switch")]
    pub(crate) wait: u64,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Uses {
    /// Data keys, by their ids.
    #[arg(value_name = "KEY", required = true)]
    pub(crate) key: Vec<String>,
    /// From this moment on (`2026-03-01` or RFC 3339). 30 days unless given.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Enable {
    /// The ring, as the policy calls it.
    #[arg(value_name = "RING")]
    pub(crate) ring: String,
    /// Ids of data keys.
    #[arg(value_name = "KEY", required = true)]
    pub(crate) keys: Vec<String>,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Reencrypt {
    /// Only columns of this ring.
    #[arg(value_name = "RING")]
    pub(crate) ring: Option<String>,
    /// Only this table of the policy. May be given more than once.
    #[arg(long, value_name = "TABLE", conflicts_with = "column")]
    pub(crate) table: Vec<String>,
    /// Only this column, as `table.column`. May be given more than once.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) column: Vec<String>,
    /// Only columns of this class.
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<String>,
    /// Only values of this tenant, in a ring of scope `tenant`: text, or `int:7`, or `uuid:…`. May be given more than once.
    #[arg(long, value_name = "TENANT", requires = "ring")]
    pub(crate) tenant: Vec<String>,
    /// Only values under this version of their data key. They always come under the version that seals now.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) from_version: Option<u32>,
    /// Only values under data keys that were made before this moment (`2026-03-01` or RFC 3339), which is where everything is
    /// that was sealed before it, if the key was rotated since.
    #[arg(long, value_name = "TIME")]
    pub(crate) sealed_before: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why: it goes into the log of events, and to the jobs.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Workers take jobs of a higher priority first.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) priority: i32,
    /// At most this many rows a second, over all workers; the policy's unless given.
    #[arg(long, value_name = "ROWS")]
    pub(crate) rate: Option<u32>,
    /// At most this many rows at once; the policy's unless given.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Jobs {
    /// List the jobs that are not at their end; with `--all` every job on record.
    List(JobList),
    /// Show one job, its errors row by row.
    Show(JobId),
    /// Follow a job to its end.
    Watch(JobId),
    /// Have workers leave a job alone until it is resumed.
    Pause(JobId),
    /// Have workers go on with a paused job.
    Resume(JobId),
    /// End a job; what it did stays.
    Cancel(JobId),
    /// Have workers try again what failed.
    Retry(JobId),
    /// Change how fast and how urgent a job is, while it runs.
    Set(JobSet),
}

#[derive(Args, Debug)]
pub(crate) struct JobList {
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct JobId {
    /// The job's number.
    #[arg(value_name = "JOB")]
    pub(crate) job: i64,
}

#[derive(Args, Debug)]
pub(crate) struct JobSet {
    /// The job's number.
    #[arg(value_name = "JOB")]
    pub(crate) job: i64,
    /// At most this many rows a second, over all workers; 0 for no limit.
    #[arg(long, value_name = "ROWS")]
    pub(crate) rate: Option<u32>,
    /// At most this many rows at once.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,
    /// Workers take jobs of a higher priority first.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) priority: Option<i32>,
}

#[derive(Args, Debug)]
pub(crate) struct Worker {
    /// End when no job is left to work on, instead of waiting for the next.
    #[arg(long)]
    pub(crate) until_idle: bool,
    /// Tell figures for Prometheus at this address, to whoever reaches it. Port 0 lets the system choose one.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<SocketAddr>,
}
