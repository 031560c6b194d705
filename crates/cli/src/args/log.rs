//! What may be typed after `log`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum Log {
    /// Make the key that signs how far the log has come, and have the policy believe it.
    Init(InitLog),
    /// Sign how far the log has come, for every process that writes to it.
    Sign(SignLog),
    /// Write the log as lines of JSON, with what vouches for it.
    Export(ExportLog),
    /// Say whether the log is as it was written and signed, and else which event was changed, removed, moved or added.
    Verify(VerifyLog),
    /// Say who opened what.
    Opened(Opened),
    /// Archive and remove what was kept for as long as the policy says (`events.keep`), leaving a signed proof.
    Prune(PruneLog),
}

#[derive(Args, Debug)]
pub(crate) struct InitLog {
    /// The file of the key, which is made here.
    #[arg(long, value_name = "FILE", default_value = "enfold-log.key")]
    pub(crate) key_file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct SignLog {
    /// The file of the key; the policy's `events.signing_key_file` unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct PruneLog {
    /// The file of the key that signs the log; the policy's `events.signing_key_file` unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Why, for the log and the proof.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Say what would be removed, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Go on without asking.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ExportLog {
    /// The file, which must not be there yet; standard output when it is left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyLog {
    /// An export, or a file that `events.file` names; the policy's catalog when it is left out. A file is verified without a
    /// database, a key service or a network.
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// A public key of the log, `ed25519:…`; those of the policy's `events.log_keys` unless given. May be given more than once.
    #[arg(long, value_name = "KEY", requires = "file")]
    pub(crate) key: Vec<String>,
    /// A file with checkpoints that were kept elsewhere: what they vouch for must be there.
    #[arg(long, value_name = "FILE")]
    pub(crate) anchor: Option<PathBuf>,
    /// The file is what one process wrote: writers and checkpoints that are not in it are not missed.
    #[arg(long, requires = "file")]
    pub(crate) partial: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Opened {
    /// Only under this data key, by its id. May be given more than once.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Vec<String>,
    /// Only what was about this data subject, by the application's word for them.
    #[arg(long, value_name = "ID")]
    pub(crate) subject: Option<String>,
    /// Only of this column, as `table.column`.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) column: Option<String>,
    /// Only by this actor.
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// From this moment on, as `2026-03-01` or `2026-03-01T12:00:00Z`; for 30 days back unless given.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Before this moment.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// The newest that many events.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: u32,
}
