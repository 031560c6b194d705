//! What may be typed after `index`.

use clap::{Args, Subcommand};

use super::Workers;

#[derive(Subcommand, Debug)]
pub(crate) enum Index {
    /// Show every blind index, the generations that live, and whether the policy says what is in force.
    List,
    /// Sign the rules of blind indexes as the policy says them now: what it says later holds from the next rotation on. Needs
    /// the operators' key.
    Sign(SignIndex),
    /// Have a new generation of a blind index take over, under another key and by the policy's rules, while lookups and writes go
    /// on. Run it again to go on where it was interrupted. Needs the operators' key.
    Rotate(RotateIndex),
    /// Take back a rotation before its new generation took over. Needs the operators' key.
    GiveUp(EndIndex),
    /// Drop the former generation after a rotation, for good, and disable its keys. Needs the operators' key.
    DropFormer(EndIndex),
}

#[derive(Args, Debug)]
pub(crate) struct SignIndex {
    /// A blind index, as `table.column.index`, or `table.index` if it covers several columns. All of them unless given.
    #[arg(value_name = "INDEX")]
    pub(crate) index: Vec<String>,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Args, Debug)]
pub(crate) struct RotateIndex {
    /// The blind index, as `table.column.index`, or `table.index` if it covers several columns. The column alone where it has
    /// one.
    #[arg(value_name = "INDEX")]
    pub(crate) index: String,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    pub(crate) reason: Option<String>,
    /// Say what would be done, with its SQL and its locks, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// At most this many rows a second.
    #[arg(long, value_name = "ROWS")]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    pub(crate) workers: Workers,
}

#[derive(Args, Debug)]
pub(crate) struct EndIndex {
    /// The blind index, named as for `rotate`.
    #[arg(value_name = "INDEX")]
    pub(crate) index: String,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}
