//! The mapping, and its page in the reference.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::*;

const HEAD: &str = "# Evidence

Made from `crates/jobs/evidence/` and `crates/jobs/src/evidence/checks.rs`: which checks speak for which control of a standard, and what each
check looks at. [The guide](../guides/evidence.md) says how evidence is made and read.

A control is as good as the worst of its checks: not met, not checked, met. Its words are those of the users who named it, in brackets.
";

/// The page `docs/reference/evidence.md`.
fn reference() -> String {
    let mut page = String::from(HEAD);
    for standard in Standard::ALL {
        let mapping = standard.mapping().unwrap();
        let _ = writeln!(page, "\n## {}\n\n`--standard {}`\n", mapping.title, standard.word());
        page.push_str("| control | | checks |\n|---|---|---|\n");
        for mapped in mapping.controls {
            let checks: Vec<String> = mapped.checks.iter().map(|id| format!("`{id}`")).collect();
            let Control { id, title, note, .. } = control(mapped, &[]);
            let note = note.map(|note| format!("<br>{note}")).unwrap_or_default();
            let _ = writeln!(page, "| {id} | {title}{note} | {} |", checks.join(", "));
        }
    }
    page.push_str(
        "\n## Checks\n\n| check | question | what the answer rests on, and what it does not say |\n|---|---|---|\n",
    );
    for check in Check::ALL {
        let _ = writeln!(page, "| `{}` | {} | {} |", check.id(), check.question(), check.limits());
    }
    page
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/evidence.md");
    if std::env::var_os("ENFOLD_BLESS").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    let how = "run `ENFOLD_BLESS=1 cargo test -p enfold-jobs evidence::`";
    assert!(stands == reference(), "docs/reference/evidence.md is stale: {how}");
}

#[test]
fn every_control_names_checks_that_there_are_and_every_check_speaks_for_one() {
    let known: BTreeSet<&str> = Check::ALL.iter().map(|check| check.id()).collect();
    assert_eq!(known.len(), Check::ALL.len());
    let mut used = BTreeSet::new();
    for standard in Standard::ALL {
        let mapping = standard.mapping().unwrap();
        let ids: BTreeSet<&str> = mapping.controls.iter().map(|control| control.id.as_str()).collect();
        assert_eq!(ids.len(), mapping.controls.len(), "{}", standard.word());
        for control in &mapping.controls {
            assert!(!control.checks.is_empty() && !control.from.is_empty(), "{} {}", standard.word(), control.id);
            for check in &control.checks {
                assert!(known.contains(check.as_str()), "{} {}: {check}", standard.word(), control.id);
                used.insert(check.clone());
            }
        }
    }
    assert_eq!(used.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);
}

#[test]
fn a_control_is_no_better_than_its_weakest_check() {
    let check = |id: &str, outcome| Checked {
        id: id.to_owned(),
        question: String::new(),
        at: String::new(),
        outcome,
        reason: None,
        found: Vec::new(),
        limits: String::new(),
    };
    let of = |outcomes: &[Outcome]| {
        let checks: Vec<Checked> =
            outcomes.iter().enumerate().map(|(n, outcome)| check(&n.to_string(), *outcome)).collect();
        let ids = checks.iter().map(|check| check.id.clone()).collect();
        control(Mapped { id: String::new(), title: String::new(), from: Vec::new(), checks: ids, note: None }, &checks)
            .outcome
    };
    use Outcome::{Met, NotChecked, NotMet};
    assert_eq!(of(&[Met, Met]), Met);
    assert_eq!(of(&[Met, NotChecked]), NotChecked);
    assert_eq!(of(&[NotChecked, NotMet, Met]), NotMet);
    assert_eq!(of(&[]), NotChecked, "what nobody looked at is not met");
}
