//! A value in JSON: a text is a string, bytes are `{"base64": "…"}`, and what is JSON itself is `{"json": "…"}`, its text.
//!
//! JSON comes as its text, because a number with more digits than a program keeps would be another one when it comes back.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use enfold::{Form, OwnedPart, access};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// It cannot be printed, and is wiped on drop. (What HTTP and JSON held of it on the way is not.)
pub(crate) struct Datum {
    pub(crate) form: Form,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

impl Datum {
    /// As a text where it is one.
    pub(crate) fn new(form: Form, bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { form, bytes }
    }
}

impl Serialize for Datum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let one = |serializer: S, name: &str, text: &str| {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(name, text)?;
            map.end()
        };
        match (self.form, std::str::from_utf8(&self.bytes)) {
            (Form::Text, Ok(text)) => serializer.serialize_str(text),
            (Form::Json, Ok(text)) => one(serializer, "json", text),
            _ => one(serializer, "base64", &Zeroizing::new(STANDARD.encode(&self.bytes))),
        }
    }
}

impl<'de> Deserialize<'de> for Datum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DatumVisitor)
    }
}

/// By hand, because serde's untagged enums keep copies that nobody wipes, and quote what they do not know.
struct DatumVisitor;

impl<'de> Visitor<'de> for DatumVisitor {
    type Value = Datum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, `{\"base64\": \"…\"}` or `{\"json\": \"…\"}`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Datum, E> {
        Ok(Datum::new(Form::Text, Zeroizing::new(text.as_bytes().to_vec())))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Datum, E> {
        Ok(Datum::new(Form::Text, Zeroizing::new(text.into_bytes())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Datum, A::Error> {
        let unknown = || A::Error::custom("neither bytes in base64 nor JSON");
        let Some(name) = map.next_key::<Cow<'de, str>>()? else { return Err(unknown()) };
        let text = Zeroizing::new(map.next_value::<String>()?);
        let datum = match &*name {
            "base64" => {
                let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| unknown())?;
                Datum::new(Form::Bytes, Zeroizing::new(bytes))
            }
            "json" => {
                serde_json::from_str::<IgnoredAny>(&text).map_err(|_| unknown())?;
                Datum::new(Form::Json, Zeroizing::new(text.as_bytes().to_vec()))
            }
            // An envelope as a document holds it, with what stands beside it there.
            "enf" => {
                while let Some(beside) = map.next_key::<Cow<'de, str>>()? {
                    // Readers differ in which of two they take.
                    if beside == "enf" {
                        return Err(unknown());
                    }
                    map.next_value::<IgnoredAny>()?;
                }
                let object = serde_json::json!({ "enf": &*text }).to_string();
                return Ok(Datum::new(Form::Json, Zeroizing::new(object.into_bytes())));
            }
            _ => return Err(unknown()),
        };
        if map.next_key::<Cow<'de, str>>()?.is_some() { Err(unknown()) } else { Ok(datum) }
    }
}

impl JsonSchema for Datum {
    fn schema_name() -> Cow<'static, str> {
        "Value".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A text, bytes in base64, or the text of JSON.",
            "oneOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "base64": { "type": "string", "contentEncoding": "base64" } },
                    "required": ["base64"],
                    "additionalProperties": false,
                },
                {
                    "type": "object",
                    "properties": { "json": { "type": "string", "contentMediaType": "application/json" } },
                    "required": ["json"],
                    "additionalProperties": false,
                },
                {
                    "description": "An envelope as a document holds it: `stored` alone.",
                    "type": "object",
                    "properties": { "enf": { "type": "string" } },
                    "required": ["enf"],
                },
            ],
        })
    }
}

/// A tenant, or a part of a row's key: what type it has decides what a value is bound to.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum PlacePart {
    Text(String),
    Number(i64),
    Uuid(UuidPart),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UuidPart {
    /// In groups of 8, 4, 4, 4 and 12 digits.
    #[serde(deserialize_with = "uuid")]
    #[schemars(with = "String", extend("format" = "uuid"))]
    uuid: OwnedPart,
}

impl PlacePart {
    pub(crate) fn owned(&self) -> OwnedPart {
        match self {
            Self::Text(text) => OwnedPart::Text(text.clone()),
            Self::Number(number) => OwnedPart::Int(*number),
            Self::Uuid(UuidPart { uuid }) => uuid.as_part().to_owned(),
        }
    }
}

fn uuid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OwnedPart, D::Error> {
    let text = String::deserialize(deserializer)?;
    access::uuid_part(&text).ok_or_else(|| D::Error::custom("not a UUID"))
}
