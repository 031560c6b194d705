//! TLS of the service's own. Certificates are renewed without a restart: files that changed are read again, and what cannot be
//! used leaves what was good.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use enfold::policy::ServiceTls;
use enfold::{Result, private_file, tls};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// More than a key in PEM has.
const LONGEST_KEY: usize = 64 * 1024;

/// What tells that a file is another: when it was written, and its length.
type Stamps = Vec<Option<(SystemTime, u64)>>;

pub(crate) struct Tls {
    policy: ServiceTls,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files once, so that a wrong one shows at the start.
    pub(crate) fn new(policy: &ServiceTls) -> Result<Self> {
        Ok(Self { policy: policy.clone(), config: RwLock::new(Arc::new(config(policy)?)) })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Reads what changed, until the service stops.
    pub(crate) async fn renew(&self) {
        let mut seen = stamps(&self.policy);
        loop {
            tokio::time::sleep(EVERY).await;
            let now = stamps(&self.policy);
            if now == seen {
                continue;
            }
            match config(&self.policy) {
                Ok(config) => {
                    *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    tracing::info!(target: "enfold_server", "the certificate was renewed");
                    seen = now;
                }
                // It may be in the middle of being written: looked at again, and said each time.
                Err(error) => tracing::warn!(target: "enfold_server", "a new certificate cannot be used: {error}"),
            }
        }
    }
}

fn config(policy: &ServiceTls) -> Result<ServerConfig> {
    let key = private_file::read(&policy.key, "key of the TLS certificate", LONGEST_KEY)?;
    let key = String::from_utf8_lossy(&key);
    tls::server(&tls::Identity { certificate: &policy.certificate, key: &key }, policy.client_ca_file.as_deref())
}

fn stamps(policy: &ServiceTls) -> Stamps {
    let files = [&policy.certificate, &policy.key].into_iter().chain(&policy.client_ca_file);
    let stamp = |path: &Path| {
        let about = std::fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len()))
    };
    files.map(|path| stamp(path)).collect()
}
