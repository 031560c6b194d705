//! A batch for a service that takes one request at a time.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use crate::error::Result;

/// Calls of one batch that are under way at once. The quotas of the services are hundreds a second at least; this keeps
/// one process far from them and still hides the round trip.
const AT_ONCE: usize = 16;

/// Calls for each of the requests, a few at a time, and gives the results in their order.
pub(super) async fn in_order<'r, R: Sync, T: Send>(
    requests: &'r [R],
    call: impl Fn(&'r R) -> BoxFuture<'r, Result<T>>,
) -> Vec<Result<T>> {
    let calls: Vec<_> = requests.iter().map(call).collect();
    futures_util::stream::iter(calls).buffered(AT_ONCE).collect().await
}
