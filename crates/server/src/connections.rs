//! Connections: accepted up to a number, given up where their headers do not come, finished when the service stops.
//!
//! HTTP/1.1 only: whoever wants HTTP/2 has a proxy that speaks it, and its many streams a connection would be limits to keep of
//! their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use enfold::policy::ServiceLimits;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::tls::Tls;

/// How long a client may take for the headers of a request, and keep a connection that it asks nothing on.
const HEADERS: Duration = Duration::from_secs(30);
/// And for the handshake of TLS before them.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Where no connection can be accepted because files are short, the next try waits as long.
const SHORT_OF_FILES: Duration = Duration::from_millis(50);

/// The other side of the connection that a request came on.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Serves until `stop` is done, and then until what was taken is finished or its time is over.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    limits: &ServiceLimits,
    stop: impl Future<Output = ()>,
) {
    let room = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    while let Some((slot, stream, peer)) = next(&listener, &room, stop.as_mut()).await {
        let (watcher, router) = (graceful.watcher(), router.clone());
        let acceptor = tls.as_ref().map(|tls| tls.acceptor());
        tokio::spawn(async move {
            let _slot = slot;
            let ended = match acceptor {
                None => answer(stream, peer, router, watcher).await,
                Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => answer(stream, peer, router, watcher).await,
                    _ => Err("TLS did not come about"),
                },
            };
            if let Err(why) = ended {
                tracing::debug!(target: "enfold_server", %peer, "a connection ended early: {why}");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!(target: "enfold_server", "stopped with requests that were not finished in their time");
    }
}

/// Answers the requests of one connection.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    watcher: Watcher,
) -> Result<(), &'static str> {
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        inner.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await.map_err(|error| ended(&error))
}

type Slot = tokio::sync::OwnedSemaphorePermit;

/// The next connection; none when it is time to stop.
async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    mut stop: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Option<(Slot, TcpStream, SocketAddr)> {
    let slot = tokio::select! {
        () = stop.as_mut() => return None,
        slot = Arc::clone(room).acquire_owned() => slot.ok()?,
    };
    loop {
        let accepted = tokio::select! {
            () = stop.as_mut() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Answers are written whole: waiting for more to send with them only makes them late.
                stream.set_nodelay(true).ok();
                return Some((slot, stream, peer));
            }
            Err(error) => {
                tracing::warn!(target: "enfold_server", "cannot accept a connection: {}", error.kind());
                tokio::time::sleep(SHORT_OF_FILES).await;
            }
        }
    }
}

/// Hyper's errors quote nothing of a request but what its line or headers are, which may be anybody's: the kind is enough.
fn ended(error: &hyper::Error) -> &'static str {
    match () {
        () if error.is_timeout() => "its headers did not come in time",
        () if error.is_parse() => "what came is not HTTP/1.1",
        () if error.is_incomplete_message() => "a request broke off",
        () => "the other side closed it",
    }
}
