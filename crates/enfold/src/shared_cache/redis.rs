//! Entries in Redis, over one connection that is made when it is first needed and again after it broke.
//!
//! The socket and its TLS are ours, so that the one TLS stack of this crate verifies the server; the protocol is the
//! client library's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Entries, OnDisk, entry};
use crate::forkmark::ForkMark;
use crate::kms::SecretSource;
use crate::policy::SharedCachePolicy;
use crate::{Code, Error, Result, tls};

/// The variable that is read where the policy names no file.
const PASSWORD_VARIABLE: &str = "ENFOLD_REDIS_PASSWORD";

pub(super) struct RedisEntries {
    policy: SharedCachePolicy,
    tls: Option<Arc<ClientConfig>>,
    /// A connection belongs to the process that made it.
    connection: Mutex<Option<(ForkMark, MultiplexedConnection)>>,
}

impl RedisEntries {
    /// Reads the authorities of TLS; connects to nothing yet.
    pub(super) fn open(policy: &SharedCachePolicy) -> Result<Self> {
        let nobody = || Error::new(Code::FileFailed, "cannot verify the server of the shared cache");
        let trust = tls::Trust { authorities: policy.ca_file.as_deref(), ..tls::Trust::default() };
        let tls = policy.tls.then(|| tls::client(&trust, nobody)).transpose()?.map(Arc::new);
        Ok(Self { policy: policy.clone(), tls, connection: Mutex::default() })
    }

    async fn connected(&self) -> Result<MultiplexedConnection> {
        if let Some((mark, connection)) = &*self.held()
            && mark.is_ours()
        {
            return Ok(connection.clone());
        }
        let made = self.connect().await?;
        *self.held() = Some((ForkMark::new(), made.clone()));
        Ok(made)
    }

    async fn connect(&self) -> Result<MultiplexedConnection> {
        let policy = &self.policy;
        let unreached = |why: String| {
            Error::new(Code::DatabaseUnavailable, format!("cannot reach the shared cache at `{}`", policy.server()))
                .cause(why)
        };
        let mut info = RedisConnectionInfo::default().set_db(policy.database.into()).set_skip_set_lib_name();
        if let Some(name) = &policy.username {
            info = info.set_username(name);
        }
        // Read anew for each connection, so that whoever changes it needs no restart.
        let password = match &policy.password_file {
            Some(path) => Some(SecretSource::File(path.clone()).read()?),
            None => SecretSource::Variable(PASSWORD_VARIABLE.to_owned()).read().ok(),
        };
        if let Some(password) = password {
            info = info.set_password(password.as_str());
        }
        let stream = TcpStream::connect((policy.host.as_str(), policy.port)).await;
        let stream = stream.map_err(|error| unreached(error.kind().to_string()))?;
        // Small questions that somebody waits for.
        stream.set_nodelay(true).map_err(|error| unreached(error.kind().to_string()))?;
        match &self.tls {
            None => speak(&info, stream).await,
            Some(tls) => {
                let name =
                    ServerName::try_from(policy.host.clone()).map_err(|_| unreached("its name is none".into()))?;
                let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
                speak(&info, secured.map_err(|_| unreached("it did not prove over TLS who it is".into()))?).await
            }
        }
    }

    /// Does one command; a connection that failed is not used again.
    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> std::result::Result<T, Failed> {
        let mut connection = self.connected().await.map_err(Failed::Unreached)?;
        command.query_async(&mut connection).await.map_err(|error| {
            if error.is_unrecoverable_error() || error.is_timeout() {
                *self.held() = None;
            }
            Failed::Answered(error)
        })
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<(ForkMark, MultiplexedConnection)>> {
        // No code under this lock panics half-way through a change.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Failed {
    Unreached(Error),
    Answered(RedisError),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unreached(error) => error,
            Failed::Answered(error) => said(&error),
        }
    }
}

#[async_trait]
impl Entries for RedisEntries {
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        // No more of a value than an entry can be, whatever somebody put there.
        let mut command = redis::cmd("GETRANGE");
        let found: Vec<u8> = self.ask(command.arg(name).arg(0).arg(entry::LONGEST)).await?;
        Ok(Some(found).filter(|found| !found.is_empty()))
    }

    async fn put(&self, name: &str, entry: &[u8], life: Duration) -> Result<()> {
        let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut command = redis::cmd("SET");
        self.ask::<()>(command.arg(name).arg(entry).arg("PX").arg(life)).await.map_err(Error::from)
    }

    async fn remove(&self, names: &[String]) -> Result<()> {
        let mut command = redis::cmd("DEL");
        self.ask::<u64>(command.arg(names)).await.map(|_| ()).map_err(Error::from)
    }

    async fn on_disk(&self) -> Result<OnDisk> {
        let mut writes = Vec::new();
        for (setting, off) in [("save", ""), ("appendonly", "no")] {
            let mut command = redis::cmd("CONFIG");
            match self.ask::<Vec<String>>(command.arg("GET").arg(setting)).await {
                Ok(pair) => match pair.get(1) {
                    Some(value) if value == off => {}
                    Some(value) => writes.push(format!("{setting} {value}")),
                    None => return Ok(OnDisk::NotTold),
                },
                // Managed services take the command away, and so do careful operators.
                Err(Failed::Answered(error)) if !error.is_io_error() && !error.is_timeout() => {
                    return Ok(OnDisk::NotTold);
                }
                Err(failed) => return Err(failed.into()),
            }
        }
        Ok(if writes.is_empty() { OnDisk::No } else { OnDisk::Yes(writes) })
    }
}

/// Signs in, and leaves the connection to a task that ends with its last holder.
async fn speak<S>(info: &RedisConnectionInfo, stream: S) -> Result<MultiplexedConnection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, driver) = MultiplexedConnection::new_with_config(info, stream, AsyncConnectionConfig::new())
        .await
        .map_err(|error| said(&error))?;
    tokio::spawn(driver);
    Ok(connection)
}

/// The kind of what the server said, and nothing of its text: that may quote what it was sent.
fn said(error: &RedisError) -> Error {
    Error::new(Code::DatabaseUnavailable, "the shared cache failed").cause(error.category().to_owned())
}
