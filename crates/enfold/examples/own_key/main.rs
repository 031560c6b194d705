//! Runs the conformance suite of key services on a key of yours: `make test-cloud`.
//!
//! `ENFOLD_CLOUD_AWS_KEY`, `ENFOLD_CLOUD_GOOGLE_KEY` and `ENFOLD_CLOUD_AZURE_KEY` name the keys by their URIs;
//! `…_OTHER_KEY` a second one of the same service, to see that wraps of the one do not open under the other. Throw-away
//! keys are wrapped and unwrapped, some three hundred calls for each service, and nothing about the keys is changed.
//!
//! Credentials come from where `docs/concepts/key-services.md` says; `ENFOLD_CLOUD_AZURE_AUTH` says how to sign in to
//! Azure (`managed-identity` where it does not). Exit code 0: every case that could be run has passed; 1: one has not;
//! 2: no key was named, or it cannot be reached.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program's talk")]

mod fixture;

use std::process::ExitCode;

use enfold::kms::conformance::{self, Outcome};
use enfold::policy::{AzureSettings, AzureSignIn, KeyServices};

use self::fixture::OwnKeys;

const SERVICES: [(&str, &str); 3] =
    [("AWS KMS", "AWS"), ("Google Cloud KMS", "GOOGLE"), ("Azure Key Vault or Managed HSM", "AZURE")];

#[tokio::main]
async fn main() -> ExitCode {
    let named: Vec<(&str, Vec<String>)> = SERVICES
        .iter()
        .map(|(name, word)| {
            let keys = ["KEY", "OTHER_KEY"].map(|which| variable(&format!("ENFOLD_CLOUD_{word}_{which}")));
            (*name, keys.into_iter().flatten().collect::<Vec<_>>())
        })
        .filter(|(_, keys)| !keys.is_empty())
        .collect();
    if named.is_empty() {
        eprintln!("error: no key was named, so nothing was tested");
        eprintln!();
        for (name, word) in SERVICES {
            eprintln!("hint: set `ENFOLD_CLOUD_{word}_KEY` to the URI of a key in {name}");
        }
        eprintln!("hint: docs/concepts/key-services.md has the URIs, docs/guides the roles that it takes");
        return ExitCode::from(2);
    }
    let services = match azure() {
        Ok(azure) => KeyServices { azure, ..KeyServices::default() },
        Err(word) => {
            eprintln!("error: `ENFOLD_CLOUD_AZURE_AUTH` is `{word}`, which is no way to sign in to Azure");
            return ExitCode::from(2);
        }
    };
    let mut failed = false;
    for (name, keys) in named {
        let fixture = match OwnKeys::new(name, &keys, services.clone()).await {
            Ok(fixture) => fixture,
            Err(error) => {
                eprintln!("error: {error}");
                error.hints().for_each(|hint| eprintln!("hint: {hint}"));
                return ExitCode::from(2);
            }
        };
        let report = conformance::run(&fixture).await;
        println!("{report}");
        failed |= report.results.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    }
    ExitCode::from(u8::from(failed))
}

fn azure() -> Result<AzureSettings, String> {
    let sign_in = match variable("ENFOLD_CLOUD_AZURE_AUTH").as_deref() {
        None | Some("managed-identity") => AzureSignIn::ManagedIdentity,
        Some("workload-identity") => AzureSignIn::WorkloadIdentity,
        Some("client-secret") => AzureSignIn::ClientSecret,
        Some("client-certificate") => AzureSignIn::ClientCertificate,
        Some(other) => return Err(other.escape_debug().to_string()),
    };
    Ok(AzureSettings { sign_in, ..AzureSettings::default() })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
