//! `[key_services]` as it stands in the file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::model::MinTls;

/// How key services are reached, besides what the URIs of root keys say.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawKeyServices {
    /// The least version of TLS that is spoken with them. The client of AWS KMS cannot be held to `1.3`, so root keys
    /// of AWS are refused beside it.
    pub min_tls: MinTls,
    /// At most this many requests a second from each process to each root key. None: what leaves room for others in the
    /// quota of its service, and no limit where there is none. That is 5000 for AWS (10,000 a second, 5,500 in small
    /// regions, shared by all that an account does with symmetric keys in a region), 500 for Google (1,000 a second) and
    /// 100 for Azure (2,000 in ten seconds for a vault).
    #[schemars(range(min = 1, max = 100_000))]
    pub requests_per_second: Option<u32>,
    /// Root keys of AWS KMS that are used in a role of their own, by their URI as in `roots`. The others are used with the
    /// credentials that the AWS SDK finds.
    pub aws: BTreeMap<String, RawAws>,
    /// Servers of HashiCorp Vault or OpenBao by `HOST` or `HOST:PORT` (8200 where none is named), as in the URIs.
    pub vault: BTreeMap<String, RawVault>,
    pub google: RawGoogle,
    pub azure: RawAzure,
    /// PKCS#11 tokens (HSMs). Which token, module and PIN stands in the URIs of root keys.
    pub pkcs11: RawPkcs11,
    /// Local root keys that are sealed under a passphrase, by their file as in the URIs.
    pub local: BTreeMap<String, RawLocal>,
}

/// A role of AWS to use a root key in: that of another account, mostly. It is assumed with the credentials that the AWS SDK
/// finds, at the STS of the root key's region.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawAws {
    /// Its ARN, as `arn:aws:iam::111122223333:role/enfold`.
    pub role_arn: Option<String>,
    /// What the owner of the role wants to be told, so that nobody else can have us use it. It is no secret.
    pub external_id: Option<String>,
}

/// How PKCS#11 tokens are called.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawPkcs11 {
    /// Sessions that each process has with the token of each root key at most: so many calls are under way at once.
    /// Tokens have limits of their own.
    #[schemars(range(min = 1, max = 64))]
    pub sessions: u32,
}

impl Default for RawPkcs11 {
    fn default() -> Self {
        Self { sessions: 4 }
    }
}

/// A local root key whose file is sealed under a passphrase; `enfold init --passphrase-file` makes it. Without such a table
/// a sealed file is refused, and with it one that is not sealed.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawLocal {
    /// File of the passphrase, one line. Nobody but its owner may have any right to it.
    #[schemars(extend("format" = "path"))]
    pub passphrase_file: Option<String>,
    /// Name of the environment variable that holds the passphrase, where no file does. None: `ENFOLD_LOCAL_PASSPHRASE`.
    pub passphrase_variable: Option<String>,
}

/// How Azure Key Vault and Managed HSM are reached and signed in to. Without any of it the machine's managed identity is
/// used.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawAzure {
    /// PEM file of the authorities that may vouch for the servers, instead of the system's.
    #[schemars(extend("format" = "path"))]
    pub ca_file: Option<String>,
    /// How to sign in. Every file named below is read when it is needed, so whoever renews it needs no restart.
    pub auth: RawAzureAuth,
    /// The tenant's id or domain; without it `AZURE_TENANT_ID` is read. A managed identity needs none.
    pub tenant_id: Option<String>,
    /// The client id of the application; without it `AZURE_CLIENT_ID` is read. For a managed identity it says which of
    /// several, and nothing is read.
    pub client_id: Option<String>,
    /// Where tokens are asked for; without it `AZURE_AUTHORITY_HOST` is read, and `https://login.microsoftonline.com`
    /// taken if that is not set.
    pub authority: Option<String>,
    /// File of the federated token (`workload-identity`); without it `AZURE_FEDERATED_TOKEN_FILE` is read.
    #[schemars(extend("format" = "path"))]
    pub token_file: Option<String>,
    /// File of the secret (`client-secret`); without it `AZURE_CLIENT_SECRET` is read. Others may have no right to it.
    #[schemars(extend("format" = "path"))]
    pub client_secret_file: Option<String>,
    /// PEM file of the certificate and its RSA key (`client-certificate`); without it `AZURE_CLIENT_CERTIFICATE_PATH` is
    /// read. Others may have no right to it.
    #[schemars(extend("format" = "path"))]
    pub client_certificate_file: Option<String>,
}

