//! `docs/reference/paths.md`, held against the table of endpoints and the fields of their bodies.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{ENDPOINTS, Endpoint};

const PAGE: &str = include_str!("../../../../docs/reference/paths.md");

/// What stands between backticks, in order.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn named(endpoint: &Endpoint) -> String {
    format!("{} {}", endpoint.method, endpoint.path)
}

/// The fields of each endpoint, of its path, its query and both bodies, as the reference lists them.
fn fields() -> BTreeMap<String, BTreeSet<String>> {
    let mut fields: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut endpoint = String::new();
    for line in super::page().lines() {
        if let Some(heading) = line.strip_prefix("## `") {
            endpoint = heading.trim_end_matches('`').to_owned();
        } else if line.starts_with("| `") {
            fields.entry(endpoint.clone()).or_default().extend(quoted(line).first().map(|field| (*field).to_owned()));
        }
    }
    fields
}

/// Endpoints that the page names, with the permission that it says they need.
fn told() -> Vec<(String, String)> {
    let pair = |endpoint: &str, needs: &str| (endpoint.to_owned(), needs.to_owned());
    let headings = PAGE.lines().filter_map(|line| {
        let (_, here) = line.strip_prefix("### ")?.split_once(" is ")?;
        let quoted = quoted(here);
        assert!(here.contains(", which needs "), "{line}");
        Some(pair(quoted[0], quoted[1]))
    });
    let (_, others) = PAGE.split_once("## What none of them has").expect("the last part");
    let others = others.lines().filter(|line| line.starts_with("| `")).map(|line| match quoted(line).as_slice() {
        [endpoint, needs] => pair(endpoint, needs),
        [endpoint] if line.ends_with("| nothing |") => pair(endpoint, "nothing"),
        _ => panic!("{line}"),
    });
    headings.chain(others).collect()
}

#[test]
fn the_page_names_every_endpoint_and_none_that_is_not_there_with_what_it_needs() {
    let needed = |endpoint: &Endpoint| endpoint.needs.map_or("nothing", |needed| needed.word()).to_owned();
    let there: BTreeMap<String, String> = ENDPOINTS.iter().map(|e| (named(e), needed(e))).collect();
    let told = told();
    for (endpoint, needs) in &told {
        assert_eq!(there.get(endpoint), Some(needs), "{endpoint}");
    }
    let told: BTreeSet<&String> = told.iter().map(|(endpoint, _)| endpoint).collect();
    let left: Vec<&String> = there.keys().filter(|endpoint| !told.contains(endpoint)).collect();
    assert!(left.is_empty(), "docs/reference/paths.md does not say whose these are: {left:?}");
}

#[test]
fn every_field_on_the_page_is_one_of_its_endpoint() {
    let fields = fields();
    let (mut endpoint, mut looked_at) = ("", 0);
    for line in PAGE.lines().take_while(|line| !line.starts_with("## What none")) {
        if let Some((_, here)) = line.strip_prefix("### ").and_then(|line| line.split_once(" is ")) {
            endpoint = quoted(here)[0];
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, there, here, _] = cells.as_slice() else { continue };
        // What begins with a word has no field of its own here.
        if here.starts_with('`') && !quoted(here)[0].contains(' ') && *there != "there" {
            let field = quoted(here)[0];
            assert!(fields[endpoint].contains(field), "{endpoint}: `{field}`");
            looked_at += 1;
        }
    }
    assert!(looked_at > 40, "{looked_at}");
}
