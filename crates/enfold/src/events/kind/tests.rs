use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use schemars::generate::SchemaSettings;

use super::*;

/// What the page says before its tables.
const HEAD: &str = "\
# Events

<!-- Made from the tables in crates/enfold/src/events/kind.rs and the comments in event.rs: change them, then run
     `ENFOLD_BLESS=1 cargo test -p enfold events::`. -->

What stands in the [log](../guides/log.md): in the catalog, in `events.file`, in an export and in whatever else the policy has events
written to. A line is one JSON object. No event holds a value, a key or a tenant.

A field that is not known is absent. What a later version adds are kinds and fields: a reader leaves out what it does not know.

## Kinds
";

const FIELDS: &str = "
## Fields

`writer`, `seq` and `prev` chain the entries of a process: its id, the entry's number from 1, and the hash of the one before.
`ring`, `column`, `key`, `key_version`, `job`, `endpoint` and `restored` are of the kinds that name them above; the others may stand in any event.

| field | meaning | elsewhere |
|---|---|---|
";

/// What other products call a field.
const ELSEWHERE: [(&str, &str); 10] = [
    ("at_ms", "timestamp"),
    ("kind", "event_type"),
    ("result", "result"),
    ("column", "field_identifier"),
    ("key", "key_identifier"),
    ("key_version", "key_version"),
    ("actor", "actor"),
    ("reason", "reason"),
    ("request_id", "request_id"),
    ("source", "source_ip"),
];

/// The page `docs/reference/events.md`.
fn page() -> String {
    let mut page = String::from(HEAD);
    page.push_str("\n| kind | meaning | result | fields of its own | elsewhere |\n|---|---|---|---|---|\n");
    let listed = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    for kind in EventKind::ALL {
        let outcome = serde_json::to_value(kind.outcome()).unwrap();
        let (has, elsewhere) = (listed(kind.has()), listed(kind.elsewhere()));
        let outcome = outcome.as_str().unwrap();
        let _ = writeln!(page, "| `{kind}` | {} | {outcome} | {has} | {elsewhere} |", kind.says().trim());
    }
    page.push_str("\nA `health-check` that did not pass has the result `failure`, or `denied`.\n");
    page.push_str(FIELDS);
    let mut elsewhere = BTreeMap::from(ELSEWHERE);
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<Event>().to_value();
    for (field, about) in schema["properties"].as_object().unwrap() {
        let meaning = about["description"].as_str().unwrap_or_else(|| panic!("`{field}` does not say what it means"));
        let name = elsewhere.remove(field.as_str()).map(|name| format!("`{name}`")).unwrap_or_default();
        let _ = writeln!(page, "| `{field}` | {} | {name} |", meaning.replace('\n', " "));
    }
    assert!(elsewhere.is_empty(), "fields that events do not have: {elsewhere:?}");
    page
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/events.md");
    if std::env::var_os("ENFOLD_BLESS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stands == page(), "docs/reference/events.md is stale: run `ENFOLD_BLESS=1 cargo test -p enfold events::`");
}

#[test]
fn a_word_and_a_name_elsewhere_mean_one_kind() {
    let words: BTreeSet<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(words.len(), EventKind::ALL.len());
    let names: Vec<_> = EventKind::ALL.iter().flat_map(|kind| kind.elsewhere()).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    for kind in EventKind::ALL {
        let word = serde_json::to_value(kind).unwrap();
        assert_eq!(serde_json::from_value::<EventKind>(word).unwrap(), *kind);
    }
}

#[test]
fn an_event_has_no_field_that_the_reference_does_not_give_its_kind() {
    let key = enfold_core::KeyId::from_bytes([7; 16]);
    let open = Event::new(EventKind::Open, 1).ring("main").column("users.email").key(key, Some(2));
    assert_eq!(EventKind::stray(&open), None);
    assert_eq!(EventKind::stray(&Event { job: Some("1".into()), ..open }), Some("job"));
    assert_eq!(EventKind::stray(&Event::new(EventKind::Lost, 1).ring("main")), Some("ring"));
}
