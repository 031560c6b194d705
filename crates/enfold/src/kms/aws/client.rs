//! The SDK's client, made anew when the files have changed that its credentials come from.
//!
//! The SDK itself asks again for credentials that end (roles, web identities, instances). Keys that stand in a profile
//! do not end, so it would keep them for as long as the process lives.

use std::path::PathBuf;

use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::{Credentials, SharedCredentialsProvider};
use tokio::sync::Mutex;

use super::AwsOptions;
use super::clock::Watch;
use crate::kms::secret::Stamp;
use crate::kms::uri::AwsKeyUri;
use crate::policy::AwsRole;

/// How a session in a role is called in the logs of the role's account.
const SESSION: &str = "enfold";

pub(super) struct Clients {
    settings: Settings,
    held: Mutex<Held>,
}

/// What every client is made with.
struct Settings {
    region: Region,
    endpoint: Option<String>,
    timeouts: TimeoutConfig,
    /// Instead of the default chain.
    given: Option<Credentials>,
    role: Option<AwsRole>,
    clock: Watch,
}

struct Held {
    client: Client,
    stamps: [Stamp; 2],
}

impl Clients {
    pub(super) async fn new(key: &AwsKeyUri, options: &AwsOptions<'_>, clock: &Watch) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(options.connect_within)
            .operation_attempt_timeout(options.answer_within)
            .build();
        let given = options.credentials.map(|given| {
            let token = given.session_token.map(str::to_owned);
            Credentials::new(given.access_key_id, given.secret_access_key, token, None, "given by the caller")
        });
        let settings = Settings {
            region: Region::new(key.region().to_owned()),
            endpoint: key.endpoint().map(str::to_owned),
            timeouts,
            given,
            role: options.role.clone(),
            clock: clock.clone(),
        };
        // Before it is made: a change in between is seen as one.
        let stamps = stamps();
        let client = settings.client().await;
        Self { settings, held: Mutex::new(Held { client, stamps }) }
    }

    /// The client to call with.
    pub(super) async fn current(&self) -> Client {
        let mut held = self.held.lock().await;
        let stamps = stamps();
        // A file that is being replaced at this moment was what it is until it is another.
        let changed = held.stamps.iter().zip(&stamps).any(|(was, is)| was != is && !is.is_of_nothing());
        if self.settings.given.is_none() && changed {
            held.client = self.settings.client().await;
            held.stamps = stamps;
        }
        held.client.clone()
    }
}

impl Settings {
    async fn client(&self) -> Client {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(self.region.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(self.timeouts.clone());
        if let Some(given) = &self.given {
            loader = loader.credentials_provider(given.clone());
        }
        let mut shared = loader.load().await;
        if let Some(role) = &self.role {
            shared = in_role(&shared, role).await;
        }
        let mut config = aws_sdk_kms::config::Builder::from(&shared);
        // Set even where it is none: otherwise AWS_ENDPOINT_URL of the environment would choose whom we call.
        config.set_endpoint_url(self.endpoint.clone());
        Client::from_conf(config.interceptor(self.clock.clone()).build())
    }
}

/// The role's credentials instead of those that were found, which are used to assume it. Where STS is follows from the
/// region, or from the SDK's own setting: no data key goes there.
async fn in_role(shared: &SdkConfig, role: &AwsRole) -> SdkConfig {
    let mut builder = AssumeRoleProvider::builder(&role.arn).session_name(SESSION).configure(shared);
    if let Some(id) = &role.external_id {
        builder = builder.external_id(id);
    }
    let provider = match shared.credentials_provider() {
        Some(found) => builder.build_from_provider(found).await,
        None => builder.build().await,
    };
    shared.to_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
}

/// Of the two files of profiles, where the SDK looks for them ("Shared config and credentials files" in the SDKs'
/// reference guide).
fn stamps() -> [Stamp; 2] {
    [("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), ("AWS_CONFIG_FILE", ".aws/config")].map(|(name, usual)| {
        let named = std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        Stamp::of(&named.unwrap_or_else(|| home().join(usual)))
    })
}
