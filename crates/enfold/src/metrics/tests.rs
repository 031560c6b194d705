use std::fmt::Write as _;
use std::path::Path;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::*;

/// What the page says before the table.
const HEAD: &str = "\
# Figures of the library

<!-- Made from the comments in crates/enfold/src/metrics.rs: change them, then run
     `ENFOLD_BLESS=1 cargo test -p enfold metrics::`. -->

`Enfold::metrics()` gives what a process did so far as plain data that serialises with serde: to be exported under the names
of whoever reads it. Taking it asks nobody. `enfold serve` and workers expose it to Prometheus: see [metrics](metrics.md).

- Counts begin with the process's `Enfold` and only go up; `state`, `asked_again_in_seconds`, `entries` and `lost_events`
  say how it is now.
- Nothing in it can hold a key, a value or a tenant. The only names are URIs of root keys, names of rings and classes in the policy,
  operations and [error codes](../errors/).
- `requests` of a root key's service are what AWS charges for; `calls` are batches. The figures of a service stand below
  retries and limits, so each try counts.

## What to watch

| question | figures |
|---|---|
| does the cache do its work? | `hits` of `data_keys` above 99 % of `hits` and `misses`; `evictions` still |
| is a key service slow? | `latency`, `seconds` by `calls` |
| is one away? | `breaker.state`, `left_alone`; `stale` says that values are opened with keys past their life |
| does one refuse? | `failed` by code: `kms-access-denied`, `kms-key-disabled` |
| is a quota reached? | `failed` with `kms-throttled`, `limit_waits` |

## Figures

| figure | type | meaning |
|---|---|---|
";

/// The page `docs/reference/figures.md`.
fn page() -> String {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<Metrics>().to_value();
    let mut page = String::from(HEAD);
    rows(&mut page, &schema, "");
    page
}

fn rows(page: &mut String, schema: &Value, path: &str) {
    for (name, figure) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}{name}");
        let meaning = figure["description"].as_str().unwrap_or_default().replace('\n', " ");
        assert!(!meaning.is_empty(), "`{path}` does not say what it means");
        // What may be absent is of its own type or null.
        let kind = figure["type"].as_str().or_else(|| figure["type"][0].as_str());
        let (kind, below) = match kind {
            Some("array") if figure["items"]["properties"].is_object() => ("list", Some((&figure["items"], "[]"))),
            Some("array") => ("list of counts", None),
            Some("object") if figure["properties"].is_object() => ("group", Some((figure, ""))),
            Some("object") if figure["additionalProperties"]["properties"].is_object() => {
                ("by word", Some((&figure["additionalProperties"], ".*")))
            }
            Some("object") => ("counts by word", None),
            Some("integer") => ("count", None),
            Some("number") => ("number", None),
            Some("string") => ("text", None),
            other => panic!("`{path}` is of a type that has no word: {other:?}"),
        };
        let _ = writeln!(page, "| `{path}` | {kind} | {meaning} |");
        if let Some((below, mark)) = below {
            rows(page, below, &format!("{path}{mark}."));
        }
    }
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/figures.md");
    if std::env::var_os("ENFOLD_BLESS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stands == page(),
        "docs/reference/figures.md is stale: run `ENFOLD_BLESS=1 cargo test -p enfold metrics::`"
    );
}

#[test]
fn durations_are_seconds() {
    let breaker = BreakerMetrics::new(Standing::LeftAlone(Duration::from_millis(1500)), 2, 3);
    let shown = serde_json::to_value(breaker).unwrap();
    let wanted = serde_json::json!(
        { "state": "left-alone", "asked_again_in_seconds": 1.5, "left_alone": 2, "not_asked": 3 }
    );
    assert_eq!(shown, wanted);
}
