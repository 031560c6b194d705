//! What a person asks for, put together from sweeps and schema steps: audit, residue, status, plans and what carries
//! them out. The order of steps lives here; how rows move is the engine's, and what SQL is sent is the dialect's.

pub mod apply;
pub mod audit;
mod coverage;
pub mod destroy;
pub mod disable;
pub mod drop_reader;
pub mod drop_source;
pub mod enforce;
pub mod estimate;
mod foreign;
pub mod keys;
mod log;
pub mod needs;
pub mod observer;
pub mod plan;
pub mod policy_keys;
pub mod prune;
pub mod reencrypt;
pub mod residue;
pub mod restored;
pub mod rollback;
pub mod rotate_index;
pub mod run;
pub mod session;
mod settle;
pub mod steps;
pub mod targets;
#[cfg(all(test, feature = "sqlite"))]
mod tests;
pub mod verify;
pub mod work;

pub use apply::{Applied, ApplyOptions, ApplyReport, apply};
pub use audit::{AuditReport, audit, full_audit};
pub use coverage::by_version;
pub use disable::{Disable, Missing, Tried, announce, disable, disable_within, enable, refusals};
pub use drop_reader::{ReaderUse, drop_reader, plan_drop_reader};
pub use drop_source::{drop_source, plan_drop_source};
pub use enforce::{EnforceReport, enforce, plan_enforce};
pub use keys::{Keys, Reader};
pub use needs::{Needs, TableNeeds, needs};
pub use observer::{Observer, Silent, StepEvent, StepState, SweepEvent};
pub use plan::{Plan, PlanOptions, plan};
pub use policy_keys::PolicyKeys;
pub use prune::{PruneReport, RulePlan, RulePruned, plan_prune, prune};
pub use reencrypt::{Reencryption, Requested, TableReencryption, plan_reencryption, request_reencryption};
pub use residue::{Probes, ResidueReport, probes, residue};
pub use restored::{RestoreReport, Restored, test_restored};
pub use rollback::{RollbackReport, SteppedBack, plan_rollback, plan_step_back, rollback, step_back};
pub use rotate_index::{IndexRotated, IndexRotation, RotationStage, RotationStep};
pub use run::Pace;
pub use session::Session;
pub use steps::{Action, Step};
pub use targets::{Selection, target};
pub use verify::{Verified, VerifyReport, verify};
pub use work::{ALIVE, Steering, WorkOptions, WorkReport, keep_schedule, retry, steer, work};
