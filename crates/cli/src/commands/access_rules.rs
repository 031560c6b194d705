//! `enfold access-rules`: what narrows what roles grant to the service's callers.

use std::fmt::Write as _;

use enfold::Result;
use enfold_server::rules::{Rules, schema};
use serde_json::json;

use super::Context;
use crate::args::AccessRules;

pub(crate) fn run(context: &Context<'_>, args: &AccessRules) -> Result<()> {
    let policy = context.policy()?;
    match args {
        AccessRules::Schema => {
            let schema = schema(&policy);
            context.screen.result(&json!({ "schema": schema }), |out| out.push_str(&schema))
        }
        AccessRules::Check => {
            let rules = Rules::read(&policy)?;
            let names = rules.as_ref().map(Rules::names).unwrap_or_default();
            context.screen.result(&json!({ "file": policy.access_rules, "rules": names }), |out| {
                match &policy.access_rules {
                    None => out.push_str("The policy names no access rules.\n"),
                    Some(file) => {
                        let _ = writeln!(out, "The rules in {} are sound:", file.display());
                        for name in &names {
                            let _ = writeln!(out, "  {name}");
                        }
                    }
                }
            })
        }
    }
}
