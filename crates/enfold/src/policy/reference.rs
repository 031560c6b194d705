//! The reference of `enfold.toml`, made from the types that read it: a JSON Schema for editors and a page for people.
//!
//! Both stand in `docs/reference/`; a test fails when they are stale and rewrites them when `ENFOLD_BLESS=1` is set.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::schema::{SHAPE, Shape, Type};
use super::variables::variable_name;

/// What the page says before the tables.
const HEAD: &str = "\
# Configuration

<!-- Made from the types in crates/enfold/src/policy/raw.rs: change their comments, then run
     `ENFOLD_BLESS=1 cargo test -p enfold policy::`. -->

Everything Enfold is told stands in one TOML file, `enfold.toml`: the policy. A complete one is
[examples/enfold.toml](../../examples/enfold.toml); editors find its shape in
[enfold.schema.json](enfold.schema.json).

- Whatever is wrong with a policy is reported together, each with its line. A key that is not known is an error.
- `${NAME}` in any string stands for an environment variable, `${NAME:-default}` for one that may be missing;
  `$${` is `${` itself. Only values, not keys. A variable that is missing is an error. Where a setting is a number, a
  boolean, a choice or a list (with commas), the string may be a variable too: `rate = \"${RATE}\"`.
- Every setting has an environment variable of its own, which goes before the file: `ENFOLD_` and the keys that lead to
  it, joined by `_`, in capitals, with `_` for every character that is neither a letter nor a digit.
  `tables.\"public.users\".tenant` is `ENFOLD_TABLES_PUBLIC_USERS_TENANT`. Lists are written with commas. Names of rings,
  tables, columns, labels and the like come from the file: a variable changes a setting, it adds no column. A variable
  that begins with a section's name and means no setting is an error, and so is one that could mean two. An empty
  variable counts as not set.
- Relative paths start at the folder of the policy file.
- Durations are numbers with units: `500ms`, `30s`, `5m`, `1h30m`, `90d`, `2w`, `7y`.
- Words in capitals below (`RING`, `TABLE`) are names that you choose.
";

/// The JSON Schema of the file (draft 2020-12), with a line break at its end.
pub fn json_schema() -> String {
    let mut schema = SHAPE.clone();
    allow_variables(&mut schema);
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".into(), json!("enfold.toml"));
        let variable = json!({
            "description": "An environment variable.",
            "type": "string",
            "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
        });
        object.insert("$defs".into(), json!({ "variable": variable }));
    }
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// The page `docs/reference/configuration.md`.
pub fn configuration() -> String {
    let mut page = String::from(HEAD);
    section(&mut page, Shape::root(), &mut Vec::new());
    page
}

/// Where the file may have a number, it may have a variable that holds one.
fn allow_variables(schema: &mut Value) {
    let below = match Shape(schema).kind() {
        Type::Text => return,
        Type::Table => Some("properties"),
        Type::Map => Some("additionalProperties"),
        Type::List | Type::Choice(_) | Type::Duration | Type::Integer | Type::Boolean => None,
    };
    let Some(object) = schema.as_object_mut() else { return };
    match below {
        Some("properties") => {
            let settings = object.get_mut("properties").and_then(Value::as_object_mut);
            settings.into_iter().flat_map(Map::values_mut).for_each(allow_variables);
        }
        Some(key) => object.get_mut(key).into_iter().for_each(allow_variables),
        None => {
            let outside = ["description", "default"].into_iter();
            let mut outside: Map<_, _> =
                outside.filter_map(|key| object.remove(key).map(|value| (key.to_owned(), value))).collect();
            let inside = Value::Object(std::mem::take(object));
            outside.insert("anyOf".into(), json!([inside, { "$ref": "#/$defs/variable" }]));
            *object = outside;
        }
    }
}

