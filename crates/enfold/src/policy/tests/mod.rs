//! The loader, from text to policy or to the exact lines of its errors.

mod errors;
mod readers;
mod reference;
mod variables;
mod whole;
mod writing;

use std::path::Path;

use super::{Policy, Variables, parse};
use crate::Result;

/// A policy that is as short as may be.
const SHORT: &str = r#"
environment = "development"
[database]
url = "sqlite:app.db"
[rings.customers]
id = "customers"
roots = ["local:dev.key"]
scope = "column"
[tables.users.columns.email]
id = "users.email"
ring = "customers"
"#;

fn load(text: &str) -> Result<Policy> {
    load_with(text, &[])
}

fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Policy> {
    let variables: Variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    parse(text, Path::new("enfold.toml"), &variables)
}

/// What the command prints, without its decoration.
fn refused(text: &str) -> String {
    refused_with(text, &[])
}

fn refused_with(text: &str, variables: &[(&str, &str)]) -> String {
    let Err(error) = load_with(text, variables) else { panic!("the policy was accepted") };
    let mut lines = vec![format!("{}: {}", error.code(), error.message())];
    lines.extend(error.causes().map(str::to_owned));
    lines.extend(error.hints().map(|hint| format!("hint: {hint}")));
    lines.join("\n")
}
