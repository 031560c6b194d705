//! Events in the catalog's own table.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Entry, Sink};
use crate::Result;
use crate::catalog::Catalog;

/// Whoever can write to the catalog can remove lines from it; checkpoints show that something was.
pub struct CatalogSink(pub Arc<dyn Catalog>);

#[async_trait]
impl Sink for CatalogSink {
    async fn write(&self, batch: &[Entry]) -> Result<()> {
        self.0.append_log(batch).await
    }
}
