use std::path::Path;

use serde_json::Value;

use crate::policy::reference;
use crate::policy::schema::{Shape, Type};

/// Compares a generated file with the one in the tree, or rewrites that one.
fn assert_current(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name);
    if std::env::var_os("ENFOLD_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, made).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stands == made, "docs/reference/{name} is stale: run `ENFOLD_BLESS=1 cargo test -p enfold policy::`");
}

#[test]
fn the_configuration_reference_is_current() {
    assert_current("configuration.md", &reference::configuration());
}

#[test]
fn the_json_schema_is_current() {
    assert_current("enfold.schema.json", &reference::json_schema());
}

#[test]
fn every_setting_says_what_it_means() {
    fn walk(shape: Shape<'_>, path: &str, settings: &mut usize) {
        for (name, setting) in shape.settings() {
            let path = format!("{path}.{name}");
            assert!(!setting.description().is_empty(), "{path} has no description");
            *settings += 1;
            walk(setting, &path, settings);
        }
        if let Some(entry) = shape.entry() {
            walk(entry, path, settings);
        }
    }
    let mut settings = 0;
    walk(Shape::root(), "", &mut settings);
    assert!(settings > 60, "{settings} settings were looked at");
}

#[test]
fn the_schema_knows_no_null_and_no_key_that_is_not_declared() {
    fn walk(value: &Value) {
        match value {
            Value::Object(object) => {
                assert!(object.get("type").is_none_or(Value::is_string), "{object:?}");
                if object.contains_key("properties") {
                    assert_eq!(object["additionalProperties"], Value::Bool(false), "{object:?}");
                }
                object.values().for_each(walk);
            }
            Value::Array(items) => items.iter().for_each(walk),
            value => assert!(!value.is_null()),
        }
    }
    walk(&serde_json::from_str(&reference::json_schema()).unwrap());
}

#[test]
fn the_example_sets_every_key_of_the_reference() {
    fn walk(shape: Shape<'_>, example: Option<&toml::Value>, path: &str, missing: &mut Vec<String>) {
        for (name, setting) in shape.settings() {
            let path = format!("{path}.{name}");
            let found = example.and_then(|table| table.get(name));
            if let Some(entry) = setting.entry().filter(|entry| entry.kind() == Type::Table) {
                // Any one of the rings, tables and columns may show a key.
                let mut united = toml::Table::new();
                for table in found.and_then(toml::Value::as_table).into_iter().flat_map(|map| map.values()) {
                    unite(&mut united, table);
                }
                walk(entry, Some(&toml::Value::Table(united)), &path, missing);
            } else if setting.kind() == Type::Table {
                walk(setting, found, &path, missing);
            } else if found.is_none() {
                missing.push(path);
            }
        }
    }
    fn unite(into: &mut toml::Table, table: &toml::Value) {
        for (key, value) in table.as_table().into_iter().flatten() {
            match (into.get_mut(key), value) {
                (Some(toml::Value::Table(known)), toml::Value::Table(_)) => unite(known, value),
                _ => {
                    into.insert(key.clone(), value.clone());
                }
            }
        }
    }
    let example: toml::Value = toml::from_str(include_str!("../../../../../examples/enfold.toml")).unwrap();
    let mut missing = Vec::new();
    walk(Shape::root(), Some(&example), "", &mut missing);
    let mut left_out = missing.iter().map(String::as_str).collect::<Vec<_>>();
    // Local root keys in production are nothing to copy; the other levels are like the one shown. Comments show
    // what other ways to sign in take, and another page what readers of other formats do.
    let other_ways = [
        ".events.signing_key",
        ".key_services.azure.client_secret_file",
        ".key_services.azure.client_certificate_file",
        ".key_services.vault.role",
        ".key_services.vault.jwt_file",
        ".key_services.vault.client_certificate_file",
        ".key_services.vault.client_key_file",
    ];
    left_out.retain(|path| {
        let loose = path.starts_with(".key_services.local.")
            || path.starts_with(".readers.")
            || *path == ".rings.allow_local_in_production";
        !path.starts_with(".log.levels.") && !loose && !other_ways.contains(path)
    });
    assert!(left_out.is_empty(), "{left_out:?}");
}
