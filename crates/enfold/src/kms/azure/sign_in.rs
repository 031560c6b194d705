//! The ways to get an access token from Microsoft Entra ID, or from the machine that has an identity there.
//!
//! Which one is taken stands in the policy: nothing is tried in turn, so that a program never acts as somebody else than
//! was meant. What the policy leaves out is read from the environment, under the names that Azure's own libraries know.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::kms::failure::Operation;
use crate::kms::oauth::{AccessToken, Algorithm, Form, Issuer, Mint, Request, Signer};
use crate::kms::secret::{self, Readers, SecretSource, Stamp};
use crate::policy::{AzureSettings, AzureSignIn};

const AUTHORITY: &str = "https://login.microsoftonline.com";
const MACHINE: &str = "http://169.254.169.254";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// An assertion is used at once.
const ASSERTION_SECONDS: i64 = 300;

/// Signs in for one root key.
pub(super) struct SignIn {
    pub issuer: Issuer,
    pub settings: AzureSettings,
    /// What the token is for, as `https://vault.azure.net`.
    pub resource: String,
}

#[async_trait]
impl Mint for SignIn {
    async fn mint(&self, operation: Operation) -> Result<AccessToken> {
        match self.settings.sign_in {
            AzureSignIn::ManagedIdentity => self.managed(operation).await,
            AzureSignIn::WorkloadIdentity => {
                let file = self.file(operation, "AZURE_FEDERATED_TOKEN_FILE")?;
                let token = SecretSource::File(file).read_among(Readers::Any)?;
                self.asserted(operation, &token, "see that the federated credential takes tokens of that issuer").await
            }
            AzureSignIn::ClientSecret => {
                let secret = match &self.settings.file {
                    Some(file) => SecretSource::File(file.clone()).read()?,
                    None => SecretSource::Variable("AZURE_CLIENT_SECRET".to_owned())
                        .read()
                        .map_err(|error| error.hint("or name a file in the policy, under `key_services.azure`"))?,
                };
                let form = self.form(operation)?.field("client_secret", &secret);
                self.ask(operation, form, "see that the client secret has not expired; make a new one").await
            }
            AzureSignIn::ClientCertificate => {
                let file = self.file(operation, "AZURE_CLIENT_CERTIFICATE_PATH")?;
                let assertion = self.assertion(operation, &file)?;
                self.asserted(
                    operation,
                    &assertion,
                    "see that the certificate has not expired and is the application's",
                )
                .await
            }
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        match self.settings.sign_in {
            // The federated token is replaced all the time, and one token of Azure's is as good as the next.
            AzureSignIn::ManagedIdentity | AzureSignIn::WorkloadIdentity => None,
            AzureSignIn::ClientSecret => self.settings.file.as_deref().map(Stamp::of),
            AzureSignIn::ClientCertificate => {
                let file =
                    self.settings.file.clone().or_else(|| variable("AZURE_CLIENT_CERTIFICATE_PATH").map(PathBuf::from));
                file.as_deref().map(Stamp::of)
            }
        }
    }
}

impl SignIn {
    /// The identity of the machine: of an App Service, a function or a container app where the environment names its
    /// endpoint, and of a virtual machine otherwise.
    async fn managed(&self, operation: Operation) -> Result<AccessToken> {
        let hint = "give the machine a managed identity; name its client id if it has several";
        let app = variable("IDENTITY_ENDPOINT").zip(variable("IDENTITY_HEADER"));
        let (url, header) = match app {
            Some((endpoint, header)) => {
                (endpoint + "?" + &self.machine_query("2019-08-01"), ("x-identity-header", Zeroizing::new(header)))
            }
            None => {
                let host = variable("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| MACHINE.to_owned());
                let (host, query) = (host.trim_end_matches('/'), self.machine_query("2018-02-01"));
                let url = format!("{host}/metadata/identity/oauth2/token?{query}");
                (url, ("metadata", Zeroizing::new("true".to_owned())))
            }
        };
        self.issuer.token(operation, Request { url: &url, headers: vec![header], body: None, hint }).await
    }

    fn machine_query(&self, api_version: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("api-version", api_version).append_pair("resource", &self.resource);
        // A machine may have many. The variable is set for other ways to sign in as well, so it has no say here.
        if let Some(id) = &self.settings.client_id {
            query.append_pair("client_id", id);
        }
        query.finish()
    }

    async fn asserted(&self, operation: Operation, assertion: &str, hint: &str) -> Result<AccessToken> {
        let form = self.form(operation)?;
        let form = form.field("client_assertion_type", ASSERTION_TYPE).field("client_assertion", assertion);
        self.ask(operation, form, hint).await
    }

    async fn ask(&self, operation: Operation, form: Form, hint: &str) -> Result<AccessToken> {
        let url = self.token_url(operation)?;
        let body = Some(form.body());
        self.issuer.token(operation, Request { url: &url, headers: vec![], body, hint }).await
    }

    /// RFC 6749, section 4.4.
    fn form(&self, operation: Operation) -> Result<Form> {
        Ok(Form::new()
            .field("grant_type", "client_credentials")
            .field("client_id", &self.client(operation)?)
            .field("scope", &format!("{}/.default", self.resource)))
    }

    fn token_url(&self, operation: Operation) -> Result<String> {
        let authority = self.settings.authority.clone().or_else(|| variable("AZURE_AUTHORITY_HOST"));
        let authority = authority.unwrap_or_else(|| AUTHORITY.to_owned());
        let tenant = self.settings.tenant_id.clone().or_else(|| variable("AZURE_TENANT_ID"));
        let tenant = tenant.ok_or_else(|| self.missing(operation, "tenant_id", "AZURE_TENANT_ID"))?;
        // It becomes part of a URL: an id, or a domain.
        if !tenant.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
            return Err(self.issuer.lacking(operation, "the tenant is neither an id nor a domain"));
        }
        Ok(format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/')))
    }

    fn client(&self, operation: Operation) -> Result<String> {
        let client = self.settings.client_id.clone().or_else(|| variable("AZURE_CLIENT_ID"));
        client.ok_or_else(|| self.missing(operation, "client_id", "AZURE_CLIENT_ID"))
    }

    fn file(&self, operation: Operation, name: &str) -> Result<PathBuf> {
        let file = self.settings.file.clone().or_else(|| variable(name).map(PathBuf::from));
        file.ok_or_else(|| self.missing(operation, "file", name))
    }

    fn missing(&self, operation: Operation, setting: &str, variable: &str) -> Error {
        self.issuer
            .lacking(operation, format!("neither `{setting}` is in the policy nor `{variable}` in the environment"))
            .hint(format!("set `{setting}` under `[key_services.azure]`"))
    }

    /// What the holder of a certificate signs instead of sending a password.
    fn assertion(&self, operation: Operation, file: &Path) -> Result<Zeroizing<String>> {
        let unsound = |what: &str| {
            Error::new(Code::KmsAccessDenied, format!("cannot use the certificate in `{}`", file.display()))
                .cause(format!("it holds no {what} in PEM"))
                .hint("the file has to hold a certificate and its RSA key, as `cat certificate.pem key.pem`")
        };
        let pem = secret::read(file, Readers::Closed)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| unsound("certificate"))?;
        let signer = Signer::from_pem(&pem).ok_or_else(|| unsound("RSA key"))?;
        let (client, audience) = (self.client(operation)?, self.token_url(operation)?);
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, &certificate));
        let header = CertificateHeader { alg: "PS256", typ: "JWT", thumbprint: &thumbprint };
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| self.issuer.lacking(operation, "the system has no random bytes"))?;
        let now = jiff::Timestamp::now().as_second();
        let claims = CertificateClaims {
            aud: &audience,
            iss: &client,
            sub: &client,
            jti: &URL_SAFE_NO_PAD.encode(id),
            nbf: now,
            iat: now,
            exp: now + ASSERTION_SECONDS,
        };
        signer
            .sign(Algorithm::Ps256, &header, &claims)
            .ok_or_else(|| self.issuer.lacking(operation, "the assertion could not be signed"))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[derive(Serialize)]
struct CertificateHeader<'a> {
    alg: &'static str,
    typ: &'static str,
    #[serde(rename = "x5t#S256")]
    thumbprint: &'a str,
}

#[derive(Serialize)]
struct CertificateClaims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: &'a str,
    nbf: i64,
    iat: i64,
    exp: i64,
}
