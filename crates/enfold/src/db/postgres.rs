//! How a Postgres server is reached: URL, TLS, and what may be repeated of what it says.
//!
//! A driver's error text is never passed on: Postgres quotes row values in messages and details. [`failure`] keeps the
//! SQLSTATE and the names of objects, which cannot hold one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::policy::DatabaseUrl;
use crate::{Code, Error, Result, tls};

/// How long a connection may take to come about, unless the URL's `connect_timeout` says otherwise.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A connection on which nothing came for so long is asked whether its other end is still there: one whose network went away
/// without a word would be waited for for hours otherwise.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// How often it is asked again, and how often in all.
const ASKED_EVERY: Duration = Duration::from_secs(10);
const ASKED_TIMES: u32 = 3;

/// A server that does not answer within this is unavailable: callers have a cache and a limit of their own to go by.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A server and a database on it, with the wire's protection settled.
#[derive(Clone)]
pub struct Endpoint {
    config: Config,
    tls: Option<Arc<ClientConfig>>,
}

impl Endpoint {
    /// Parses a URL (or libpq's `key=value` form). TLS, when used, always verifies the server's certificate against
    /// the system's roots (or those of `SSL_CERT_FILE`, or of `sslrootcert` in the URL): `sslmode` `require`,
    /// `verify-ca` and `verify-full` mean the same here. Without `sslmode`, only loopback and local sockets go without
    /// TLS.
    pub fn parse(url: &DatabaseUrl) -> Result<Self> {
        Self::parse_text(&url.raw)
    }

    pub fn parse_text(url: &str) -> Result<Self> {
        let (url, root_cert) = without_root_cert(url);
        let known =
            url.replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
        // The parser's own words may quote the URL, and with it the password.
        let mut config: Config = known.parse().map_err(|_| {
            Error::new(Code::PolicyInvalid, "the database URL cannot be understood")
                .hint("write it as `postgres://user@host:5432/database?sslmode=require`")
        })?;
        if config.get_application_name().is_none() {
            config.application_name("enfold");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_LIMIT);
        }
        if !known.contains("keepalives") {
            config.keepalives_idle(SILENT_FOR).keepalives_interval(ASKED_EVERY).keepalives_retries(ASKED_TIMES);
        }
        if !known.contains("sslmode=") {
            config.ssl_mode(if is_local(&config) { SslMode::Disable } else { SslMode::Require });
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(Arc::new(verifying_tls(root_cert.as_deref())?)),
        };
        Ok(Self { config, tls })
    }

    pub fn database(&self) -> &str {
        self.config.get_dbname().or(self.config.get_user()).unwrap_or("postgres")
    }

    /// A new connection, driven in the background until the client is dropped.
    pub async fn connect(&self) -> Result<Client> {
        // The driver's own limit ends where TCP's handshake does, and somebody may take connections and never say a word.
        let within = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_LIMIT);
        let within = within.saturating_mul(u32::try_from(self.config.get_hosts().len()).unwrap_or(u32::MAX).max(1));
        tokio::time::timeout(within, self.connect_to_one()).await.unwrap_or_else(|_| {
            let fact =
                format!("whoever answers there took the connection and then said nothing for {} s", within.as_secs());
            Err(self.not_there(Error::new(Code::DatabaseUnavailable, self.connecting()).cause(fact)))
        })
    }

    async fn connect_to_one(&self) -> Result<Client> {
        match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await.map_err(|e| self.unreached(&e))?;
                // The connection's end shows on the client, whose every call then fails.
                tokio::spawn(async move { drop(connection.await) });
                Ok(client)
            }
            Some(tls) => {
                let tls = MakeRustlsConnect::new((**tls).clone());
                let (client, connection) = self.config.connect(tls).await.map_err(|e| self.unreached(&e))?;
                tokio::spawn(async move { drop(connection.await) });
                Ok(client)
            }
        }
    }

    fn unreached(&self, error: &tokio_postgres::Error) -> Error {
        if let Some(distrust) = Distrust::of(error) {
            return distrust.as_error(self.connecting(), &self.server().0);
        }
        let error = failure(self.connecting(), error);
        match error.code() {
            Code::DatabaseUnavailable => self.not_there(error),
            Code::DatabaseDenied => error.hint("check user, password and database in the database URL"),
            _ => error,
        }
    }

    fn connecting(&self) -> String {
        format!("cannot connect to the database `{}`", self.database())
    }

    fn not_there(&self, error: Error) -> Error {
        let (host, port) = self.server();
        error
            .hint(format!("see whether a server answers there: `pg_isready -h {host} -p {port}`"))
            .hint("check host and port in the database URL")
    }

    /// The first host, or folder of a socket, with its port.
    fn server(&self) -> (String, u16) {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(folder)) => folder.display().to_string(),
            None => "localhost".to_owned(),
        };
        (host, self.config.get_ports().first().copied().unwrap_or(5432))
    }
}

