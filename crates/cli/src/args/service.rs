//! `enfold serve`, `enfold service-keys` and `enfold access-rules`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use enfold::access::Role;

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// The address and the port to listen on, instead of the policy's. Port 0 lets the system choose one.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ServiceKeys {
    /// Make a service key, and print it: the only time that it is shown. Needs the operators' key.
    Create(CreateServiceKey),
    /// Show which service keys there are, what they may do and until when.
    List,
    /// Have a service key let nobody in any more, within a second. Needs the operators' key.
    Revoke(RevokeServiceKey),
}

#[derive(Subcommand, Debug)]
pub(crate) enum AccessRules {
    /// Check the policy's access rules, as the service does when it starts.
    Check,
    /// Print what access rules can be about, as a schema of Cedar's.
    Schema,
}

#[derive(Args, Debug)]
pub(crate) struct CreateServiceKey {
    /// What the log of events calls whoever holds it.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What its holder may do. May be given more than once.
    #[arg(long, value_name = "ROLE", required = true)]
    pub(crate) role: Vec<RoleArg>,
    /// For values of this tenant alone. May be given more than once.
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Vec<String>,
    /// For columns of this class alone. May be given more than once.
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Vec<String>,
    /// For this column, or this value of the policy, alone. May be given more than once.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) column: Vec<String>,
    /// How long it lets in: `30d`, `12h`.
    #[arg(long, value_name = "TIME", default_value = "90d")]
    pub(crate) expires_in: String,
    /// Write the key into this file, which nobody else may read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct RevokeServiceKey {
    /// As `enfold service-keys list` shows it.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Seals and opens values.
    App,
    /// Opens values.
    Reader,
    /// Looks at jobs and steers them.
    Jobs,
    /// Keys, jobs and the log; no values.
    Admin,
    /// State and log.
    Security,
    /// The log, and nothing else.
    Audit,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::App => Self::App,
            RoleArg::Reader => Self::Reader,
            RoleArg::Jobs => Self::Jobs,
            RoleArg::Admin => Self::Admin,
            RoleArg::Security => Self::Security,
            RoleArg::Audit => Self::Audit,
        }
    }
}
