//! From the URIs of the policy to providers, and from nothing else.
//!
//! A URI that stands in the catalog, in a message or in an envelope is looked up here, and refused if the policy does
//! not name it: whoever can write to the database must not be able to have Enfold call a key of theirs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::breaker::{Breaker, BreakerOptions};
use super::limit::Limit;
use super::local::LocalKms;
use super::meter::Meter;
use super::retry::{Retry, RetryOptions};
use super::service::KeyManagementService;
use super::uri::{KeyUri, RootKey, VaultKeyUri};
use crate::clock::{Clock, SystemClock};
use crate::error::{Code, Error, Result};
use crate::metrics::RootKeyMetrics;
use crate::policy::{Environment, KeyServices, MinTls, Policy};

/// Every root key of a policy, each with its breaker, retry, limit and meter around it.
pub struct Registry {
    roots: BTreeMap<KeyUri, Root>,
}

struct Root {
    kms: Arc<dyn KeyManagementService>,
    breaker: Arc<Breaker>,
    retry: Arc<Retry>,
    limit: Option<Arc<Limit>>,
    meter: Arc<Meter>,
}

/// What a [`Registry`] is made from.
pub struct RegistryBuilder {
    environment: Environment,
    base: PathBuf,
    uses: Vec<Use>,
    given: Vec<Arc<dyn KeyManagementService>>,
    breaker: BreakerOptions,
    retry: RetryOptions,
    per_second: Option<NonZeroU32>,
    services: KeyServices,
    clock: Arc<dyn Clock>,
}

/// A root key that a ring names.
struct Use {
    uri: KeyUri,
    allow_local_in_production: bool,
}

