//! Events in the catalog's own table.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Event, Sink};
use crate::Result;
use crate::catalog::Catalog;

/// Whoever can write to the catalog can remove lines from it: what is counted there is a count, not a proof.
pub struct CatalogSink(pub Arc<dyn Catalog>);

#[async_trait]
impl Sink for CatalogSink {
    async fn write(&self, batch: &[Event]) -> Result<()> {
        self.0.append_events(batch).await
    }
}
