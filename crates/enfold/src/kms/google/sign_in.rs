//! The ways to get an access token from Google.
//!
//! A file of credentials (`credentials.rs`), or the metadata server of the machine where there is none; and, where the
//! policy or the file says so, a service account that is impersonated with what the first token allows.

use std::path::{Path, PathBuf};
use std::time::Instant;

use async_trait::async_trait;
use serde::Serialize;
use zeroize::Zeroizing;

use super::credentials::{self, AuthorizedUser, Credentials, ExternalAccount, ServiceAccount};
use crate::error::Result;
use crate::kms::failure::Operation;
use crate::kms::http::Body;
use crate::kms::json;
use crate::kms::oauth::{AccessToken, Algorithm, Form, Issuer, Mint, Request, Signer};
use crate::kms::secret::{self, Readers, Stamp};

/// Cloud KMS and nothing else.
const KMS_SCOPE: &str = "https://www.googleapis.com/auth/cloudkms";
/// What making a token for another account asks for.
const IMPERSONATING_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const IAM: &str = "https://iamcredentials.googleapis.com";
/// Another place for the metadata server, as Google's own libraries know it.
const METADATA_VARIABLE: &str = "GCE_METADATA_HOST";
const METADATA_HOST: &str = "metadata.google.internal";
/// Answers of the metadata server carry it, so that no other server is taken for it.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");
/// The longest life that an assertion may have.
const ASSERTION_SECONDS: i64 = 3600;

/// Signs in for one root key.
pub(super) struct SignIn {
    pub issuer: Issuer,
    /// Instead of the application default credentials.
    pub file: Option<PathBuf>,
    /// The e-mail address of a service account.
    pub impersonate: Option<String>,
    /// Instead of Google's own.
    pub iam_endpoint: Option<String>,
}

/// What makes one token out of another.
struct Impersonation<'a> {
    url: String,
    delegates: &'a [String],
}

#[async_trait]
impl Mint for SignIn {
    async fn mint(&self, operation: Operation) -> Result<AccessToken> {
        let credentials = match self.path() {
            Some(path) => Some((credentials::read(&path)?, path)),
            None => None,
        };
        let mut steps = Vec::new();
        let mut base = credentials.as_ref().map(|(credentials, _)| credentials);
        if let Some(Credentials::ImpersonatedServiceAccount(account)) = base {
            let url = account.service_account_impersonation_url.clone();
            steps.push(Impersonation { url, delegates: &account.delegates });
            base = Some(&account.source_credentials);
        }
        if let Some(Credentials::ExternalAccount(external)) = base {
            let url = external.service_account_impersonation_url.clone();
            steps.splice(0..0, url.map(|url| Impersonation { url, delegates: &[] }));
        }
        steps.extend(self.impersonate.as_deref().map(|account| self.impersonation(account)));

        let path = credentials.as_ref().map_or(Path::new(""), |(_, path)| path);
        let scope = |last: bool| if last { KMS_SCOPE } else { IMPERSONATING_SCOPE };
        let mut token = self.base(operation, base, path, scope(steps.is_empty())).await?;
        for (at, step) in steps.iter().enumerate() {
            token = self.as_another(operation, &token, step, scope(at + 1 == steps.len())).await?;
        }
        Ok(token)
    }

    fn stamp(&self) -> Option<Stamp> {
        self.path().as_deref().map(Stamp::of)
    }
}

impl SignIn {
    fn path(&self) -> Option<PathBuf> {
        self.file.clone().or_else(credentials::default_file)
    }

