//! Connections: as many as there is [`room`] for, given up where their headers do not come, finished when the service stops.
//!
//! HTTP/1.1 only: whoever wants HTTP/2 has a proxy that speaks it, and its many streams a connection would be limits to keep of
//! their own.

mod room;

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

use self::room::{Place, Room};
use crate::tls::Tls;

/// How long a client may take for the headers of a request, and keep a connection that it asks nothing on.
const HEADERS: Duration = Duration::from_secs(30);
/// And for the handshake of TLS before them.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Where no connection can be accepted because files are short, the next try waits as long.
const SHORT_OF_FILES: Duration = Duration::from_millis(50);
/// How long a client may take to read an answer that was handed over whole.
const UNREAD: Duration = Duration::from_secs(60);

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
    let room = Room::new(limits.max_connections);
    let watched = tokio::spawn(give_up_unread(Arc::clone(&room)));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    while let Some((place, stream, peer)) = next(&listener, &room, stop.as_mut()).await {
        let (watcher, router) = (graceful.watcher(), router.clone());
        let acceptor = tls.as_ref().map(|tls| tls.acceptor());
        let place = Arc::new(place);
        tokio::spawn(async move {
            let answering = async {
                match acceptor {
                    None => answer(stream, peer, router, watcher, &place).await,
                    Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => answer(stream, peer, router, watcher, &place).await,
                        _ => Err("TLS did not come about"),
                    },
                }
            };
            let ended = tokio::select! {
                ended = answering => ended,
                () = place.given_up() => Err("it was idle, and others wanted its place"),
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
    watched.abort();
}

async fn give_up_unread(room: Arc<Room>) {
    loop {
        tokio::time::sleep(UNREAD / 4).await;
        room.give_up_older_than(UNREAD);
    }
}

/// Answers the requests of one connection.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    watcher: Watcher,
    place: &Arc<Place>,
) -> Result<(), &'static str> {
    let inner = TowerToHyperService::new(router);
    let place = Arc::clone(place);
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = place.asked();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        let answered = inner.call(request);
        async move { answered.await.map(|answer| answer.map(|body| answering.until_the_end_of(body))) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await.map_err(|error| ended(&error))
}

/// The next connection; none when it is time to stop.
async fn next(
    listener: &TcpListener,
    room: &Arc<Room>,
    mut stop: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Option<(Place, TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            () = stop.as_mut() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Answers are written whole: waiting for more to send with them only makes them late.
                stream.set_nodelay(true).ok();
                return tokio::select! {
                    () = stop.as_mut() => None,
                    place = room.place() => Some((place, stream, peer)),
                };
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
