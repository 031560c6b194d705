//! What a person asks for, put together from sweeps and schema steps: audit, residue, status, plans and what carries
//! them out. The order of steps lives here; how rows move is the engine's, and what SQL is sent is the dialect's.

pub mod audit;
pub mod residue;
pub mod targets;

pub use audit::{AuditReport, audit};
pub use residue::{Probes, ResidueReport, residue};
pub use targets::{Selection, target};