    fn impersonation(&self, account: &str) -> Impersonation<'static> {
        let iam = self.iam_endpoint.as_deref().unwrap_or(IAM);
        let url = format!("{iam}/v1/projects/-/serviceAccounts/{account}:generateAccessToken");
        Impersonation { url, delegates: &[] }
    }

    async fn base(
        &self,
        operation: Operation,
        base: Option<&Credentials>,
        path: &Path,
        scope: &str,
    ) -> Result<AccessToken> {
        match base {
            None => self.metadata(operation, scope).await,
            Some(Credentials::ServiceAccount(account)) => self.account(operation, account, path, scope).await,
            Some(Credentials::AuthorizedUser(user)) => self.user(operation, user).await,
            Some(Credentials::ExternalAccount(external)) => self.external(operation, external, path, scope).await,
            // Reading refuses it.
            Some(Credentials::ImpersonatedServiceAccount(_)) => {
                Err(credentials::invalid(path, "a service account is impersonated twice"))
            }
        }
    }

    /// RFC 7523, section 2.1.
    async fn account(
        &self,
        operation: Operation,
        account: &ServiceAccount,
        path: &Path,
        scope: &str,
    ) -> Result<AccessToken> {
        let unsound = || credentials::invalid(path, "`private_key` is no RSA key in PEM");
        let signer = Signer::from_pem(&account.private_key.0).ok_or_else(unsound)?;
        let now = jiff::Timestamp::now().as_second();
        let header = AccountHeader { alg: "RS256", typ: "JWT", kid: &account.private_key_id };
        let claims = AccountClaims {
            iss: &account.client_email,
            scope,
            aud: &account.token_uri,
            iat: now,
            exp: now + ASSERTION_SECONDS,
        };
        let assertion = signer.sign(Algorithm::Rs256, &header, &claims).ok_or_else(unsound)?;
        let form = Form::new()
            .field("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
            .field("assertion", &assertion);
        let hint = "see that the key of the service account was not deleted, and that this machine's clock is right";
        self.issuer
            .token(operation, Request { url: &account.token_uri, headers: vec![], body: Some(form.body()), hint })
            .await
    }

    async fn user(&self, operation: Operation, user: &AuthorizedUser) -> Result<AccessToken> {
        let form = Form::new()
            .field("grant_type", "refresh_token")
            .field("client_id", &user.client_id)
            .field("client_secret", &user.client_secret.0)
            .field("refresh_token", &user.refresh_token.0);
        let hint = "sign in again: `gcloud auth application-default login`";
        let request = Request { url: &user.token_uri, headers: vec![], body: Some(form.body()), hint };
        let mut token = self.issuer.token(operation, request).await?;
        token.billed_to.clone_from(&user.quota_project_id);
        Ok(token)
    }

    /// RFC 8693, as Google's Security Token Service wants it.
    async fn external(
        &self,
        operation: Operation,
        external: &ExternalAccount,
        path: &Path,
        scope: &str,
    ) -> Result<AccessToken> {
        let subject = self.subject(operation, external, path).await?;
        let form = Form::new()
            .field("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .field("audience", &external.audience)
            .field("scope", scope)
            .field("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")
            .field("subject_token", &subject)
            .field("subject_token_type", &external.subject_token_type);
        let hint = "see that the pool's provider takes tokens of that issuer and audience";
        let request = Request { url: &external.token_url, headers: vec![], body: Some(form.body()), hint };
        let mut token = self.issuer.token(operation, request).await?;
        token.billed_to.clone_from(&external.quota_project_id);
        Ok(token)
    }

    async fn subject(
        &self,
        operation: Operation,
        external: &ExternalAccount,
        path: &Path,
    ) -> Result<Zeroizing<String>> {
        let source = &external.credential_source;
        let text = match (&source.file, &source.url) {
            // A relative path starts where the file that names it is.
            (Some(file), _) => secret::read(&path.parent().unwrap_or(Path::new("")).join(file), Readers::Any)?,
            (None, Some(url)) => {
                let mut headers = Vec::new();
                for (name, value) in &source.headers {
                    headers.push((header_name(name, path)?, Zeroizing::new(value.clone())));
                }
                let hint = "see what stands under `credential_source` in the file of credentials";
                let answer = self.issuer.fetch(operation, Request { url, headers, body: None, hint }).await?;
                let text = std::str::from_utf8(&answer.body).unwrap_or_default();
                Zeroizing::new(text.to_owned())
            }
            (None, None) => Zeroizing::default(),
        };
        source.format.token(&text).ok_or_else(|| self.issuer.lacking(operation, "the foreign token is not there"))
    }

    async fn metadata(&self, operation: Operation, scope: &str) -> Result<AccessToken> {
        let host = std::env::var(METADATA_VARIABLE).ok().filter(|host| !host.is_empty());
        let host = host.as_deref().unwrap_or(METADATA_HOST);
        let scopes: String = url::form_urlencoded::byte_serialize(scope.as_bytes()).collect();
        let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token?scopes={scopes}");
        let headers = vec![(FLAVOR.0, Zeroizing::new(FLAVOR.1.to_owned()))];
        let hint = "give the machine a service account, or set GOOGLE_APPLICATION_CREDENTIALS";
        let request = Request { url: &url, headers, body: None, hint };
        let began = Instant::now();
        let answer = self.issuer.fetch(operation, request).await.map_err(|e| {
            e.cause("no file of credentials was found, so the metadata server of the machine was asked").hint(hint)
        })?;
        if answer.header(FLAVOR.0) != Some(FLAVOR.1) {
            return Err(self.issuer.lacking(operation, "what answered is not the metadata server").hint(hint));
        }
        self.issuer.take(operation, &url, &answer, began)
    }

    /// A token for a service account, made with one that may make it.
    async fn as_another(
        &self,
        operation: Operation,
        token: &AccessToken,
        step: &Impersonation<'_>,
        scope: &str,
    ) -> Result<AccessToken> {
        let wanted = AccessTokenRequest { scope: [scope], delegates: step.delegates, lifetime: "3600s" };
        let room = 256 + scope.len() + step.delegates.iter().map(|d| d.len() + 4).sum::<usize>();
        let hint = "grant `roles/iam.serviceAccountTokenCreator` on the service account to whoever signs in here";
        let body = Some(Body::Json(json::body(&wanted, room)));
        self.issuer.token(operation, Request { url: &step.url, headers: token.headers(), body, hint }).await
    }
}

/// The names that headers of a subject token's source may have.
fn header_name(name: &str, path: &Path) -> Result<&'static str> {
    const KNOWN: [&str; 4] = ["metadata", "metadata-flavor", "authorization", "x-identity-header"];
    let known = KNOWN.iter().find(|known| name.eq_ignore_ascii_case(known));
    known.copied().ok_or_else(|| credentials::invalid(path, "its credential source wants a header that is not known"))
}

#[derive(Serialize)]
struct AccountHeader<'a> {
    alg: &'static str,
    typ: &'static str,
    kid: &'a str,
}

#[derive(Serialize)]
struct AccountClaims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

#[derive(Serialize)]
struct AccessTokenRequest<'a> {
    scope: [&'a str; 1],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    delegates: &'a [String],
    lifetime: &'static str,
}
