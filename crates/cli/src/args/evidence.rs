//! What may be typed after `evidence`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use enfold_jobs::evidence::Standard;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Evidence {
    #[command(subcommand)]
    pub(crate) verify: Option<EvidenceCommand>,
    /// The standard whose controls are looked at. Every row of the policy's tables is read.
    #[arg(long, value_name = "STANDARD", required = true, value_parser = standards())]
    pub(crate) standard: Option<Standard>,
    /// The folder that gets `evidence.json` and `evidence.html`. It is made if it is not there; files that are there stay.
    #[arg(long, value_name = "FOLDER", required = true)]
    pub(crate) out: Option<PathBuf>,
    /// The file of the log's key, which signs. Unless given, the log's key where the policy says that it is, or else the operators'.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum EvidenceCommand {
    /// Verify evidence offline: that a key that is trusted signed it, and that nothing in it was changed.
    Verify(VerifyEvidence),
}

#[derive(Args, Debug)]
pub(crate) struct VerifyEvidence {
    /// `evidence.json`. A page `evidence.html` beside it has to be the one of this evidence.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// A public key that is trusted, `ed25519:…`; those of the policy (`events.log_keys`, `trust.operator_key`) unless given. May be
    /// given more than once.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Vec<String>,
}

fn standards() -> impl TypedValueParser<Value = Standard> {
    PossibleValuesParser::new(Standard::ALL.map(Standard::word))
        .try_map(|word| Standard::parse(&word).ok_or("there is no mapping for it"))
}
