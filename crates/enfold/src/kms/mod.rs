//! Key services: root keys that wrap and unwrap data keys and never leave where they are.
//!
//! Owns the one joint between Enfold and whatever keeps root keys: the trait, its vocabulary ([`KeyUri`],
//! [`EncryptionContext`], [`WrappedKey`], [`KeyMaterial`]), the providers (a file each), the wrappers that hold a
//! provider (breaker, retry, limit, meter, fault) and the conformance suite that every provider passes. Does not own which
//! data key is current, how long one is cached or where wraps are stored: that is the key ring's.
//!
//! A provider stands for one root key. [`Registry`] maps the URIs of the policy to providers and refuses every other
//! one. Calls are logged under the target `enfold::kms`, with names and counts only.

pub(crate) mod aead;
mod age;
mod around;
#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
mod breaker;
mod circuit;
pub mod conformance;
mod context;
pub(crate) mod failure;
mod fault;
#[cfg(feature = "google")]
mod google;
#[cfg(feature = "http")]
#[cfg_attr(
    not(all(feature = "azure", feature = "google", feature = "vault")),
    allow(dead_code, reason = "each provider uses its own part of it")
)]
mod http;
#[cfg(feature = "http")]
#[cfg_attr(
    not(all(feature = "azure", feature = "google", feature = "vault")),
    allow(dead_code, reason = "each provider uses its own part of it")
)]
mod json;
mod limit;
mod local;
mod material;
mod memory;
mod meter;
#[cfg(feature = "oauth")]
#[cfg_attr(
    not(all(feature = "azure", feature = "google", feature = "vault")),
    allow(dead_code, reason = "each provider uses its own part of it")
)]
mod oauth;
#[cfg(feature = "pkcs11")]
mod pkcs11;
#[cfg_attr(not(feature = "aws"), allow(dead_code, reason = "only the provider of AWS makes such wraps"))]
pub(crate) mod recorded;
mod registry;
mod retry;
#[cfg(any(feature = "aws", feature = "http", feature = "pkcs11", feature = "redis"))]
#[cfg_attr(
    not(all(feature = "azure", feature = "google", feature = "vault")),
    allow(dead_code, reason = "each provider uses its own part of it")
)]
pub(crate) mod secret;
mod service;
#[cfg(any(feature = "aws", feature = "http"))]
mod service_clock;
#[cfg(any(feature = "aws", feature = "azure", feature = "google", feature = "vault", feature = "pkcs11"))]
mod several;
#[cfg(any(feature = "aws", feature = "http"))]
mod tls_fault;
mod uri;
#[cfg(feature = "vault")]
mod vault;

pub(crate) use age::{Age, age, made_by};
#[cfg(feature = "aws")]
pub use aws::{AwsKms, AwsOptions, StaticCredentials};
#[cfg(feature = "azure")]
pub use azure::{AzureKms, AzureOptions};
pub use breaker::{Breaker, BreakerOptions, Standing};
pub(crate) use circuit::{Admitted, Circuit};
pub(crate) use context::tag;
pub use context::{EncryptionContext, TenantTag};
pub use failure::Operation;
pub(crate) use failure::wrong_count;
pub use fault::{Fault, Inject};
#[cfg(feature = "google")]
pub use google::{GoogleKms, GoogleOptions};
#[cfg(feature = "http")]
pub use http::HttpOptions;
pub use limit::Limit;
pub use local::{Kdf, LocalKms, PASSPHRASE_VARIABLE, Passphrase, PassphraseSource};
pub use material::{KeyMaterial, WrappedKey};
pub use memory::{MemoryCalls, MemoryKms, MemoryState};
pub use meter::{Figures, LATENCY_BOUNDS_MS, Meter};
#[cfg(feature = "pkcs11")]
pub use pkcs11::{Pkcs11Kms, Pkcs11Options};
pub use registry::{Registry, RegistryBuilder};
#[cfg(feature = "sinks")]
pub(crate) use retry::jitter;
pub use retry::{Retry, RetryOptions};
#[cfg(any(feature = "aws", feature = "http", feature = "pkcs11", feature = "redis"))]
pub use secret::SecretSource;
pub use service::{
    Abilities, ControlKey, DecryptRequest, DecryptValues, DescribeKey, GenerateDataKey, GenerateRequest, GeneratedKey,
    Held, KeyDescription, KeyManagementService, KeyManagementServiceExt, KeyVersions, NeededBy, Permission, RewrapKeys,
    RewrapRequest, RootKeyState, RotateKey, RotationPlan, SignBytes, UnwrapRequest, WrapRequest,
};
pub use uri::{AwsKeyUri, AzureKeyUri, GoogleKeyUri, KeyUri, PinSource, Pkcs11KeyUri, RootKey, VaultKeyUri};
#[cfg(feature = "vault")]
pub use vault::{VaultKms, VaultOptions};

/// The target of every log line about a key-service call, so that their level can be set alone.
pub const LOG_TARGET: &str = "enfold::kms";
