//! Holds the documentation's table to what the suite reports.

use enfold::kms::conformance::{Outcome, Report};

const PAGE: &str = include_str!("../../../../docs/concepts/key-services.md");

/// Panics unless the column that begins with `provider` says what `report` says, row by row.
pub(crate) fn must_be_documented(provider: &str, report: &Report) {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
    let table: Vec<_> = PAGE.lines().skip_while(|l| !l.starts_with("| case |")).take_while(|l| !l.is_empty()).collect();
    let column = cells(table[0]).iter().position(|c| c.starts_with(provider)).expect("a column of the provider");
    let written: Vec<_> = table[2..].iter().map(|l| (cells(l)[0].clone(), cells(l)[column].clone())).collect();
    let found: Vec<_> = report.results.iter().map(|(case, outcome)| (case.name().to_owned(), said(outcome))).collect();
    assert_eq!(written, found, "docs/concepts/key-services.md, column {provider}");
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Deviated(code) => format!("refused, as `{code}`"),
        Outcome::NotRun(_) => "not run".to_owned(),
        Outcome::Failed(_) => "failed".to_owned(),
    }
}
