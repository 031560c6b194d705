//! Events as syslog messages (RFC 5424): over TCP with octets counted (RFC 6587, section 3.4.1), over TLS (RFC 5425), or as datagrams to
//! a socket of this machine. The message itself is the line of the log, letter for letter.
//!
//! Syslog has no answer. What a connection took before it broke may be lost on its way, and nobody is told; numbers that are missing
//! in a chain show it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};
use tokio_rustls::TlsConnector;

use super::{Arrived, Line, Missed, Receiver};
use crate::events::{Entry, Outcome};
use crate::policy::{SinkPolicy, SyslogServer};
use crate::{Code, Error, Result, tls};

/// To connect, and to write a batch.
const WITHIN: Duration = Duration::from_secs(10);
/// "Log audit", of RFC 5424, table 1.
const FACILITY: u8 = 13;
/// RFC 5424, section 6: what stands for a name that is not known, or for no structured data.
const NIL: &str = "-";
/// The longest host name there.
const LONGEST_HOST: usize = 255;

pub(super) struct Syslog {
    server: Server,
    host: String,
    connection: Option<Connection>,
}

enum Server {
    Tcp(String, u16),
    Tls(String, u16, TlsConnector),
    Unix(PathBuf),
}

enum Connection {
    Stream(Box<dyn Stream>),
    Datagrams(UnixDatagram),
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

impl Syslog {
    pub(super) fn open(policy: &SinkPolicy) -> Result<Self> {
        let server = match &policy.syslog {
            Some(SyslogServer::Tcp(host, port)) => Server::Tcp(host.clone(), *port),
            Some(SyslogServer::Tls(host, port)) => {
                Server::Tls(host.clone(), *port, connector(policy.ca_file.as_deref())?)
            }
            Some(SyslogServer::Unix(path)) => Server::Unix(path.clone()),
            None => return Err(Error::new(Code::Internal, "a sink for syslog names no server")),
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let is_fit = !host.is_empty() && host.len() <= LONGEST_HOST && host.bytes().all(|b| b.is_ascii_graphic());
        let host = if is_fit { host } else { NIL.to_owned() };
        Ok(Self { server, host, connection: None })
    }

    async fn write(&mut self, lines: &[Line]) -> io::Result<Arrived> {
        let messages: Vec<String> = lines.iter().map(|line| self.message(line)).collect();
        // Lets the runtime hear from the network first, or a connection that was closed meanwhile would still look open.
        tokio::task::yield_now().await;
        let mut connection = match self.connection.take().and_then(Connection::if_up) {
            Some(held) => held,
            None => self.server.connect().await?,
        };
        let arrived = connection.write(&messages).await?;
        self.connection = Some(connection);
        Ok(Arrived { lines: arrived, refused: 0 })
    }

    fn message(&self, line: &Line) -> String {
        let event = Entry::parse(&line.text).map(|entry| entry.event);
        let event = event.as_ref().ok();
        let priority = FACILITY * 8 + severity(event.and_then(|event| event.result));
        let at = event.and_then(|event| jiff::Timestamp::from_millisecond(event.at_ms).ok());
        let (host, process) = (&self.host, std::process::id());
        let kind = line.kind.map_or("checkpoint", |kind| kind.as_str());
        format!(
            "<{priority}>1 {:.3} {host} enfold {process} {kind} {NIL} {}",
            at.unwrap_or_else(jiff::Timestamp::now),
            line.text
        )
    }
}

#[async_trait]
impl Receiver for Syslog {
    async fn send(&mut self, lines: &[Line]) -> std::result::Result<Arrived, Missed> {
        match tokio::time::timeout(WITHIN, self.write(lines)).await {
            Ok(Ok(arrived)) => Ok(arrived),
            // EMSGSIZE: a datagram that is too long arrives nowhere.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                Err(Missed::Refused("a message is longer than the socket takes".to_owned()))
            }
            Ok(Err(error)) => {
                Err(Missed::later(format!("the syslog server could not be written to: {}", error.kind())))
            }
            Err(_) => Err(Missed::later("the syslog server did not take them in time")),
        }
    }
}

impl Server {
    async fn connect(&self) -> io::Result<Connection> {
        Ok(match self {
            Self::Tcp(host, port) => Connection::Stream(Box::new(TcpStream::connect((host.as_str(), *port)).await?)),
            Self::Tls(host, port, connector) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                let name = ServerName::try_from(host.clone()).map_err(|_| io::ErrorKind::InvalidInput)?;
                Connection::Stream(Box::new(connector.connect(name, stream).await?))
            }
            Self::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Connection::Datagrams(socket)
            }
        })
    }
}

impl Connection {
    /// Whether the server has not closed it. A syslog server sends nothing, so anything else to read is its end as well.
    fn if_up(mut self) -> Option<Self> {
        let is_up = match &mut self {
            Self::Stream(stream) => stream.read(&mut [0]).now_or_never().is_none(),
            Self::Datagrams(_) => true,
        };
        is_up.then_some(self)
    }

    /// How many were written.
    async fn write(&mut self, messages: &[String]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => {
                let mut frames = String::new();
                for message in messages {
                    // Writing to a String cannot fail.
                    let _ = write!(frames, "{} {message}", message.len());
                }
                stream.write_all(frames.as_bytes()).await?;
                stream.flush().await?;
            }
            Self::Datagrams(socket) => {
                for (n, message) in messages.iter().enumerate() {
                    match socket.send(message.as_bytes()).await {
                        Ok(_) => {}
                        Err(error) if n == 0 => return Err(error),
                        Err(_) => return Ok(n),
                    }
                }
            }
        }
        Ok(messages.len())
    }
}

fn connector(authorities: Option<&Path>) -> Result<TlsConnector> {
    let trust = tls::Trust { authorities, ..tls::Trust::default() };
    let unverifiable =
        || Error::new(Code::FileFailed, "this machine has no root certificates to verify a syslog server with");
    Ok(TlsConnector::from(Arc::new(tls::client(&trust, unverifiable)?)))
}

/// RFC 5424, table 2.
fn severity(result: Option<Outcome>) -> u8 {
    match result {
        Some(Outcome::Failure) => 3,
        Some(Outcome::Denied) => 4,
        Some(Outcome::Success) | None => 6,
    }
}
