//! The OpenAPI document, made from the table of endpoints and the types of their bodies.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::api::{ENDPOINTS, Endpoint, ErrorAnswer, LONGEST_KEY};

/// OpenAPI 3.1, whose schemas are JSON Schema.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    // What a request may leave out and what an answer may are two things of the same types.
    let (mut asked, mut given) = (settings.clone().into_generator(), settings.for_serialize().into_generator());
    let error = given.subschema_for::<ErrorAnswer>();
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_lowercase()] = operation(endpoint, &mut asked, &mut given);
    }
    let mut schemas = asked.take_definitions(true);
    schemas.extend(given.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Enfold",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Seals and opens values under keys that a key service keeps.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": { "Error": { "description": "What went wrong.", "content": content(&error) } },
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "A service key." },
            },
        },
    })
}

fn operation(endpoint: &Endpoint, asked: &mut SchemaGenerator, given: &mut SchemaGenerator) -> Value {
    let (summary, more) = endpoint.says.split_once("\n\n").unwrap_or((endpoint.says, ""));
    let needs = endpoint.needs.map(|needed| format!("Needs `{}`.", needed.word()));
    let description: Vec<&str> =
        [Some(more).filter(|more| !more.is_empty()), needs.as_deref()].into_iter().flatten().collect();
    let mut operation = json!({ "operationId": operation_id(endpoint), "summary": summary });
    if !description.is_empty() {
        operation["description"] = json!(description.join("\n\n"));
    }
    if endpoint.needs.is_some() {
        operation["security"] = json!([{ "bearer": [] }]);
    }
    let in_path = endpoint.path.contains("{id}").then(|| {
        // Jobs are numbered; other ids are drawn.
        let id = match endpoint.path.contains("/jobs/") {
            true => json!({ "type": "integer", "format": "int64" }),
            false => json!({ "type": "string" }),
        };
        json!({ "name": "id", "in": "path", "required": true, "schema": id })
    });
    let query = endpoint.takes.filter(|_| !endpoint.takes_body());
    let query = query.map_or(Vec::new(), |takes| parameters(&takes(asked), asked));
    let in_header = endpoint.once.then(idempotency_key);
    if in_path.is_some() || in_header.is_some() || !query.is_empty() {
        operation["parameters"] = in_path.into_iter().chain(in_header).chain(query).collect();
    }
    if let Some(takes) = endpoint.takes.filter(|_| endpoint.takes_body()) {
        operation["requestBody"] = json!({ "required": true, "content": content(&takes(asked)) });
    }
    operation["responses"] = json!({
        "200": { "description": "Done.", "content": content(&(endpoint.gives)(given)) },
        "default": { "$ref": "#/components/responses/Error" },
    });
    operation
}

fn idempotency_key() -> Value {
    json!({
        "name": "Idempotency-Key",
        "in": "header",
        "required": false,
        "description": "Has a request that is repeated done once.",
        "schema": { "type": "string", "minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[!#-+\\--\\[\\]-~]+$" },
    })
}

/// The fields of a type as what may stand behind `?`.
fn parameters(schema: &Schema, generator: &SchemaGenerator) -> Vec<Value> {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|name| name.rsplit('/').next()).unwrap_or_default();
    let schema = generator.definitions().get(name).unwrap_or(&Value::Null);
    let is_required =
        |name: &String| schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name));
    let fields = schema["properties"].as_object();
    let parameter = |(name, schema): (&String, &Value)| json!({ "name": name, "in": "query", "required": is_required(name), "schema": schema });
    fields.into_iter().flatten().map(parameter).collect()
}

/// `postEncrypt`: the method and the last part of the path.
fn operation_id(endpoint: &Endpoint) -> String {
    let mut id = endpoint.method.as_str().to_lowercase();
    for part in endpoint.path.trim_start_matches(crate::api::BASE).split(['/', '-']).filter(|part| !part.is_empty()) {
        let part = part.trim_matches(['{', '}']);
        let (first, rest) = part.split_at(1.min(part.len()));
        id.push_str(&first.to_uppercase());
        id.push_str(rest);
    }
    id
}