/// One connection, made again when it was lost, used by one call at a time.
pub(crate) struct Link {
    endpoint: Endpoint,
    client: Mutex<Option<Client>>,
}

impl Link {
    /// Connected when it is first used.
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, client: Mutex::new(None) }
    }

    pub(crate) async fn connect(endpoint: Endpoint) -> Result<Self> {
        let client = endpoint.connect().await?;
        Ok(Self { endpoint, client: Mutex::new(Some(client)) })
    }

    /// Runs `work` with the connection, within [`CALL_LIMIT`]. A connection that failed or was given up half-way is not
    /// used again.
    pub(crate) async fn with<T>(&self, doing: &str, work: impl AsyncFnOnce(&mut Client) -> Result<T>) -> Result<T> {
        let call = async {
            let mut slot = self.client.lock().await;
            let mut client = self.take(&mut slot).await?;
            let result = work(&mut client).await;
            // A connection may be lost before its client knows: after such an error it is not kept either.
            let lost = result.as_ref().is_err_and(|e| e.code() == Code::DatabaseUnavailable);
            if !lost && !client.is_closed() {
                *slot = Some(client);
            }
            result
        };
        tokio::time::timeout(CALL_LIMIT, call).await.unwrap_or_else(|_| {
            Err(Error::new(Code::DatabaseUnavailable, doing).cause(format!(
                "`{}` did not answer within {} s",
                self.endpoint.database(),
                CALL_LIMIT.as_secs()
            )))
        })
    }

    async fn take(&self, slot: &mut MutexGuard<'_, Option<Client>>) -> Result<Client> {
        match slot.take() {
            Some(client) if !client.is_closed() => Ok(client),
            _ => self.endpoint.connect().await,
        }
    }
}

/// Why a server was not trusted, as far as there is something to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distrust {
    NoTls,
    UnknownAuthority,
    OtherName,
    NotValidNow,
    Other,
}

impl Distrust {
    /// `None` where the connection failed for another reason than TLS.
    fn of(error: &tokio_postgres::Error) -> Option<Self> {
        use rustls::{CertificateError as Bad, Error as Tls};
        let source = std::error::Error::source(error)?;
        let Some(io) = source.downcast_ref::<std::io::Error>() else {
            // The driver has no type for it, only these words.
            return (source.to_string() == "server does not support TLS").then_some(Self::NoTls);
        };
        Some(match io.get_ref()?.downcast_ref::<Tls>()? {
            // An authority of the same name with another key shows as a bad signature.
            Tls::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => Self::UnknownAuthority,
            Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => Self::OtherName,
            Tls::InvalidCertificate(
                Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
            ) => Self::NotValidNow,
            _ => Self::Other,
        })
    }

    fn as_error(self, doing: String, host: &str) -> Error {
        let (fact, hint) = match self {
            Self::NoTls => (
                "the server does not offer TLS".to_owned(),
                "switch TLS on at the server (`ssl = on`); `sslmode=disable` goes without, and is read by whoever is on the way",
            ),
            Self::UnknownAuthority => (
                "the server's certificate is of an authority that is not known here".to_owned(),
                "name the authority's certificate with `sslrootcert=FILE` in the database URL",
            ),
            Self::OtherName => (
                format!("the server's certificate is not for `{host}`"),
                "use the host name that stands in the certificate",
            ),
            Self::NotValidNow => (
                "the server's certificate has run out, or is not valid yet".to_owned(),
                "have it renewed, and check the clock of this machine",
            ),
            Self::Other => (
                "the server and this program do not come to terms over TLS".to_owned(),
                "look at what the server presents: `openssl s_client -starttls postgres -connect HOST:PORT`",
            ),
        };
        Error::new(Code::DatabaseUntrusted, doing).cause(fact).hint(hint).hint("nothing was sent to it")
    }
}

