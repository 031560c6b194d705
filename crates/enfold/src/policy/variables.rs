//! Environment variables in a policy: `${VAR}` in its strings, and `ENFOLD_…` in the place of a setting.
//!
//! The environment is handed in. Only the command reads the process's own.
//!
//! The name of a setting's variable is `ENFOLD_` and the keys that lead to it, joined by `_`, in capitals, with `_` for
//! every character that is neither a letter nor a digit: `rings.customers.scope` is `ENFOLD_RINGS_CUSTOMERS_SCOPE`,
//! `tables."public.users".tenant` is `ENFOLD_TABLES_PUBLIC_USERS_TENANT`. Names of rings, tables, columns and the like
//! come from the file: a variable changes a setting, it does not add a column. An empty variable counts as not set.

use std::collections::BTreeMap;

use super::schema::{Shape, Type};
use super::source::{Entry, Findings, Node, Place, Text, Value};
use super::words::{did_you_mean, path_text};

/// Environment variables by name.
pub type Variables = BTreeMap<String, String>;

const PREFIX: &str = "ENFOLD_";

/// The variable of the setting at a path.
pub(super) fn variable_name(path: &[String]) -> String {
    let mut name = String::from(PREFIX);
    for (at, key) in path.iter().enumerate() {
        if at > 0 {
            name.push('_');
        }
        name.extend(key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }));
    }
    name
}

/// Replaces every `${VAR}` and `${VAR:-default}` in the strings of the tree.
pub(super) fn substitute(node: &mut Node, path: &mut Vec<String>, variables: &Variables, findings: &mut Findings) {
    match &mut node.value {
        Value::Text(text) if text.value.contains('$') => match expand(&text.value, variables) {
            Ok(Some(value)) => *text = Text { value, from_variable: true },
            Ok(None) => {}
            Err(message) => findings.add(&node.place, path, message),
        },
        Value::List(items) => items.iter_mut().for_each(|item| substitute(item, path, variables, findings)),
        Value::Table(entries) => {
            for (key, entry) in entries {
                path.push(key.clone());
                substitute(&mut entry.node, path, variables, findings);
                path.pop();
            }
        }
        _ => {}
    }
}

/// None if the text refers to no variable and stays as it is.
fn expand(text: &str, variables: &Variables) -> Result<Option<String>, String> {
    let mut out = String::new();
    let mut changed = false;
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        changed = true;
        // `$${` is how a policy writes `${` itself.
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let (inside, after) = rest[at + 2..].split_once('}').ok_or("`${` without its `}`")?;
        rest = after;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err("expected `${NAME}` or `${NAME:-default}` (write `$${` for the characters themselves)".into());
        }
        match (variables.get(name).filter(|value| !value.is_empty()), default) {
            (Some(value), _) => out.push_str(value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => return Err(format!("the environment variable `{name}` is not set")),
        }
    }
    out.push_str(rest);
    Ok(changed.then_some(out))
}

/// Puts the values of `ENFOLD_…` variables in the place of what the file says.
pub(super) fn override_settings(root: &mut Node, variables: &Variables, findings: &mut Findings) {
    let mut settings: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    collect(Shape::root(), Some(root), &mut Vec::new(), &mut settings);
    for (name, value) in variables.iter().filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty()) {
        let place = Place::Variable(name.clone());
        match settings.get(name).map(Vec::as_slice) {
            Some([path]) => set(root, path, &place, value),
            Some(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| format!("`{}`", path_text(path))).collect();
                findings.add(&place, &[], format!("the variable may mean {}; set it in the file", paths.join(" or ")));
            }
            // Others of our variables (`ENFOLD_CONFIG`) do not begin with a section of the file.
            None if Shape::root().settings().any(|(section, _)| belongs_to(name, section)) => {
                let near = did_you_mean(name, settings.keys().map(String::as_str));
                findings.add(&place, &[], format!("no setting of this policy has this variable{near}"));
            }
            None => {}
        }
    }
}

fn belongs_to(name: &str, section: &str) -> bool {
    let start = variable_name(&[section.to_owned()]);
    name.strip_prefix(&start).is_some_and(|rest| rest.starts_with('_'))
}

/// Every scalar and list that a variable may set, by its variable.
fn collect(
    shape: Shape<'_>,
    node: Option<&Node>,
    path: &mut Vec<String>,
    settings: &mut BTreeMap<String, Vec<Vec<String>>>,
) {
    let entries = node.and_then(|node| match &node.value {
        Value::Table(entries) => Some(entries),
        _ => None,
    });
    match shape.kind() {
        Type::Table => {
            for (name, shape) in shape.settings() {
                path.push(name.to_owned());
                collect(shape, entries.and_then(|entries| entries.get(name)).map(|e| &e.node), path, settings);
                path.pop();
            }
        }
        Type::Map => {
            let Some(shape) = shape.entry() else { return };
            for (name, entry) in entries.into_iter().flatten() {
                path.push(name.clone());
                collect(shape, Some(&entry.node), path, settings);
                path.pop();
            }
        }
        _ => settings.entry(variable_name(path)).or_default().push(path.clone()),
    }
}

fn set(root: &mut Node, path: &[String], place: &Place, value: &str) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut node = root;
    for key in parents {
        // Where the file has something else than a table, the check says so.
        let Value::Table(entries) = &mut node.value else { return };
        let fresh = || Entry {
            place: place.clone(),
            node: Node { place: place.clone(), value: Value::Table(BTreeMap::new()) },
        };
        node = &mut entries.entry(key.clone()).or_insert_with(fresh).node;
    }
    if let Value::Table(entries) = &mut node.value {
        let value = Value::Text(Text { value: value.to_owned(), from_variable: true });
        entries.insert(last.clone(), Entry { place: place.clone(), node: Node { place: place.clone(), value } });
    }
}