/// JSON, unless the schema says what it is of.
fn content(schema: &Schema) -> Value {
    let media = schema.get("contentMediaType").and_then(Value::as_str).unwrap_or("application/json");
    json!({ media: { "schema": schema } })
}

/// The page `docs/reference/api.md`, from the same document.
pub fn page() -> String {
    let document = document();
    let mut page = HEAD.to_owned();
    page.push_str("\n| method | path | needs | |\n|---|---|---|---|\n");
    for Endpoint { method, path, needs, says, .. } in ENDPOINTS {
        let needs = needs.map_or("nothing".to_owned(), |needed| format!("`{}`", needed.word()));
        let (summary, _) = says.split_once("\n\n").unwrap_or((says, ""));
        page.push_str(&format!("| `{method}` | `{path}` | {needs} | {summary} |\n"));
    }
    for endpoint in ENDPOINTS {
        section(endpoint, &document, &mut page);
    }
    page
}

fn section(endpoint: &Endpoint, document: &Value, page: &mut String) {
    page.push_str(&format!("\n## `{} {}`\n\n{}\n", endpoint.method, endpoint.path, endpoint.says));
    let operation = &document["paths"][endpoint.path][endpoint.method.as_str().to_lowercase()];
    if endpoint.once {
        page.push_str("\nIs done once under an `Idempotency-Key`.\n");
    }
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let parameters: Vec<&Value> = parameters.filter(|parameter| parameter["in"] != "header").collect();
    if !parameters.is_empty() {
        page.push_str("\nTakes, in its path and behind `?`\n\n| field | type | |\n|---|---|---|\n");
        for parameter in parameters {
            let (name, schema) = (parameter["name"].as_str().unwrap_or_default(), &parameter["schema"]);
            let says = schema["description"].as_str().unwrap_or_default();
            page.push_str(&format!("| `{name}` | {} | {says} |\n", kind(schema, document)));
        }
    }
    let bodies = [("Takes", &operation["requestBody"]), ("Gives", &operation["responses"]["200"])];
    for (title, body) in bodies.into_iter().filter(|(_, body)| !body.is_null()) {
        let Some(schema) = body["content"]["application/json"].get("schema") else {
            page.push_str(&format!("\n{title} text.\n"));
            continue;
        };
        page.push_str(&format!("\n{title}\n\n| field | type | |\n|---|---|---|\n"));
        let mut shown = Vec::new();
        fields("", schema, document, &mut shown, page);
    }
}

/// A row for each field, and for those within it; one that leads back to where it came from is not followed again.
fn fields<'a>(path: &str, schema: &'a Value, document: &'a Value, above: &mut Vec<&'a str>, page: &mut String) {
    let Some((schema, name)) = resolved(schema, document) else { return };
    if name.is_some_and(|name| above.contains(&name)) {
        return;
    }
    above.extend(name);
    let alternatives = ["oneOf", "anyOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    if schema["type"] == "array" {
        fields(&format!("{path}[]"), &schema["items"], document, above, page);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let says = field["description"].as_str().or_else(|| resolved(field, document)?.0["description"].as_str());
        let says = says.unwrap_or_default().replace('\n', " ");
        page.push_str(&format!("| `{path}` | {} | {says} |\n", kind(field, document)));
        fields(&path, field, document, above, page);
    }
    alternatives.for_each(|schema| fields(path, schema, document, above, page));
    above.truncate(above.len() - usize::from(name.is_some()));
}

/// What a schema refers to, with its name.
fn resolved<'a>(schema: &'a Value, document: &'a Value) -> Option<(&'a Value, Option<&'a str>)> {
    let Some(name) = schema["$ref"].as_str() else { return Some((schema, None)) };
    let name = name.strip_prefix("#/components/schemas/")?;
    Some((document["components"]["schemas"].get(name)?, Some(name)))
}