/// Turns a driver's error into ours: a code by SQLSTATE, the names of objects, no text of the server.
pub fn failure(doing: impl Into<String>, error: &tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        let code = if lost(error) { Code::DatabaseUnavailable } else { Code::DatabaseFailed };
        let fact =
            if lost(error) { "the connection was refused or lost" } else { "the driver could not read the answer" };
        return Error::new(code, doing).cause(fact);
    };
    let state = db.code();
    let mut fact = format!("Postgres answered SQLSTATE {} ({})", state.code(), condition(state));
    let named = [("constraint", db.constraint()), ("table", db.table()), ("column", db.column())];
    for (kind, name) in named {
        if let Some(name) = name {
            fact.push_str(&format!(", {kind} `{name}`"));
        }
    }
    let error = Error::new(code_of(state), doing).cause(fact);
    match *state {
        SqlState::INSUFFICIENT_PRIVILEGE => {
            error.hint("`enfold doctor` names the rights that are missing, with the GRANT that gives them")
        }
        SqlState::DISK_FULL => error.hint(
            "the transaction was rolled back; make room where the server keeps its files (data, tablespaces, `pg_wal`) and run the command again",
        ),
        _ => error,
    }
}

/// Whether the connection is gone, so that a new one may do better.
pub fn lost(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(db) => matches!(code_of(db.code()), Code::DatabaseUnavailable),
        None => {
            error.is_closed()
                || std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
        }
    }
}

fn code_of(state: &SqlState) -> Code {
    match *state {
        SqlState::DISK_FULL => Code::DiskFull,
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN | SqlState::INVALID_SCHEMA_NAME => Code::TableMissing,
        SqlState::LOCK_NOT_AVAILABLE | SqlState::OBJECT_IN_USE | SqlState::T_R_DEADLOCK_DETECTED => Code::Busy,
        SqlState::INSUFFICIENT_PRIVILEGE
        | SqlState::INVALID_PASSWORD
        | SqlState::INVALID_AUTHORIZATION_SPECIFICATION
        | SqlState::INVALID_CATALOG_NAME => Code::DatabaseDenied,
        // 57P01 to 57P03: the server is stopping, crashed or starting. 08: connection exceptions. 53300: too many.
        SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::TOO_MANY_CONNECTIONS => Code::DatabaseUnavailable,
        _ if state.code().starts_with("08") => Code::DatabaseUnavailable,
        _ => Code::DatabaseFailed,
    }
}

/// What a SQLSTATE means, in words of ours.
fn condition(state: &SqlState) -> &'static str {
    match *state {
        SqlState::UNIQUE_VIOLATION => "a unique constraint",
        SqlState::CHECK_VIOLATION => "a check constraint",
        SqlState::FOREIGN_KEY_VIOLATION => "a foreign key",
        SqlState::NOT_NULL_VIOLATION => "a NOT NULL constraint",
        SqlState::EXCLUSION_VIOLATION => "an exclusion constraint",
        SqlState::STRING_DATA_RIGHT_TRUNCATION => "a value longer than the column's type allows",
        SqlState::PROGRAM_LIMIT_EXCEEDED => "a limit of the server, such as an index row over 2,704 bytes",
        SqlState::INSUFFICIENT_PRIVILEGE => "a right is missing",
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => "the login was refused",
        SqlState::INVALID_CATALOG_NAME => "no such database",
        SqlState::UNDEFINED_TABLE => "no such table",
        SqlState::UNDEFINED_COLUMN => "no such column",
        SqlState::LOCK_NOT_AVAILABLE => "a lock was not free in time",
        SqlState::QUERY_CANCELED => "the statement was cancelled or took too long",
        SqlState::T_R_SERIALIZATION_FAILURE => "a concurrent change",
        SqlState::T_R_DEADLOCK_DETECTED => "a deadlock",
        SqlState::DISK_FULL => "the disk is full",
        SqlState::OUT_OF_MEMORY => "the server is out of memory",
        SqlState::RAISE_EXCEPTION => "a trigger or function refused",
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => "the server is not up",
        _ => "see the Postgres manual, appendix A",
    }
}

