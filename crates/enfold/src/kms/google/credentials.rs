//! The files that say who signs in to Google Cloud, as `gcloud` and the console write them.
//!
//! Owns their shapes and where they are looked for ("application default credentials"). Each is read anew for each token.
//! Kinds that run a program, or that sign with AWS keys or an X.509 certificate, are refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::kms::json::Text;
use crate::kms::secret::{self, Readers};

/// Names the file.
const VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// `gcloud`'s own folder, where it is another than the home folder's.
const GCLOUD_FOLDER: &str = "CLOUDSDK_CONFIG";
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// Who signs in.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Credentials {
    ServiceAccount(ServiceAccount),
    AuthorizedUser(AuthorizedUser),
    ExternalAccount(ExternalAccount),
    ImpersonatedServiceAccount(Impersonated),
}

/// A key of a service account.
#[derive(Deserialize)]
pub(super) struct ServiceAccount {
    pub client_email: String,
    pub private_key_id: String,
    pub private_key: Text,
    #[serde(default = "token_uri")]
    pub token_uri: String,
}

/// A person, as `gcloud auth application-default login` leaves them.
#[derive(Deserialize)]
pub(super) struct AuthorizedUser {
    pub client_id: String,
    pub client_secret: Text,
    pub refresh_token: Text,
    #[serde(default = "token_uri")]
    pub token_uri: String,
    /// Google refuses a person's calls to Cloud KMS without a project that pays for them.
    pub quota_project_id: Option<String>,
}

/// Workload identity federation: somebody else's token is exchanged for one of Google's.
#[derive(Deserialize)]
pub(super) struct ExternalAccount {
    pub audience: String,
    pub subject_token_type: String,
    pub token_url: String,
    pub service_account_impersonation_url: Option<String>,
    pub credential_source: SubjectSource,
    pub quota_project_id: Option<String>,
}

/// Where the foreign token is.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct SubjectSource {
    pub file: Option<PathBuf>,
    pub url: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub format: SubjectFormat,
    environment_id: Option<String>,
    executable: Option<serde::de::IgnoredAny>,
    certificate: Option<serde::de::IgnoredAny>,
}

/// The token alone, or a field of a JSON object.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct SubjectFormat {
    #[serde(rename = "type")]
    kind: String,
    subject_token_field_name: Option<String>,
}

/// A service account, in whose name somebody else signs in.
#[derive(Deserialize)]
pub(super) struct Impersonated {
    pub service_account_impersonation_url: String,
    #[serde(default)]
    pub delegates: Vec<String>,
    pub source_credentials: Box<Credentials>,
}

/// The file of the application default credentials; none where the metadata server is to be asked.
pub(super) fn default_file() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = variable(VARIABLE) {
        return Some(file);
    }
    let folder = variable(GCLOUD_FOLDER).or_else(|| Some(variable("HOME")?.join(".config/gcloud")))?;
    Some(folder.join("application_default_credentials.json")).filter(|file| file.exists())
}

/// Reads and understands a file of credentials. A file that holds a secret is refused while others may read it.
pub(super) fn read(path: &Path) -> Result<Credentials> {
    let text = secret::read(path, Readers::Any)?;
    let credentials: Credentials = serde_json::from_str(&text).map_err(|_| {
        invalid(path, "it is of no kind that is known: service_account, authorized_user, external_account or impersonated_service_account")
    })?;
    if credentials.hold_a_secret() {
        secret::read(path, Readers::Closed)?;
    }
    match credentials.base() {
        Credentials::ExternalAccount(external) => external.credential_source.check(path)?,
        Credentials::ImpersonatedServiceAccount(_) => {
            return Err(invalid(path, "a service account is impersonated through another that is impersonated"));
        }
        Credentials::ServiceAccount(_) | Credentials::AuthorizedUser(_) => {}
    }
    Ok(credentials)
}

impl Credentials {
    /// Who signs in in the end.
    fn base(&self) -> &Self {
        match self {
            Self::ImpersonatedServiceAccount(account) => &account.source_credentials,
            other => other,
        }
    }

