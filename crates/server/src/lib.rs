//! The service: one process that applications call over HTTP, with the keys that an [`Enfold`] has.
//!
//! What is here: connections ([`connections`]), who asks and what they may do ([`identity`]), what narrows that ([`rules`]), and the API ([`api`]), whose
//! endpoints stand in one table that routes, permissions, the OpenAPI document and the tests are made from, and the console for
//! people ([`console`]). What is not: sealing and opening, keys, states (`enfold`), and the terminal and the environment (`enfold-cli`).

pub mod api;
mod connections;
pub mod console;
mod identity;
pub mod metrics;
pub mod openapi;
pub mod rules;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use enfold::policy::ServiceLimits;
use enfold::{CallContext, Code, Enfold, Error, Result};
use enfold_jobs::database::Database;
use enfold_jobs::ops::Session;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

use self::identity::{Issuer, Rates, Refusals, ServiceKeys};
use self::metrics::{Exporter, Listening};
use self::rules::Rules;
use self::tls::Tls;

/// A service that is bound to its address and answers nobody yet.
pub struct Service {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    shared: Arc<Shared>,
    /// Where figures are told without credentials, if the policy says so.
    figures: Option<Listening>,
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) enfold: Enfold,
    pub(crate) service_keys: ServiceKeys,
    pub(crate) issuers: Vec<Issuer>,
    /// None where the policy has no access rules.
    pub(crate) rules: Option<Arc<Rules>>,
    pub(crate) limits: ServiceLimits,
    pub(crate) rates: Rates,
    pub(crate) sessions: console::Sessions,
    pub(crate) evidence: console::Evidence,
    /// The console as a client of an issuer, where people sign in there.
    pub(crate) client: Option<console::Client>,
    pub(crate) exporter: Arc<Exporter>,
    pub(crate) latest_health: api::LatestHealth,
    pub(crate) latest_sample: api::LatestSample,
    pub(crate) streams: api::Streams,
    pub(crate) refusals: Refusals,
    /// Whether the service is to stop, for what would not end by itself.
    pub(crate) stopping: watch::Sender<bool>,
    database: Arc<OnceCell<Arc<dyn Database>>>,
}

impl Shared {
    /// The policy's database and keys, for jobs. It is reached for when somebody first asks for one.
    pub(crate) async fn session(&self, context: &CallContext) -> Result<Session> {
        let database = reached(&self.enfold, &self.database).await?;
        Session::over(self.enfold.clone(), database, context)
    }

    /// Whether browsers come over TLS, ours or that of a proxy in front.
    pub(crate) fn is_secure(&self) -> bool {
        let policy = &self.enfold.policy().service;
        let told = policy.console.sign_in.as_ref().is_some_and(|sign_in| sign_in.url.starts_with("https:"));
        told || policy.tls.is_some()
    }

    pub(crate) fn check_batch(&self, items: usize) -> Result<()> {
        if items <= self.limits.max_batch {
            return Ok(());
        }
        Err(Error::new(Code::RequestTooLarge, "the batch has too many items")
            .cause(format!("it has {items}, and may have {}", self.limits.max_batch))
            .hint("send fewer items at once"))
    }
}

impl Service {
    /// Binds `address`, and reads who is let in.
    ///
    /// # Errors
    /// `Usage` where the address cannot be bound; what [`Enfold::access_list`] says where that is not as the operators signed it, and what
    /// [`Rules::read`] says where there are access rules that cannot be gone by.
    pub async fn bind(enfold: Enfold, address: SocketAddr) -> Result<Self> {
        let listener = bind(address)?;
        let figures = match enfold.policy().metrics.listen {
            Some(address) => Some(Listening::on(address)?),
            None => None,
        };
        let service_keys = ServiceKeys::read(&enfold).await?;
        let policy = &enfold.policy().service;
        let limits = policy.limits;
        let tls = policy.tls.as_ref().map(Tls::new).transpose()?.map(Arc::new);
        let issuers = policy
            .issuers
            .iter()
            .map(|(name, issuer)| Issuer::new(name, issuer, &policy.emergency))
            .collect::<Result<_>>()?;
        let rules = Rules::read(enfold.policy())?.map(Arc::new);
        let database = Arc::<OnceCell<_>>::default();
        let rates = Rates::new(limits.requests_per_second);
        let (sessions, evidence) = (console::Sessions::new(&policy.console), console::Evidence::default());
        let client = policy.console.sign_in.as_ref().map(console::Client::new).transpose()?;
        let exporter = Arc::new(Exporter::sharing(enfold.clone(), Arc::clone(&database)));
        let shared = Shared {
            enfold,
            service_keys,
            issuers,
            rules,
            limits,
            rates,
            sessions,
            evidence,
            client,
            exporter,
            latest_health: api::LatestHealth::default(),
            latest_sample: api::LatestSample::default(),
            streams: api::Streams::default(),
            refusals: Refusals::default(),
            stopping: watch::Sender::new(false),
            database,
        };
        Ok(Self { listener, tls, shared: Arc::new(shared), figures })
    }

    /// Where it listens, with the port that the system chose where none was named.
    pub fn address(&self) -> Result<SocketAddr> {
        address(&self.listener)
    }

    /// Where figures are told without credentials.
    pub fn figures_address(&self) -> Result<Option<SocketAddr>> {
        self.figures.as_ref().map(Listening::address).transpose()
    }

    /// Answers requests until `stop` is done; then takes no more, and finishes those that it took.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let looking = [
            tokio::spawn(identity::look(Arc::clone(&self.shared))),
            tokio::spawn(identity::fetch(Arc::clone(&self.shared))),
        ];
        let router = api::router(&self.shared);
        let renewed = self.tls.clone();
        let renewing = tokio::spawn(async move {
            if let Some(tls) = renewed {
                tls.renew().await;
            }
        });
        let exporter = Arc::clone(&self.shared.exporter);
        let telling = tokio::spawn(async move {
            if let Some(figures) = self.figures {
                figures.run(exporter, std::future::pending()).await;
            }
        });
        let shared = Arc::clone(&self.shared);
        let stop = async move {
            stop.await;
            shared.stopping.send_replace(true);
        };
        connections::serve(self.listener, self.tls, router, &self.shared.limits, stop).await;
        looking.iter().chain([&renewing, &telling]).for_each(JoinHandle::abort);
    }
}

/// The policy's database, connected to when somebody first asks for it.
pub(crate) async fn reached(enfold: &Enfold, database: &OnceCell<Arc<dyn Database>>) -> Result<Arc<dyn Database>> {
    let policy = enfold.policy();
    let connect = || enfold_jobs::connect(&policy.database, Some(&policy.jobs));
    database.get_or_try_init(connect).await.cloned()
}

/// Connections that may wait to be accepted. Whoever finds no room there tries again after a second, so a burst had better fit.
const BACKLOG: u32 = 4096;

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let listening = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    listening.map_err(|e| {
        Error::new(Code::Usage, format!("cannot listen on `{address}`"))
            .cause(e.kind().to_string())
            .hint("another program may have the port: name another with `--listen`")
    })
}

fn address(listener: &TcpListener) -> Result<SocketAddr> {
    listener
        .local_addr()
        .map_err(|e| Error::new(Code::Internal, "a bound socket has no address").cause(e.kind().to_string()))
}