fn is_local(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    })
}

/// The driver does not know libpq's `sslrootcert`: it is taken out of the URL and read here. `system` is its default.
fn without_root_cert(url: &str) -> (String, Option<PathBuf>) {
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let (ours, theirs): (Vec<&str>, Vec<&str>) = query.split('&').partition(|p| p.starts_with("sslrootcert="));
    let path = ours.last().and_then(|p| p.split_once('=')).map(|(_, path)| path).filter(|path| *path != "system");
    let query = if theirs.is_empty() { String::new() } else { format!("?{}", theirs.join("&")) };
    (format!("{base}{query}"), path.map(PathBuf::from))
}

fn verifying_tls(root_cert: Option<&Path>) -> Result<ClientConfig> {
    let trust = tls::Trust { authorities: root_cert, ..tls::Trust::default() };
    let unverifiable =
        || Error::new(Code::DatabaseUnavailable, "this machine has no root certificates to verify the database with");
    let hinted = |error: Error| match error.code() {
        Code::FileFailed => {
            error.hint("`sslrootcert` names a PEM file with the certificate of the database's authority")
        }
        _ => error,
    };
    tls::client(&trust, unverifiable).map_err(hinted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_goes_without_tls_and_everything_else_needs_it() {
        for (url, tls) in [
            ("postgres://a@127.0.0.1:5432/x", false),
            ("postgres://a@localhost/x", false),
            ("postgres://a@db.example.com/x", true),
            ("postgres://a@db.example.com/x?sslmode=disable", false),
            ("postgres://a@127.0.0.1/x?sslmode=verify-full", true),
        ] {
            assert_eq!(Endpoint::parse_text(url).expect(url).tls.is_some(), tls, "{url}");
        }
    }

    #[tokio::test]
    async fn whoever_takes_connections_and_says_nothing_is_no_server() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let url = format!("postgres://u@127.0.0.1:{port}/x?connect_timeout=1");
        let error = Endpoint::parse_text(&url).unwrap().connect().await.expect_err("nobody answers");
        assert_eq!(error.code(), Code::DatabaseUnavailable);
        assert!(error.to_string().contains("took the connection and then said nothing for 1 s"), "{error}");
    }

    #[test]
    fn a_connection_that_went_silent_is_looked_after_unless_the_url_says_how() {
        let idle = |url: &str| Endpoint::parse_text(url).unwrap().config.get_keepalives_idle();
        assert_eq!(idle("postgres://u@127.0.0.1/x"), SILENT_FOR);
        assert_eq!(idle("postgres://u@127.0.0.1/x?keepalives_idle=600"), Duration::from_secs(600));
    }

    #[test]
    fn an_authority_of_ones_own_is_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let url = |path: &str| format!("postgres://u@db/x?sslmode=verify-full&sslrootcert={path}&application_name=a");
        let refused = |path: &str| Endpoint::parse_text(&url(path)).err().map(|e| e.code());
        assert_eq!(refused(path.to_str().unwrap()), Some(Code::FileFailed));
        std::fs::write(&path, "no certificate\n").unwrap();
        assert_eq!(refused(path.to_str().unwrap()), Some(Code::FileFailed));
        let (kept, path) = without_root_cert(&url("/etc/ca.pem"));
        assert_eq!(kept, "postgres://u@db/x?sslmode=verify-full&application_name=a");
        assert_eq!(path, Some(PathBuf::from("/etc/ca.pem")));
        assert_eq!(without_root_cert("postgres://u@db/x?sslrootcert=system"), ("postgres://u@db/x".into(), None));
    }

    #[test]
    fn a_url_that_cannot_be_read_is_not_repeated() {
        let error = Endpoint::parse_text("postgres://u:hunter2@[::/x").err().expect("refused");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