fn kind(schema: &Value, document: &Value) -> String {
    let schema = resolved(schema, document).map_or(schema, |(schema, _)| schema);
    let alternatives = ["oneOf", "anyOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    let mut kinds: Vec<String> =
        alternatives.map(|schema| kind(schema, document)).filter(|kind| kind != "null").collect();
    match &schema["type"] {
        Value::String(kind) => kinds.push(kind.clone()),
        Value::Array(several) => {
            kinds.extend(several.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").map(str::to_owned));
        }
        _ => {}
    }
    if let Some(word) = schema["const"].as_str() {
        return format!("`{word}`");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    kinds.dedup();
    kinds.join(" or ")
}

const HEAD: &str = "\
# The API

<!-- Made from the table of endpoints in crates/server/src/api/mod.rs and the types of their bodies: change those, then run
     `ENFOLD_BLESS=1 cargo test -p enfold-server openapi`. -->

What `enfold serve` answers; [openapi.json](openapi.json) says it to programs. [The guide](../guides/service.md) begins at the
beginning.

- Every request but those about health has the header `Authorization: Bearer` with a service key. Without one, and with one that
  was revoked, has expired or never was, the answer is the same 401.
- Bodies are JSON. A field that is not known is an error.
- A whole answer that is an error is `{\"error\": {\"code\", \"status\", \"message\", \"hints\", \"page\"}, \"requestId\"}`, with the
  status. The codes are those of the command, and each has a page in [errors](../errors).
- A batch is answered with 200 and a result for each of its items, in their order. An item that failed has `error` instead of a
  result, of the same form, and the others are done.
- `X-Request-Id` of the request, if it is of 1 to 128 letters, digits, `-`, `_`, `.` and `:`, or a drawn one, comes back with the
  answer, and stands in the log of events and in the service's own log.
- `Idempotency-Key` has a request that changes something done once: asked again by the same caller with the same key and the very
  same method, path and body, within a day, it is answered as before (with `Idempotency-Replayed: true`) and not done again, by
  whichever process of the service. Another request with the key is 422 `idempotency-key-reused`, and one that is being done 409
  `request-running`. What failed is not kept: the same request tries again, and rotates nothing that was rotated already. A key is 1
  to 255 letters, digits and signs. Endpoints without it change nothing, or nothing more when they are repeated; there it is not
  looked at.
- A value that is a text is a string, one of bytes is `{\"base64\": \"…\"}`, and one of JSON is `{\"json\": \"…\"}` with its text, because
  not every program keeps every digit of a number. What is stored in a document may be sent as it is there: `{\"enf\": \"enf1:…\"}`.
- A tenant, and a part of a row's key, is a string, a whole number or `{\"uuid\": \"…\"}`: what it is in the table, because values
  are bound to its type as well.
";

#[cfg(test)]
mod paths;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn assert_current(name: &str, made: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name);
        if std::env::var_os("ENFOLD_BLESS").is_some() {
            std::fs::write(&path, made).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stands == made,
            "docs/reference/{name} is stale: run `ENFOLD_BLESS=1 cargo test -p enfold-server openapi`"
        );
    }

    #[test]
    fn the_openapi_document_and_its_page_are_current() {
        assert_current("openapi.json", &format!("{:#}\n", document()));
        assert_current("api.md", &page());
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(reference)) = object.get("$ref") {
                        let pointer = reference.trim_start_matches('#');
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    object.values().for_each(|value| walk(value, document));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, document)),
                _ => {}
            }
        }
        walk(&document(), &document());
        let names: BTreeSet<String> = ENDPOINTS.iter().map(operation_id).collect();
        assert_eq!(names.len(), ENDPOINTS.len());
    }
}
