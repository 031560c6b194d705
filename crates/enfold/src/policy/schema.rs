//! The shape of the policy file as data: the JSON Schema that `raw.rs` yields, and the few questions asked of it.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::raw::RawPolicy;

/// The schema with everything in place: no references, no nulls.
pub(super) static SHAPE: LazyLock<Value> = LazyLock::new(|| {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<RawPolicy>().to_value();
    simplify(&mut schema);
    schema
});

/// A part of the schema.
#[derive(Clone, Copy)]
pub(super) struct Shape<'a>(pub &'a Value);

/// What a setting is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type<'a> {
    /// A table whose keys are settings.
    Table,
    /// A table whose keys are names.
    Map,
    List,
    Text,
    Choice(Vec<&'a str>),
    Duration,
    Integer,
    Boolean,
}

impl<'a> Shape<'a> {
    pub(super) fn root() -> Shape<'static> {
        Shape(&SHAPE)
    }

    pub(super) fn kind(self) -> Type<'a> {
        if let Some(choices) = self.choices() {
            return Type::Choice(choices.map(|(word, _)| word).collect());
        }
        match self.word("type") {
            "object" if self.0.get("properties").is_some() => Type::Table,
            "object" => Type::Map,
            "array" => Type::List,
            "integer" => Type::Integer,
            "boolean" => Type::Boolean,
            _ if self.word("format") == "duration" => Type::Duration,
            _ => Type::Text,
        }
    }

    /// The settings of a table, in the order in which `raw.rs` declares them.
    pub(super) fn settings(self) -> impl Iterator<Item = (&'a str, Shape<'a>)> {
        let settings = self.0.get("properties").and_then(Value::as_object);
        settings.into_iter().flatten().map(|(name, shape)| (name.as_str(), Shape(shape)))
    }

    pub(super) fn setting(self, name: &str) -> Option<Shape<'a>> {
        self.0.get("properties")?.get(name).map(Shape)
    }

    /// What each named entry of a map is.
    pub(super) fn entry(self) -> Option<Shape<'a>> {
        self.0.get("additionalProperties").filter(|shape| shape.is_object()).map(Shape)
    }

    /// What each item of a list is.
    pub(super) fn item(self) -> Option<Shape<'a>> {
        self.0.get("items").map(Shape)
    }

    /// The words of a choice with their meanings.
    pub(super) fn choices(self) -> Option<impl Iterator<Item = (&'a str, &'a str)>> {
        let of = |key: &str| self.0.get(key).and_then(Value::as_array);
        let choices = of("oneOf").or_else(|| of("enum"))?;
        Some(choices.iter().flat_map(|choice| {
            let meaning = choice.get("description").and_then(Value::as_str).unwrap_or("");
            // Variants without a comment come together, as one `enum`.
            let together = choice.get("enum").and_then(Value::as_array).into_iter().flatten();
            let alone = choice.get("const").or(choice.is_string().then_some(choice));
            alone.into_iter().chain(together).filter_map(Value::as_str).map(move |word| (word, meaning))
        }))
    }

    pub(super) fn description(self) -> &'a str {
        self.word("description")
    }

    /// The default as JSON; none where leaving a setting out means that there is none.
    pub(super) fn default(self) -> Option<&'a Value> {
        self.0.get("default")
    }

    pub(super) fn is_required(self, setting: &str) -> bool {
        self.0
            .get("required")
            .and_then(Value::as_array)
            .is_some_and(|names| names.iter().any(|name| name.as_str() == Some(setting)))
    }

    pub(super) fn integer(self, key: &str) -> Option<i64> {
        self.0.get(key).and_then(Value::as_i64)
    }

    pub(super) fn word(self, key: &str) -> &'a str {
        self.0.get(key).and_then(Value::as_str).unwrap_or("")
    }
}

/// Takes out what only says that a setting may be left out: an `Option` of Rust is an absent key in TOML, never null.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            unite_with_absent(object);
            require(object);
            object.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// Lists the settings that must be there. They are optional to serde, so that one that is missing is reported with
/// everything else.
fn require(object: &mut Map<String, Value>) {
    let Some(settings) = object.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let marked = settings.iter_mut().filter_map(|(name, setting)| {
        setting.as_object_mut()?.shift_remove("x-required")?;
        Some(Value::from(name.clone()))
    });
    let required: Vec<Value> = marked.collect();
    if !required.is_empty() {
        object.insert("required".into(), Value::Array(required));
    }
}

fn unite_with_absent(object: &mut Map<String, Value>) {
    // A table's default is that of its settings.
    if object.get("default").is_some_and(|default| default.is_null() || default.is_object()) {
        object.remove("default");
    }
    let single = object.get("type").and_then(Value::as_array).and_then(|types| {
        let mut named = types.iter().filter(|name| name.as_str() != Some("null"));
        named.next().cloned()
    });
    if let Some(single) = single {
        object.insert("type".into(), single);
    }
    if let Some(Value::Array(words)) = object.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else {
        return;
    };
    choices.retain(|choice| choice.get("type").and_then(Value::as_str) != Some("null"));
    if let [Value::Object(_)] = choices.as_slice() {
        let only = choices.remove(0);
        object.remove("anyOf");
        for (key, value) in only.as_object().into_iter().flatten() {
            // The setting's own comment says more than its type's.
            object.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}
