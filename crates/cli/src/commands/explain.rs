//! `enfold explain`: the page of an error code, which the binary carries.

use std::fmt::Write as _;

use enfold::{Code, Error, Result};
use serde_json::json;

use crate::args::Explain;
use crate::screen::Screen;

macro_rules! pages {
    ($($word:literal,)*) => {
        const PAGES: &[(&str, &str)] = &[
            $( ($word, include_str!(concat!("../../../../docs/errors/", $word, ".md"))), )*
        ];
    };
}

pages![
    "policy-invalid",
    "usage",
    "unknown-column",
    "context-required",
    "binding-incomplete",
    "database-unavailable",
    "database-denied",
    "database-untrusted",
    "database-failed",
    "disk-full",
    "table-missing",
    "type-refused",
    "plan-refused",
    "plan-stale",
    "not-confirmed",
    "catalog-version",
    "state-tampered",
    "state-rolled-back",
    "operator-key-missing",
    "log-key-missing",
    "log-tampered",
    "evidence-tampered",
    "events-unwritten",
    "key-file-permissions",
    "key-file-invalid",
    "passphrase-missing",
    "passphrase-wrong",
    "local-key-in-production",
    "reader-key-invalid",
    "reader-missing",
    "reader-needed",
    "kms-uri-invalid",
    "kms-unavailable",
    "kms-throttled",
    "kms-access-denied",
    "kms-key-not-found",
    "kms-key-disabled",
    "customer-key-refused",
    "customer-key-mismatch",
    "kms-version-retired",
    "wrap-invalid",
    "kms-protocol",
    "key-not-found",
    "key-disabled",
    "key-needed",
    "key-destroyed",
    "state-unseen",
    "envelope-malformed",
    "envelope-newer",
    "open-failed",
    "plaintext-refused",
    "value-too-large",
    "value-invalid",
    "plaintext-found",
    "rows-failed",
    "interrupted",
    "busy",
    "lease-lost",
    "readers-not-ready",
    "unauthenticated",
    "issuer-unavailable",
    "permission-denied",
    "idempotency-key-reused",
    "request-running",
    "unknown-endpoint",
    "method-not-allowed",
    "request-too-large",
    "rate-limited",
    "request-timeout",
    "file-failed",
    "internal",
];

pub(crate) fn run(screen: &Screen, args: &Explain) -> Result<()> {
    let Some(word) = &args.code else { return list(screen) };
    let page = PAGES.iter().find(|(w, _)| w == word).map(|(_, page)| *page);
    let page = page.ok_or_else(|| {
        Error::new(Code::Usage, format!("there is no error code `{word}`")).hint("`enfold explain` lists all of them")
    })?;
    screen.result(&json!({ "code": word, "page": page }), |out| out.push_str(page))
}

fn list(screen: &Screen) -> Result<()> {
    let codes: Vec<_> = Code::ALL.iter().map(|c| json!({ "code": c.word(), "exit_code": c.exit_code() })).collect();
    screen.result(&codes, |out| {
        for code in Code::ALL {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{:<26} exit {:>2}  {}", code.word(), code.exit_code(), first_line(code.word()));
        }
    })
}

/// What the code means: the first paragraph below the page's title.
fn first_line(word: &str) -> &'static str {
    PAGES.iter().find(|(w, _)| *w == word).and_then(|(_, page)| page.lines().nth(2)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_that_says_what_it_means_and_how_to_check_and_fix_it() {
        for code in Code::ALL {
            let page = PAGES.iter().find(|(w, _)| *w == code.word()).map(|(_, p)| *p);
            let page = page.unwrap_or_else(|| panic!("docs/errors/{code}.md is missing from explain.rs"));
            assert!(page.starts_with(&format!("# `{code}`\n")), "{code}");
            assert!(page.contains("## How to check") && page.contains("## How to fix"), "{code}");
        }
        assert_eq!(PAGES.len(), Code::ALL.len(), "a page without a code");
    }
}
