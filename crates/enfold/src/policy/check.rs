//! A tree against the shape of the policy: unknown keys, wrong types, numbers out of range, all of them in one pass.
//!
//! What is wrong is left out of the result, and remembered, so that what depends on it is not reported a second time.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

use super::schema::{Shape, Type};
use super::source::{Findings, Node, Place, Text, Value};
use super::words::{did_you_mean, parse_duration};

/// A path of keys, and items of a list by their number.
pub(super) type Path = Vec<String>;

/// What the check leaves: the sound part of the policy, and where everything stands.
pub(super) struct Checked {
    pub json: Json,
    pub places: BTreeMap<Path, Place>,
    /// Paths that were left out.
    pub faulty: BTreeSet<Path>,
}

pub(super) fn check(root: &Node, findings: &mut Findings) -> Checked {
    let mut checker = Checker { findings, places: BTreeMap::new(), faulty: BTreeSet::new(), path: Vec::new() };
    let json = checker.value(root, Shape::root()).unwrap_or_else(|| Json::Object(Map::new()));
    Checked { json, places: checker.places, faulty: checker.faulty }
}

struct Checker<'a> {
    findings: &'a mut Findings,
    places: BTreeMap<Path, Place>,
    faulty: BTreeSet<Path>,
    path: Path,
}

impl Checker<'_> {
    /// The value as JSON of the right type; none if it was refused.
    fn value(&mut self, node: &Node, shape: Shape<'_>) -> Option<Json> {
        let checked = match (&node.value, shape.kind()) {
            (Value::Table(entries), Type::Table | Type::Map) => {
                let mut object = Map::new();
                for (key, entry) in entries {
                    self.path.push(key.clone());
                    self.places.insert(self.path.clone(), entry.place.clone());
                    if let Some(json) = self.entry(key, &entry.place, &entry.node, shape) {
                        object.insert(key.clone(), json);
                    }
                    self.path.pop();
                }
                Ok(Json::Object(object))
            }
            (Value::List(items), Type::List) => return self.list(items, shape),
            // A variable holds a list with commas in it.
            (Value::Text(text), Type::List) if text.from_variable => {
                let items = text.value.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(Json::Array(items.map(Json::from).collect()))
            }
            (Value::Text(text), kind) => scalar(text, &kind, shape),
            (Value::Boolean(value), Type::Boolean) => Ok(Json::from(*value)),
            (Value::Integer(number), Type::Integer) => integer(*number, shape),
            (_, kind) => Err(format!("expected {}, found {}", expected(&kind), node.value.kind())),
        };
        match checked {
            Ok(json) => Some(json),
            Err(message) => {
                self.findings.add(&node.place, &self.path, message);
                self.faulty.insert(self.path.clone());
                None
            }
        }
    }

    fn entry(&mut self, key: &str, place: &Place, node: &Node, table: Shape<'_>) -> Option<Json> {
        let shape = if table.kind() == Type::Map { table.entry() } else { table.setting(key) };
        let Some(shape) = shape else {
            let near = did_you_mean(key, table.settings().map(|(name, _)| name));
            self.findings.add(place, &self.path, format!("unknown key{near}"));
            self.faulty.insert(self.path.clone());
            // The nearest key is taken as given, so that it is not reported as missing too.
            if let Some(name) = super::words::nearest(key, table.settings().map(|(name, _)| name)) {
                let mut meant = self.path.clone();
                meant.pop();
                meant.push(name.to_owned());
                self.faulty.insert(meant);
            }
            return None;
        };
        self.value(node, shape)
    }

    fn list(&mut self, items: &[Node], shape: Shape<'_>) -> Option<Json> {
        let shape = shape.item()?;
        let mut out = Vec::new();
        let mut sound = true;
        for (at, item) in items.iter().enumerate() {
            let at = at.to_string();
            self.path.push(at);
            self.places.insert(self.path.clone(), item.place.clone());
            match self.value(item, shape) {
                Some(json) => out.push(json),
                None => sound = false,
            }
            self.path.pop();
        }
        if !sound {
            self.faulty.insert(self.path.clone());
        }
        sound.then_some(Json::Array(out))
    }
}

/// A string, or what a variable says where something else than a string is wanted.
fn scalar(text: &Text, kind: &Type<'_>, shape: Shape<'_>) -> Result<Json, String> {
    let value = text.value.trim();
    match kind {
        Type::Text => Ok(Json::from(text.value.clone())),
        Type::Choice(words) if words.contains(&value) => Ok(Json::from(value)),
        Type::Choice(words) => {
            let near = if text.from_variable { String::new() } else { did_you_mean(value, words.iter().copied()) };
            Err(format!("expected one of `{}`{near}", words.join("`, `")))
        }
        Type::Duration => {
            let duration = parse_duration(value)?;
            let limit = |key| parse_duration(shape.word(key)).ok();
            if limit("x-minimum").is_some_and(|least| duration < least) {
                return Err(format!("shorter than `{}`", shape.word("x-minimum")));
            }
            if limit("x-maximum").is_some_and(|most| duration > most) {
                return Err(format!("longer than `{}`", shape.word("x-maximum")));
            }
            Ok(Json::from(value))
        }
        Type::Integer if text.from_variable => match value.parse() {
            Ok(number) => integer(number, shape),
            Err(_) => Err("expected an integer, found something else in the variable".into()),
        },
        Type::Boolean if text.from_variable => match value {
            "true" => Ok(Json::from(true)),
            "false" => Ok(Json::from(false)),
            _ => Err("expected `true` or `false`, found something else in the variable".into()),
        },
        kind => Err(format!("expected {}, found a string", expected(kind))),
    }
}

fn integer(number: i64, shape: Shape<'_>) -> Result<Json, String> {
    let least = shape.integer("minimum").unwrap_or(i64::MIN);
    let most = shape.integer("maximum").unwrap_or(i64::MAX);
    if (least..=most).contains(&number) {
        return Ok(Json::from(number));
    }
    Err(match (least, most) {
        (least, i64::MAX) => format!("expected an integer of {least} at least"),
        (least, most) => format!("expected an integer from {least} to {most}"),
    })
}

fn expected(kind: &Type<'_>) -> String {
    match kind {
        Type::Table | Type::Map => "a table".into(),
        Type::List => "a list of strings, as `[\"…\"]`".into(),
        Type::Text => "a string".into(),
        Type::Choice(words) => format!("one of `{}`", words.join("`, `")),
        Type::Duration => "a duration such as `\"5m\"`".into(),
        Type::Integer => "an integer".into(),
        Type::Boolean => "`true` or `false`".into(),
    }
}