/// The ways to sign in to Azure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum RawAzureAuth {
    /// As the machine that the program runs on: a virtual machine, an App Service, a container app.
    #[default]
    ManagedIdentity,
    /// With a token that the cluster makes: AKS, or any issuer that the application trusts.
    WorkloadIdentity,
    /// As an application, with its secret.
    ClientSecret,
    /// As an application, with its certificate.
    ClientCertificate,
}

/// How Google Cloud KMS is reached and signed in to. Without any of it Google's application default credentials are
/// used: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, that of `gcloud auth application-default login`, or the
/// machine's own service account.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawGoogle {
    /// PEM file of the authorities that may vouch for the servers, instead of the system's.
    #[schemars(extend("format" = "path"))]
    pub ca_file: Option<String>,
    /// A file of credentials instead of the default ones: of a service account's key, of a person, of workload identity
    /// federation, or of an impersonated service account. Others may have no right to it if it holds a secret. It is
    /// read again when it changes.
    #[schemars(extend("format" = "path"))]
    pub credentials_file: Option<String>,
    /// The e-mail address of a service account to act as, with whatever the credentials allow.
    pub impersonate: Option<String>,
}

/// A server of HashiCorp Vault or OpenBao, and how to sign in there. Without such a table the token of the environment
/// variable `VAULT_TOKEN` is used.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawVault {
    /// PEM file of the authorities that may vouch for the server, instead of the system's.
    #[schemars(extend("format" = "path"))]
    pub ca_file: Option<String>,
    /// How to sign in. Every file named below is read when it is needed, so whoever renews it needs no restart.
    pub auth: RawVaultAuth,
    /// Where that method is mounted, below `auth/`: by default its own name. A token is at no mount.
    pub auth_mount: Option<String>,
    /// The namespace to sign in to, where it is not that of the root key. An empty one is the root namespace.
    pub auth_namespace: Option<String>,
    /// The role to sign in as (`jwt`, `kubernetes`, `cert`). With `cert` it may be left out: the server then takes one
    /// that fits.
    pub role: Option<String>,
    /// The RoleID (`approle`). It is no secret.
    pub role_id: Option<String>,
    /// File of the token (`token`); without it the variable `VAULT_TOKEN` is read. Others may have no right to it.
    #[schemars(extend("format" = "path"))]
    pub token_file: Option<String>,
    /// File of the SecretID (`approle`); without it the variable `VAULT_SECRET_ID` is read. Others may have no right to
    /// it.
    #[schemars(extend("format" = "path"))]
    pub secret_id_file: Option<String>,
    /// File of the token (`jwt`, `kubernetes`). With `kubernetes` it is by default where a pod has that of its service
    /// account, and may be open to others as it is there; with `jwt` others may have no right to it.
    #[schemars(extend("format" = "path"))]
    pub jwt_file: Option<String>,
    /// PEM file of the certificate (`cert`), with those between it and its authority.
    #[schemars(extend("format" = "path"))]
    pub client_certificate_file: Option<String>,
    /// PEM file of the certificate's key (`cert`). Others may have no right to it.
    #[schemars(extend("format" = "path"))]
    pub client_key_file: Option<String>,
}

/// The ways to sign in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::policy) enum RawVaultAuth {
    /// With a token that is there already.
    #[default]
    Token,
    /// As a program that has a RoleID and a SecretID.
    AppRole,
    /// With a token of an issuer that the server trusts.
    Jwt,
    /// As a Kubernetes service account.
    Kubernetes,
    /// With a TLS client certificate.
    Cert,
}
