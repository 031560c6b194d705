//! A batch for a service that takes one request at a time.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use crate::error::Result;

/// Calls of one batch that are under way at once. The quotas of the services are hundreds a second at least; this keeps
/// one process far from them and still hides the round trip.
const AT_ONCE: usize = 16;

/// Runs a few at a time and gives the results in the order of the requests.
pub(super) async fn in_order<T: Send>(calls: Vec<BoxFuture<'_, Result<T>>>) -> Vec<Result<T>> {
    futures_util::stream::iter(calls).buffered(AT_ONCE).collect().await
}
