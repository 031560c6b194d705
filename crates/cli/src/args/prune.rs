//! What may be typed after `prune`.

use clap::Args;

use super::Workers;

#[derive(Args, Debug)]
pub(crate) struct Prune {
    /// A rule of the policy. May be given more than once; all of them when it is left out.
    #[arg(value_name = "RULE")]
    pub(crate) rule: Vec<String>,
    /// Count what would go, and what would go along, and delete nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
    /// At most this many rows a second. A job that goes on keeps its rate unless this gives another.
    #[arg(long, value_name = "ROWS")]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    pub(crate) workers: Workers,
}