impl Registry {
    /// `base`: the folder at which relative key-file paths start.
    pub fn builder(environment: Environment, base: &Path) -> RegistryBuilder {
        RegistryBuilder {
            environment,
            base: base.to_owned(),
            uses: Vec::new(),
            given: Vec::new(),
            breaker: BreakerOptions::default(),
            retry: RetryOptions::default(),
            per_second: None,
            services: KeyServices::default(),
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// The root keys of every ring of `policy`, its customers' among them, those of its readers, and the key that signs its log.
    pub fn policy(policy: &Policy) -> Result<RegistryBuilder> {
        let base = policy.path.parent().unwrap_or(Path::new(""));
        let mut builder = Self::builder(policy.environment, base).services(policy.key_services.clone());
        for ring in policy.rings.values() {
            for root in ring.root_keys() {
                builder = builder.root(root.parse()?, ring.allow_local_in_production);
            }
        }
        for root in policy.readers.values().filter_map(|reader| reader.roots.as_ref()).flat_map(|roots| &roots.uris) {
            builder = builder.root(root.clone(), false);
        }
        Ok(policy.events.signing_key.iter().fold(builder, |builder, key| builder.root(key.clone(), false)))
    }

    /// The provider of a root key that the policy names.
    pub fn get(&self, uri: &KeyUri) -> Result<&Arc<dyn KeyManagementService>> {
        self.find(uri).map(|root| &root.kms)
    }

    /// What was asked of that root key's service so far.
    pub fn meter(&self, uri: &KeyUri) -> Result<&Arc<Meter>> {
        self.find(uri).map(|root| &root.meter)
    }

    /// How many requests a second that root key's service is sent at most; none: as many as it takes.
    pub fn per_second(&self, uri: &KeyUri) -> Result<Option<NonZeroU32>> {
        Ok(self.find(uri)?.limit.as_ref().map(|limit| limit.per_second()))
    }

    /// Whether that root key's service is asked at present.
    pub fn breaker(&self, uri: &KeyUri) -> Result<&Arc<Breaker>> {
        self.find(uri).map(|root| &root.breaker)
    }

    /// What every root key's service was asked, in the order of their URIs.
    pub fn metrics(&self) -> Vec<RootKeyMetrics> {
        self.roots.iter().map(|(uri, root)| root.metrics(uri)).collect()
    }

    /// In the order of their text.
    pub fn uris(&self) -> impl Iterator<Item = &KeyUri> {
        self.roots.keys()
    }

    fn find(&self, uri: &KeyUri) -> Result<&Root> {
        self.roots.get(uri).ok_or_else(|| {
            Error::new(Code::KmsUriInvalid, format!("`{uri}` is not a root key of the policy"))
                .cause("only root keys that the policy names are ever called")
                .hint("if it is yours, add it to `roots` of its ring in enfold.toml")
        })
    }
}

impl Root {
    fn metrics(&self, uri: &KeyUri) -> RootKeyMetrics {
        RootKeyMetrics {
            root: uri.to_string(),
            provider: uri.provider(),
            operations: self.meter.all(),
            retries: self.retry.retries(),
            given_up: self.retry.given_up(),
            limit_waits: self.limit.as_ref().map_or(0, |limit| limit.waits()),
            limit_waited: self.limit.as_ref().map(|limit| limit.waited()).unwrap_or_default(),
            breaker: self.breaker.metrics(),
        }
    }
}

impl RegistryBuilder {
    #[must_use]
    pub fn root(mut self, uri: KeyUri, allow_local_in_production: bool) -> Self {
        self.uses.push(Use { uri, allow_local_in_production });
        self
    }

    /// A provider made by the caller: a test's [`MemoryKms`](super::MemoryKms), or one that Enfold does not have. It
    /// serves the root key of its own URI, if the policy names that.
    #[must_use]
    pub fn provider(mut self, kms: Arc<dyn KeyManagementService>) -> Self {
        self.given.push(kms);
        self
    }

    #[must_use]
    pub fn breaker(mut self, options: BreakerOptions) -> Self {
        self.breaker = options;
        self
    }

    /// What the breakers' pauses are measured by.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    #[must_use]
    pub fn retry(mut self, options: RetryOptions) -> Self {
        self.retry = options;
        self
    }

    /// How services are reached and signed in to.
    #[must_use]
    pub fn services(mut self, services: KeyServices) -> Self {
        self.services = services;
        self
    }

    /// At most this many requests a second to each root key; none: what is right for its service.
    #[must_use]
    pub fn limit(mut self, per_second: Option<NonZeroU32>) -> Self {
        self.per_second = per_second;
        self
    }

    /// Makes every provider. Key files are read; nothing is called over the network yet.
    pub async fn build(self) -> Result<Registry> {
        let mut roots = BTreeMap::new();
        for wanted in &self.uses {
            self.check(wanted)?;
            if let Some((known, _)) = roots.get_key_value(&wanted.uri) {
                same_way(known, &wanted.uri)?;
                continue;
            }
            let provider = self.open(&wanted.uri).await?;
            roots.insert(wanted.uri.clone(), self.dress(provider));
        }
        Ok(Registry { roots })
    }

    fn check(&self, wanted: &Use) -> Result<()> {
        if self.environment != Environment::Production {
            return Ok(());
        }
        let uri = &wanted.uri;
        match uri.root() {
            RootKey::Local(_) if !wanted.allow_local_in_production => {
                Err(Error::new(Code::LocalKeyInProduction, format!("cannot use `{uri}` in production"))
                    .cause("whoever reads the file of a local key reads everything, and leaves no trace")
                    .hint("name a root key of a key service in `roots`, as `aws-kms://REGION/alias/NAME`")
                    .hint("a policy that does not say its `environment` is production"))
            }
            RootKey::Aws(aws) if aws.is_cleartext() => {
                Err(cleartext(uri, "give an `https` endpoint, or none for the AWS service itself"))
            }
            RootKey::Google(google) if google.is_cleartext() => {
                Err(cleartext(uri, "give an `https` endpoint, or none for Google's own"))
            }
            RootKey::Azure(azure) if azure.is_cleartext() => {
                Err(cleartext(uri, "give an `https` endpoint, or none for the vault itself"))
            }
            RootKey::Vault(vault) if vault.is_cleartext() => {
                Err(cleartext(uri, "have the server speak TLS, and write `vault://`"))
            }
            RootKey::Local(_)
            | RootKey::Aws(_)
            | RootKey::Google(_)
            | RootKey::Azure(_)
            | RootKey::Vault(_)
            | RootKey::Pkcs11(_)
            | RootKey::Memory(_) => Ok(()),
        }
    }

    async fn open(&self, uri: &KeyUri) -> Result<Arc<dyn KeyManagementService>> {
        if let Some(given) = self.given.iter().find(|kms| kms.uri() == uri) {
            return Ok(given.clone());
        }
        match uri.root() {
            RootKey::Aws(_) if self.services.min_tls == MinTls::V1_3 => {
                Err(Error::new(Code::PolicyInvalid, format!("cannot use `{uri}` with TLS 1.3 alone"))
                    .cause("the client of AWS KMS cannot be held to a version of TLS")
                    .hint("leave `key_services.min_tls` at `1.2`: AWS and its client agree on 1.3 where both can"))
            }
            RootKey::Aws(_) => open_aws(uri, &self.services).await,
            RootKey::Google(_) => open_google(uri, &self.services),
            RootKey::Azure(_) => open_azure(uri, &self.services),
            RootKey::Vault(vault) => open_vault(uri, vault, &self.services),
            RootKey::Pkcs11(_) => open_pkcs11(uri, &self.base, &self.services),
            RootKey::Local(_) => open_local(uri, &self.base, &self.services),
            RootKey::Memory(_) => Err(Error::new(Code::KmsUriInvalid, format!("there is no provider for `{uri}`"))
                .cause("a key in memory is lost with its process, so only the process itself can give it")
                .hint("in a test, hand a `MemoryKms` of that name to the builder")),
        }
    }

    /// What the caller says, what the policy says, or what is right for the service.
    fn rate(&self, uri: &KeyUri) -> Option<NonZeroU32> {
        self.per_second.or(self.services.requests_per_second).or_else(|| default_rate(uri))
    }

    /// Meter next to the provider, so that it counts what the service sees; retry above it, so that each try is limited
    /// and counted; the breaker outermost, so that what it does not let through is not tried at all.
    fn dress(&self, provider: Arc<dyn KeyManagementService>) -> Root {
        let meter = Arc::new(Meter::new(provider));
        let mut kms: Arc<dyn KeyManagementService> = meter.clone();
        let limit = self.rate(kms.uri()).map(|rate| Arc::new(Limit::new(Arc::clone(&kms), rate)));
        if let Some(limit) = &limit {
            kms = limit.clone();
        }
        let retry = Arc::new(Retry::new(kms, self.retry));
        let breaker = Arc::new(Breaker::new(retry.clone(), self.breaker, Arc::clone(&self.clock)));
        Root { kms: breaker.clone(), breaker, retry, limit, meter }
    }
}

/// The passphrase of a sealed key is read here and wiped before this returns.
fn open_local(uri: &KeyUri, base: &Path, services: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    Ok(Arc::new(match services.local.get(uri) {
        None => LocalKms::open(uri, base)?,
        Some(source) => LocalKms::open_sealed(uri, base, &source.read()?)?,
    }))
}

#[cfg(feature = "aws")]
async fn open_aws(uri: &KeyUri, services: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    let role = services.aws.get(uri).cloned();
    let options = super::aws::AwsOptions { role, ..super::aws::AwsOptions::default() };
    Ok(Arc::new(super::aws::AwsKms::open(uri, &options).await?))
}

#[cfg(not(feature = "aws"))]
async fn open_aws(uri: &KeyUri, _: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    Err(not_built_in(uri, "AWS KMS", "aws"))
}

#[cfg(feature = "google")]
fn open_google(uri: &KeyUri, services: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    let mut options = super::google::GoogleOptions {
        credentials_file: services.google.credentials_file.clone(),
        impersonate: services.google.impersonate.clone(),
        ..super::google::GoogleOptions::default()
    };
    options.http.min_tls = services.min_tls;
    options.http.ca_file.clone_from(&services.google.ca_file);
    Ok(Arc::new(super::google::GoogleKms::open(uri, &options)?))
}

#[cfg(not(feature = "google"))]
fn open_google(uri: &KeyUri, _: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    Err(not_built_in(uri, "Google Cloud KMS", "google"))
}

#[cfg(feature = "azure")]
fn open_azure(uri: &KeyUri, services: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    let mut options =
        super::azure::AzureOptions { settings: services.azure.clone(), ..super::azure::AzureOptions::default() };
    options.http.min_tls = services.min_tls;
    options.http.ca_file.clone_from(&services.azure.ca_file);
    Ok(Arc::new(super::azure::AzureKms::open(uri, &options)?))
}

#[cfg(not(feature = "azure"))]
fn open_azure(uri: &KeyUri, _: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    Err(not_built_in(uri, "Azure Key Vault", "azure"))
}

#[cfg(feature = "vault")]
fn open_vault(uri: &KeyUri, key: &VaultKeyUri, services: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    let mut options = super::vault::VaultOptions::default();
    options.http.min_tls = services.min_tls;
    if let Some(server) = services.vault.get(&key.server()) {
        options.http.ca_file.clone_from(&server.ca_file);
        options.sign_in = server.sign_in.clone();
        options.sign_in_namespace.clone_from(&server.sign_in_namespace);
    }
    Ok(Arc::new(super::vault::VaultKms::open(uri, &options)?))
}

#[cfg(not(feature = "vault"))]
fn open_vault(uri: &KeyUri, _: &VaultKeyUri, _: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    Err(not_built_in(uri, "Vault and OpenBao", "vault"))
}

/// Half of what a service allows, so that one process leaves room for the others of its account or project: AWS KMS allows
/// 10,000 cryptographic requests a second with symmetric keys to an account in a region, and 5,500 in small regions; Cloud
/// KMS 60,000 a minute to a project; Key Vault 2,000 transactions with RSA-HSM keys of 2048 bits in ten seconds to a vault.
fn default_rate(uri: &KeyUri) -> Option<NonZeroU32> {
    match uri.root() {
        RootKey::Aws(_) => NonZeroU32::new(5000),
        RootKey::Google(_) => NonZeroU32::new(500),
        RootKey::Azure(_) => NonZeroU32::new(100),
        RootKey::Vault(_) | RootKey::Pkcs11(_) | RootKey::Local(_) | RootKey::Memory(_) => None,
    }
}

fn cleartext(uri: &KeyUri, hint: &str) -> Error {
    Error::new(Code::KmsUriInvalid, format!("cannot use `{uri}` in production"))
        .cause("data keys would cross the network in the clear")
        .hint(hint)
}

#[cfg(not(all(feature = "aws", feature = "azure", feature = "google", feature = "vault", feature = "pkcs11")))]
fn not_built_in(uri: &KeyUri, service: &str, feature: &str) -> Error {
    Error::new(Code::KmsUriInvalid, format!("there is no provider for `{uri}`"))
        .cause(format!("this program was built without {service}"))
        .hint(format!("build it with the feature `{feature}`, as `cargo build -p enfold-cli --features {feature}`"))
}

#[cfg(feature = "pkcs11")]
fn open_pkcs11(uri: &KeyUri, base: &Path, services: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    let sessions = services.pkcs11.sessions;
    let options = super::pkcs11::Pkcs11Options { base: base.to_owned(), sessions, ..Default::default() };
    Ok(Arc::new(super::pkcs11::Pkcs11Kms::open(uri, &options)?))
}

#[cfg(not(feature = "pkcs11"))]
fn open_pkcs11(uri: &KeyUri, _: &Path, _: &KeyServices) -> Result<Arc<dyn KeyManagementService>> {
    Err(not_built_in(uri, "PKCS#11", "pkcs11"))
}

/// One root key has one provider, so it cannot be reached in two ways.
fn same_way(one: &KeyUri, other: &KeyUri) -> Result<()> {
    if one.root() == other.root() {
        return Ok(());
    }
    Err(Error::new(Code::KmsUriInvalid, format!("`{one}` is reached in two ways"))
        .cause("two rings name it with another module or another source of the PIN")
        .hint("write the same URI in both"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::{EncryptionContext, KeyManagementServiceExt, MemoryKms, MemoryState, Operation};

    fn uri(text: &str) -> KeyUri {
        text.parse().unwrap()
    }

    fn builder(environment: Environment) -> (tempfile::TempDir, RegistryBuilder) {
        let folder = tempfile::tempdir().unwrap();
        let builder = Registry::builder(environment, folder.path());
        (folder, builder)
    }

    async fn refused(builder: RegistryBuilder) -> Code {
        builder.build().await.err().expect("must be refused").code()
    }

    #[tokio::test]
    async fn a_root_key_that_the_policy_does_not_name_is_never_called() {
        let (_folder, builder) = builder(Environment::Development);
        let (ours, theirs) = (MemoryKms::new("ours").unwrap(), Arc::new(MemoryKms::new("theirs").unwrap()));
        let registry = builder
            .root(uri("memory:ours"), false)
            .provider(Arc::new(ours))
            .provider(theirs.clone())
            .build()
            .await
            .unwrap();
        assert!(registry.get(&uri("memory:ours")).is_ok());
        let error = registry.get(&uri("memory:theirs")).err().unwrap();
        assert_eq!(error.code(), Code::KmsUriInvalid);
        assert_eq!(theirs.calls(), crate::kms::MemoryCalls::default());
        assert_eq!(registry.uris().count(), 1);
    }

    #[tokio::test]
    async fn a_local_key_is_refused_in_production_unless_its_ring_allows_it() {
        let (folder, builder_) = builder(Environment::Production);
        LocalKms::init(&uri("local:dev.key"), folder.path()).unwrap();
        assert_eq!(refused(builder_.root(uri("local:dev.key"), false)).await, Code::LocalKeyInProduction);
        let again = || Registry::builder(Environment::Production, folder.path());
        assert!(again().root(uri("local:dev.key"), true).build().await.is_ok());
        // One ring's permission is not another's.
        let both = again().root(uri("local:dev.key"), true).root(uri("local:dev.key"), false);
        assert_eq!(refused(both).await, Code::LocalKeyInProduction);
        for environment in [Environment::Development, Environment::Staging] {
            let elsewhere = Registry::builder(environment, folder.path()).root(uri("local:dev.key"), false);
            assert!(elsewhere.build().await.is_ok(), "{environment:?}");
        }
    }

    #[tokio::test]
    async fn a_local_key_that_the_caller_made_is_refused_in_production_too() {
        let (folder, builder) = builder(Environment::Production);
        let local = LocalKms::init(&uri("local:dev.key"), folder.path()).unwrap();
        let builder = builder.root(uri("local:dev.key"), false).provider(Arc::new(local));
        assert_eq!(refused(builder).await, Code::LocalKeyInProduction);
    }

    #[tokio::test]
    async fn a_memory_key_that_nobody_gave_is_refused() {
        let (_folder, builder) = builder(Environment::Development);
        assert_eq!(refused(builder.root(uri("memory:a"), false)).await, Code::KmsUriInvalid);
    }

    #[tokio::test]
    async fn data_keys_do_not_cross_the_network_in_the_clear_in_production() {
        let (_folder, builder) = builder(Environment::Production);
        let aws = uri("aws-kms://eu-central-1/alias/a?endpoint=http://kms.internal:8080");
        assert_eq!(refused(builder.root(aws, false)).await, Code::KmsUriInvalid);
    }

    #[cfg(not(feature = "aws"))]
    #[tokio::test]
    async fn a_provider_that_was_not_built_in_names_the_feature() {
        let (_folder, builder) = builder(Environment::Production);
        let error = builder.root(uri("aws-kms://eu-central-1/alias/a"), false).build().await.err().unwrap();
        assert_eq!(error.code(), Code::KmsUriInvalid);
        assert!(error.hints().any(|h| h.contains("feature `aws`")), "{error}");
    }

    #[test]
    fn one_process_leaves_room_in_the_quotas_of_clouds() {
        let rate = |text: &str| default_rate(&uri(text)).map(NonZeroU32::get);
        let aws = rate("aws-kms://eu-central-1/alias/a");
        assert!(aws.is_some_and(|rate| rate <= 5_500), "{aws:?}");
        let google = rate("gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k");
        assert!(google.is_some_and(|rate| rate <= 60_000 / 60), "{google:?}");
        let azure = rate("azure-kv://shop.vault.azure.net/keys/k");
        assert!(azure.is_some_and(|rate| rate <= 2_000 / 10), "{azure:?}");
        assert_eq!(rate("memory:a"), None);
    }

    #[test]
    fn the_policy_chooses_a_rate_for_all_root_keys_and_the_caller_another() {
        let services = KeyServices { requests_per_second: NonZeroU32::new(20), ..KeyServices::default() };
        let builder = Registry::builder(Environment::Development, Path::new("")).services(services);
        for uri in [uri("aws-kms://eu-central-1/alias/a"), uri("memory:a")] {
            assert_eq!(builder.rate(&uri), NonZeroU32::new(20));
        }
        assert_eq!(builder.limit(NonZeroU32::new(7)).rate(&uri("memory:a")), NonZeroU32::new(7));
    }

    #[tokio::test]
    async fn the_meter_counts_every_try() {
        let (_folder, builder) = builder(Environment::Development);
        let memory = Arc::new(MemoryKms::new("a").unwrap());
        let retry = RetryOptions { attempts: 3, first_pause: std::time::Duration::ZERO, ..RetryOptions::default() };
        let registry =
            builder.root(uri("memory:a"), false).provider(memory.clone()).retry(retry).build().await.unwrap();
        memory.set_state(MemoryState::Throttled);
        let kms = registry.get(&uri("memory:a")).unwrap();
        assert!(kms.generate_one(&EncryptionContext::new()).await.is_err());
        assert_eq!(registry.meter(&uri("memory:a")).unwrap().figures(Operation::Generate).calls, 3);
    }
}
