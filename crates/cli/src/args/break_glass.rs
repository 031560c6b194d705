//! `enfold break-glass`.

use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum BreakGlass {
    /// List the newest emergencies, and how each stands.
    List,
    /// Show one, with every word that was said on it.
    Show(ShowEmergency),
    /// End one, or take back a request: it gives nothing from then on, wherever a service runs.
    End(EndEmergency),
}

#[derive(Args, Debug)]
pub(crate) struct ShowEmergency {
    /// As `enfold break-glass list` shows it.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

#[derive(Args, Debug)]
pub(crate) struct EndEmergency {
    /// As `enfold break-glass list` shows it.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}
