//! Paths inside JSON columns.

use std::collections::BTreeMap;

use serde_json::Value;

/// All sampled values at one path.
pub(crate) struct Leaf {
    /// `$.contact.email`; arrays are `[]`.
    pub(crate) path: String,
    /// The nearest object key, which stands for a column's name.
    pub(crate) key: String,
    pub(crate) values: Vec<String>,
}

/// Depth beyond which a document is data about data.
const MAX_DEPTH: usize = 8;

/// A json or jsonb column, or text of which most values are objects or arrays.
pub(crate) fn is_json(sql_type: &str, values: &[&str]) -> bool {
    if sql_type.to_ascii_lowercase().starts_with("json") {
        return true;
    }
    let documents = values
        .iter()
        .filter(|v| v.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(v).is_ok())
        .count();
    !values.is_empty() && documents * 10 >= values.len() * 8
}

pub(crate) fn leaves(values: &[&str]) -> Vec<Leaf> {
    let mut found: BTreeMap<String, Leaf> = BTreeMap::new();
    for text in values {
        if let Ok(document) = serde_json::from_str::<Value>(text) {
            walk(&document, "$", "", 0, &mut found);
        }
    }
    found.into_values().collect()
}

fn walk(value: &Value, path: &str, key: &str, depth: usize, found: &mut BTreeMap<String, Leaf>) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            for (k, v) in map {
                walk(v, &format!("{path}.{k}"), k, depth + 1, found);
            }
        }
        Value::Array(items) => {
            for item in items {
                walk(item, &format!("{path}[]"), key, depth + 1, found);
            }
        }
        Value::String(s) => push(path, key, s.trim(), found),
        Value::Number(n) => push(path, key, &n.to_string(), found),
        Value::Bool(_) | Value::Null => {}
    }
}

fn push(path: &str, key: &str, value: &str, found: &mut BTreeMap<String, Leaf>) {
    if value.is_empty() {
        return;
    }
    found
        .entry(path.to_owned())
        .or_insert_with(|| Leaf { path: path.to_owned(), key: key.to_owned(), values: Vec::new() })
        .values
        .push(value.to_owned());
}