    fn hold_a_secret(&self) -> bool {
        !matches!(self.base(), Self::ExternalAccount(_))
    }
}

impl SubjectSource {
    fn check(&self, path: &Path) -> Result<()> {
        let foreign = [
            (self.environment_id.is_some(), "signs with AWS keys (`environment_id`)"),
            (self.executable.is_some(), "runs a program (`executable`)"),
            (self.certificate.is_some(), "uses a certificate (`certificate`)"),
        ];
        if let Some((_, how)) = foreign.iter().find(|(there, _)| *there) {
            return Err(invalid(path, &format!("its credential source {how}, and only `file` and `url` are built")));
        }
        match (&self.file, &self.url) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err(invalid(path, "its credential source has to name a `file` or a `url`")),
        }
    }
}

impl SubjectFormat {
    /// The foreign token in what was read.
    pub(super) fn token(&self, text: &str) -> Option<Zeroizing<String>> {
        let token = match (self.kind.as_str(), &self.subject_token_field_name) {
            ("" | "text", _) => Zeroizing::new(text.trim().to_owned()),
            ("json", Some(field)) => {
                let mut fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(text).ok()?;
                match fields.remove(field)? {
                    serde_json::Value::String(token) => Zeroizing::new(token),
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(token).filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()))
    }
}

fn token_uri() -> String {
    TOKEN_URI.to_owned()
}

pub(super) fn invalid(path: &Path, why: &str) -> Error {
    Error::new(Code::KmsAccessDenied, format!("cannot use the credentials in `{}`", path.display()))
        .cause(why)
        .hint("docs/guides/google-cloud-kms.md shows the ways to sign in")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn file(folder: &Path, mode: u32, value: &serde_json::Value) -> PathBuf {
        let path = folder.join("credentials.json");
        std::fs::write(&path, value.to_string()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn external(source: &serde_json::Value) -> serde_json::Value {
        json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": source,
        })
    }

    #[test]
    fn a_file_with_a_secret_is_refused_while_others_may_read_it_and_one_without_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let user = json!({ "type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r" });
        assert!(read(&file(folder.path(), 0o600, &user)).is_ok());
        let error = read(&file(folder.path(), 0o644, &user)).err().unwrap();
        assert_eq!(error.code(), Code::KeyFilePermissions);
        let wrapped = json!({
            "type": "impersonated_service_account", "service_account_impersonation_url": "https://x",
            "source_credentials": user,
        });
        assert_eq!(read(&file(folder.path(), 0o644, &wrapped)).err().unwrap().code(), Code::KeyFilePermissions);
        assert!(read(&file(folder.path(), 0o644, &external(&json!({ "file": "/token" })))).is_ok());
    }

    #[test]
    fn kinds_that_are_not_built_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for (value, named) in [
            (json!({ "type": "gdch_service_account" }), "of no kind that is known"),
            (external(&json!({ "environment_id": "aws1" })), "`environment_id`"),
            (external(&json!({ "executable": { "command": "id" } })), "`executable`"),
            (external(&json!({ "certificate": {} })), "`certificate`"),
            (external(&json!({})), "`file` or a `url`"),
            (external(&json!({ "file": "/a", "url": "https://b" })), "`file` or a `url`"),
        ] {
            let error = read(&file(folder.path(), 0o600, &value)).err().unwrap();
            assert_eq!(error.code(), Code::KmsAccessDenied);
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn a_foreign_token_is_the_text_or_a_field_of_it() {
        let text = SubjectFormat::default();
        assert_eq!(text.token(" a.b.c\n").unwrap().as_str(), "a.b.c");
        assert!(text.token("a b").is_none());
        let field = SubjectFormat { kind: "json".into(), subject_token_field_name: Some("t".into()) };
        assert_eq!(field.token(r#"{"t":"a.b.c","u":1}"#).unwrap().as_str(), "a.b.c");
        for bad in ["a.b.c", "{}", r#"{"t":1}"#, r#"{"t":""}"#] {
            assert!(field.token(bad).is_none(), "{bad}");
        }
    }
}