/// One table of the file: its head, its settings, then the tables in it.
fn section(page: &mut String, shape: Shape<'_>, path: &mut Vec<String>) {
    if !path.is_empty() {
        let _ = write!(page, "\n## `[{}]`\n\n{}\n", header(path), shape.description());
    }
    let mut rows = String::new();
    for (name, setting) in shape.settings() {
        path.push(name.to_owned());
        let scalar_entries = setting.entry().filter(|entry| !matches!(entry.kind(), Type::Table | Type::Map));
        match (setting.kind(), scalar_entries) {
            (Type::Map, Some(entry)) => {
                path.push(placeholder(name).to_owned());
                row(&mut rows, &path[path.len() - 2..].join("."), setting.description(), entry, "none", path);
                path.pop();
            }
            (Type::Table | Type::Map, _) => {}
            _ => {
                let default = default(setting, shape.is_required(name));
                row(&mut rows, name, setting.description(), setting, &default, path);
            }
        }
        path.pop();
    }
    if !rows.is_empty() {
        page.push_str("\n| key | type | default | environment variable | meaning |\n| --- | --- | --- | --- | --- |\n");
        page.push_str(&rows);
    }
    for (name, setting) in shape.settings() {
        path.push(name.to_owned());
        match (setting.kind(), setting.entry()) {
            (Type::Table, _) => section(page, setting, path),
            (Type::Map, Some(entry)) if entry.kind() == Type::Table => {
                path.push(placeholder(name).to_owned());
                section(page, entry, path);
                path.pop();
            }
            _ => {}
        }
        path.pop();
    }
}

fn row(rows: &mut String, name: &str, meaning: &str, setting: Shape<'_>, default: &str, path: &[String]) {
    let mut meaning = meaning.replace('\n', " ");
    for (word, text) in setting.choices().into_iter().flatten().filter(|(_, text)| !text.is_empty()) {
        let _ = write!(meaning, "<br>`{word}`: {}", text.replace('\n', " "));
    }
    let kind = type_text(setting);
    let variable = variable_name(path);
    // A bar would end the cell.
    let cells = [format!("`{name}`"), kind, default.to_owned(), format!("`{variable}`"), meaning];
    let cells = cells.map(|cell| cell.replace('|', "\\|"));
    let _ = writeln!(rows, "| {} |", cells.join(" | "));
}

fn default(setting: Shape<'_>, required: bool) -> String {
    match setting.default() {
        _ if required => "**required**".into(),
        Some(Value::Array(items)) if items.is_empty() => "none".into(),
        Some(Value::String(text)) => format!("`{text}`"),
        Some(value) => format!("`{value}`"),
        None => "none".into(),
    }
}

fn type_text(setting: Shape<'_>) -> String {
    match setting.kind() {
        Type::Table | Type::Map => "table".into(),
        Type::List => match setting.word("x-items") {
            "" => "list of strings".into(),
            kind => format!("list of {}", items_text(kind)),
        },
        Type::Text => match setting.word("format") {
            "" => "string".into(),
            "database-url" => "database URL".into(),
            kind => kind.replace('-', " "),
        },
        Type::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Type::Duration => match (setting.word("x-minimum"), setting.word("x-maximum")) {
            ("", "") => "duration".into(),
            ("", most) => format!("duration, at most `{most}`"),
            (least, "") => format!("duration, at least `{least}`"),
            (least, most) => format!("duration, `{least}` to `{most}`"),
        },
        Type::Integer => match (setting.integer("minimum"), setting.integer("maximum")) {
            (Some(least), Some(i64::MAX) | None) => format!("integer, at least {least}"),
            (Some(least), Some(most)) => format!("integer, {least} to {most}"),
            _ => "integer".into(),
        },
        Type::Boolean => "boolean".into(),
    }
}

fn items_text(kind: &str) -> &str {
    match kind {
        "root-key-uri" => "root key URIs",
        "normaliser" => "normalisers",
        other => other,
    }
}

/// What stands for a name that the reader chooses.
fn placeholder(map: &str) -> &'static str {
    match map {
        "rings" => "RING",
        "vault" => "HOST:PORT",
        "local" => "FILE",
        "readers" => "READER",
        "fields" => "PART",
        "tables" => "TABLE",
        "columns" => "COLUMN",
        "indexes" => "INDEX",
        "values" => "VALUE",
        "labels" => "LABEL",
        "encryption_context" => "NAME",
        "triggers" => "TRIGGER",
        "tenants" => "TENANT",
        "prune" => "RULE",
        "issuers" => "ISSUER",
        "sinks" => "SINK",
        "grants" => "RULE",
        "only" => "COLUMN",
        _ => "NAME",
    }
}

fn header(path: &[String]) -> String {
    path.iter()
        .map(|key| match key.as_str() {
            "TABLE" => "\"TABLE\"",
            "TENANT" => "\"TENANT\"",
            "HOST:PORT" => "\"HOST:PORT\"",
            "FILE" => "\"FILE\"",
            key => key,
        })
        .collect::<Vec<_>>()
        .join(".")
}
