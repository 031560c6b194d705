//! The policy file `enfold.toml`: reading, checking, writing, and its reference.
//!
//! [`load`] is the one way to a [`Policy`]. Everything that is wrong with a file is reported together, each with its
//! line; nothing is taken over in part. The module opens no connection and reads no environment of its own.

mod check;
mod columns;
mod draft;
pub mod edit;
mod key_services;
mod key_table;
mod members;
mod metrics;
mod model;
mod network;
mod prune;
mod raw;
mod readers;
mod reads;
pub mod reference;
mod resolve;
mod rotation;
mod schema;
mod service;
mod shared_cache;
mod sinks;
mod source;
mod traces;
mod url;
mod variables;
mod words;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::{Code, Error, Result};

pub use draft::{ColumnDraft, IndexDraft, PolicyDraft, RingDraft};
pub use metrics::MetricsPolicy;
pub use model::*;
pub use network::Network;
pub use prune::{PrunePolicy, TimeUnit};
pub use rotation::{RootRotationPolicy, RotationPolicy, Window};
pub use service::{
    ClaimGrant, ConsolePolicy, ConsoleSignIn, EmergencyPolicy, IssuerPolicy, ProxyHeader, ServiceLimits, ServicePolicy,
    ServiceTls, TokenAlgorithm, is_safe_url,
};
pub use sinks::{SinkKind, SinkPolicy, SyslogServer};
pub use traces::TracePolicy;
pub use url::{DatabaseUrl, Scheme};
pub use variables::Variables;
pub use words::{
    format_duration, format_normaliser, format_operator_key, parse_duration, parse_normaliser, parse_operator_key,
};

/// Reads and checks the policy file at `path`. `variables` is the environment that `${VAR}` and `ENFOLD_…` look into.
/// Every path in the policy is absolute afterwards.
///
/// # Errors
/// `PolicyInvalid` with one cause for each thing that is wrong, as `enfold.toml:12: rings.users.scop: unknown key (did
/// you mean `scope`?)`; `LocalKeyInProduction` or `KmsUriInvalid` if nothing else is wrong.
pub fn load(path: &Path, variables: &Variables) -> Result<Policy> {
    let bytes = std::fs::read(path).map_err(|error| {
        let (fact, hint) = match error.kind() {
            std::io::ErrorKind::NotFound => {
                ("there is no such file".to_owned(), "run `enfold init` to make one, or name it with `--config`")
            }
            kind => (kind.to_string(), "make the file readable for this user"),
        };
        Error::new(Code::PolicyInvalid, format!("cannot read the policy `{}`", path.display())).cause(fact).hint(hint)
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::new(Code::PolicyInvalid, format!("the policy `{}` is not UTF-8 text", path.display())))?;
    // A process that changes its folder later still finds its files.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    read(&text, path, &absolute, variables)
}

/// As [`load`], from a text that is said to stand in the file at `path`; nothing is read, and paths start at the folder
/// of `path` as it is given.
pub fn parse(text: &str, path: &Path, variables: &Variables) -> Result<Policy> {
    read(text, path, path, variables)
}

/// `shown` is what errors call the file, `path` where it is.
fn read(text: &str, shown: &Path, path: &Path, variables: &Variables) -> Result<Policy> {
    let mut findings = source::Findings::default();
    let mut root = source::parse(text, &mut findings);
    // What a broken text still holds is checked for its shape; what seems to be missing may only not have been read.
    let is_toml = findings.is_empty();
    variables::substitute(&mut root, &mut Vec::new(), variables, &mut findings);
    variables::override_settings(&mut root, variables, &mut findings);
    let checked = check::check(&root, &mut findings);
    let policy = if is_toml { resolve::resolve(checked, path, &mut findings) } else { None };
    match policy {
        Some(policy) if findings.is_empty() => Ok(policy),
        _ => Err(findings.into_error(&shown.display().to_string())),
    }
}
