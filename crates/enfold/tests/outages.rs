//! `docs/concepts/outages.md` makes no promise that no test holds.

use std::path::Path;

/// Every Rust source below a folder, as one text.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_sentence_of_the_page_on_outages_names_the_test_that_holds_it() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(here.join("../../docs/concepts/outages.md")).unwrap();
    let mut tests = String::new();
    for folder in ["src", "tests"] {
        sources(&here.join(folder), &mut tests);
    }
    let promises: Vec<String> = page.split("\n- ").skip(1).map(|promise| promise.replace('\n', " ")).collect();
    assert!(promises.len() > 20, "the page was not understood");
    for promise in promises {
        let (says, named) = promise.rsplit_once(" (`").unwrap_or_else(|| panic!("no test is named: {promise}"));
        let named = named.split_once(')').map_or(named, |(named, _)| named);
        for name in named.split(", ").map(|name| name.trim().trim_matches('`')) {
            assert!(tests.contains(&format!("fn {name}()")), "no test `{name}`, which is to hold: {says}");
        }
    }
}
