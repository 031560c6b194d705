//! What may be typed after `keys destroy` and `keys verify-certificate`.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct Destroy {
    /// The ring, as the policy calls it.
    #[arg(value_name = "RING")]
    pub(crate) ring: String,
    /// The tenant whose data keys are meant, in a ring of scope `tenant`: text, or `int:7`, or `uuid:…`. All data keys of the ring
    /// unless given.
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Take the announcement back.
    #[arg(long)]
    pub(crate) cancel: bool,
    /// How many days it can be taken back, from the announcement on.
    #[arg(long, value_name = "DAYS", default_value_t = 30, conflicts_with = "cancel", value_parser = clap::value_parser!(u32).range(0..=3650))]
    pub(crate) grace_days: u32,
    /// For how many days backups of the catalog are kept; the ring's `backup_retention` unless given. The certificate says from
    /// when on none of them holds a wrap.
    #[arg(long, value_name = "DAYS", conflicts_with = "cancel", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) backup_retention_days: Option<u32>,
    /// Why: it goes into the signed state, the certificate and the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyCertificate {
    /// The certificate, as `keys destroy --json` printed it.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The operators' public key, `ed25519:…`; the policy's `trust.operator_key` unless given.
    #[arg(long, value_name = "KEY")]
    pub(crate) operator_key: Option<String>,
}
