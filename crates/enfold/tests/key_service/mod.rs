//! A data key, what it is bound to, and whether a root key gives it back: for the tests of providers.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

#[cfg(feature = "aws")]
use enfold::kms::{AwsKms, AwsOptions};
use enfold::kms::{EncryptionContext, KeyManagementService, KeyManagementServiceExt, KeyMaterial, WrappedKey};

pub(crate) fn context() -> EncryptionContext {
    EncryptionContext::new().with("enfold:ring", "orders").unwrap()
}

pub(crate) fn material() -> KeyMaterial {
    KeyMaterial::from_bytes(&mut [7; 32])
}

pub(crate) async fn opens(kms: &dyn KeyManagementService, wrapped: &WrappedKey) {
    assert_eq!(kms.unwrap_one(wrapped, &context()).await.unwrap_or_else(|e| panic!("{e}")).expose(), &[7; 32]);
}

pub(crate) async fn round_trip(kms: &dyn KeyManagementService) {
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    opens(kms, &wrapped).await;
}

/// Set where a test binary runs itself, to see what the environment does.
pub(crate) const CHILD: &str = "ENFOLD_TEST_CHILD_URI";

/// Runs the test `name` of this binary again with exactly this environment, and gives what it printed.
pub(crate) async fn again(name: &str, uri: &str, environment: &[(&str, &str)]) -> String {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env_clear()
        .env(CHILD, uri)
        .env("HOME", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(environment.iter().copied());
    // Elsewhere, so that the listeners of this test go on answering.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Wraps with what the default credential chain finds, in the child, and in a role if there is one.
#[cfg(feature = "aws")]
pub(crate) async fn wrap_as_child(uri: &str, role: Option<enfold::policy::AwsRole>) -> String {
    let options = AwsOptions { role, ..AwsOptions::default() };
    let kms = AwsKms::open(&uri.parse().unwrap(), &options).await.unwrap();
    match kms.wrap_one(&material(), &context()).await {
        Ok(_) => "child: wrapped".to_owned(),
        Err(error) => format!("child: {error:?} {:?}", error.hints().collect::<Vec<_>>()),
    }
}
