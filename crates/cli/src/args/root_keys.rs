//! What may be typed behind `enfold keys` about root keys, and to look at keys.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Args, Debug)]
pub(crate) struct ListKeys {
    /// Data keys of this ring alone.
    #[arg(long, value_name = "RING", conflicts_with = "roots")]
    pub(crate) ring: Option<String>,
    /// Root keys instead of data keys.
    #[arg(long)]
    pub(crate) roots: bool,
    /// Begin behind this data key; needs `--ring` where the policy has several.
    #[arg(long, value_name = "ID", conflicts_with = "roots")]
    pub(crate) after: Option<String>,
    /// Data keys on a page.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

#[derive(Args, Debug)]
pub(crate) struct ShowKey {
    /// The id of a data key or a root key, or the URI of a root key.
    #[arg(value_name = "ID|URI")]
    pub(crate) key: String,
}

#[derive(Args, Debug)]
pub(crate) struct Register {
    /// A root key of the policy.
    #[arg(value_name = "URI")]
    pub(crate) root: String,
    /// What people call it.
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Option<String>,
    /// Why it is there.
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ImportKey {
    /// What `enfold keys show URI --json` printed.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct SetRoot {
    /// A root key of the policy.
    #[arg(value_name = "URI")]
    pub(crate) root: String,
    #[arg(value_enum)]
    pub(crate) state: RootStateArg,
    /// Disable it in its key service as well, for everybody who uses it; with `active`, enable it there first.
    #[arg(long)]
    pub(crate) at_kms: bool,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RootStateArg {
    /// Wraps new data keys, and unwraps.
    Active,
    /// Unwraps, and wraps no new data key.
    Retired,
    /// Is not called: what it alone has wrapped does not open.
    Disabled,
}

#[derive(Args, Debug)]
pub(crate) struct RotateRoot {
    /// A root key of the policy.
    #[arg(value_name = "URI")]
    pub(crate) root: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Rewrap {
    /// A ring of the policy.
    #[arg(value_name = "RING")]
    pub(crate) ring: String,
    /// Only data keys with a wrap by this root key, or that need this one of a customer's.
    #[arg(long, value_name = "URI")]
    pub(crate) from: Option<String>,
    /// Make wraps by this root key alone, or layers by this one of a customer's; otherwise by every active one of the ring and
    /// by every customer's.
    #[arg(long, value_name = "URI")]
    pub(crate) to: Option<String>,
    /// Remove the wraps by `--from`, or by every root key that is retired, disabled or not in the policy, once the others
    /// were tried.
    #[arg(long)]
    pub(crate) drop: bool,
    /// Also make wraps anew that are there and do not say which version of the root key made them.
    #[arg(long)]
    pub(crate) renew: bool,
    /// Begin behind this data key: to go on with a `--renew` that was interrupted.
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<String>,
    /// Say what would be done, what the key services are asked and what that costs, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// What key services charge, as `docs/reference/kms-prices.toml`, which is taken if none is named.
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    /// Requests a second to a root key, in place of the policy's.
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<NonZeroU32>,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Why: it goes into the log of events.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}
