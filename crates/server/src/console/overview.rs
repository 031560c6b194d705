//! What somebody wants to know first: one look at everything that they may see.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use enfold::Result;
use enfold::access::Permission;
use enfold_jobs::model::JobState;
use enfold_jobs::ops;

use super::jobs::JobView;
use super::log::ChainView;
use super::view::{Chrome, Html};
use crate::Shared;
use crate::api::keys::{RingSchedule, schedules};
use crate::api::status::{self, KeyHealth};
use crate::api::{Call, Failure};
use crate::identity::Caller;

/// Each part is none where the person may not see it.
#[derive(Template)]
#[template(path = "overview.html")]
pub(super) struct OverviewPage {
    chrome: Chrome,
    health: Option<HealthPart>,
    rotation: Option<Vec<RingSchedule>>,
    jobs: Option<JobsPart>,
    chain: Option<ChainView>,
}

struct HealthPart {
    good: usize,
    all: usize,
    concerns: Vec<String>,
}

struct JobsPart {
    running: usize,
    waiting: usize,
    workers: usize,
    open: Vec<JobView>,
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Extension(chrome): Extension<Chrome>,
) -> Result<Html<OverviewPage>, Failure> {
    let (mut health, mut rotation, mut jobs, mut chain) = (None, None, None, None);
    if caller.has(Permission::Read) {
        health = Some(HealthPart::of(&status::health(&shared, &call.context(&caller, None)).await?));
        rotation = Some(schedules(&shared.enfold).await?);
    }
    if caller.has(Permission::Jobs) {
        jobs = Some(jobs_part(&shared, &caller, &call).await?);
    }
    if caller.has(Permission::Audit) {
        chain = Some(ChainView::of(&shared.enfold).await?);
    }
    Ok(Html(OverviewPage { chrome, health, rotation, jobs, chain }))
}

async fn jobs_part(shared: &Shared, caller: &Caller, call: &Call) -> Result<JobsPart> {
    let session = shared.session(&call.context(caller, None)).await?;
    let store = session.db.store();
    let open = store.open_jobs().await?;
    let running = open.iter().filter(|job| job.state == JobState::Running).count();
    let workers = store.workers(ops::ALIVE).await?.len();
    Ok(JobsPart { running, waiting: open.len() - running, workers, open: open.iter().map(JobView::of).collect() })
}

impl HealthPart {
    fn of(roots: &[KeyHealth]) -> Self {
        let concerns = |root: &KeyHealth| {
            let of = format!("{} of ring {}", root.key_id, root.ring);
            root.concerns.iter().map(move |concern| format!("{of}: {concern}")).collect::<Vec<_>>()
        };
        Self {
            good: roots.iter().filter(|root| root.health_checks.can_encrypt_decrypt).count(),
            all: roots.len(),
            concerns: roots.iter().flat_map(concerns).collect(),
        }
    }
}
